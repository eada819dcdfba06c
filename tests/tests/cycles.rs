//! Whole cycles on the emulator, with the real binaries and the real state machine.
//!
//! Each test starts one world and begins in it anew for every scenario.

use std::time::Duration;

use anyhow::Result;
use domain::{
    config::DEFAULT_PARAMETER_NAME,
    messages::{CreateOutcome, RedeployOutcome},
    policy::{Decision, Reason, Warning},
    record::Execution,
};
use local_world::{
    execution,
    proxy::{Behaviour, Rule},
};
use serde_json::{Value, json};
use tests::Lab;

/// Removes the target of the zone with this name from an answer of `DescribeMountTargets`.
fn hide_zone(zone: &'static str) -> Behaviour {
    Behaviour::rewrite(move |answer| {
        if let Some(targets) = answer["MountTargets"].as_array_mut() {
            targets.retain(|target| target["AvailabilityZoneName"] != zone);
        }
    })
}

const DENIED: Behaviour = Behaviour::Refuse { status: 400, code: "AccessDeniedException", message: "not you" };
const THROTTLED: Behaviour = Behaviour::Refuse { status: 400, code: "ThrottlingException", message: "slow down" };
/// Long enough to be seen by a slow machine, and shorter than an execution waits here, which is 3 s.
const WHILE: Duration = Duration::from_secs(2);
/// Longer than any execution waits here.
const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn growing() -> Result<()> {
    let lab = Lab::start(2, &[]).await?;

    lab.scenario("below the threshold").await?;
    let run = lab.run(json!({"threshold": 20})).await?;
    assert_eq!(run.status, "SUCCEEDED");
    assert_eq!(run.counted.as_ref().unwrap().files, 20);
    assert_eq!(run.reason(), Some(Reason::BelowThreshold), "exactly the threshold is not over it");
    lab.nothing_was_changed()?;

    lab.scenario("a dry run decides and changes nothing").await?;
    let run = lab.run(json!({"dry_run": true})).await?;
    assert_eq!(run.status, "SUCCEEDED");
    assert!(matches!(run.decision(), Some(Decision::Create { .. })));
    assert_eq!(run.output["dry_run"], true);
    lab.nothing_was_changed()?;

    lab.scenario("bad input ends before anything is touched").await?;
    for input in [json!({"dry-run": true}), json!({"threshold": "many"}), json!([1]), json!("x"), json!(null)] {
        let run = lab.run(input).await?;
        assert_eq!((run.status.as_str(), run.error.as_deref()), ("FAILED", Some("InvalidInput")));
        assert_eq!(run.states, ["Begin", "Count", "InvalidInput"]);
    }
    assert!(lab.proxy.calls().is_empty());

    lab.scenario("scale-out, through a real creating phase, started as the console does").await?;
    lab.proxy.add(Rule::always("efs:CreateMountTarget", Behaviour::HoldCreating(WHILE)));
    let before = lab.deployment().await?;
    let run = lab.run(json!({"Comment": "Insert your JSON here"})).await?;
    assert_eq!(run.status, "SUCCEEDED");
    assert!(matches!(run.decision(), Some(Decision::Create { .. })));
    assert!(run.entered("WaitForTarget") > 1, "EFS takes its time");
    assert_eq!(lab.targets().await?.len(), 3);
    lab.published_is_what_there_is().await?;
    assert_ne!(lab.deployment().await?, before);
    let (_, version) = lab.published().await?.unwrap();
    assert_eq!(lab.deployed().await?.unwrap().version, version);
    let third = &lab.targets().await?[2];
    let fact = lab.created(&third.zone).await?.unwrap();
    assert_eq!(fact.mount_target_id, third.id);
    assert!(fact.execution.unwrap().starts_with("arn:aws:states:"));

    // Not a new scenario: the world as it is now.
    let run = lab.run(json!({})).await?;
    assert_eq!(run.status, "SUCCEEDED");
    assert_eq!(run.reason(), Some(Reason::NoAvailableSubnet));
    assert!(run.evaluated.unwrap().warnings.contains(&Warning::NoAvailableSubnet));
    Ok(())
}

