//! Amazon EFS: the file system and its mount targets.

use aws_config::{retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_efs::{error::ProvideErrorMetadata, types::LifeCycleState};
use domain::{
    error::{AwsError, CreateFailure},
    model::{
        FileSystem, FileSystemId, LifeCycle, MountTarget, MountTargetId, SecurityGroupId, SubnetId, VpcId, ZoneId,
        ZoneName,
    },
    ports::{CreateTarget, DescribeFileSystem, ListTargets},
};

use crate::{
    Aws, CALL_TIMEOUT,
    fault::{classify, incomplete},
};

const DESCRIBE: &str = "efs:DescribeMountTargets";
const CREATE: &str = "efs:CreateMountTarget";

/// One mount target out of either call's answer: two types with the same fields.
macro_rules! mount_target {
    ($operation:expr, $answer:expr) => {{
        let (operation, answer) = ($operation, $answer);
        let zone = answer.availability_zone_id().ok_or_else(|| incomplete(operation, "AvailabilityZoneId"))?;
        let zone_name = answer.availability_zone_name().ok_or_else(|| incomplete(operation, "AvailabilityZoneName"))?;
        MountTarget {
            id: MountTargetId::new(answer.mount_target_id()),
            subnet: SubnetId::new(answer.subnet_id()),
            vpc: answer.vpc_id().map(VpcId::new),
            zone: ZoneId::new(zone),
            zone_name: ZoneName::new(zone_name),
            // An address that is not IPv4 is as good as none: the published list holds IPv4.
            ip: answer.ip_address().and_then(|ip| ip.parse().ok()),
            state: life_cycle(answer.life_cycle_state()),
        }
    }};
}

fn life_cycle(state: &LifeCycleState) -> LifeCycle {
    match state {
        LifeCycleState::Creating => LifeCycle::Creating,
        LifeCycleState::Available => LifeCycle::Available,
        LifeCycleState::Updating => LifeCycle::Updating,
        LifeCycleState::Deleting => LifeCycle::Deleting,
        LifeCycleState::Deleted => LifeCycle::Deleted,
        LifeCycleState::Error => LifeCycle::Error,
        _ => LifeCycle::Unknown,
    }
}

impl ListTargets for Aws {
    async fn list_targets(&self, file_system: &FileSystemId) -> Result<Vec<MountTarget>, AwsError> {
        let mut pages =
            self.efs.describe_mount_targets().file_system_id(file_system.as_str()).into_paginator().items().send();
        let mut targets = Vec::new();
        while let Some(target) = pages.next().await {
            match target {
                Ok(target) => targets.push(mount_target!(DESCRIBE, &target)),
                Err(error) if error.code() == Some("FileSystemNotFound") => return Ok(Vec::new()),
                Err(error) => return Err(classify(DESCRIBE, error)),
            }
        }
        Ok(targets)
    }
}

/// One try, which has all the time of a call. There is no client token: a second try of the SDK after a
/// slow first one would meet the first one's target, and take it for somebody else's.
fn once() -> aws_sdk_efs::config::Builder {
    let timeouts = TimeoutConfig::builder().operation_attempt_timeout(CALL_TIMEOUT).operation_timeout(CALL_TIMEOUT);
    aws_sdk_efs::Config::builder().retry_config(RetryConfig::disabled()).timeout_config(timeouts.build())
}

impl CreateTarget for Aws {
    async fn create_target(
        &self,
        file_system: &FileSystemId,
        subnet: &SubnetId,
        security_groups: &[SecurityGroupId],
    ) -> Result<MountTarget, CreateFailure> {
        let groups = security_groups.iter().map(ToString::to_string).collect();
        let sent = self
            .efs
            .create_mount_target()
            .file_system_id(file_system.as_str())
            .subnet_id(subnet.as_str())
            .set_security_groups(Some(groups))
            .customize()
            .config_override(once())
            .send()
            .await;
        let target = match sent {
            Ok(target) => target,
            Err(error) => {
                let code = error.code().unwrap_or_default().to_owned();
                return Err(match (code.as_str(), classify(CREATE, error)) {
                    ("MountTargetConflict", AwsError::Refused(fault)) => CreateFailure::Conflict(fault),
                    ("NoFreeAddressesInSubnet" | "SubnetNotFound", AwsError::Refused(fault)) => {
                        CreateFailure::Subnet(fault)
                    }
                    ("UnsupportedAvailabilityZone", AwsError::Refused(fault)) => CreateFailure::Zone(fault),
                    ("IncorrectFileSystemLifeCycleState", AwsError::Unavailable(fault)) => CreateFailure::Later(fault),
                    (_, other) => CreateFailure::Aws(other),
                });
            }
        };
        Ok(mount_target!(CREATE, &target))
    }
}

impl DescribeFileSystem for Aws {
    async fn describe_file_system(&self, file_system: &FileSystemId) -> Result<Option<FileSystem>, AwsError> {
        let sent = self.efs.describe_file_systems().file_system_id(file_system.as_str()).send().await;
        match sent {
            Ok(answer) => Ok(answer.file_systems().first().map(|found| FileSystem {
                id: file_system.clone(),
                one_zone: found.availability_zone_id().map(ZoneId::new),
            })),
            Err(error) if error.code() == Some("FileSystemNotFound") => Ok(None),
            Err(error) => Err(classify("efs:DescribeFileSystems", error)),
        }
    }
}
