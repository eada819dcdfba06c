//! What the checks look at. Every part that AWS was asked for is a [`Known`]: an answer, or why there is none.

use std::collections::{BTreeMap, BTreeSet};

use domain::policy::{Observation, Policy};

/// An answer of AWS, or why there is none.
pub type Known<T> = Result<T, String>;

/// An installation as it was found.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Seconds since 1970.
    pub now: u64,
    /// `None` of an installation without a stack.
    pub stack: Option<String>,
    /// By state.
    pub functions: BTreeMap<String, Known<Function>>,
    /// What `evaluate` observes, and its policy.
    pub world: Known<World>,
    pub file_system: FileSystem,
    pub access_points: Known<Vec<AccessPoint>>,
    /// The security groups of each mount target, by its id.
    pub target_groups: Known<BTreeMap<String, Vec<String>>>,
    pub groups: Known<Vec<Group>>,
    pub parameter: Known<Option<Parameter>>,
    pub service: Known<Option<Service>>,
    pub schedule: Known<Option<Schedule>>,
    pub alarms: Known<Vec<Alarm>>,
    pub subscriptions: Known<Vec<Subscription>>,
    pub certificates: Known<Vec<Certificate>>,
    pub drift: Known<Option<String>>,
    /// Concurrent executions of Lambda in the account: all, and those that no function has reserved.
    pub concurrency: Known<(i32, i32)>,
    pub simulated: Known<Vec<Simulated>>,
    pub calls: Known<Vec<CallFault>>,
}

#[derive(Clone, Debug)]
pub struct World {
    pub observation: Observation,
    pub policy: Policy,
    pub parameter: String,
    pub service: String,
}

#[derive(Clone, Debug, Default)]
pub struct Function {
    pub name: String,
    pub variables: BTreeMap<String, String>,
    pub role: String,
    /// `Active`, `Pending`, `Inactive`, `Failed`.
    pub state: String,
    pub state_reason: Option<String>,
    pub subnets: Vec<String>,
    pub security_groups: Vec<String>,
    /// What is deployed: the hash of its code's version.
    pub version: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct FileSystem {
    pub id: String,
    /// `available`, `updating`, …; `gone` when there is none; empty when nobody said.
    pub state: String,
}

#[derive(Clone, Debug)]
pub struct AccessPoint {
    pub id: String,
    pub state: String,
}

/// A security group, as far as port 2049 is concerned.
#[derive(Clone, Debug, Default)]
pub struct Group {
    pub id: String,
    /// From where port 2049 is let in: groups, prefixes, ranges. Empty: from nowhere.
    pub ingress: BTreeSet<String>,
    /// The same, of where to.
    pub egress: BTreeSet<String>,
}

#[derive(Clone, Debug)]
pub struct Parameter {
    /// `String`, `SecureString`.
    pub kind: String,
    /// `Standard`, `Advanced`.
    pub tier: String,
}

#[derive(Clone, Debug, Default)]
pub struct Service {
    pub status: String,
    /// `ECS`, `CODE_DEPLOY`, `EXTERNAL`.
    pub controller: String,
    pub running: i32,
    pub desired: i32,
    pub subnets: Vec<String>,
    pub security_groups: Vec<String>,
    /// The newest event.
    pub event: Option<String>,
    pub version: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct Schedule {
    pub name: String,
    pub is_enabled: bool,
    /// The state machine that it starts; empty when that is another than the installation's.
    pub target: String,
    /// Why it is paused.
    pub reason: Option<String>,
    /// It is paused, and resumes by itself then.
    pub is_paused_until: Option<String>,
}

#[derive(Clone, Debug)]
pub struct Alarm {
    pub name: String,
    pub is_armed: bool,
    pub has_action: bool,
    pub state: String,
    pub description: String,
}

#[derive(Clone, Debug)]
pub struct Subscription {
    pub endpoint: String,
    pub is_confirmed: bool,
}

#[derive(Clone, Debug)]
pub struct Certificate {
    pub arn: String,
    /// Seconds since 1970.
    pub expires_at: Option<u64>,
    pub status: String,
}

/// What IAM would answer to a call of a function.
#[derive(Clone, Debug)]
pub struct Simulated {
    pub state: String,
    pub action: String,
    pub is_allowed: bool,
}

/// How often a call was throttled or failed in the last day.
#[derive(Clone, Debug)]
pub struct CallFault {
    /// A service's call, such as `Lambda evaluate`, or `Elastic File System CreateMountTarget`.
    pub call: String,
    pub throttles: u64,
    pub errors: u64,
}