#[tokio::test]
async fn creating() -> Result<()> {
    let lab = Lab::start(1, &[("COOLDOWN_SECONDS", "3600")]).await?;
    let created = |run: &Execution| run.output["target"].clone();

    lab.scenario("a conflict is adopted").await?;
    // The other execution's target, which neither Evaluate nor the first look of CreateTarget sees.
    let theirs = lab.create_target(1).await?;
    let list = domain::published::PublishedList::of(&lab.targets().await?[..1], None).unwrap();
    let version = lab.publish(&list.to_json()).await?;
    lab.set_deployed(&list, version).await?;
    lab.proxy.add(Rule { times: 2, ..Rule::always("efs:DescribeMountTargets", hide_zone("us-east-1b")) });
    let run = lab.run(json!({})).await?;
    assert_eq!(run.status, "SUCCEEDED");
    assert_eq!(lab.called("efs:CreateMountTarget"), 1, "EFS was asked, and refused");
    assert_eq!(created(&run)["outcome"], serde_json::to_value(CreateOutcome::Adopted)?);
    assert_eq!(created(&run)["mount_target_id"], theirs.as_str());
    assert!(lab.created(&lab.targets().await?[1].zone).await?.is_none(), "what others made is not ours");
    lab.published_is_what_there_is().await?;

    lab.scenario("a target that is creating is adopted, and no second one is made").await?;
    let theirs = lab.create_target(1).await?;
    lab.proxy.hold_creating(theirs.as_str(), WHILE);
    let run = lab.run(json!({})).await?;
    assert_eq!(run.status, "SUCCEEDED");
    assert_eq!(run.decision(), Some(&Decision::Adopt { mount_target_id: theirs }));
    assert_eq!(lab.called("efs:CreateMountTarget"), 0);
    lab.published_is_what_there_is().await?;

    lab.scenario("a target that never becomes available fails the execution, and the next one waits on").await?;
    let stuck = lab.create_target(1).await?;
    lab.proxy.hold_creating(stuck.as_str(), LONG);
    let before = lab.published().await?;
    for _ in 0..2 {
        let run = lab.run(json!({})).await?;
        assert_eq!((run.status.as_str(), run.error.as_deref()), ("FAILED", Some("TargetTimedOut")));
        assert!(run.cause.unwrap().contains(stuck.as_str()));
        assert_eq!(lab.published().await?, before);
    }
    assert_eq!(lab.called("efs:CreateMountTarget"), 0);

    lab.scenario("a subnet without a free address: the next one").await?;
    let full = Behaviour::Refuse { status: 409, code: "NoFreeAddressesInSubnet", message: "full" };
    lab.proxy.add(Rule::always("efs:CreateMountTarget", full).containing(&lab.subnets[1]));
    let run = lab.run(json!({})).await?;
    assert_eq!(run.status, "SUCCEEDED");
    assert_eq!((run.entered("Evaluate"), run.entered("TryAnotherSubnet")), (2, 1));
    let targets = lab.targets().await?;
    assert_eq!(
        targets.iter().map(|target| target.subnet.as_str()).collect::<Vec<_>>(),
        [&lab.subnets[0], &lab.subnets[2]]
    );
    lab.published_is_what_there_is().await?;

    // The same world: what EFS has just refused is not asked for again.
    let calls = lab.called("efs:CreateMountTarget");
    let run = lab.run(json!({})).await?;
    assert_eq!((run.reason(), lab.called("efs:CreateMountTarget")), (Some(Reason::AllSubnetsRefused), calls));
    let warnings = run.evaluated.unwrap().warnings;
    assert!(warnings.iter().any(|warning| matches!(
        warning,
        Warning::SubnetRefused { subnet_id, code, .. } if subnet_id.as_str() == lab.subnets[1] && code == "NoFreeAddressesInSubnet"
    )), "{warnings:?}");

    lab.scenario("every zone refused: nothing, and a warning").await?;
    let unsupported = Behaviour::Refuse { status: 400, code: "UnsupportedAvailabilityZone", message: "not here" };
    lab.proxy.add(Rule::always("efs:CreateMountTarget", unsupported));
    let run = lab.run(json!({})).await?;
    assert_eq!((run.status.as_str(), run.reason()), ("SUCCEEDED", Some(Reason::AllSubnetsRefused)));
    assert_eq!((run.entered("Evaluate"), lab.targets().await?.len()), (3, 1));
    assert!(run.evaluated.unwrap().warnings.contains(&Warning::AllSubnetsRefused));
    assert_eq!(lab.called("ssm:DeleteParameter"), 2, "each intent was withdrawn");

    lab.scenario("what EFS refuses for good ends the execution, with EFS's own code").await?;
    let limit = Behaviour::Refuse { status: 409, code: "NetworkInterfaceLimitExceeded", message: "too many" };
    lab.proxy.add(Rule::always("efs:CreateMountTarget", limit));
    let run = lab.run(json!({})).await?;
    assert_eq!((run.status.as_str(), run.error.as_deref()), ("FAILED", Some("AwsRefused")));
    assert!(run.cause.unwrap().contains("NetworkInterfaceLimitExceeded"));
    lab.published_is_what_there_is().await?;

    lab.scenario("the answer of CreateMountTarget is lost: the retry finds the target, and knows it as its own")
        .await?;
    let lost = Behaviour::LoseAnswer { status: 500, code: "InternalServerError" };
    lab.proxy.add(Rule::once("efs:CreateMountTarget", lost));
    let run = lab.run(json!({})).await?;
    assert_eq!(run.status, "SUCCEEDED");
    assert_eq!(created(&run)["outcome"], serde_json::to_value(CreateOutcome::Adopted)?);
    let targets = lab.targets().await?;
    assert_eq!((targets.len(), lab.called("efs:CreateMountTarget")), (2, 1));
    assert_eq!(lab.created(&targets[1].zone).await?.unwrap().mount_target_id, targets[1].id);
    lab.published_is_what_there_is().await?;
    assert_eq!(lab.run(json!({})).await?.reason(), Some(Reason::CoolingDown), "and as just created");

    lab.scenario("EFS is busy with the file system: nothing was meant, and nothing cools down").await?;
    let busy = Behaviour::Refuse { status: 409, code: "IncorrectFileSystemLifeCycleState", message: "updating" };
    lab.proxy.add(Rule::always("efs:CreateMountTarget", busy));
    let run = lab.run(json!({})).await?;
    assert_eq!((run.status.as_str(), run.error.as_deref()), ("FAILED", Some("AwsUnavailable")));
    lab.proxy.clear();
    assert_eq!(lab.run(json!({})).await?.status, "SUCCEEDED");
    assert_eq!(lab.targets().await?.len(), 2);

    lab.scenario("two executions that decide the same make one target").await?;
    // Slow enough that both have decided before either has written down what it means to do: the other would
    // take that for a target that was just created, and cool down.
    let delayed = Rule::always("ssm:PutParameter", Behaviour::Delay(Duration::from_secs(3)));
    lab.proxy.add(Rule { times: 2, ..delayed });
    let (one, other) = tokio::try_join!(lab.run(json!({})), lab.run(json!({})))?;
    assert_eq!((one.status.as_str(), other.status.as_str()), ("SUCCEEDED", "SUCCEEDED"));
    assert_eq!((lab.targets().await?.len(), lab.called("efs:CreateMountTarget")), (2, 2));
    let mut outcomes = [created(&one)["outcome"].to_string(), created(&other)["outcome"].to_string()];
    outcomes.sort();
    assert_eq!(outcomes, ["\"adopted\"", "\"created\""]);
    let targets = lab.targets().await?;
    assert_eq!(lab.created(&targets[1].zone).await?.unwrap().mount_target_id, targets[1].id);
    lab.published_is_what_there_is().await?;

    lab.scenario("the network cannot be asked: repairs are made, and nothing else").await?;
    lab.proxy.add(Rule::always("ec2:DescribeSubnets", DENIED));
    lab.create_target(1).await?;
    let run = lab.run(json!({})).await?;
    assert_eq!((run.status.as_str(), run.decision()), ("SUCCEEDED", Some(&Decision::Publish)));
    lab.published_is_what_there_is().await?;
    assert_eq!(lab.run(json!({})).await?.error.as_deref(), Some("AwsRefused"));

    lab.scenario("throttling is waited out").await?;
    lab.proxy.add(Rule { times: 4, ..Rule::always("efs:DescribeMountTargets", THROTTLED) });
    let run = lab.run(json!({"dry_run": true})).await?;
    assert_eq!(run.status, "SUCCEEDED");
    Ok(())
}

