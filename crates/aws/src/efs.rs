//! Amazon EFS: the file system and its mount targets.

use aws_config::{retry::RetryConfig, timeout::TimeoutConfig};
use aws_sdk_efs::types::{IpAddressType as SdkIpAddressType, LifeCycleState};
use domain::{
    config::IpAddressType,
    error::{AwsError, CreateFailure},
    model::{
        FileSystem, FileSystemId, LifeCycle, MountTarget, MountTargetId, SecurityGroupId, SubnetId, VpcId, ZoneId,
        ZoneName,
    },
    ports::{CreateTarget, DescribeFileSystem, ListTargets},
};

use crate::{
    Aws, CALL_TIMEOUT,
    errors::{CREATE_MOUNT_TARGET, DESCRIBE_FILE_SYSTEMS, DESCRIBE_MOUNT_TARGETS, Meaning},
    fault::{Failure, classify, incomplete},
};

/// A mount target from the response of either call: two types with the same fields.
macro_rules! mount_target {
    ($call:expr, $answer:expr) => {{
        let answer = $answer;
        let missing = |what| incomplete($call, &answer.mount_target_id(), what);
        let zone = answer.availability_zone_id().ok_or_else(|| missing("AvailabilityZoneId"))?;
        let zone_name = answer.availability_zone_name().ok_or_else(|| missing("AvailabilityZoneName"))?;
        MountTarget {
            id: MountTargetId::new(answer.mount_target_id()),
            subnet: SubnetId::new(answer.subnet_id()),
            vpc: answer.vpc_id().map(VpcId::new),
            zone: ZoneId::new(zone),
            zone_name: ZoneName::new(zone_name),
            ip: answer.ip_address().and_then(|ip| ip.parse().ok()),
            ipv6: answer.ipv6_address().and_then(|ip| ip.parse().ok()),
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
            match target.map_err(|err| classify(&DESCRIBE_MOUNT_TARGETS, file_system, err)) {
                Ok(target) => targets.push(mount_target!(&DESCRIBE_MOUNT_TARGETS, &target)),
                Err(failure) if failure.meaning == Meaning::NotFound => return Ok(Vec::new()),
                Err(failure) => return Err(failure.into()),
            }
        }
        Ok(targets)
    }
}

/// One attempt with the timeout of the whole call. There is no client token: a second attempt after a slow first one would
/// find the first one's target and take it for a foreign one.
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
        addresses: IpAddressType,
    ) -> Result<MountTarget, CreateFailure> {
        let groups = security_groups.iter().map(ToString::to_string).collect();
        let sent = self
            .efs
            .create_mount_target()
            .file_system_id(file_system.as_str())
            .subnet_id(subnet.as_str())
            .set_security_groups(Some(groups))
            .set_ip_address_type(match addresses {
                // EFS's default.
                IpAddressType::Ipv4Only => None,
                IpAddressType::DualStack => Some(SdkIpAddressType::DualStack),
                IpAddressType::Ipv6Only => Some(SdkIpAddressType::Ipv6Only),
            })
            .customize()
            .config_override(once())
            .send()
            .await;
        let target = sent.map_err(|err| {
            let resource = format!("{file_system} in {subnet}");
            let Failure { meaning, fault } = classify(&CREATE_MOUNT_TARGET, &resource, err);
            match meaning {
                Meaning::Conflict => CreateFailure::Conflict(fault),
                Meaning::Subnet => CreateFailure::Subnet(fault),
                Meaning::Zone => CreateFailure::Zone(fault),
                Meaning::Later => CreateFailure::Later(fault),
                _ => CreateFailure::Aws(Failure { meaning, fault }.into()),
            }
        })?;
        Ok(mount_target!(&CREATE_MOUNT_TARGET, &target))
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
            Err(err) => match classify(&DESCRIBE_FILE_SYSTEMS, file_system, err) {
                failure if failure.meaning == Meaning::NotFound => Ok(None),
                failure => Err(failure.into()),
            },
        }
    }
}
