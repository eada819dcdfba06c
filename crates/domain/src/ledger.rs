//! The ledger: facts that neither EFS nor ECS stores, each in a small parameter below the published one. One parameter per
//! fact, so that overlapping executions do not overwrite each other's.
//!
//! - `{parameter}/intended/{zone-id}` — [`Intended`]: this system was about to create a target there.
//! - `{parameter}/created/{zone-id}` — [`Created`]: the target that this system created there.
//! - `{parameter}/counted` — [`Counted`]: the last count, if counts may be reused.
//! - `{parameter}/deployed` — [`Deployed`]: the list that the service was last redeployed for.
//! - `{parameter}/refused/{zone-id}` — [`Refusals`]: the subnets that EFS refused there, and why.

use serde::{Deserialize, Serialize};

use crate::model::{FileSystemId, MountTarget, MountTargetId, ParameterName, SubnetId, ZoneId};

/// Written by `create-target` before the call, and deleted when EFS refuses. One without a later [`Created`] belongs to a
/// call that may have reached EFS.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Intended {
    pub file_system_id: FileSystemId,
    pub subnet_id: SubnetId,
    /// The execution, for information.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<String>,
    /// Seconds since 1970.
    pub intended_at: u64,
}

/// Written by `create-target` when EFS accepted a target, or by its next try when that response was lost. Only targets
/// named here belong to this system, and it deletes no others.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Created {
    pub file_system_id: FileSystemId,
    pub subnet_id: SubnetId,
    /// The execution, for information.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<String>,
    pub mount_target_id: MountTargetId,
    /// Seconds since 1970.
    pub created_at: u64,
}

/// Written by `count` after a complete count, if `COUNT_CACHE_SECONDS` allows its reuse.
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

/// Written by `redeploy` before and after `UpdateService`. A crash between the two costs at most one extra deployment; see [`Evidence`](crate::redeployment::Evidence).
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Deployed {
    /// Fingerprint of the list that the deployment's tasks read. Lists are identified by content, because versions restart
    /// after a deletion and increase when the same value is written again.
    #[serde(default)]
    pub fingerprint: String,
    /// `false`: the redeployment was about to start.
    #[serde(default)]
    pub started: bool,
    /// The version of the published parameter, for information.
    pub version: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment_id: Option<String>,
}

/// Refusals of EFS in one zone, newest last. Written by `create-target`.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
pub struct Refusals {
    pub refusals: Vec<Refusal>,
}

/// One refusal of EFS.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Refusal {
    pub file_system_id: FileSystemId,
    pub subnet_id: SubnetId,
    pub zone_id: ZoneId,
    pub scope: Scope,
    pub code: String,
    pub message: String,
    /// Seconds since 1970.
    pub refused_at: u64,
}

/// The scope of a refusal.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    Subnet,
    Zone,
    /// No subnet would have been accepted: a quota, a security group, a file system that is being changed.
    FileSystem,
}

/// A refused subnet or zone is not tried again for this long, so that other zones get a turn and an operator has time to
/// fix it.
pub const REFUSAL_SECONDS: u64 = 3600;
/// Maximum number of refusals, so that they fit into a standard parameter.
const MAX_REFUSALS: usize = 8;
const MAX_MESSAGE_BYTES: usize = 160;
const MAX_CODE_BYTES: usize = 60;

impl Refusal {
    /// Whether the subnet is skipped at `now` because of it.
    pub fn is_fresh(&self, now: u64) -> bool {
        now.saturating_sub(self.refused_at) < REFUSAL_SECONDS
    }
}

