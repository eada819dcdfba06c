//! The commands for operators, on the emulator, as an operator and a script use them.
#![allow(clippy::unwrap_used, reason = "a test says what it takes for granted")]

use std::{collections::BTreeSet, process::Output};

use anyhow::{Context, Result, ensure};
use aws_sdk_ec2::types::{IpPermission, UserIdGroupPair};
use aws_sdk_scheduler::types::{FlexibleTimeWindow, FlexibleTimeWindowMode, Target};
use local_world::{
    proxy::{Behaviour, Rule},
    world::{ROLE, sdk_config},
};
use serde_json::{Value, json};
use tests::{FILES, Lab, binaries, efs_autoscale};

const SCHEDULE: &str = "the-schedule";

async fn create_schedule(lab: &Lab) -> Result<()> {
    let scheduler = aws_sdk_scheduler::Client::new(&sdk_config(lab.proxy.endpoint()));
    let target = Target::builder().arn(&lab.state_machine).role_arn(ROLE).input("{}").build()?;
    let window = FlexibleTimeWindow::builder().mode(FlexibleTimeWindowMode::Off).build()?;
    let request = scheduler.create_schedule().name(SCHEDULE).schedule_expression("rate(5 minutes)");
    request.description("every five minutes").flexible_time_window(window).target(target).send().await?;
    Ok(())
}

async fn say(lab: &Lab, arguments: &[&str]) -> Result<Output> {
    let installation = ["--state-machine", &lab.state_machine, "--schedule", SCHEDULE];
    efs_autoscale(lab.proxy.endpoint(), &[arguments, &installation].concat()).await
}

async fn ask(lab: &Lab, arguments: &[&str]) -> Result<Value> {
    let output = say(lab, &[arguments, &["--json"]].concat()).await?;
    ensure!(output.status.code().is_some_and(|code| code < 2), "{arguments:?} ended with {}", output.status);
    let answer = serde_json::from_slice(&output.stdout);
    let answer: Value = answer.with_context(|| String::from_utf8_lossy(&output.stdout).into_owned())?;
    // The schema that the program prints is that of what it prints.
    let schema = tokio::process::Command::new(binaries().join("efs-autoscale")).args(["schema", arguments[0]]).output();
    let schema = jsonschema::validator_for(&serde_json::from_slice(&schema.await?.stdout)?)?;
    let errors: Vec<_> = schema.iter_errors(&answer).map(|err| format!("{}: {err}", err.instance_path())).collect();
    ensure!(errors.is_empty(), "{arguments:?}: {errors:?} in {answer}");
    Ok(answer)
}

#[tokio::test]
async fn an_operator_learns_what_is_and_why_and_what_next() -> Result<()> {
    let lab = Lab::start(2, &[]).await?;
    create_schedule(&lab).await?;

    // Before the first execution.
    let status = ask(&lab, &["status"]).await?;
    assert_eq!(status["files"]["files"], Value::Null);
    assert_eq!(status["mount_targets"].as_array().unwrap().len(), 2);
    assert_eq!(status["published"]["is_current"], true);
    assert_eq!(status["unknown"], json!([]), "{status}");
    assert_eq!(ask(&lab, &["history"]).await?["executions"], json!([]));
    let none = say(&lab, &["explain", "latest"]).await?;
    assert_eq!(none.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&none.stderr).contains("there is no execution yet"));

    // What would be done, with files that nobody has counted, and nothing is done.
    let plan = ask(&lab, &["plan", "--files", "1000000"]).await?;
    assert_eq!((&plan["reason"], &plan["evaluated"]["decision"]["action"]), (&json!("create"), &json!("create")));
    assert_eq!(lab.targets().await?.len(), 2);

    // A start that is followed.
    let started = ask(&lab, &["start", "--threshold", "1", "--wait"]).await?;
    assert_eq!((&started["status"], &started["reason"]), (&json!("SUCCEEDED"), &json!("create")), "{started}");
    assert_eq!(lab.targets().await?.len(), 3);

    // Why.
    let explained = ask(&lab, &["explain", "latest"]).await?;
    assert_eq!(explained["reason"], "create");
    let decided = explained["decided"].to_string();
    assert!(decided.contains(&format!("there are {FILES} files, over the limit of 1")), "{decided}");
    assert!(explained["done"].to_string().contains("It created the mount target"), "{explained}");
    assert!(explained["done"].to_string().contains("It redeployed the file service"), "{explained}");
    let name = explained["execution"]["name"].as_str().unwrap();
    let by_name = ask(&lab, &["explain", name]).await?;
    assert_eq!(by_name["decided"], explained["decided"]);
    let history = ask(&lab, &["history"]).await?;
    let row = &history["executions"][0];
    assert_eq!((&row["reason"], &row["files"], &row["maximum"]), (&json!("create"), &json!(FILES), &json!(3)), "{row}");

    // What is now, and what next.
    let status = ask(&lab, &["status"]).await?;
    assert_eq!(status["files"]["files"], FILES);
    assert_eq!(status["mount_targets"].as_array().unwrap().len(), 3);
    assert_eq!(status["next"]["reason"], "no_available_subnet", "{status}");
    assert_eq!(status["problems"], json!([]));
    assert_eq!(status["executions"][0]["reason"], "create");
    assert_eq!(status["service"]["has_read_list"], true);
    let text = String::from_utf8(say(&lab, &["status"]).await?.stdout)?;
    for expected in ["targets ", "published ", "schedule ", "executions "] {
        assert!(text.lines().any(|line| line.starts_with(expected)), "{expected}: {text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_failure_is_explained_with_its_remedy_and_is_a_problem() -> Result<()> {
    let lab = Lab::start(2, &[]).await?;
    create_schedule(&lab).await?;
    lab.proxy.add(Rule::always(
        "ssm:PutParameter",
        Behaviour::Refuse { status: 403, code: "AccessDeniedException", message: "not allowed" },
    ));
    let started = say(&lab, &["start", "--threshold", "1", "--wait"]).await?;
    assert_eq!(started.status.code(), Some(1));
    let explained = say(&lab, &["explain", "--json"]).await?;
    assert_eq!(explained.status.code(), Some(1));
    let explained: Value = serde_json::from_slice(&explained.stdout)?;
    assert_eq!(explained["reason"], "AwsRefused");
    assert!(explained["failed"][0].as_str().unwrap().contains("ssm:PutParameter"), "{explained}");
    assert!(explained["next"][0].as_str().unwrap().starts_with("AwsRefused: "), "{explained}");
    let status = say(&lab, &["status"]).await?;
    assert_eq!(status.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&status.stdout).contains("The last execution failed: AwsRefused"));
    Ok(())
}

