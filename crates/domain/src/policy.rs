//! The decision. [`decide`] uses what is observed now, never what an earlier execution intended. The system is therefore
//! safe to stop anywhere.

use std::{cmp::Reverse, collections::BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    ledger::{Deployed, Refusal, Scope},
    model::{LifeCycle, MountTarget, MountTargetId, Service, Subnet, SubnetId, ZoneId},
    published::{NotAList, PublishedList},
    redeployment::{Deferral, Evidence, deferral},
    rules::{Load, RULES, ScalingRule},
};

/// After a try to create a target, a due redeployment comes first for this long. Neither can starve the other.
const CREATE_PAUSE_SECONDS: u64 = 600;

/// The operator's configuration.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Maximum number of files; exactly this many are not over it.
    pub threshold: u64,
    /// Decides whether the load needs another target.
    #[serde(with = "crate::rules::by_name")]
    pub rule: &'static dyn ScalingRule,
    /// Number of targets before the system adds any; see [`PerTarget`](crate::rules::PerTarget).
    pub initial_mount_targets: u32,
    /// Minimum time between two creations.
    pub cooldown_seconds: u64,
    /// Minimum number of targets, whatever the count.
    pub min_mount_targets: u32,
    /// `None`: as many as zones.
    pub max_mount_targets: Option<u32>,
    /// `false`: the service rereads the list by itself.
    pub redeploy: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            threshold: 100_000,
            rule: RULES[0],
            initial_mount_targets: 2,
            cooldown_seconds: 0,
            min_mount_targets: 0,
            max_mount_targets: None,
            redeploy: true,
        }
    }
}

/// Input of a decision.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Seconds since 1970.
    pub now: u64,
    /// `None` when the count failed.
    pub count: Option<FileCount>,
    /// The zone of a One Zone file system.
    pub one_zone: Option<ZoneId>,
    /// The file system's targets, in any order and any state.
    pub targets: Vec<MountTarget>,
    /// Candidate subnets, in any order.
    pub subnets: Vec<Subnet>,
    /// The published parameter; `None` when there is none.
    pub published: Option<Published>,
    /// The list that the service was last redeployed for, from the ledger.
    pub deployed: Option<Deployed>,
    /// When the system last created a target or intended to, from the ledger. Seconds since 1970.
    pub last_created: Option<u64>,
    /// `None` when ECS has no such service; an error message when ECS did not answer.
    pub service: Result<Option<Service>, String>,
    /// What EFS refused, from the ledger.
    pub refusals: Vec<Refusal>,
    pub excluded: Excluded,
}

/// A number of regular files, by name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileCount {
    pub files: u64,
    /// `false`: `files` is a lower bound.
    pub complete: bool,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Published {
    /// Increases by one with each write.
    pub version: i64,
    /// When it was written. Seconds since 1970.
    pub modified_at: Option<u64>,
    pub list: Result<PublishedList, NotAList>,
}

/// What EFS refused in this execution.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Excluded {
    #[serde(default)]
    pub subnets: BTreeSet<SubnetId>,
    #[serde(default)]
    pub zones: BTreeSet<ZoneId>,
}

/// The next step.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case")]
pub enum Decision {
    /// Publish: the published list differs from what can be published now.
    Publish,
    /// Redeploy the service, which has not read the published list.
    Redeploy {
        version: i64,
        fingerprint: String,
    },
    /// Wait for a target that is being created.
    Adopt {
        mount_target_id: MountTargetId,
    },
    /// Create a target in this subnet.
    Create {
        subnet_id: SubnetId,
        zone_id: ZoneId,
    },
    Nothing {
        reason: Reason,
    },
    /// Nothing can be published and no target is being created. An operator must act.
    NoAvailableTargets,
}

