//! The rule of the original design: over the threshold, add a target in every execution, until the zones run out.

use super::ScalingRule;
use crate::policy::{Observation, Policy};

/// More than [`Policy::threshold`] files.
pub struct Threshold;

impl ScalingRule for Threshold {
    fn name(&self) -> &'static str {
        "threshold"
    }

    fn limit(&self, _: &Observation, policy: &Policy) -> u64 {
        policy.threshold
    }
}
