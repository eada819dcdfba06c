//! `efs-autoscale teardown` of a system whose service is somebody else's: a target is deleted only once that service is known
//! not to use it, in every run. `DeleteMountTarget` breaks mounts by force.
#![allow(clippy::unwrap_used, reason = "a test says what it takes for granted")]

use std::{process::Output, time::Duration};

use anyhow::{Result, bail};
use local_world::proxy::{Behaviour, Rule};
use serde_json::{Value, json};
use tests::{Lab, efs_autoscale};

const STACK: &str = "theirs";

async fn teardown(lab: &Lab, more: &[&str]) -> Result<Output> {
    let arguments = ["teardown", "--stack", STACK, "--yes", "--wait", "20"];
    efs_autoscale(lab.proxy.endpoint(), &[&arguments, more].concat()).await
}

async fn create(lab: &Lab, name: &str, template: Value) -> Result<()> {
    let cloudformation = &lab.clients.cloudformation;
    cloudformation.create_stack().stack_name(name).template_body(template.to_string()).send().await?;
    for _ in 0..200 {
        let stacks = cloudformation.describe_stacks().stack_name(name).send().await?;
        if stacks.stacks()[0].stack_status().unwrap().as_str() == "CREATE_COMPLETE" {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    bail!("the stack {name} is not complete")
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
    create(lab, STACK, template).await
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
        let output = teardown(&lab, &[]).await?;
        assert_eq!(output.status.code(), Some(1), "run {attempt}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("run"), "it says what to do");
        assert_eq!(lab.targets().await?.len(), 2, "run {attempt}");
        assert!(lab.clients.cloudformation.describe_stacks().stack_name(STACK).send().await.is_ok());
    }

    // The answer of the redeployment is lost: it may have been taken, and the next run looks.
    lab.proxy.clear();
    lab.proxy.add(Rule::once("ecs:UpdateService", Behaviour::LoseAnswer { status: 400, code: "ClientException" }));
    let lost = teardown(&lab, &[]).await?;
    if lost.status.code() != Some(0) {
        assert!(lab.targets().await?.iter().any(|target| target.id == made), "it is not known to be free yet");
        assert_eq!(teardown(&lab, &[]).await?.status.code(), Some(0));
    }
    let left = lab.targets().await?;
    assert_eq!(left.len(), 1, "somebody else's target stays");
    assert!(left.iter().all(|target| target.id != made));
    assert!(lab.clients.cloudformation.describe_stacks().stack_name(STACK).send().await.is_err(), "the stack is gone");
    Ok(())
}

/// After a restore the file system belongs to no stack, and its targets are made by hand in the subnets of the stack with
/// the data. CloudFormation would delete the system and then stop at those subnets, with DELETE_FAILED.
#[tokio::test]
async fn nothing_is_deleted_where_a_target_in_the_subnets_would_block_the_rest() -> Result<()> {
    let lab = Lab::start(1, &[]).await?;
    stack(&lab).await?;
    // In the one VPC that the targets of a file system are in.
    let known = lab.clients.ec2.describe_subnets().set_subnet_ids(Some(lab.subnets.clone())).send().await?;
    let data = json!({"Resources": {"Subnet": {"Type": "AWS::EC2::Subnet", "Properties": {
        "VpcId": known.subnets()[0].vpc_id().unwrap(), "CidrBlock": "10.0.99.0/24", "AvailabilityZone": "us-east-1c",
    }}}});
    create(&lab, "theirs-data", data).await?;
    let found = lab.clients.cloudformation.list_stack_resources().stack_name("theirs-data").send().await?;
    let resources = found.stack_resource_summaries();
    let subnet = resources.iter().find(|one| one.logical_resource_id() == Some("Subnet")).unwrap();
    let efs = &lab.clients.efs;
    let request = efs.create_mount_target().file_system_id(lab.file_system.as_str());
    let made = request.subnet_id(subnet.physical_resource_id().unwrap()).send().await?;

    let refused = teardown(&lab, &["--data"]).await?;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1), "{said}");
    assert!(said.contains(made.mount_target_id()) && said.contains("nothing was changed"), "{said}");
    assert!(
        !said.contains(lab.targets().await?[0].id.as_str()),
        "a target of somebody else's subnet blocks nothing: {said}"
    );
    for name in [STACK, "theirs-data"] {
        assert!(lab.clients.cloudformation.describe_stacks().stack_name(name).send().await.is_ok(), "{name}");
    }

    // Without --data the subnets stay, and so may the target.
    assert_eq!(teardown(&lab, &["--service-is-off"]).await?.status.code(), Some(0));
    efs.delete_mount_target().mount_target_id(made.mount_target_id()).send().await?;
    assert_eq!(teardown(&lab, &["--data"]).await?.status.code(), Some(0));
    assert!(lab.clients.cloudformation.describe_stacks().stack_name("theirs-data").send().await.is_err());
    Ok(())
}
