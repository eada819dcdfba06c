//! Checks and their outcomes.

use std::{future::Future, pin::Pin, time::Duration};

use serde_json::{Map, Value};
use tokio::time::{Instant, timeout};

/// The answer of a check.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Finding {
    Yes,
    No,
    /// The check ran, and the result is inconclusive.
    Unknown,
    /// A precondition was missing, so the result is unknown.
    NotAsked,
    /// The arguments exclude the check, or it does not apply.
    Excluded,
}

impl Finding {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "unknown",
            Self::NotAsked => "not_asked",
            Self::Excluded => "excluded",
        }
    }

    /// The worst answer of several hosts counts.
    pub(super) fn severity(self) -> u8 {
        match self {
            Self::Yes => 0,
            Self::Excluded => 1,
            Self::NotAsked => 2,
            Self::Unknown => 3,
            Self::No => 4,
        }
    }
}

/// An answer, with details for people and values for programs.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub answer: Finding,
    pub found: String,
    pub values: Map<String, Value>,
}

fn outcome(answer: Finding, found: impl Into<String>) -> Outcome {
    Outcome { answer, found: found.into(), values: Map::new() }
}

pub fn yes(found: impl Into<String>) -> Outcome {
    outcome(Finding::Yes, found)
}

pub fn no(found: impl Into<String>) -> Outcome {
    outcome(Finding::No, found)
}

pub fn unknown(found: impl Into<String>) -> Outcome {
    outcome(Finding::Unknown, found)
}

pub fn not_asked(reason: impl Into<String>) -> Outcome {
    outcome(Finding::NotAsked, reason)
}

pub fn excluded(reason: impl Into<String>) -> Outcome {
    outcome(Finding::Excluded, reason)
}

impl Outcome {
    /// Adds the fields of an object, for programs.
    pub fn with(mut self, values: Value) -> Self {
        if let Value::Object(values) = values {
            self.values.extend(values);
        }
        self
    }
}

/// For the operation under test: an error status means no; any other error is inconclusive.
pub fn or_no<T>(result: nfs41::Result<T>) -> Result<T, Outcome> {
    result.map_err(error_outcome)
}

pub fn error_outcome(err: nfs41::Error) -> Outcome {
    match err {
        nfs41::Error::Status { .. } | nfs41::Error::ConditionFailed => no(err.to_string()),
        err => unknown(err.to_string()),
    }
}

/// For operations that prepare a check: any error makes its result unknown.
pub fn or_unknown<T>(result: nfs41::Result<T>) -> Result<T, Outcome> {
    result.map_err(|err| unknown(format!("the preparation of the check failed: {err}")))
}

/// Adds values to either kind of outcome.
pub fn with_values(result: CheckResult, values: Value) -> CheckResult {
    match result {
        Ok(outcome) => Ok(outcome.with(values)),
        Err(outcome) => Err(outcome.with(values)),
    }
}

/// `Err` is an outcome too: an early return with `?`.
pub type CheckResult = Result<Outcome, Outcome>;
pub type CheckFuture<'a> = Pin<Box<dyn Future<Output = CheckResult> + 'a>>;

/// A check of one property.
pub struct Check<W: ?Sized> {
    /// A stable name, for programs.
    pub key: &'static str,
    /// The statement that is true if the answer is yes.
    pub what: &'static str,
    /// What the answer no means for the service.
    pub means: &'static str,
    /// The service does not work without it: checked at every host.
    pub needed: bool,
    pub run: for<'a> fn(&'a W) -> CheckFuture<'a>,
}

/// Time limits of checks.
pub trait TimeLimits {
    fn operation_timeout(&self) -> Duration;

    /// How long the check with this key pauses on purpose, on top of its operations.
    fn pause(&self, _key: &str) -> Duration {
        Duration::ZERO
    }
}

/// The result of a check.
#[derive(Debug)]
pub struct Fact {
    pub(super) key: &'static str,
    pub(super) what: &'static str,
    pub(super) means: &'static str,
    pub(super) needed: bool,
    pub(super) outcome: Outcome,
    pub(super) time: Duration,
    /// The server may have stopped responding.
    pub is_late: bool,
}

impl<W: ?Sized> Check<W> {
    pub(super) fn with_outcome(&self, outcome: Outcome, time: Duration, is_late: bool) -> Fact {
        let Self { key, what, means, needed, .. } = *self;
        Fact { key, what, means, needed, outcome, time, is_late }
    }
}

impl<W: TimeLimits> Check<W> {
    pub async fn fact(&self, world: &W) -> Fact {
        let began = Instant::now();
        let pause = world.pause(self.key);
        // Each operation has its own timeout. This one limits all operations of the check.
        let check_timeout = world.operation_timeout() * 2 + pause;
        let outcome = match timeout(check_timeout, (self.run)(world)).await {
            Ok(Ok(outcome) | Err(outcome)) => outcome,
            Err(_) => unknown(format!("no reply within {check_timeout:?}")),
        };
        let time = began.elapsed();
        let is_late = outcome.answer == Finding::Unknown && time >= world.operation_timeout() + pause;
        self.with_outcome(outcome, time, is_late)
    }

    pub fn not_asked(&self, reason: &str) -> Fact {
        self.with_outcome(not_asked(reason), Duration::ZERO, false)
    }
}

/// A duration with about three digits.
pub fn format_time(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 0.01 => format!("{:.2} ms", seconds * 1e3),
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds => format!("{seconds:.1} s"),
    }
}
