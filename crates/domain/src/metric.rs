//! All metrics of the functions and the file service; alarms and dashboards are checked against these tables. All are in
//! [`NAMESPACE`]. The functions' metrics have the dimension `FileSystemId`, [`DECISION`] also `Reason`; the service's have
//! `FileSystemId` and `MountTargetId`.

use crate::messages::{
    CountOutput, CreateTargetOutput, EvaluateOutput, PollAvailableOutput, PublishOutput, RedeployOutput,
};

/// The CloudWatch namespace.
pub const NAMESPACE: &str = "EfsMountAutoscaling";
/// The dimension of every metric.
pub const FILE_SYSTEM_ID: &str = "FileSystemId";
/// The second dimension of [`DECISION`]: an action or a reason. In the Embedded Metric Format, dimensions and metrics share
/// one JSON object, so their names must differ.
pub const REASON: &str = "Reason";
/// The second dimension of the file service's metrics.
pub const MOUNT_TARGET_ID: &str = "MountTargetId";

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Unit {
    Bytes,
    Count,
    Seconds,
    CountPerSecond,
}

impl Unit {
    /// CloudWatch's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bytes => "Bytes",
            Self::Count => "Count",
            Self::Seconds => "Seconds",
            Self::CountPerSecond => "Count/Second",
        }
    }
}

/// A name and its unit, defined only here.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Metric {
    pub name: &'static str,
    pub unit: Unit,
}

macro_rules! table {
    ($table:ident: $($(#[$doc:meta])* $constant:ident = $name:literal, $unit:ident;)+) => {
        $($(#[$doc])* pub const $constant: Metric = Metric { name: $name, unit: Unit::$unit };)+
        pub const $table: &[Metric] = &[$($constant),+];
    };
}

table! {
    TABLE:
    /// evaluate: regular files. Only of a complete count, so that an alarm never sees a part as the whole.
    FILE_COUNT = "FileCount", Count;
    /// evaluate: 1 when everything below the root was counted, else 0.
    COUNT_COMPLETE = "CountComplete", Count;
    /// count: how long one invocation walked; a count may take several.
    COUNT_DURATION = "CountDuration", Seconds;
    /// count: what one invocation's walk reached.
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

table! {
    SERVICE_TABLE:
    /// 1 while paths are sent to the target, else 0.
    TARGET_UP = "TargetUp", Count;
    /// Operations on files and directories.
    TARGET_OPERATIONS = "TargetOperations", Count;
    /// Those that failed for the target's reasons.
    TARGET_FAILURES = "TargetFailures", Count;
    /// Operations that were not begun, since the target had all that it can do.
    TARGET_REFUSED = "TargetRefused", Count;
    TARGET_BYTES_READ = "TargetBytesRead", Bytes;
    TARGET_BYTES_WRITTEN = "TargetBytesWritten", Bytes;
    /// Of one operation. Absent when there was none.
    TARGET_LATENCY = "TargetLatency", Seconds;
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
        if self.age_seconds.is_some() || self.seconds <= 0.0 {
            return vec![];
        }
        vec![sample(COUNT_DURATION, self.seconds), sample(FILES_PER_SECOND, self.files as f64 / self.seconds)]
    }
}

impl Metered for EvaluateOutput {
    fn samples(&self) -> Vec<Sample> {
        let mut samples = vec![
            sample(THRESHOLD, self.observed.limit as f64),
            sample(TARGETS, self.observed.publishable.len() as f64),
            sample(PUBLISHED, self.observed.published.as_ref().map_or(0, Vec::len) as f64),
            sample(COUNT_COMPLETE, flag(self.observed.complete)),
            Sample { metric: DECISION, value: 1.0, reason: Some(self.decision.word()) },
        ];
        samples.extend(self.observed.over_limit.map(|over| sample(THRESHOLD_EXCEEDED, flag(over))));
        let files = self.observed.files.filter(|_| self.observed.complete);
        samples.extend(files.map(|files| sample(FILE_COUNT, files as f64)));
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
    use crate::{messages::Observed, policy::Decision};

    #[test]
    fn an_incomplete_count_is_never_reported_as_the_number_of_files() {
        let names = |files, complete| {
            let observed = Observed { files, complete, ..Observed::default() };
            let decision = Decision::NoAvailableTargets;
            let output = EvaluateOutput { decision, dry_run: false, warnings: vec![], observed };
            output.samples().iter().map(|sample| sample.metric.name).collect::<Vec<_>>()
        };
        assert!(names(Some(7), true).contains(&"FileCount"));
        for (files, complete) in [(Some(7), false), (None, false)] {
            assert!(!names(files, complete).contains(&"FileCount"));
            assert!(names(files, complete).contains(&"CountComplete"));
        }
    }
}
