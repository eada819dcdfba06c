//! The ledger: the few facts that neither EFS nor ECS keeps, one small parameter each, below the
//! published one. One parameter per fact, so that overlapping executions never overwrite each other's.
//!
//! - `{parameter}/intended/{zone-id}` — [`Intended`]: that this system was about to make a target there.
//! - `{parameter}/created/{zone-id}` — [`Created`]: which target this system made there.
//! - `{parameter}/counted` — [`Counted`]: the last count, where counts may be used again.
//! - `{parameter}/deployed` — [`Deployed`]: which published version the service was last redeployed for.

use serde::{Deserialize, Serialize};

use crate::model::{FileSystemId, MountTarget, MountTargetId, ParameterName, SubnetId, ZoneId};

/// Written by `create-target` before the call, and withdrawn when EFS refused it. One that stays without
/// a later [`Created`] is of a call that may have reached EFS.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Intended {
    pub file_system_id: FileSystemId,
    pub subnet_id: SubnetId,
    /// The execution that meant to, for the person who reads this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<String>,
    /// Seconds since 1970.
    pub intended_at: u64,
}

/// Written by `create-target` when EFS had accepted a target, or by its next try when that answer was lost.
/// Only targets that are named here are known to be this system's, and only these may ever be deleted by it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Created {
    pub file_system_id: FileSystemId,
    pub subnet_id: SubnetId,
    /// The execution that did it, for the person who reads this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<String>,
    pub mount_target_id: MountTargetId,
    /// Seconds since 1970.
    pub created_at: u64,
}

/// Written by `count` after a whole count, where `COUNT_CACHE_SECONDS` lets it be used again.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    pub file_system_id: FileSystemId,
    /// `TARGET_DIRECTORY`, escaped.
    pub directory: String,
    /// Regular files, by name.
    pub files: u64,
    /// Seconds since 1970, when the count began.
    pub counted_at: u64,
}

/// Written by `redeploy` after `UpdateService`. A crash between the two costs one deployment more.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Deployed {
    /// The version of the published parameter that the deployment's tasks find at least.
    pub version: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_id: Option<String>,
}

pub fn intended_name(published: &ParameterName, zone: &ZoneId) -> ParameterName {
    ParameterName::new(format!("{published}/intended/{zone}"))
}

pub fn created_name(published: &ParameterName, zone: &ZoneId) -> ParameterName {
    ParameterName::new(format!("{published}/created/{zone}"))
}

pub fn counted_name(published: &ParameterName) -> ParameterName {
    ParameterName::new(format!("{published}/counted"))
}

pub fn deployed_name(published: &ParameterName) -> ParameterName {
    ParameterName::new(format!("{published}/deployed"))
}

/// Whose a mount target is, as far as the ledger knows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Owner {
    /// This system has made it, and may delete it.
    System,
    /// This system was about to make one in its subnet, and its answer was lost: it may be this one.
    Unknown,
    Others,
}

/// Whose `target` of `file_system` is, by the facts of its zone.
pub fn owner(
    file_system: &FileSystemId,
    target: &MountTarget,
    created: Option<&Created>,
    intended: Option<&Intended>,
) -> Owner {
    if created.is_some_and(|fact| fact.file_system_id == *file_system && fact.mount_target_id == target.id) {
        return Owner::System;
    }
    // An intent that a record has followed is of the target recorded. One before it is of a later target.
    let open = intended.filter(|intent| created.is_none_or(|fact| fact.created_at < intent.intended_at));
    match open.is_some_and(|intent| intent.file_system_id == *file_system && intent.subnet_id == target.subnet) {
        true => Owner::Unknown,
        false => Owner::Others,
    }
}

/// Reads one fact. Nothing is refused for a damaged one: an unreadable `deployed` costs one deployment,
/// an unreadable `created` a cooldown and the ownership of one target.
pub fn read<T: for<'de> Deserialize<'de>>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

/// The text of one fact.
pub fn write<T: Serialize>(fact: &T) -> String {
    // Names and numbers in a struct: there is nothing here that serde_json can refuse.
    serde_json::to_string(fact).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LifeCycle, ZoneName};

    #[test]
    fn only_what_is_recorded_is_the_systems() {
        let file_system = FileSystemId::new("fs-1");
        let target = |id: &str, subnet: &str| MountTarget {
            id: MountTargetId::new(id),
            subnet: SubnetId::new(subnet),
            vpc: None,
            zone: ZoneId::new("use1-az3"),
            zone_name: ZoneName::new("us-east-1c"),
            ip: None,
            state: LifeCycle::Available,
        };
        let created = |file_system: &str, id: &str, created_at| Created {
            file_system_id: FileSystemId::new(file_system),
            subnet_id: SubnetId::new("subnet-3"),
            execution: None,
            mount_target_id: MountTargetId::new(id),
            created_at,
        };
        let intended = |file_system: &str, subnet: &str, intended_at| Intended {
            file_system_id: FileSystemId::new(file_system),
            subnet_id: SubnetId::new(subnet),
            execution: None,
            intended_at,
        };
        let of = |target: &MountTarget, created: Option<Created>, intended: Option<Intended>| {
            owner(&file_system, target, created.as_ref(), intended.as_ref())
        };
        let one = target("fsmt-1", "subnet-3");
        assert_eq!(
            of(&one, Some(created("fs-1", "fsmt-1", 20)), Some(intended("fs-1", "subnet-3", 10))),
            Owner::System
        );
        assert_eq!(of(&one, Some(created("fs-1", "fsmt-1", 20)), None), Owner::System);
        // Another target, made by hand after ours was deleted; another file system's record.
        assert_eq!(
            of(&one, Some(created("fs-1", "fsmt-2", 20)), Some(intended("fs-1", "subnet-3", 10))),
            Owner::Others
        );
        assert_eq!(of(&one, Some(created("fs-2", "fsmt-1", 20)), None), Owner::Others);
        assert_eq!(of(&one, None, None), Owner::Others);
        // The answer was lost.
        assert_eq!(of(&one, None, Some(intended("fs-1", "subnet-3", 10))), Owner::Unknown);
        assert_eq!(
            of(&one, Some(created("fs-1", "fsmt-2", 20)), Some(intended("fs-1", "subnet-3", 30))),
            Owner::Unknown
        );
        assert_eq!(of(&one, None, Some(intended("fs-1", "subnet-4", 10))), Owner::Others);
        assert_eq!(of(&one, None, Some(intended("fs-2", "subnet-3", 10))), Owner::Others);
    }
}
