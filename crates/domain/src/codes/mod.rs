//! Every code that an operator meets, with meaning, cause and remedy. `efs-autoscale help CODE` and
//! `docs/reference/codes.md` are generated from these tables.
//!
//! [`error`], [`action`], [`reason`], [`warning`] and [`deferral`] are exhaustive matches: a new variant without an
//! entry does not compile.

mod actions;
mod alarms;
mod document;
mod errors;
mod exit;
mod http;
mod machine;
mod start;
mod warnings;

use std::fmt;

pub use self::{
    actions::{action, reason},
    document::{anchor, document},
    errors::error,
    warnings::{deferral, warning},
};

/// One code. Texts are Markdown without line breaks, except that each line of `remedy` is one step.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Entry {
    /// As it stands in outputs, logs, responses and names of alarms.
    pub code: &'static str,
    pub kind: CodeKind,
    /// One sentence.
    pub meaning: &'static str,
    pub cause: &'static str,
    /// One step per line.
    pub remedy: &'static str,
}

impl Entry {
    /// The steps of the remedy, in order.
    pub fn steps(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.remedy.lines()
    }
}

/// Where an operator meets a code. The order is that of the document.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum CodeKind {
    Alarm,
    Action,
    Reason,
    Error,
    /// Raised by Step Functions or Lambda.
    MachineError,
    Warning,
    Deferral,
    HttpError,
    /// Ends a function's init, or the start of the file service.
    StartError,
    ExitStatus,
}

impl CodeKind {
    pub const ALL: [Self; 10] = [
        Self::Alarm,
        Self::Action,
        Self::Reason,
        Self::Error,
        Self::MachineError,
        Self::Warning,
        Self::Deferral,
        Self::HttpError,
        Self::StartError,
        Self::ExitStatus,
    ];

    /// For JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Alarm => "alarm",
            Self::Action => "action",
            Self::Reason => "reason",
            Self::Error => "error",
            Self::MachineError => "machine_error",
            Self::Warning => "warning",
            Self::Deferral => "deferral",
            Self::HttpError => "http_error",
            Self::StartError => "start_error",
            Self::ExitStatus => "exit_status",
        }
    }

    /// The heading of the group.
    pub fn title(self) -> &'static str {
        match self {
            Self::Alarm => "Alarms",
            Self::Action => "Actions of a decision",
            Self::Reason => "Reasons for doing nothing",
            Self::Error => "Errors of the functions",
            Self::MachineError => "Errors of the state machine and of Lambda",
            Self::Warning => "Warnings",
            Self::Deferral => "Reasons of redeploy_deferred",
            Self::HttpError => "Errors of the file service's HTTP API",
            Self::StartError => "Errors at start",
            Self::ExitStatus => "Exit statuses of efs-autoscale",
        }
    }

    /// Where the codes of the group appear.
    pub fn place(self) -> &'static str {
        match self {
            Self::Alarm => "CloudWatch alarms of the stack. The alarm's description ends with its code.",
            Self::Action => {
                "`decision.action` in the output of an execution, and the dimension `Reason` of the metric \
                             `Decision`."
            }
            Self::Reason => {
                "`decision.reason` in the output of an execution whose action is `nothing`, and the dimension \
                             `Reason` of the metric `Decision`."
            }
            Self::Error => "`error` of a failed execution, `errorType` of a function, `code` in its log.",
            Self::MachineError => "`error` of a failed execution.",
            Self::Warning => "`warnings` in the output of an execution, and in the log of `evaluate`.",
            Self::Deferral => "`reason` of the warning `redeploy_deferred`.",
            Self::HttpError => "`error.code` in the body of a response of the file service.",
            Self::StartError => "`code` in the last line of the log of a function or of the file service.",
            Self::ExitStatus => "`$?` in a shell after `efs-autoscale`.",
        }
    }

    fn table(self) -> &'static [&'static Entry] {
        match self {
            Self::Alarm => alarms::TABLE,
            Self::Action => actions::ACTIONS,
            Self::Reason => actions::REASONS,
            Self::Error => errors::TABLE,
            Self::MachineError => machine::TABLE,
            Self::Warning => warnings::WARNINGS,
            Self::Deferral => warnings::DEFERRALS,
            Self::HttpError => http::TABLE,
            Self::StartError => start::TABLE,
            Self::ExitStatus => exit::TABLE,
        }
    }
}

impl fmt::Display for CodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Declares the entries of one kind and a table of all of them.
macro_rules! entries {
    ($table:ident: $kind:ident; $(
        $name:ident = $code:literal {
            meaning: $meaning:literal,
            cause: $cause:literal,
            remedy: [$step:literal $(, $steps:literal)* $(,)?],
        }
    )+) => {
        $(pub(super) static $name: $crate::codes::Entry = $crate::codes::Entry {
            code: $code,
            kind: $crate::codes::CodeKind::$kind,
            meaning: $meaning,
            cause: $cause,
            remedy: concat!($step $(, "\n", $steps)*),
        };)+
        pub(super) static $table: &[&$crate::codes::Entry] = &[$(&$name),+];
    };
}
use entries;

/// Every entry, grouped by kind.
pub fn all() -> impl Iterator<Item = &'static Entry> {
    CodeKind::ALL.into_iter().flat_map(of_kind)
}

/// The entries of one kind.
pub fn of_kind(kind: CodeKind) -> impl Iterator<Item = &'static Entry> {
    kind.table().iter().copied()
}

/// Every entry with this code, ignoring case: `TargetFailed` is an error of a function and of the HTTP API.
pub fn find_all(code: &str) -> impl Iterator<Item = &'static Entry> {
    all().filter(move |entry| entry.code.eq_ignore_ascii_case(code))
}

/// The first entry with this code, ignoring case.
pub fn find(code: &str) -> Option<&'static Entry> {
    find_all(code).next()
}

const MAX_SUGGESTIONS: usize = 5;
/// Jaro-Winkler similarity, between 0 and 1. Below it, codes have little more in common than some letters.
const MIN_SIMILARITY: f64 = 0.84;

/// The codes nearest to a text, the nearest first. Case and punctuation do not matter.
pub fn suggest(text: &str) -> Vec<&'static str> {
    let plain = |text: &str| text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let wanted = plain(text);
    if wanted.is_empty() {
        return Vec::new();
    }
    let mut found: Vec<(f64, &'static str)> = Vec::new();
    for entry in all() {
        let code = plain(entry.code);
        let contains = code.len() >= 3 && wanted.len() >= 3 && (code.contains(&wanted) || wanted.contains(&code));
        let similarity = strsim::jaro_winkler(&wanted, &code) + if contains { 1.0 } else { 0.0 };
        if similarity >= MIN_SIMILARITY && !found.iter().any(|(_, known)| *known == entry.code) {
            found.push((similarity, entry.code));
        }
    }
    found.sort_by(|(a, _), (b, _)| b.total_cmp(a));
    found.into_iter().take(MAX_SUGGESTIONS).map(|(_, code)| code).collect()
}
