//! The adapters of `crates/aws` against a third party's idea of AWS, through the real protocols.
#![allow(clippy::unwrap_used, reason = "a test says what it takes for granted")]

use anyhow::Result;
use aws::Aws;
use aws_config::SdkConfig;
use aws_sdk_ecs::{self as ecs, error::ProvideErrorMetadata};
use aws_sdk_ssm as ssm;
use domain::{
    config::{DEFAULT_PARAMETER_NAME, IpAddressType, ParameterType, ServiceName},
    error::{AwsError, CreateFailure},
    model::{FileSystemId, LifeCycle, ParameterName, SecurityGroupId, SubnetId, VpcId},
    ports::{
        CreateTarget, DeleteParameter, DescribeFileSystem, DescribeService, ListSubnets, ListTargets, ReadParameters,
        Redeploy, WriteParameter,
    },
};
use local_world::world::{CLUSTER, SERVICE, sdk_config};
use tests::Lab;

#[tokio::test]
async fn the_adapters_understand_it() -> Result<()> {
    let lab = Lab::start(2, &[]).await?;
    let aws = Aws::new(&sdk_config(lab.endpoint()));
    let file_system = FileSystemId::new(&lab.file_system);

    let found = aws.describe_file_system(&file_system).await?.unwrap();
    assert_eq!((found.id, found.one_zone), (file_system.clone(), None));
    assert_eq!(aws.describe_file_system(&FileSystemId::new("fs-00000000")).await?, None);
    let targets = aws.list_targets(&file_system).await?;
    assert_eq!(targets.len(), 2);
    assert!(targets.iter().all(|target| target.state == LifeCycle::Available && target.ip.is_some()));
    assert!(aws.list_targets(&FileSystemId::new("fs-00000000")).await?.is_empty());

    let vpc = VpcId::new(targets[0].vpc.as_ref().unwrap().as_str());
    let subnets = aws.list_subnets(&vpc, &[]).await?;
    assert_eq!(subnets.len(), 3);
    assert!(subnets.iter().all(|subnet| subnet.free_addresses > 0));
    let third = SubnetId::new(&lab.subnets[2]);
    let gone = SubnetId::new("subnet-00000000");
    let only = aws.list_subnets(&vpc, &[third.clone(), gone.clone()]).await?;
    assert_eq!(only.iter().map(|subnet| &subnet.id).collect::<Vec<_>>(), [&third]);
    assert!(only[0].zone.as_str().ends_with("-az3"), "a zone id, not a name: {}", only[0].zone);

    let taken = aws
        .create_target(&file_system, &SubnetId::new(&lab.subnets[0]), &[], IpAddressType::Ipv4Only)
        .await
        .unwrap_err();
    assert!(matches!(taken, CreateFailure::Conflict(_)), "{taken}");
    let unknown = aws.create_target(&file_system, &gone, &[], IpAddressType::Ipv4Only).await.unwrap_err();
    assert!(matches!(unknown, CreateFailure::Subnet(_)), "{unknown}");
    let group = [SecurityGroupId::new("sg-00000000")];
    let refused = aws.create_target(&file_system, &third, &group, IpAddressType::Ipv4Only).await.unwrap_err();
    assert!(matches!(refused, CreateFailure::Aws(AwsError::Refused(_))), "{refused}");
    let created = aws.create_target(&file_system, &third, &[], IpAddressType::Ipv4Only).await?;
    assert_eq!((created.subnet, created.zone), (third, only[0].zone.clone()));

    let name = ParameterName::new("/here/there");
    for kind in [ParameterType::String, ParameterType::SecureString] {
        let first = aws.write_parameter(&name, "one", kind).await?;
        assert_eq!(aws.write_parameter(&name, "two", kind).await?, first + 1);
        let found = aws.read_parameters(&[name.clone(), ParameterName::new(DEFAULT_PARAMETER_NAME)]).await?;
        assert_eq!((found.len(), found[&name].value.as_str(), found[&name].version), (2, "two", first + 1));
        aws.delete_parameter(&name).await?;
        aws.delete_parameter(&name).await?;
        assert!(aws.read_parameters(std::slice::from_ref(&name)).await?.is_empty());
    }

    let service = ServiceName { cluster: CLUSTER.to_owned(), service: SERVICE.to_owned() };
    let before = aws.describe_service(&service).await?.unwrap();
    let id = aws.redeploy(&service).await?.unwrap();
    let after = aws.describe_service(&service).await?.unwrap();
    assert!(!before.deployments.iter().any(|deployment| deployment.id == id) && !after.rolled_back());
    assert!(after.deployments.iter().any(|deployment| deployment.id == id));
    for missing in [(CLUSTER, "none"), ("none", "none")] {
        let name = ServiceName { cluster: missing.0.to_owned(), service: missing.1.to_owned() };
        assert_eq!(aws.describe_service(&name).await?, None);
    }
    Ok(())
}