impl Refusals {
    /// Adds a refusal, replaces one of the same subnet, and removes expired ones.
    pub fn add(&mut self, mut refusal: Refusal) {
        let short = |text: &str, bytes| text.chars().filter(|char| (' '..='~').contains(char)).take(bytes).collect();
        refusal.message = short(&refusal.message, MAX_MESSAGE_BYTES);
        refusal.code = short(&refusal.code, MAX_CODE_BYTES);
        self.refusals.retain(|old| {
            old.subnet_id != refusal.subnet_id
                && old.file_system_id == refusal.file_system_id
                && old.is_fresh(refusal.refused_at)
        });
        self.refusals.push(refusal);
        let over = self.refusals.len().saturating_sub(MAX_REFUSALS);
        self.refusals.drain(..over);
    }
}

pub fn intended_name(published: &ParameterName, zone: &ZoneId) -> ParameterName {
    ParameterName::new(format!("{published}/intended/{zone}"))
}

pub fn created_name(published: &ParameterName, zone: &ZoneId) -> ParameterName {
    ParameterName::new(format!("{published}/created/{zone}"))
}

pub fn refused_name(published: &ParameterName, zone: &ZoneId) -> ParameterName {
    ParameterName::new(format!("{published}/refused/{zone}"))
}

pub fn counted_name(published: &ParameterName) -> ParameterName {
    ParameterName::new(format!("{published}/counted"))
}

pub fn deployed_name(published: &ParameterName) -> ParameterName {
    ParameterName::new(format!("{published}/deployed"))
}

/// The owner of a mount target, as far as the ledger knows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Owner {
    /// This system created it and may delete it.
    System,
    /// This system was about to create one in this subnet and the response was lost: it may be this one.
    Unknown,
    Others,
}

/// The owner of `target` of `file_system`, from the facts of its zone.
pub fn owner(
    file_system: &FileSystemId,
    target: &MountTarget,
    created: Option<&Created>,
    intended: Option<&Intended>,
) -> Owner {
    if created.is_some_and(|fact| fact.file_system_id == *file_system && fact.mount_target_id == target.id) {
        return Owner::System;
    }
    // An intent followed by a record belongs to the recorded target. An intent after the record belongs to a later target.
    let open = intended.filter(|intent| created.is_none_or(|fact| fact.created_at < intent.intended_at));
    match open.is_some_and(|intent| intent.file_system_id == *file_system && intent.subnet_id == target.subnet) {
        true => Owner::Unknown,
        false => Owner::Others,
    }
}

/// Reads a fact. A damaged one is ignored: an unreadable `deployed` costs one deployment, an unreadable `created` a
/// cooldown and the ownership of one target.
pub fn read<T: for<'de> Deserialize<'de>>(text: &str) -> Option<T> {
    serde_json::from_str(text).ok()
}

/// The text of one fact.
pub fn write<T: Serialize>(fact: &T) -> String {
    // A struct of names and numbers always serializes.
    serde_json::to_string(fact).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LifeCycle, ZoneName};

    #[test]
    fn refusals_fit_into_a_parameter_whatever_they_say() {
        let mut refusals = Refusals::default();
        for number in 0..20 {
            refusals.add(Refusal {
                file_system_id: FileSystemId::new("fs-0123456789abcdef0"),
                subnet_id: SubnetId::new(format!("subnet-0123456789abcde{number:02}")),
                zone_id: ZoneId::new("use1-az3"),
                scope: Scope::Subnet,
                code: "NoFreeAddressesInSubnet".to_owned(),
                message: "\u{1}あ\"".repeat(5_000),
                refused_at: number,
            });
        }
        let text = write(&refusals);
        assert!(text.len() <= crate::published::PARAMETER_LIMIT, "{}", text.len());
        assert_eq!(read::<Refusals>(&text), Some(refusals.clone()));
        assert_eq!(refusals.refusals.len(), MAX_REFUSALS);
        assert_eq!(refusals.refusals.last().map(|last| last.refused_at), Some(19));
        // The same subnet again, two hours later: it alone is left.
        let again = Refusal { refused_at: 7200, ..refusals.refusals[0].clone() };
        refusals.add(again.clone());
        assert_eq!(refusals.refusals, [again]);
    }

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
            ipv6: None,
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
