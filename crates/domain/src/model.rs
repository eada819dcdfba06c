//! The things of the field, in AWS's own words.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use serde::{Deserialize, Serialize};

/// A string that names one kind of thing, so that a subnet is never taken for a zone.
macro_rules! names {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(String);

        impl $name {
            pub fn new(name: impl Into<String>) -> Self {
                Self(name.into())
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )+};
}

names! {
    /// `fs-0123456789abcdef0`
    FileSystemId,
    /// `fsmt-0123456789abcdef0`
    MountTargetId,
    /// `subnet-0123456789abcdef0`
    SubnetId,
    /// `sg-0123456789abcdef0`
    SecurityGroupId,
    /// `vpc-0123456789abcdef0`
    VpcId,
    /// `apne1-az4`: the same place in every account. Zones are compared by this.
    ZoneId,
    /// `ap-northeast-1a`: another place in another account. For people, and for the published list.
    ZoneName,
    /// The full name of a Systems Manager parameter, such as `/efs-mount-autoscaling/mount-targets`.
    ParameterName,
}

/// The life of a mount target as EFS reports it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LifeCycle {
    Creating,
    Available,
    Updating,
    Deleting,
    Deleted,
    Error,
    /// A state that EFS had not invented when this was written. It occupies its zone and serves nobody.
    Unknown,
}

impl fmt::Display for LifeCycle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Available => "available",
            Self::Updating => "updating",
            Self::Deleting => "deleting",
            Self::Deleted => "deleted",
            Self::Error => "error",
            Self::Unknown => "unknown",
        })
    }
}

/// One network interface of the file system in one Availability Zone.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct MountTarget {
    pub id: MountTargetId,
    pub subnet: SubnetId,
    pub vpc: Option<VpcId>,
    pub zone: ZoneId,
    pub zone_name: ZoneName,
    /// Absent while EFS has not assigned one, and for good on a target that has IPv6 only.
    pub ip: Option<Ipv4Addr>,
    /// On a target that has IPv6.
    pub ipv6: Option<Ipv6Addr>,
    pub state: LifeCycle,
}

impl MountTarget {
    /// Where it is reached: by IPv4 where it can be.
    pub fn address(&self) -> Option<IpAddr> {
        self.ip.map(IpAddr::V4).or(self.ipv6.map(IpAddr::V6))
    }

    /// Would EFS answer `MountTargetConflict` to a second target in this zone? Every state but
    /// `deleted` says yes.
    pub fn occupies_its_zone(&self) -> bool {
        self.state != LifeCycle::Deleted
    }
}

/// A subnet that a mount target could be put into.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Subnet {
    pub id: SubnetId,
    pub zone: ZoneId,
    pub free_addresses: u32,
}

/// What there is to know of a file system besides its targets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileSystem {
    pub id: FileSystemId,
    /// Set on a One Zone file system, which takes a target in this zone and in no other.
    pub one_zone: Option<ZoneId>,
}

/// The file service as ECS reports it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// `false` while it is being deleted.
    pub active: bool,
    pub controller: Controller,
    pub deployments: Vec<Deployment>,
}

impl Default for Service {
    fn default() -> Self {
        Self { active: true, controller: Controller::Ecs, deployments: Vec::new() }
    }
}

/// Who deploys the service.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub enum Controller {
    /// ECS itself, which takes `forceNewDeployment`.
    Ecs,
    /// `CODE_DEPLOY`, `EXTERNAL`: these refuse it.
    Other,
}

impl Service {
    /// Did the deployment circuit breaker give up on a deployment that is still shown?
    pub fn rolled_back(&self) -> bool {
        self.deployments.iter().any(|d| d.failed)
    }
}

/// One deployment that ECS still works on or keeps.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    pub id: String,
    /// The newest one.
    pub primary: bool,
    /// Seconds since 1970.
    pub created_at: Option<u64>,
    pub in_progress: bool,
    /// Failed by itself, or the one that takes its place after the circuit breaker's rollback.
    pub failed: bool,
}