/// Why nothing is done. A closed list.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// The count failed, or it is incomplete and not over the limit.
    CountUnknown,
    BelowThreshold,
    /// A One Zone file system that has its target.
    OneZone,
    /// `MAX_MOUNT_TARGETS` is reached.
    AtMaximum,
    /// Every zone that has a subnet has a target.
    NoAvailableSubnet,
    /// EFS refused each remaining subnet, or they have no free address.
    AllSubnetsRefused,
    CoolingDown,
}

impl Decision {
    /// Whether it repairs the current state rather than adds a target.
    pub fn is_repair(&self) -> bool {
        matches!(self, Self::Publish | Self::Redeploy { .. } | Self::Adopt { .. })
    }

    /// The code of the reason or the action, for tables, logs and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Redeploy { .. } => "redeploy",
            Self::Adopt { .. } => "adopt",
            Self::Create { .. } => "create",
            Self::NoAvailableTargets => "no_available_targets",
            Self::Nothing { reason } => match reason {
                Reason::CountUnknown => "count_unknown",
                Reason::BelowThreshold => "below_threshold",
                Reason::OneZone => "one_zone",
                Reason::AtMaximum => "at_maximum",
                Reason::NoAvailableSubnet => "no_available_subnet",
                Reason::AllSubnetsRefused => "all_subnets_refused",
                Reason::CoolingDown => "cooling_down",
            },
        }
    }
}

impl Observation {
    /// Zones in which EFS would refuse a second target.
    pub fn occupied_zones(&self) -> BTreeSet<&ZoneId> {
        self.targets.iter().filter(|t| t.occupies_its_zone()).map(|t| &t.zone).collect()
    }

    /// Maximum number of mount targets: one per zone with a subnet or a target, within the policy.
    pub fn max_mount_targets(&self, policy: &Policy) -> usize {
        let mut zones = self.occupied_zones();
        zones.extend(self.subnets.iter().map(|subnet| &subnet.zone));
        if let Some(zone) = &self.one_zone {
            zones.retain(|other| *other == zone);
        }
        policy.max_mount_targets.map_or(zones.len(), |max| zones.len().min(max as usize))
    }

    /// The list to publish; `None` if it would be empty.
    pub fn publishable(&self) -> Option<PublishedList> {
        PublishedList::of(&self.targets, self.published_list())
    }

    /// The published list; `None` if there is none or it does not parse.
    pub fn published_list(&self) -> Option<&PublishedList> {
        self.published.as_ref()?.list.as_ref().ok()
    }

    /// The due redeployment, if the service has not read the published list.
    fn due(&self, policy: &Policy) -> Option<Decision> {
        let published = self.published.as_ref()?;
        let fingerprint = published.list.as_ref().ok()?.fingerprint();
        let service = self.service.as_ref().ok().and_then(Option::as_ref);
        let evidence = Evidence {
            fingerprint: &fingerprint,
            modified_at: published.modified_at,
            deployed: self.deployed.as_ref(),
            service,
        };
        let is_due = policy.redeploy && !evidence.is_covered();
        is_due.then_some(Decision::Redeploy { version: published.version, fingerprint })
    }

    /// Why ECS would refuse a redeployment now. If the service is unknown, it is tried.
    fn deferral(&self) -> Option<Deferral> {
        deferral(self.service.as_ref().ok()?.as_ref(), self.now)
    }

    /// Whether a creation was tried within the pause.
    fn has_just_tried(&self) -> bool {
        let tries = self.refusals.iter().map(|refusal| refusal.refused_at).chain(self.last_created);
        tries.max().is_some_and(|at| self.now.saturating_sub(at) < CREATE_PAUSE_SECONDS)
    }

    fn is_refused(&self, subnet: &Subnet) -> bool {
        let in_this_execution =
            self.excluded.subnets.contains(&subnet.id) || self.excluded.zones.contains(&subnet.zone);
        in_this_execution
            || self.refusals.iter().filter(|refusal| refusal.is_fresh(self.now)).any(|refusal| match refusal.scope {
                Scope::Subnet => refusal.subnet_id == subnet.id,
                Scope::Zone => refusal.zone_id == subnet.zone,
                Scope::FileSystem => false,
            })
    }
}

