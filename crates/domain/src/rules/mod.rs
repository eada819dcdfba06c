//! Scaling rules: is the load over what the mount targets are for?
//!
//! To add a rule: CONTRIBUTING.md, "Add a scaling rule".
//!
//! [`decide`](crate::policy::decide) stays as it is: it adds a target where the rule answers [`Load::Over`] and nothing
//! else forbids it.

mod per_target;
mod threshold;

use std::fmt;

pub use self::{per_target::PerTarget, threshold::Threshold};
use crate::policy::{Observation, Policy};

/// What a rule finds in an observation.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Load {
    /// Another target is wanted.
    Over,
    /// The targets that exist suffice.
    Within,
    /// The observation does not tell: what the rule needs was not measured, or only in part.
    Unknown,
}

impl Load {
    /// `None` when it is unknown.
    pub fn is_over(self) -> Option<bool> {
        match self {
            Self::Over => Some(true),
            Self::Within => Some(false),
            Self::Unknown => None,
        }
    }
}

/// A rule that says when the file system needs another mount target. Pure: the same observation and policy give the
/// same load.
pub trait ScalingRule: Send + Sync {
    /// The value of `SCALING_RULE` that chooses it.
    fn name(&self) -> &'static str;

    /// The limit that the load is compared with, for reports and metrics. Exactly the limit is not over it.
    fn limit(&self, observation: &Observation, policy: &Policy) -> u64;

    /// The load of the file system as observed.
    fn load(&self, observation: &Observation, policy: &Policy) -> Load {
        files_against(observation, self.limit(observation, policy))
    }
}

/// Every rule, the default first.
pub const RULES: &[&dyn ScalingRule] = &[&Threshold, &PerTarget];

/// The rule of this name.
pub fn named(name: &str) -> Option<&'static dyn ScalingRule> {
    RULES.iter().copied().find(|rule| rule.name() == name)
}

/// A rule as its name, for serde.
pub(crate) mod by_name {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::{ScalingRule, named};

    pub fn serialize<S: Serializer>(rule: &&'static dyn ScalingRule, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(rule.name())
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<&'static dyn ScalingRule, D::Error> {
        let name = String::deserialize(from)?;
        named(&name).ok_or_else(|| D::Error::custom(format!("there is no scaling rule {name:?}")))
    }
}

/// The counted files against a limit. An incomplete count is a lower bound: if it is over the limit, so is the whole;
/// otherwise the load is unknown.
fn files_against(observation: &Observation, limit: u64) -> Load {
    match observation.count {
        None => Load::Unknown,
        Some(count) if count.files > limit => Load::Over,
        Some(count) if count.complete => Load::Within,
        Some(_) => Load::Unknown,
    }
}

impl fmt::Debug for dyn ScalingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl PartialEq for dyn ScalingRule {
    fn eq(&self, other: &Self) -> bool {
        self.name() == other.name()
    }
}

impl Eq for dyn ScalingRule {}
