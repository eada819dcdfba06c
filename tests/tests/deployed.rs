//! The infrastructure of `cdk/`, deployed for real: by the real CDK into the emulator, with the real functions in it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    process::Output,
    time::Duration,
};

use anyhow::Result;
use aws_sdk_cloudformation::error::ProvideErrorMetadata as _;
use aws_sdk_elasticloadbalancingv2::types::LoadBalancerAttribute;
use local_world::{
    Spec,
    emulator::Emulator,
    stack::{DATA_NAME, NAME, Stack},
    world::sdk_config,
};
use serde_json::{Value, json};
use tests::{Lab, binaries, efs_autoscale, project, tools};

/// `efs-autoscale teardown`, by way of the proxy, which refuses what AWS does and the emulator does not.
async fn teardown(lab: &Lab, arguments: &[&str]) -> Result<Output> {
    efs_autoscale(lab.proxy.endpoint(), &[&["teardown", "--wait", "60"], arguments].concat()).await
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Logical id and type of everything in a stack, as CloudFormation lists it.
async fn resources(lab: &Lab, stack: &str) -> Result<BTreeMap<String, String>> {
    let request = lab.clients.cloudformation.list_stack_resources().stack_name(stack);
    let mut all = request.into_paginator().items().send();
    let mut found = BTreeMap::new();
    while let Some(resource) = all.next().await {
        let resource = resource?;
        assert!(resource.physical_resource_id().is_some_and(|id| !id.is_empty()), "{resource:?}");
        found.insert(resource.logical_resource_id().unwrap().to_owned(), resource.resource_type().unwrap().to_owned());
    }
    Ok(found)
}

/// Every action that the roles of the functions allow.
fn allowed(template: &Value) -> BTreeSet<String> {
    let resources = template["Resources"].as_object().unwrap();
    let policies = resources.iter().filter(|(id, one)| one["Type"] == "AWS::IAM::Policy" && id.starts_with("Roles"));
    let statements = policies.flat_map(|(_, one)| one["Properties"]["PolicyDocument"]["Statement"].as_array().unwrap());
    let actions = statements.filter(|one| one["Effect"] == "Allow").flat_map(|one| match &one["Action"] {
        Value::Array(actions) => actions.clone(),
        action => vec![action.clone()],
    });
    actions.filter_map(|action| action.as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn the_stack_scales_out_is_updated_and_leaves_nothing() -> Result<()> {
    let mut lab = Lab::deployed().await?;

    // What CloudFormation has is what CDK wrote.
    for stack in [NAME, DATA_NAME] {
        let template = lab.stack.as_ref().unwrap().template(stack)?;
        let written: BTreeMap<String, String> = template["Resources"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(id, one)| (id.clone(), one["Type"].as_str().unwrap().to_owned()))
            .collect();
        assert_eq!(resources(&lab, stack).await?, written);
    }
    let template = lab.stack.as_ref().unwrap().template(NAME)?;
    let subnets = lab.clients.ec2.describe_subnets().set_subnet_ids(Some(lab.subnets.clone())).send().await?;
    let mut cidrs: Vec<_> = subnets.subnets().iter().filter_map(|one| one.cidr_block()).collect();
    cidrs.sort_unstable();
    assert_eq!(cidrs, ["10.0.1.0/24", "10.0.2.0/24", "10.0.3.0/24"]);
    let machine = lab.clients.sfn.describe_state_machine().state_machine_arn(&lab.state_machine).send().await?;
    assert!(!machine.definition().contains("${"), "a substitution was left in the machine");
    assert_eq!(lab.targets().await?.len(), 2);

    // Nothing is published: the first execution mends that, the second one scales out.
    let published = lab.run(json!({})).await?;
    assert_eq!((published.status.as_str(), published.decision().unwrap().word()), ("SUCCEEDED", "publish"));
    lab.published_is_what_there_is().await?;
    let deployment = lab.deployment().await?;
    let created = lab.run(json!({})).await?;
    assert_eq!((created.status.as_str(), created.decision().unwrap().word()), ("SUCCEEDED", "create"));
    assert_eq!(lab.list().await?.targets().len(), 3);
    lab.published_is_what_there_is().await?;
    assert_ne!(lab.deployment().await?, deployment, "the service was redeployed");
    // Every call that was really made is allowed to some function; the test of cdk/ compares function by function.
    let allowed = allowed(&template);
    for call in lab.proxy.calls() {
        let action = call.replace("efs:", "elasticfilesystem:");
        assert!(allowed.contains(&action), "{action} was called, and no role allows it: {allowed:?}");
    }

    // An update leaves what the pipeline has made alone.
    lab.deploy(|settings| settings["scaling"]["threshold"] = json!(1_000_000)).await?;
    assert_eq!(lab.list().await?.targets().len(), 3);
    let quiet = lab.run(json!({})).await?;
    assert_eq!((quiet.status.as_str(), quiet.decision().unwrap().word()), ("SUCCEEDED", "below_threshold"));

    // One function on top of the stack, by its own deployer: what the stack has told it stays.
    lab.deploy_again(&tools(), "evaluate").await?;
    let quiet = lab.run(json!({})).await?;
    assert_eq!((quiet.status.as_str(), quiet.decision().unwrap().word()), ("SUCCEEDED", "below_threshold"));

    // Somebody else's target is never deleted, and the file system cannot go with it.
    let third = lab.targets().await?[2].id.clone();
    lab.delete_target(&third).await?;
    let foreign = lab.create_target(2).await?;
    let looked = teardown(&lab, &["--dry-run"]).await?;
    assert_eq!(looked.status.code(), Some(0));
    assert!(text(&looked.stdout).contains(&format!("mount target {foreign} in us-east-1c: somebody else created it")));
    let unasked = teardown(&lab, &[]).await?;
    assert_eq!(unasked.status.code(), Some(2), "nobody agreed");
    assert_eq!((lab.targets().await?.len(), lab.list().await?.targets().len()), (3, 3), "nothing was changed");
    let refused = teardown(&lab, &["--yes", "--data"]).await?;
    assert_eq!(refused.status.code(), Some(1));
    assert!(text(&refused.stderr).contains(foreign.as_str()), "it names what is in the way");
    assert_eq!(lab.targets().await?.len(), 3, "it is still there");

    // A system whose teardown was given up goes on where it was.
    lab.delete_target(&foreign).await?;
    lab.deploy(|_| {}).await?;
    for step in ["publish", "create"] {
        let run = lab.run(json!({})).await?;
        assert_eq!((run.status.as_str(), run.decision().unwrap().word()), ("SUCCEEDED", step));
    }
    let third = lab.targets().await?[2].id.to_string();
    // As a stack of before was made: its load balancer is protected, and its deletion would end in DELETE_FAILED.
    let through = sdk_config(lab.proxy.endpoint());
    let balancers = aws_sdk_elasticloadbalancingv2::Client::new(&sdk_config(lab.endpoint()));
    let found = balancers.describe_load_balancers().send().await?;
    let protect = LoadBalancerAttribute::builder().key("deletion_protection.enabled").value("true").build();
    let arn = found.load_balancers()[0].load_balancer_arn().unwrap();
    balancers.modify_load_balancer_attributes().load_balancer_arn(arn).attributes(protect).send().await?;
    let refused = aws_sdk_cloudformation::Client::new(&through).delete_stack().stack_name(NAME).send().await;
    assert_eq!(refused.unwrap_err().code(), Some("ValidationError"));
    let gone = teardown(&lab, &["--yes", "--json"]).await?;
    assert_eq!(gone.status.code(), Some(0));
    let said: Value = serde_json::from_slice(&gone.stdout)?;
    assert_eq!((&said["stack"], &said["deleted_mount_targets"]), (&json!(NAME), &json!([third])));
    assert_eq!(said["kept_stack"], json!(DATA_NAME));
    let left = lab.left().await?;
    let of = |kind: &str| left.iter().filter(|id| id.starts_with(kind)).count();
    assert_eq!((of("fs-"), of("fsmt-"), of("subnet-")), (1, 2, 3), "the files stay, and their two targets: {left:?}");
    assert_eq!(left.len(), 6, "{left:?}");

    // Made again around the same files; and then all of it goes.
    lab.deploy(|_| {}).await?;
    let run = lab.run(json!({})).await?;
    assert_eq!((run.status.as_str(), run.decision().unwrap().word()), ("SUCCEEDED", "publish"));
    let gone = teardown(&lab, &["--yes", "--data"]).await?;
    assert_eq!(gone.status.code(), Some(0));
    assert_eq!(lab.left().await?, Vec::<String>::new());
    let again = teardown(&lab, &["--yes"]).await?;
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again.stderr).contains("--stack"), "{}", text(&again.stderr));
    Ok(())
}

/// The entries of a list in a TypeScript source.
fn listed(source: &str, name: &str) -> Vec<String> {
    let list = source.split(&format!("{name} = [")).nth(1).unwrap().split(']').next().unwrap();
    list.split('\'').skip(1).step_by(2).map(str::to_owned).collect()
}

#[tokio::test]
async fn what_is_left_out_is_what_the_emulator_does_not_know() -> Result<()> {
    let emulator = Emulator::start(&tools().ministack, 1.0).await?;
    let cloudformation = aws_sdk_cloudformation::Client::new(&sdk_config(emulator.endpoint()));
    let deploys = async |name: &str, kind: &str| -> Result<bool> {
        let (kind, math) = kind.split_once(" of ").unwrap_or((kind, ""));
        let properties = match math {
            "" => json!({}),
            "metric math" => json!({
                "ComparisonOperator": "GreaterThanThreshold", "EvaluationPeriods": 1, "Threshold": 1,
                "Metrics": [{"Id": "e", "Expression": "1 + 1", "ReturnData": true, "Period": 60}],
            }),
            other => panic!("how is {other} tried?"),
        };
        let template = json!({"Resources": {"One": {"Type": kind, "Properties": properties}}}).to_string();
        let sent = cloudformation.create_stack().stack_name(name).template_body(template).send().await;
        if sent.is_err() {
            return Ok(false);
        }
        loop {
            let stacks = cloudformation.describe_stacks().stack_name(name).send().await?;
            let status = stacks.stacks()[0].stack_status().unwrap().as_str().to_owned();
            if !status.ends_with("IN_PROGRESS") {
                return Ok(status == "CREATE_COMPLETE");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let left_out = listed(&fs::read_to_string(project().join("cdk/lib/local.ts"))?, "UNSUPPORTED_LOCALLY");
    assert!(left_out.len() > 3, "{left_out:?}");
    for (number, kind) in left_out.iter().enumerate() {
        assert!(
            !deploys(&format!("out-{number}"), kind).await?,
            "the emulator takes {kind}: cdk/lib/local.ts need not leave it out"
        );
    }
    // And what is tried that way can succeed.
    assert!(deploys("in", "AWS::SQS::Queue").await?);
    Ok(())
}

#[tokio::test]
async fn a_region_that_nobody_names_is_asked_for() -> Result<()> {
    let mut command = tokio::process::Command::new(binaries().join("efs-autoscale"));
    // Nor may it look for one in the network.
    command.args(["teardown", "--dry-run"]).env_clear().env("AWS_EC2_METADATA_DISABLED", "true");
    let output = command.output().await?;
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("efs-autoscale: --region: "), "{}", text(&output.stderr));
    Ok(())
}

/// Whatever fails at a first deployment: the next one is taken, and a teardown leaves nothing to be found by hand. CDK
/// protects a stack before it creates it, and can neither replace nor delete it after that.
#[tokio::test]
async fn a_first_deployment_that_fails_is_repeated_or_removed() -> Result<()> {
    let emulator = Emulator::start(&tools().ministack, 1.0).await?;
    let config = sdk_config(emulator.endpoint());
    let cloudformation = aws_sdk_cloudformation::Client::new(&config);
    let efs = aws_sdk_efs::Client::new(&config);
    let files = tempfile::tempdir()?;
    let directory = files.path().to_str().unwrap();
    let spec = Spec {
        directory: files.path().to_owned(),
        zones: 3,
        mount_targets: 2,
        creation: Duration::ZERO,
        poll_interval: 4,
        poll_timeout: 60,
        wait_scale: 1.0,
        variables: vec![],
        stack: true,
    };
    let settings = |fails: Option<&str>| {
        let mut settings = spec.settings(&emulator.endpoint().replace("localhost", "127.0.0.1"), directory);
        settings["local"]["fails"] = json!(fails);
        settings["local"].as_object_mut().unwrap().retain(|_, value| !value.is_null());
        settings
    };
    let status = async |name: &str| -> Result<Option<(String, bool)>> {
        let Ok(found) = cloudformation.describe_stacks().stack_name(name).send().await else { return Ok(None) };
        let stack = found.stacks().first().unwrap();
        let status = stack.stack_status().unwrap().as_str().to_owned();
        Ok(Some((status, stack.enable_termination_protection().unwrap_or(false))))
    };
    let of = |status: &str, is_protected| Some((status.to_owned(), is_protected));
    let preflight = async || efs_autoscale(emulator.endpoint(), &["preflight", "--json"]).await;

    // The file system cannot be made: what has failed is the protected stack.
    let failed = Stack::deploy(&tools(), emulator.endpoint(), settings(Some("Storage/FileSystem")), |_| {}).await;
    let said = format!("{:#}", failed.err().unwrap());
    eprintln!("{said}");
    assert_eq!(status(DATA_NAME).await?, of("ROLLBACK_COMPLETE", true));
    let again = Stack::deploy(&tools(), emulator.endpoint(), settings(None), |_| {}).await;
    assert!(again.is_err(), "CDK alone can do nothing about it");
    let looked = preflight().await?;
    assert_eq!(looked.status.code(), Some(0));
    assert!(text(&looked.stderr).contains(DATA_NAME), "it says what it has changed");
    let account: Value = serde_json::from_slice(&looked.stdout)?;
    assert_eq!(account["desiredCount"], Value::Null);
    assert!(account["zones"].as_array().unwrap().len() > 2 && account["lambdaConcurrency"].as_i64().unwrap() > 0);

    // The service does not get healthy; a function is refused. The data is there already, and stays the same.
    let mut file_systems = Vec::new();
    for fails in ["Service/FileService/Service", "Pipeline/Evaluate"] {
        let failed = Stack::deploy(&tools(), emulator.endpoint(), settings(Some(fails)), |_| {}).await;
        assert!(failed.is_err(), "{fails}");
        assert_eq!(status(NAME).await?, of("ROLLBACK_COMPLETE", false), "{fails}");
        assert_eq!(status(DATA_NAME).await?, of("CREATE_COMPLETE", true), "{fails}");
        assert_eq!(preflight().await?.status.code(), Some(0));
        let found = efs.describe_file_systems().send().await?;
        file_systems.push(found.file_systems().iter().map(|one| one.file_system_id().to_owned()).collect::<Vec<_>>());
    }
    assert_eq!((&file_systems[0], file_systems[0].len()), (&file_systems[1], 1), "each try has the same file system");

    // Removed as it is: nothing is left, and nothing has to be known by hand.
    let gone = efs_autoscale(emulator.endpoint(), &["teardown", "--yes", "--data", "--wait", "60"]).await?;
    assert_eq!(gone.status.code(), Some(0));
    assert_eq!((status(NAME).await?, status(DATA_NAME).await?), (None, None));
    assert!(efs.describe_file_systems().send().await?.file_systems().is_empty());

    // And from the beginning, as if nothing had been.
    let failed = Stack::deploy(&tools(), emulator.endpoint(), settings(Some("Pipeline/Machine")), |_| {}).await;
    assert!(failed.is_err());
    assert_eq!(preflight().await?.status.code(), Some(0));
    let mut stack = Stack::deploy(&tools(), emulator.endpoint(), settings(None), |_| {}).await?;
    assert_eq!(status(NAME).await?, of("CREATE_COMPLETE", false));

    // What auto scaling has made of the service stays what it is.
    let ecs = aws_sdk_ecs::Client::new(&config);
    let (cluster, service) = (stack.output("ClusterName")?, stack.output("ServiceName")?);
    ecs.update_service().cluster(&cluster).service(&service).desired_count(7).send().await?;
    let account: Value = serde_json::from_slice(&preflight().await?.stdout)?;
    assert_eq!(account["desiredCount"], json!(7));
    let mut later = settings(None);
    later["account"] = account.clone();
    later["service"]["requestsPerTask"] = json!(1000);
    stack.update(later.clone(), |_| {}).await?;
    let found = ecs.describe_services().cluster(&cluster).services(&service).send().await?;
    assert_eq!(found.services()[0].desired_count(), 7);

    // A quota that is too small is known before anything is made.
    later["account"]["lambdaConcurrency"] = json!(10);
    later["pipeline"]["reservedConcurrency"] = json!(true);
    let refused = stack.update(later, |_| {}).await;
    assert!(refused.is_err());
    assert_eq!(status(NAME).await?.unwrap().0, "UPDATE_COMPLETE");
    Ok(())
}
