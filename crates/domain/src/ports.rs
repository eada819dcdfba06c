//! What the functions need of the world, one trait per capability. A handler's signature names the ones
//! it takes, and its IAM role allows exactly those.
//!
//! No trait asks for a `Send` future: a Lambda function answers one request at a time, on one thread.
#![allow(async_fn_in_trait)]

use std::collections::BTreeMap;

use crate::{
    config::{IpAddressType, ParameterType, ServiceName},
    error::{AwsError, CreateFailure, PutFailure, UpdateFailure},
    model::{FileSystem, FileSystemId, MountTarget, ParameterName, SecurityGroupId, Service, Subnet, SubnetId, VpcId},
};

/// `efs:DescribeMountTargets`
pub trait ListTargets {
    /// All targets of the file system, every page, in no particular order. A file system that EFS does
    /// not know has none.
    async fn list_targets(&self, file_system: &FileSystemId) -> Result<Vec<MountTarget>, AwsError>;
}

/// `efs:CreateMountTarget`
pub trait CreateTarget {
    /// Comes back while the target is still `creating`. EFS takes no client token: whoever repeats this
    /// gets [`CreateFailure::Conflict`].
    async fn create_target(
        &self,
        file_system: &FileSystemId,
        subnet: &SubnetId,
        security_groups: &[SecurityGroupId],
        addresses: IpAddressType,
    ) -> Result<MountTarget, CreateFailure>;
}

/// `efs:DescribeFileSystems`
pub trait DescribeFileSystem {
    async fn describe_file_system(&self, file_system: &FileSystemId) -> Result<Option<FileSystem>, AwsError>;
}

/// `ec2:DescribeSubnets`
pub trait ListSubnets {
    /// The subnets of the VPC, every page; only those named in `only` unless it is empty.
    async fn list_subnets(&self, vpc: &VpcId, only: &[SubnetId]) -> Result<Vec<Subnet>, AwsError>;
}

/// A parameter's value, decrypted, its version, and when that was written.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Parameter {
    pub value: String,
    pub version: i64,
    /// Seconds since 1970.
    pub modified_at: Option<u64>,
}

/// `ssm:GetParameters`
pub trait ReadParameters {
    /// Those of the named parameters that exist.
    async fn read_parameters(&self, names: &[ParameterName]) -> Result<BTreeMap<ParameterName, Parameter>, AwsError>;
}

/// `ssm:PutParameter`
pub trait WriteParameter {
    /// Writes the parameter, there or not, and gives its new version.
    async fn write_parameter(&self, name: &ParameterName, value: &str, kind: ParameterType) -> Result<i64, PutFailure>;
}

/// `ssm:DeleteParameter`
pub trait DeleteParameter {
    /// Deletes the parameter; one that is not there is deleted already.
    async fn delete_parameter(&self, name: &ParameterName) -> Result<(), AwsError>;
}

/// `ecs:DescribeServices`
pub trait DescribeService {
    /// `None` when ECS knows no such service, or only a deleted one.
    async fn describe_service(&self, name: &ServiceName) -> Result<Option<Service>, AwsError>;
}

/// `ecs:UpdateService`
pub trait Redeploy {
    /// Starts a deployment of the same task definition, and gives its id.
    async fn redeploy(&self, name: &ServiceName) -> Result<Option<String>, UpdateFailure>;
}

/// The time, where a fact is dated.
pub trait Clock {
    /// Seconds since 1970.
    fn now(&self) -> u64;
}
