//! The refusals of this task, by code: how many, and the last one.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use http::{Method, StatusCode};
use schemars::JsonSchema;
use serde::Serialize;

/// Longer paths are shown without their end.
const MAX_PATH_CHARS: usize = 200;
/// The last refusal of a code is replaced at most that often, so that many refusals cost little.
const REPLACE_INTERVAL: Duration = Duration::from_millis(100);

/// The code of a refusal, as an extension of its response.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ErrorCode(pub &'static str);

/// Refusals of one code. There are as many as there are codes, so it is bounded.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(crate) struct ErrorSummary {
    code: &'static str,
    status: u16,
    /// Since the start of this task.
    count: u64,
    /// Milliseconds since 1970.
    last_at: u64,
    last_method: String,
    /// As requested, percent-encoded.
    last_path: String,
    /// To which the path belonged then; `null` when it is not the path of a file.
    last_mount_target_id: Option<String>,
}

/// The refusals by code.
#[derive(Debug, Default)]
pub(crate) struct Errors(Mutex<BTreeMap<&'static str, ErrorSummary>>);

impl Errors {
    /// Counts a refusal. `target` is asked for only if this refusal is shown.
    pub fn record(
        &self,
        code: &'static str,
        status: StatusCode,
        method: &Method,
        path: &str,
        target: impl FnOnce() -> Option<String>,
    ) {
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64);
        let mut errors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = match errors.get_mut(code) {
            Some(known) if u128::from(now.saturating_sub(known.last_at)) < REPLACE_INTERVAL.as_millis() => {
                known.count += 1;
                return;
            }
            Some(known) => known.count + 1,
            None => 1,
        };
        let summary = ErrorSummary {
            code,
            status: status.as_u16(),
            count,
            last_at: now,
            last_method: method.as_str().chars().take(MAX_PATH_CHARS).collect(),
            last_path: path.chars().take(MAX_PATH_CHARS).collect(),
            last_mount_target_id: target(),
        };
        errors.insert(code, summary);
    }

    /// The most recent first.
    pub fn summaries(&self) -> Vec<ErrorSummary> {
        let errors = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut summaries: Vec<_> = errors.values().cloned().collect();
        summaries.sort_by_key(|summary| std::cmp::Reverse(summary.last_at));
        summaries
    }
}