#[tokio::test]
async fn repairing() -> Result<()> {
    let lab = Lab::start(2, &[("SSM_PARAMETER_TYPE", "SecureString")]).await?;
    // A target that somebody made: published anew, redeployed.
    let repaired =
        ["Begin", "Count", "CountLeft", "Evaluate", "Decide", "PublishSsm", "Redeploy", "Report", "Counted", "Done"];

    lab.scenario("drift is published, also when a target was deleted by hand").await?;
    lab.create_target(2).await?;
    let run = lab.run(json!({})).await?;
    assert_eq!((run.status.as_str(), run.states.as_slice()), ("SUCCEEDED", repaired.map(str::to_owned).as_slice()));
    lab.published_is_what_there_is().await?;
    lab.delete_target(&lab.targets().await?[0].id).await?;
    assert_eq!(lab.run(json!({})).await?.decision(), Some(&Decision::Publish));
    lab.published_is_what_there_is().await?;
    let stored = lab.clients.ssm.get_parameter().name(DEFAULT_PARAMETER_NAME).send().await?;
    assert_eq!(stored.parameter().unwrap().r#type().unwrap().as_str(), "SecureString");

    lab.scenario("drift is published while another target is stuck in creating").await?;
    let stuck = lab.create_target(2).await?;
    lab.proxy.hold_creating(stuck.as_str(), LONG);
    lab.delete_target(&lab.targets().await?[0].id).await?;
    assert_eq!(lab.run(json!({})).await?.status, "SUCCEEDED");
    let list = lab.list().await?;
    assert_eq!(list.targets().len(), 1, "one deleted, one not available yet");
    let run = lab.run(json!({})).await?;
    assert_eq!(run.error.as_deref(), Some("TargetTimedOut"));

    lab.scenario("drift is published when the count fails, and the execution fails all the same").await?;
    lab.create_target(2).await?;
    let run = lab.without_directory(lab.run(json!({}))).await?;
    assert_eq!((run.status.as_str(), run.error.as_deref()), ("FAILED", Some("TargetDirectoryUnreadable")));
    assert_eq!((run.entered("PublishSsm"), run.entered("Redeploy")), (1, 1));
    lab.published_is_what_there_is().await?;

    lab.scenario("a count that fails creates nothing").await?;
    let run = lab.without_directory(lab.run(json!({}))).await?;
    assert_eq!((run.status.as_str(), run.reason()), ("FAILED", Some(Reason::CountUnknown)));
    lab.nothing_was_changed()?;

    lab.scenario("a damaged parameter, and none at all, are published anew").await?;
    lab.publish("{\"mount_targets\":").await?;
    let run = lab.run(json!({})).await?;
    assert!(matches!(run.evaluated.as_ref().unwrap().warnings[..], [Warning::PublishedDamaged { .. }]));
    assert_eq!(run.status, "SUCCEEDED");
    lab.published_is_what_there_is().await?;
    lab.clients.ssm.delete_parameter().name(DEFAULT_PARAMETER_NAME).send().await?;
    assert_eq!(lab.run(json!({})).await?.decision(), Some(&Decision::Publish));
    lab.published_is_what_there_is().await?;

    lab.scenario("no target serves: the list is kept, and somebody is called").await?;
    for target in lab.targets().await? {
        lab.delete_target(&target.id).await?;
    }
    let before = lab.published().await?;
    let run = lab.run(json!({})).await?;
    assert_eq!((run.status.as_str(), run.error.as_deref()), ("FAILED", Some("NoAvailableTargets")));
    assert_eq!(lab.published().await?, before);
    let on_its_way = lab.create_target(0).await?;
    lab.proxy.hold_creating(on_its_way.as_str(), WHILE);
    assert_eq!(lab.run(json!({})).await?.status, "SUCCEEDED", "one that is on its way is waited for");
    lab.published_is_what_there_is().await?;

    lab.scenario("publishing is refused: the list stays").await?;
    let before = lab.published().await?;
    lab.proxy.add(Rule::always("ssm:PutParameter", DENIED));
    lab.create_target(2).await?;
    let run = lab.run(json!({})).await?;
    assert_eq!((run.status.as_str(), run.error.as_deref()), ("FAILED", Some("AwsRefused")));
    assert_eq!(lab.published().await?, before);
    Ok(())
}

#[tokio::test]
async fn redeploying() -> Result<()> {
    let lab = Lab::start(2, &[]).await?;

    lab.scenario("a crash after publishing: the next execution redeploys").await?;
    lab.proxy.add(Rule::always("ecs:UpdateService", DENIED));
    let run = lab.run(json!({})).await?;
    assert_eq!((run.status.as_str(), run.error.as_deref()), ("FAILED", Some("AwsRefused")));
    lab.published_is_what_there_is().await?;
    lab.proxy.clear();
    let before = lab.deployment().await?;
    let run = lab.run(json!({})).await?;
    assert_eq!(run.status, "SUCCEEDED");
    assert!(matches!(run.decision(), Some(Decision::Redeploy { version: 2, .. })));
    assert_eq!(run.redeployed.as_ref().unwrap().outcome, RedeployOutcome::Started);
    assert_ne!(lab.deployment().await?, before);
    assert_eq!(lab.run(json!({})).await?.entered("Redeploy"), 0, "once for each version");

    lab.scenario("a deployment that the circuit breaker took back is reported, and not tried again").await?;
    let failed = |answer: &mut Value| {
        for deployment in answer["services"][0]["deployments"].as_array_mut().into_iter().flatten() {
            deployment["rolloutState"] = json!("FAILED");
        }
    };
    lab.run(json!({})).await?;
    lab.proxy.clear();
    lab.proxy.add(Rule::always("ecs:DescribeServices", Behaviour::rewrite(failed)));
    let run = lab.run(json!({})).await?;
    assert_eq!(run.status, "SUCCEEDED");
    assert!(run.evaluated.unwrap().warnings.contains(&Warning::RedeployRolledBack));
    lab.nothing_was_changed()?;

    lab.scenario("too many deployments: later").await?;
    let many = |answer: &mut Value| {
        let one = answer["services"][0]["deployments"][0].clone();
        answer["services"][0]["deployments"] = Value::Array(vec![one; 5]);
    };
    lab.proxy.add(Rule::always("ecs:DescribeServices", Behaviour::rewrite(many)));
    let run = lab.run(json!({})).await?;
    assert_eq!(run.status, "SUCCEEDED");
    assert_eq!(run.redeployed.unwrap().outcome, RedeployOutcome::Deferred);
    lab.proxy.clear();
    let run = lab.run(json!({})).await?;
    assert!(matches!(run.decision(), Some(Decision::Redeploy { .. })));

    lab.scenario("a schedule starts it").await?;
    let scheduled = lab.clients.sfn.list_executions().state_machine_arn(&lab.state_machine).send().await?;
    let before = scheduled.executions().len();
    schedule(&lab).await?;
    let arn = loop {
        let listed = lab.clients.sfn.list_executions().state_machine_arn(&lab.state_machine).send().await?;
        if listed.executions().len() > before {
            let newest = listed.executions().iter().max_by_key(|execution| *execution.start_date());
            break newest.unwrap().execution_arn().to_owned();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let run = execution::follow(&lab, &arn, |_| {}).await?;
    assert_eq!(run.status, "SUCCEEDED");
    assert!(matches!(run.decision(), Some(Decision::Create { .. })));
    lab.published_is_what_there_is().await
}

/// An EventBridge Scheduler schedule that starts the machine once, soon, without an input of its own.
async fn schedule(lab: &Lab) -> Result<()> {
    use aws_sdk_scheduler::types::{FlexibleTimeWindow, FlexibleTimeWindowMode, Target};
    let at = std::time::SystemTime::now() + Duration::from_secs(1);
    let at = aws_sdk_scheduler::primitives::DateTime::from(at);
    let at = at.fmt(aws_sdk_scheduler::primitives::DateTimeFormat::DateTime)?;
    let at = at.split(['.', 'Z']).next().unwrap_or_default();
    let client = aws_sdk_scheduler::Client::new(&local_world::world::sdk_config(lab.endpoint()));
    client
        .create_schedule()
        .name("every-five-minutes")
        .schedule_expression(format!("at({at})"))
        .flexible_time_window(FlexibleTimeWindow::builder().mode(FlexibleTimeWindowMode::Off).build()?)
        .target(Target::builder().arn(&lab.state_machine).role_arn("arn:aws:iam::123456789012:role/scheduler").build()?)
        .send()
        .await?;
    Ok(())
}

/// A budget that ends after one read of a directory, so that the machine's Map has to work.
#[tokio::test]
async fn counting_in_parts() -> Result<()> {
    let lab = Lab::start(2, &[("COUNT_BUDGET_SECONDS", "0.000001")]).await?;

    lab.scenario("the parts are the whole").await?;
    let run = lab.run(json!({"threshold": 19})).await?;
    assert_eq!(run.status, "SUCCEEDED");
    let first = run.counted.as_ref().unwrap();
    assert!(first.rest.len() > 1 && first.files < 20 && run.entered("CountPartitions") > 0, "{first:?}");
    let observed = run.evaluated.as_ref().unwrap().observed.clone();
    assert_eq!((observed.files, observed.complete), (Some(20), true));
    assert!(matches!(run.decision(), Some(Decision::Create { .. })));

    lab.scenario("the rounds are bounded: what they did not reach makes the count a lower bound").await?;
    let mut deep = lab.directory().join("deep");
    for _ in 0..12 {
        std::fs::create_dir(&deep)?;
        std::fs::write(deep.join("file"), "")?;
        deep.push("deeper");
    }
    let run = lab.run(json!({"threshold": 1000})).await?;
    assert_eq!((run.status.as_str(), run.reason()), ("SUCCEEDED", Some(Reason::CountUnknown)));
    assert_eq!(run.entered("CountPartitions"), 4);
    let evaluated = run.evaluated.unwrap();
    assert!(evaluated.warnings.contains(&Warning::CountIncomplete));
    assert!((20..32).contains(&evaluated.observed.files.unwrap()), "{:?}", evaluated.observed);

    // The same world: a lower bound that is over the limit is over the limit.
    let run = lab.run(json!({"threshold": 15})).await?;
    assert_eq!(run.status, "SUCCEEDED");
    assert!(matches!(run.decision(), Some(Decision::Create { .. })));
    let evaluated = run.evaluated.unwrap();
    assert!(!evaluated.observed.complete && evaluated.warnings.contains(&Warning::CountIncomplete));
    lab.published_is_what_there_is().await?;
    Ok(())
}