/// Decides the next step. Publishing comes first. A target that is being created comes before a new one, so that there is
/// never a second at the same time. A new target comes before a due redeployment, because publishing it redeploys too. If
/// one of the two is impossible now, the other is still done.
///
/// The order of the lists does not change the decision. Overlapping executions therefore choose the same subnet, EFS
/// accepts one of them, and no lock is needed.
pub fn decide(world: &Observation, policy: &Policy) -> Decision {
    let publishable = world.publishable();
    if publishable.is_some() && publishable.as_ref() != world.published_list() {
        return Decision::Publish;
    }
    let redeploy = world.due(policy).filter(|_| world.deferral().is_none());
    let on_its_way = world.targets.iter().filter(|t| t.state == LifeCycle::Creating).map(|t| &t.id).min();
    let next = match on_its_way {
        Some(id) => Decision::Adopt { mount_target_id: id.clone() },
        None if publishable.is_none() => Decision::NoAvailableTargets,
        None => scale(world, policy),
    };
    match (redeploy, next) {
        (Some(_), create @ Decision::Create { .. }) if !world.has_just_tried() => create,
        (Some(redeploy), _) => redeploy,
        (None, next) => next,
    }
}

/// Decides whether to add a target. Permanent reasons come before temporary ones.
fn scale(world: &Observation, policy: &Policy) -> Decision {
    let nothing = |reason| Decision::Nothing { reason };
    let occupied = world.occupied_zones();
    match policy.rule.load(world, policy) {
        _ if occupied.len() < policy.min_mount_targets as usize => {}
        Load::Unknown => return nothing(Reason::CountUnknown),
        Load::Within => return nothing(Reason::BelowThreshold),
        Load::Over => {}
    }
    if world.one_zone.as_ref().is_some_and(|zone| occupied.contains(zone)) {
        return nothing(Reason::OneZone);
    }
    if policy.max_mount_targets.is_some_and(|max| occupied.len() >= max as usize) {
        return nothing(Reason::AtMaximum);
    }
    let candidates: Vec<&Subnet> = world
        .subnets
        .iter()
        .filter(|subnet| !occupied.contains(&subnet.zone))
        .filter(|subnet| world.one_zone.as_ref().is_none_or(|zone| *zone == subnet.zone))
        .collect();
    if candidates.is_empty() {
        return nothing(Reason::NoAvailableSubnet);
    }
    // EFS refuses a subnet without a free address; leaving it out saves the tries for others.
    let chosen = candidates
        .into_iter()
        .filter(|subnet| subnet.free_addresses > 0 && !world.is_refused(subnet))
        .min_by_key(|subnet| (&subnet.zone, Reverse(subnet.free_addresses), &subnet.id));
    let Some(subnet) = chosen else {
        return nothing(Reason::AllSubnetsRefused);
    };
    let cool_at = world.last_created.map(|at| at.saturating_add(policy.cooldown_seconds));
    if policy.cooldown_seconds > 0 && cool_at.is_some_and(|at| world.now < at) {
        return nothing(Reason::CoolingDown);
    }
    Decision::Create { subnet_id: subnet.id.clone(), zone_id: subnet.zone.clone() }
}

