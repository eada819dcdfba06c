//! Checks and their outcomes.

use std::{future::Future, pin::Pin, time::Duration};

use serde_json::{Map, Value};
use tokio::time::{Instant, timeout};

/// What a question was answered with.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Finding {
    Yes,
    No,
    /// It was asked, and what came says neither.
    Unknown,
    /// What it takes was not there: as little is known as of what was asked in vain.
    NotAsked,
    /// By these arguments it is not to be asked, or has no meaning.
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

    /// Of several hosts the worst counts.
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

/// An answer, what came, and the numbers in it.
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

pub fn not_asked(err: impl Into<String>) -> Outcome {
    outcome(Finding::NotAsked, err)
}

pub fn excluded(err: impl Into<String>) -> Outcome {
    outcome(Finding::Excluded, err)
}

impl Outcome {
    /// With what programs want to know of it: the fields of an object.
    pub fn with(mut self, values: Value) -> Self {
        if let Value::Object(values) = values {
            self.values.extend(values);
        }
        self
    }
}

/// What an operation was refused with is a no; what kept it from being asked or answered says nothing.
pub fn or_no<T>(answer: nfs41::Result<T>) -> Result<T, Outcome> {
    answer.map_err(refused)
}

pub fn refused(err: nfs41::Error) -> Outcome {
    match err {
        nfs41::Error::Status { .. } | nfs41::Error::ConditionFailed => no(err.to_string()),
        err => unknown(err.to_string()),
    }
}

/// What has to be there before something can be asked.
pub fn or_unknown<T>(answer: nfs41::Result<T>) -> Result<T, Outcome> {
    answer.map_err(|err| unknown(format!("it cannot be asked, since what it takes could not be made: {err}")))
}

/// What is known of it, however it ends.
pub fn with_values(asked: CheckResult, values: Value) -> CheckResult {
    match asked {
        Ok(outcome) => Ok(outcome.with(values)),
        Err(outcome) => Err(outcome.with(values)),
    }
}

/// An outcome. The error is one, too: one that comes early.
pub type CheckResult = Result<Outcome, Outcome>;
pub type CheckFuture<'a> = Pin<Box<dyn Future<Output = CheckResult> + 'a>>;

/// One question.
pub struct Check<W: ?Sized> {
    /// Stable, for programs.
    pub key: &'static str,
    /// What a yes says.
    pub what: &'static str,
    /// What a no means for whoever runs the service.
    pub means: &'static str,
    /// The service does not work without: asked by way of every host.
    pub needed: bool,
    pub ask: for<'a> fn(&'a W) -> CheckFuture<'a>,
}

/// Who is asked.
pub trait OperationTimeout {
    fn operation_timeout(&self) -> Duration;
}

/// What is known of a question.
#[derive(Debug)]
pub struct Fact {
    pub(super) key: &'static str,
    pub(super) what: &'static str,
    pub(super) means: &'static str,
    pub(super) needed: bool,
    pub(super) outcome: Outcome,
    pub(super) time: Duration,
    /// No answer came in time.
    pub is_late: bool,
}

impl<W: ?Sized> Check<W> {
    pub(super) fn known(&self, outcome: Outcome, time: Duration, is_late: bool) -> Fact {
        let Self { key, what, means, needed, .. } = *self;
        Fact { key, what, means, needed, outcome, time, is_late }
    }
}

impl<W: OperationTimeout> Check<W> {
    pub async fn fact(&self, world: &W) -> Fact {
        let began = Instant::now();
        // Its operations have deadlines of their own: this is for all of them together.
        let operation_timeout = world.operation_timeout() * 2;
        let outcome = match timeout(operation_timeout, (self.ask)(world)).await {
            Ok(Ok(outcome) | Err(outcome)) => outcome,
            Err(_) => unknown(format!("no answer came within {operation_timeout:?}")),
        };
        let time = began.elapsed();
        let is_late = outcome.answer == Finding::Unknown && time >= world.operation_timeout();
        self.known(outcome, time, is_late)
    }

    pub fn not_asked(&self, err: &str) -> Fact {
        self.known(not_asked(err), Duration::ZERO, false)
    }
}

/// As people read it: three digits.
pub fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 0.01 => format!("{:.2} ms", seconds * 1e3),
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds => format!("{seconds:.1} s"),
    }
}
