//! One more target for each further [`Policy::threshold`] of files.

use super::ScalingRule;
use crate::policy::{Observation, Policy};

/// More than [`Policy::threshold`] files for [`Policy::initial_mount_targets`], and for each target beyond those.
pub struct PerTarget;

impl ScalingRule for PerTarget {
    fn name(&self) -> &'static str {
        "per-target"
    }

    fn limit(&self, observation: &Observation, policy: &Policy) -> u64 {
        let occupied = observation.occupied_zones().len() as u64;
        let added = occupied.saturating_sub(u64::from(policy.initial_mount_targets));
        policy.threshold.saturating_mul(added.saturating_add(1))
    }
}