#[tokio::test]
async fn a_pause_has_a_reason_and_an_end_and_gives_back_what_was_there() -> Result<()> {
    let lab = Lab::start(2, &[]).await?;
    create_schedule(&lab).await?;
    let paused = ask(&lab, &["pause", "--reason", "ticket 4711"]).await?;
    assert_eq!((&paused["paused"]["reason"], &paused["paused"]["until"]), (&json!("ticket 4711"), &Value::Null));
    // Once more, with an end.
    let paused = ask(&lab, &["pause", "--reason", "until tonight", "--until", "2h"]).await?;
    assert_eq!(paused["paused"]["reason"], "until tonight");
    assert!(paused["paused"]["until"].is_string(), "{paused}");
    let text = String::from_utf8(say(&lab, &["status"]).await?.stdout)?;
    assert!(text.contains("PAUSED since") && text.contains("until tonight"), "{text}");
    let resumed = ask(&lab, &["resume"]).await?;
    assert_eq!((&resumed["changed"], &resumed["paused"]), (&json!(true), &Value::Null));
    assert_eq!(ask(&lab, &["resume"]).await?["changed"], false);
    let scheduler = aws_sdk_scheduler::Client::new(&sdk_config(lab.proxy.endpoint()));
    let schedule = scheduler.get_schedule().name(SCHEDULE).send().await?;
    assert_eq!(schedule.description(), Some("every five minutes"));
    assert_eq!(schedule.target().unwrap().arn(), lab.state_machine);
    for (arguments, expected) in [
        (&["pause"][..], "--reason"),
        (&["pause", "--reason", "x", "--until", "yesterday"], "is no time"),
        (&["pause", "--reason", "x", "--until", "2020-01-01T00:00:00Z"], "is not in the future"),
        (&["history", "--since", "ago"], "is no time"),
        (&["start", "--threshold", "many"], "--threshold"),
        (&["explain", "no-such-execution"], "no-such-execution"),
    ] {
        let refused = say(&lab, arguments).await?;
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains(expected), "{arguments:?}");
    }
    Ok(())
}

/// The checks that find a problem.
async fn problems(lab: &Lab) -> Result<BTreeSet<String>> {
    let doctor = ask(lab, &["doctor"]).await?;
    let findings = doctor["findings"].as_array().context("findings")?.iter();
    let problems = findings.filter(|finding| finding["outcome"] == "problem");
    problems.map(|finding| Ok(finding["check"].as_str().context("check")?.to_owned())).collect()
}

#[tokio::test]
async fn doctor_finds_what_is_wrong_until_it_is_mended() -> Result<()> {
    let lab = Lab::start(2, &[]).await?;
    create_schedule(&lab).await?;
    let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
    // The emulator checks no permissions and no security groups, so that the lab has made none; doctor sees both.
    // The service runs in three zones, of which two have a mount target.
    assert_eq!(problems(&lab).await?, set(&["permissions", "port 2049", "zones"]));
    let ec2 = &lab.clients.ec2;
    let pair = UserIdGroupPair::builder().group_id(&lab.security_group).build();
    let nfs =
        IpPermission::builder().ip_protocol("tcp").from_port(2049).to_port(2049).user_id_group_pairs(pair).build();
    ec2.authorize_security_group_ingress().group_id(&lab.security_group).ip_permissions(nfs).send().await?;
    assert_eq!(problems(&lab).await?, set(&["permissions", "zones"]));

    lab.publish("{}").await?;
    let published = problems(&lab).await?;
    assert!(published.contains("mount targets"), "{published:?}");
    lab.run(json!({"threshold": 1_000_000})).await?;
    assert_eq!(problems(&lab).await?, set(&["permissions", "zones"]));
    lab.create_target(2).await?;
    assert!(problems(&lab).await?.contains("mount targets"));
    lab.run(json!({"threshold": 1_000_000})).await?;
    ask(&lab, &["pause", "--reason", "x"]).await?;
    assert_eq!(problems(&lab).await?, set(&["permissions", "schedule"]));
    ask(&lab, &["resume"]).await?;
    assert_eq!(problems(&lab).await?, set(&["permissions"]));
    Ok(())
}
