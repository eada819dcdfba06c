//! Every metric that the functions emit: one table, which alarms and dashboards are checked against.
//! All are in [`NAMESPACE`], by `FileSystemId`; [`DECISION`] is also by `Reason`.

use crate::messages::{
    CountOutput, CreateTargetOutput, EvaluateOutput, PollAvailableOutput, PublishOutput, RedeployOutput,
};

/// The CloudWatch namespace.
pub const NAMESPACE: &str = "EfsMountAutoscaling";
/// The dimension that every metric has.
pub const FILE_SYSTEM_ID: &str = "FileSystemId";
/// The second dimension of [`DECISION`]: an action, or the reason why there is none. A dimension and a
/// metric share one JSON object in the Embedded Metric Format, so neither may have the other's name.
pub const REASON: &str = "Reason";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unit {
    Count,
    Seconds,
    CountPerSecond,
}

/// A name and its unit; made here and nowhere else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Metric {
    pub name: &'static str,
    pub unit: Unit,
}

macro_rules! table {
    ($($(#[$doc:meta])* $constant:ident = $name:literal, $unit:ident;)+) => {
        $($(#[$doc])* pub const $constant: Metric = Metric { name: $name, unit: Unit::$unit };)+
        pub const TABLE: &[Metric] = &[$($constant),+];
    };
}

table! {
    /// count: regular files. Only of a complete count, so that an alarm never sees a part as the whole.
    FILE_COUNT = "FileCount", Count;
    /// count: 1 when everything below the root was read, else 0.
    COUNT_COMPLETE = "CountComplete", Count;
    /// count: how long the walk took.
    COUNT_DURATION = "CountDuration", Seconds;
    /// count: what the walk reached.
    FILES_PER_SECOND = "FilesPerSecond", CountPerSecond;
    /// evaluate: the limit in force, after the scaling rule.
    THRESHOLD = "Threshold", Count;
    /// evaluate: 1 when the count is over the limit, else 0. Absent when nothing was counted.
    THRESHOLD_EXCEEDED = "ThresholdExceeded", Count;
    /// evaluate: targets that can be published.
    TARGETS = "Targets", Count;
    /// evaluate, publish-ssm: targets in the published list. Differs from `Targets` only for a while.
    PUBLISHED = "Published", Count;
    /// evaluate: 1 for each decision, by action or reason.
    DECISION = "Decision", Count;
    /// poll-available: from EFS's acceptance of a target to its being available.
    CREATE_DURATION = "CreateDuration", Seconds;
}

/// One value of one metric.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    pub metric: Metric,
    pub value: f64,
    /// The value of the dimension [`REASON`].
    pub reason: Option<&'static str>,
}

/// What a function's output says in metrics.
pub trait Metered {
    fn samples(&self) -> Vec<Sample> {
        Vec::new()
    }
}

fn sample(metric: Metric, value: f64) -> Sample {
    Sample { metric, value, reason: None }
}

fn flag(value: bool) -> f64 {
    if value { 1.0 } else { 0.0 }
}

impl Metered for CountOutput {
    fn samples(&self) -> Vec<Sample> {
        let mut samples = vec![sample(COUNT_COMPLETE, flag(self.complete)), sample(COUNT_DURATION, self.seconds)];
        if self.seconds > 0.0 {
            samples.push(sample(FILES_PER_SECOND, self.files as f64 / self.seconds));
        }
        if self.complete {
            samples.push(sample(FILE_COUNT, self.files as f64));
        }
        samples
    }
}

impl Metered for EvaluateOutput {
    fn samples(&self) -> Vec<Sample> {
        let mut samples = vec![
            sample(THRESHOLD, self.observed.limit as f64),
            sample(TARGETS, self.observed.publishable.len() as f64),
            sample(PUBLISHED, self.observed.published.as_ref().map_or(0, Vec::len) as f64),
            Sample { metric: DECISION, value: 1.0, reason: Some(self.decision.word()) },
        ];
        samples.extend(self.observed.over_limit.map(|over| sample(THRESHOLD_EXCEEDED, flag(over))));
        samples
    }
}

impl Metered for CreateTargetOutput {}

impl Metered for PollAvailableOutput {
    fn samples(&self) -> Vec<Sample> {
        let seconds = self.seconds_since_created.filter(|_| self.available);
        seconds.map(|seconds| sample(CREATE_DURATION, seconds as f64)).into_iter().collect()
    }
}

impl Metered for PublishOutput {
    fn samples(&self) -> Vec<Sample> {
        vec![sample(PUBLISHED, self.mount_targets.len() as f64)]
    }
}

impl Metered for RedeployOutput {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incomplete_count_is_never_reported_as_the_number_of_files() {
        let mut output =
            CountOutput { files: 7, directories: 1, complete: true, errors: 0, first_errors: vec![], seconds: 0.5 };
        let names = |output: &CountOutput| output.samples().iter().map(|s| s.metric.name).collect::<Vec<_>>();
        assert!(names(&output).contains(&"FileCount"));
        output.complete = false;
        assert!(!names(&output).contains(&"FileCount"));
        assert!(names(&output).contains(&"CountComplete"));
    }
}