/// What an operator should know, without effect on the decision.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(tag = "warning", rename_all = "snake_case")]
pub enum Warning {
    /// EFS failed to create this target. It occupies its zone until it is deleted.
    TargetInError { mount_target_id: MountTargetId },
    /// `available`, but without the address that publishing needs.
    TargetWithoutAddress { mount_target_id: MountTargetId },
    /// The parameter does not parse and is published again.
    PublishedDamaged { message: String },
    /// Part of the tree could not be read.
    CountIncomplete,
    /// Too many files, and no zone is left for another target.
    NoAvailableSubnet,
    /// Too many files, and EFS refused every subnet that was left.
    AllSubnetsRefused,
    /// ECS rolled the last deployment back. That version is not tried again.
    RedeployRolledBack,
    /// The service cannot be redeployed for the published list now.
    RedeployDeferred { reason: Deferral },
    /// EFS refused this recently; it is not tried again for a while.
    SubnetRefused { subnet_id: SubnetId, zone_id: ZoneId, code: String, message: String, refused_at: u64 },
    /// ECS knows no such service: nothing is redeployed.
    ServiceNotFound,
    /// ECS did not answer.
    ServiceUnknown { message: String },
    /// EC2 or EFS did not answer. Only repairs are made.
    ObservationIncomplete { message: String },
}

impl Warning {
    /// Its name: the value of the field `warning`.
    pub fn code(&self) -> &'static str {
        match self {
            Self::TargetInError { .. } => "target_in_error",
            Self::TargetWithoutAddress { .. } => "target_without_address",
            Self::PublishedDamaged { .. } => "published_damaged",
            Self::CountIncomplete => "count_incomplete",
            Self::NoAvailableSubnet => "no_available_subnet",
            Self::AllSubnetsRefused => "all_subnets_refused",
            Self::RedeployRolledBack => "redeploy_rolled_back",
            Self::RedeployDeferred { .. } => "redeploy_deferred",
            Self::SubnetRefused { .. } => "subnet_refused",
            Self::ServiceNotFound => "service_not_found",
            Self::ServiceUnknown { .. } => "service_unknown",
            Self::ObservationIncomplete { .. } => "observation_incomplete",
        }
    }
}

pub fn warnings(world: &Observation, policy: &Policy, decision: &Decision) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut targets: Vec<_> = world.targets.iter().collect();
    targets.sort_by_key(|target| &target.id);
    for target in targets {
        let mount_target_id = target.id.clone();
        match target.state {
            LifeCycle::Error => warnings.push(Warning::TargetInError { mount_target_id }),
            LifeCycle::Available if target.address().is_none() => {
                warnings.push(Warning::TargetWithoutAddress { mount_target_id });
            }
            _ => {}
        }
    }
    if let Some(Published { list: Err(err), .. }) = &world.published {
        warnings.push(Warning::PublishedDamaged { message: err.to_string() });
    }
    if world.count.is_some_and(|count| !count.complete) {
        warnings.push(Warning::CountIncomplete);
    }
    match decision {
        Decision::Nothing { reason: Reason::NoAvailableSubnet } => warnings.push(Warning::NoAvailableSubnet),
        Decision::Nothing { reason: Reason::AllSubnetsRefused } => warnings.push(Warning::AllSubnetsRefused),
        _ => {}
    }
    let mut refusals: Vec<_> = world.refusals.iter().filter(|refusal| refusal.is_fresh(world.now)).collect();
    refusals.sort_by_key(|refusal| (&refusal.zone_id, &refusal.subnet_id, refusal.refused_at));
    warnings.extend(refusals.into_iter().map(|refusal| Warning::SubnetRefused {
        subnet_id: refusal.subnet_id.clone(),
        zone_id: refusal.zone_id.clone(),
        code: refusal.code.clone(),
        message: refusal.message.clone(),
        refused_at: refusal.refused_at,
    }));
    if !policy.redeploy {
        return warnings;
    }
    match &world.service {
        Err(err) => warnings.push(Warning::ServiceUnknown { message: err.clone() }),
        Ok(None) => warnings.push(Warning::ServiceNotFound),
        Ok(Some(service)) => {
            if service.rolled_back() {
                warnings.push(Warning::RedeployRolledBack);
            }
            if world.due(policy).is_some()
                && let Some(reason) = world.deferral()
            {
                warnings.push(Warning::RedeployDeferred { reason });
            }
        }
    }
    warnings
}
