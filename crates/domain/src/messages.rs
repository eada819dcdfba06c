//! Messages between the states of the machine: the input and output of every function. Inputs reject unknown fields, so
//! that a misspelt one is never ignored.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    error::InvalidInput,
    model::{LifeCycle, MountTargetId, SubnetId, ZoneId, ZoneName},
    policy::{Decision, Excluded, FileCount, Observation, Policy, Warning},
    published::{PublishedList, PublishedTarget},
};

/// The input of an execution.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Start {
    /// Decide, report the decision, and change nothing.
    pub dry_run: bool,
    /// Replaces `FILE_COUNT_THRESHOLD` in this execution; a number of files.
    pub threshold: Option<u64>,
}

impl Start {
    /// Reads the input of an execution: an object with `dry_run`, `threshold` and `Comment` (which the console adds, and
    /// which is ignored). A schedule's envelope counts as `{}`.
    ///
    /// # Errors
    /// [`InvalidInput`] names the field and what was expected.
    pub fn parse(input: &Value) -> Result<Self, InvalidInput> {
        let Value::Object(fields) = input else {
            return Err(InvalidInput(format!("the input is {}: expected an object, such as {{}}", kind_of(input))));
        };
        let mut start = Self::default();
        let envelope = fields.contains_key("source") && fields.contains_key("detail-type");
        // With one of our fields it is a person's input: a dry run must never run for real.
        if envelope && !fields.contains_key("dry_run") && !fields.contains_key("threshold") {
            return Ok(start);
        }
        for (field, value) in fields {
            match field.as_str() {
                "Comment" => {}
                "dry_run" => {
                    start.dry_run = value.as_bool().ok_or_else(|| {
                        InvalidInput(format!("`dry_run` is {}: expected true or false", short(value)))
                    })?;
                }
                "threshold" => {
                    start.threshold = Some(value.as_u64().ok_or_else(|| {
                        InvalidInput(format!(
                            "`threshold` is {}: expected a whole number of files, 0 or more",
                            short(value)
                        ))
                    })?);
                }
                _ => {
                    let field = short(&Value::String(field.clone()));
                    return Err(InvalidInput(format!(
                        "the field {field} is unknown: expected `dry_run` (true or false), `threshold` (a whole number) or `Comment`"
                    )));
                }
            }
        }
        Ok(start)
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// A value for a message, cut to a maximum length.
fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() <= 60 { text } else { text.chars().take(60).chain(['…']).collect() }
}

/// Default of `start`: `{}` in a function's own test console means an empty start.
fn empty_object() -> Value {
    Value::Object(serde_json::Map::new())
}

/// Maximum number of parts that a count returns when its time is over. The machine counts them concurrently.
pub const MAX_PARTITIONS: usize = 8;
/// Maximum bytes of JSON of all parts that one invocation returns. A state of the machine holds 256 KiB, and a part may
/// have to be returned unchanged while others grow to their share.
pub const MAX_PARTITION_BYTES: usize = 128 << 10;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CountInput {
    /// The unchanged input of the execution, checked here before anything else.
    #[serde(default = "empty_object")]
    pub start: Value,
    /// One element of an earlier invocation's `rest`; `null`: count everything.
    #[serde(default)]
    pub partition: Option<Value>,
    /// Number of partitions counted concurrently, which share the size limit.
    #[serde(default)]
    pub partitions: Option<usize>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct CountOutput {
    /// Regular files, by name; a lower bound unless `complete`.
    pub files: u64,
    pub directories: u64,
    /// Everything was counted.
    pub complete: bool,
    /// Part of this invocation's work is missing from the count, whatever happens to `rest`.
    pub missed: bool,
    /// Directories that vanished during the count.
    pub vanished: u64,
    /// Directories on another file system than the root, which were not entered.
    pub other_file_systems: u64,
    /// Directories that a warm process knew to be unchanged.
    pub unchanged: u64,
    /// Directories and entries that could not be read.
    pub errors: u64,
    /// The first errors, escaped: `path: error`.
    pub first_errors: Vec<String>,
    /// What is left to count after the time was over, in parts. Only `count` reads them.
    pub rest: Vec<Value>,
    pub seconds: f64,
    /// Age of a reused count.
    pub age_seconds: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluateInput {
    #[serde(default = "empty_object")]
    pub start: Value,
    /// `null` when the count failed.
    #[serde(default)]
    pub counted: Option<FileCount>,
    #[serde(default)]
    pub excluded: Excluded,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct EvaluateOutput {
    pub decision: Decision,
    /// `true`: the execution ends here.
    pub dry_run: bool,
    pub warnings: Vec<Warning>,
    pub observed: Observed,
}

/// The basis of the decision, for readers of the execution.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observed {
    pub files: Option<u64>,
    pub complete: bool,
    /// The rule's limit for the existing targets; a number of files.
    pub limit: u64,
    /// The scaling rule: the value of `SCALING_RULE`. Empty in the output of an older version.
    #[serde(default)]
    pub rule: String,
    /// `FILE_COUNT_THRESHOLD`, or what the execution was started with.
    #[serde(default)]
    pub threshold: u64,
    /// Zones that a mount target occupies.
    #[serde(default)]
    pub current: usize,
    /// `MIN_MOUNT_TARGETS`.
    #[serde(default)]
    pub minimum: usize,
    /// Mount targets that there can be: `MAX_MOUNT_TARGETS`, or a smaller number of zones that have a subnet or a target.
    #[serde(default)]
    pub maximum: usize,
    /// `null` when the count does not tell.
    pub over_limit: Option<bool>,
    pub mount_targets: Vec<ObservedTarget>,
    /// Ids of the publishable targets.
    pub publishable: Vec<MountTargetId>,
    /// Ids in the published list; `null` if there is none or it does not parse.
    pub published: Option<Vec<MountTargetId>>,
    pub published_version: Option<i64>,
    /// Identifies the published list.
    pub published_fingerprint: Option<String>,
    pub deployed_version: Option<i64>,
    /// Fingerprint of the list that the service was last redeployed for, from the ledger.
    pub deployed_fingerprint: Option<String>,
}

impl Observed {
    /// Describes what a decision is made from.
    pub fn of(world: &Observation, policy: &Policy) -> Self {
        let ids = |list: &PublishedList| list.targets().iter().map(|t| t.mount_target_id.clone()).collect::<Vec<_>>();
        let mut mount_targets: Vec<_> = world
            .targets
            .iter()
            .map(|target| ObservedTarget {
                mount_target_id: target.id.clone(),
                availability_zone: target.zone_name.clone(),
                zone_id: target.zone.clone(),
                state: target.state,
            })
            .collect();
        mount_targets.sort_by(|a, b| (&a.zone_id, &a.mount_target_id).cmp(&(&b.zone_id, &b.mount_target_id)));
        Self {
            files: world.count.map(|count| count.files),
            complete: world.count.is_some_and(|count| count.complete),
            limit: policy.rule.limit(world, policy),
            rule: policy.rule.name().to_owned(),
            threshold: policy.threshold,
            current: world.occupied_zones().len(),
            minimum: policy.min_mount_targets as usize,
            maximum: world.max_mount_targets(policy),
            over_limit: policy.rule.load(world, policy).is_over(),
            mount_targets,
            publishable: world.publishable().as_ref().map(ids).unwrap_or_default(),
            published: world.published_list().map(ids),
            published_version: world.published.as_ref().map(|published| published.version),
            published_fingerprint: world.published_list().map(PublishedList::fingerprint),
            deployed_version: world.deployed.as_ref().map(|fact| fact.version),
            deployed_fingerprint: world.deployed.as_ref().map(|fact| fact.fingerprint.clone()),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ObservedTarget {
    pub mount_target_id: MountTargetId,
    pub availability_zone: ZoneName,
    pub zone_id: ZoneId,
    pub state: LifeCycle,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTargetInput {
    pub subnet_id: SubnetId,
    pub zone_id: ZoneId,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CreateTargetOutput {
    pub mount_target_id: MountTargetId,
    pub outcome: CreateOutcome,
    /// When EFS accepted it, in seconds since 1970; `null` for an existing one.
    pub created_at: Option<u64>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CreateOutcome {
    Created,
    /// The zone already had one, from an overlapping execution or an earlier try.
    Adopted,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PollAvailableInput {
    pub mount_target_id: MountTargetId,
    /// Seconds since 1970 if known, for the metric `CreateDuration`.
    #[serde(default)]
    pub created_at: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PollAvailableOutput {
    pub mount_target_id: MountTargetId,
    pub state: LifeCycle,
    /// It is `available` and has the address that publishing needs.
    pub available: bool,
    /// Time since EFS accepted it, if known.
    pub seconds_since_created: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PublishInput {
    /// A target that the list must contain: the one that was waited for.
    #[serde(default)]
    pub must_include: Option<MountTargetId>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PublishOutput {
    pub version: i64,
    /// Identifies this list.
    pub fingerprint: String,
    /// `false`: the list was already published.
    pub changed: bool,
    pub mount_targets: Vec<PublishedTarget>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RedeployInput {
    pub published_version: i64,
    /// Fingerprint of that list, for a read that does not show it yet.
    #[serde(default)]
    pub fingerprint: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RedeployOutput {
    pub outcome: RedeployOutcome,
    /// The published version that the deployment covers.
    pub version: i64,
    pub deployment_id: Option<String>,
    /// Why the service is not redeployed now; only with `deferred`.
    #[serde(default)]
    pub warnings: Vec<Warning>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RedeployOutcome {
    Started,
    /// The service was already redeployed for this list.
    Covered,
    /// Not now, as `warnings` explains; the next execution tries again.
    Deferred,
    /// `REDEPLOY=never`: the service rereads the list by itself.
    Never,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_start_is_an_object_with_known_fields() {
        let plain = Start::default();
        for (input, expected) in [
            (json!({}), plain.clone()),
            (json!({"Comment": "Insert your JSON here"}), plain.clone()),
            (
                json!({"version": "0", "source": "aws.scheduler", "detail-type": "Scheduled Event", "detail": {}}),
                plain.clone(),
            ),
            (json!({"dry_run": true}), Start { dry_run: true, threshold: None }),
            (json!({"threshold": 0, "dry_run": false}), Start { dry_run: false, threshold: Some(0) }),
        ] {
            assert_eq!(Start::parse(&input), Ok(expected), "{input}");
        }
    }

    #[test]
    fn anything_else_is_refused_by_name() {
        for (input, expected) in [
            (json!([1]), "the input is an array: expected an object, such as {}"),
            (json!("x"), "the input is a string"),
            (json!(null), "the input is null"),
            (json!({"dry-run": true}), "the field \"dry-run\" is unknown: expected `dry_run`"),
            (json!({"dry_run": "yes"}), "`dry_run` is \"yes\": expected true or false"),
            (json!({"threshold": -1}), "`threshold` is -1: expected a whole number of files, 0 or more"),
            (json!({"threshold": 1.5}), "`threshold` is 1.5"),
            (json!({"threshold": null}), "`threshold` is null"),
            (json!({"source": "me", "threshold": "many"}), "the field \"source\" is unknown"),
            (json!({"source": "a", "detail-type": "b", "dry_run": true}), "the field \""),
        ] {
            let error = Start::parse(&input).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{input}: {error}");
        }
        let long = Start::parse(&json!({"x".repeat(10_000): 1})).unwrap_err().to_string();
        assert!(long.len() < 300);
    }
}
