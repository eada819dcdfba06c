//! `efs-autoscale teardown` of a system whose service is somebody else's: a target is deleted only once that service is known
//! not to use it, in every run. `DeleteMountTarget` breaks mounts by force.
#![allow(clippy::unwrap_used, reason = "a test says what it takes for granted")]

use std::process::Output;

use anyhow::Result;
use ctl::local::proxy::{Behaviour, Rule};
use serde_json::json;
use tests::{Lab, efs_autoscale};

const STACK: &str = "theirs";

async fn teardown(lab: &Lab) -> Result<Output> {
    let arguments = ["teardown", "--stack", STACK, "--yes", "--wait", "20"];
    efs_autoscale(lab.proxy.endpoint(), &arguments).await
}

/// A stack that says what one with `service.existing` says.
async fn stack(lab: &Lab) -> Result<()> {
    let outputs = [
        ("FileSystemId", lab.file_system.as_str()),
        ("StateMachineArn", &lab.state_machine),
        ("ParameterName", domain::config::DEFAULT_PARAMETER_NAME),
        ("ClusterName", &lab.service.0),
        ("ServiceName", &lab.service.1),
        ("ServiceOwned", "false"),
    ];
    let outputs: serde_json::Map<_, _> =
        outputs.into_iter().map(|(name, value)| (name.to_owned(), json!({ "Value": value }))).collect();
    let template = json!({
        "Resources": {"One": {"Type": "AWS::CloudFormation::WaitConditionHandle"}},
        "Outputs": outputs,
    });
    let cloudformation = &lab.clients.cloudformation;
    cloudformation.create_stack().stack_name(STACK).template_body(template.to_string()).send().await?;
    for _ in 0..200 {
        let stacks = cloudformation.describe_stacks().stack_name(STACK).send().await?;
        if stacks.stacks()[0].stack_status().unwrap().as_str() == "CREATE_COMPLETE" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(())
}

#[tokio::test]
async fn no_run_deletes_a_target_that_the_service_may_still_use() -> Result<()> {
    let lab = Lab::start(1, &[]).await?;
    let run = lab.run(json!({})).await?;
    assert_eq!(run.status, "SUCCEEDED");
    let made = lab.targets().await?[1].id.clone();
    assert_eq!(lab.targets().await?.len(), 2);
    stack(&lab).await?;

    // ECS takes no deployment: each run ends the same, whatever the one before has done already.
    let busy = Behaviour::Refuse {
        status: 400,
        code: "InvalidParameterException",
        message: "5 active deployments exist, unable to create new deployment.",
    };
    lab.proxy.add(Rule::always("ecs:UpdateService", busy));
    for attempt in 1..=3 {
        let output = teardown(&lab).await?;
        assert_eq!(output.status.code(), Some(1), "run {attempt}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("run"), "it says what to do");
        assert_eq!(lab.targets().await?.len(), 2, "run {attempt}");
        assert!(lab.clients.cloudformation.describe_stacks().stack_name(STACK).send().await.is_ok());
    }

    // The answer of the redeployment is lost: it may have been taken, and the next run looks.
    lab.proxy.clear();
    lab.proxy.add(Rule::once("ecs:UpdateService", Behaviour::LoseAnswer { status: 400, code: "ClientException" }));
    let lost = teardown(&lab).await?;
    if lost.status.code() != Some(0) {
        assert!(lab.targets().await?.iter().any(|target| target.id == made), "it is not known to be free yet");
        assert_eq!(teardown(&lab).await?.status.code(), Some(0));
    }
    let left = lab.targets().await?;
    assert_eq!(left.len(), 1, "somebody else's target stays");
    assert!(left.iter().all(|target| target.id != made));
    assert!(lab.clients.cloudformation.describe_stacks().stack_name(STACK).send().await.is_err(), "the stack is gone");
    Ok(())
}