/// What AWS refuses and the emulator takes: each is tried on both. One that the emulator has learnt need not be in
/// `crates/local-world/src/strict.rs` any more.
#[tokio::test]
async fn what_aws_refuses_is_refused_by_the_proxy_and_not_by_the_emulator() -> Result<()> {
    let lab = Lab::start(1, &[]).await?;
    let [strict, emulator] = [lab.proxy.endpoint(), lab.endpoint()].map(sdk_config);
    let refusals = async |config: &SdkConfig| -> Result<Vec<Option<String>>> {
        let (ssm, efs, ecs) = (ssm::Client::new(config), aws_sdk_efs::Client::new(config), ecs::Client::new(config));
        let put = |name: &str, value: &str, kind: ssm::types::ParameterType| {
            ssm.put_parameter().name(name).value(value).r#type(kind).overwrite(true).send()
        };
        put("/strict/name", "a", ssm::types::ParameterType::String).await?;
        let other = put("/strict/name", "b", ssm::types::ParameterType::SecureString).await;
        let long = put("/strict/long", &"x".repeat(4097), ssm::types::ParameterType::String).await;
        ssm.delete_parameters().names("/strict/name").names("/strict/long").send().await?;
        let target = efs.create_mount_target().file_system_id(&lab.file_system).subnet_id(&lab.subnets[1]);
        let groups = Some(vec![lab.security_group.clone(); 6]);
        let target = target.set_security_groups(groups).send().await;
        if let Ok(target) = &target {
            efs.delete_mount_target().mount_target_id(target.mount_target_id()).send().await?;
        }
        let controller = ecs::types::DeploymentController::builder();
        let controller = controller.r#type(ecs::types::DeploymentControllerType::CodeDeploy).build()?;
        let (cluster, service) = (&lab.service.0, "code-deploy");
        let made = ecs.create_service().cluster(cluster).service_name(service).desired_count(0);
        // The second of the two finds it made.
        let _ = made.task_definition("file-service").deployment_controller(controller).send().await;
        let forced = ecs.update_service().cluster(cluster).service(service).force_new_deployment(true).send().await;
        let code = |err: &dyn ProvideErrorMetadata| err.code().map(str::to_owned);
        Ok(vec![
            other.as_ref().err().and_then(|err| code(err)),
            long.as_ref().err().and_then(|err| code(err)),
            target.as_ref().err().and_then(|err| code(err)),
            forced.as_ref().err().and_then(|err| code(err)),
        ])
    };
    let expected = [
        "HierarchyTypeMismatchException",
        "ValidationException",
        "SecurityGroupLimitExceeded",
        "InvalidParameterException",
    ];
    let found = refusals(&emulator).await?;
    assert_eq!(found, [None, None, None, None], "the emulator");
    assert_eq!(refusals(&strict).await?, expected.map(|code| Some(code.to_owned())), "the proxy");
    Ok(())
}
