//! The schedule that starts executions, and how it is paused.
//!
//! A pause is kept in the schedule itself: its state and start date end or postpone the executions, and its description
//! says who paused it and why. A pause until a time sets the start date and leaves the schedule enabled, so that
//! EventBridge Scheduler resumes by itself.

use anyhow::{Context, Result, bail};
use aws_sdk_scheduler::{
    Client,
    operation::get_schedule::GetScheduleOutput,
    types::{ScheduleState, Target},
};
use aws_smithy_types::DateTime;
use schemars::JsonSchema;
use serde::Serialize;

use super::time;

/// EventBridge Scheduler's limit.
const MAX_DESCRIPTION_CHARS: usize = 512;
/// What a description of ours begins with.
const PAUSED: &str = "paused ";
/// What stands between the reason and what the description was before.
const BEFORE: &str = " | before: ";

/// A schedule as it is now.
pub struct Schedule {
    found: GetScheduleOutput,
}

/// Why no execution is started.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, JsonSchema)]
pub struct Pause {
    /// `None`: until somebody resumes.
    pub until: Option<String>,
    pub since: Option<String>,
    pub reason: Option<String>,
}

impl Schedule {
    /// # Errors
    /// When there is no such schedule, or EventBridge Scheduler does not answer.
    pub async fn read(client: &Client, name: &str) -> Result<Self> {
        let found = client.get_schedule().name(name).send().await;
        Ok(Self { found: found.with_context(|| format!("the schedule {name} cannot be read"))? })
    }

    pub fn expression(&self) -> &str {
        self.found.schedule_expression().unwrap_or_default()
    }

    /// The ARN of what it starts.
    pub fn target(&self) -> Option<&str> {
        self.found.target().map(Target::arn)
    }

    /// `None` while executions are started.
    pub fn pause(&self, now: u64) -> Option<Pause> {
        let is_enabled = self.found.state() != Some(&ScheduleState::Disabled);
        let starts_at = self.found.start_date().map(DateTime::secs).and_then(|at| u64::try_from(at).ok());
        let until = starts_at.filter(|at| is_enabled && *at > now);
        if is_enabled && until.is_none() {
            return None;
        }
        let (since, reason) = match self.found.description().and_then(Note::parse) {
            Some(note) => (Some(note.since), Some(note.reason)),
            None => (None, None),
        };
        Some(Pause { until: until.map(time::rfc3339), since, reason })
    }

    /// Its description is that of a pause, also of one that has ended by itself.
    pub fn has_note(&self) -> bool {
        self.found.description().is_some_and(|text| Note::parse(text).is_some())
    }

    /// When the next execution starts, as far as a rate tells; seconds since 1970. `last` is the start of the last one.
    pub fn next_start(&self, last: Option<u64>, now: u64) -> Option<u64> {
        let every = rate_seconds(self.expression())?;
        if self.found.state() == Some(&ScheduleState::Disabled) {
            return None;
        }
        let starts_at = self.found.start_date().map(DateTime::secs).and_then(|at| u64::try_from(at).ok());
        if let Some(at) = starts_at.filter(|at| *at > now) {
            return Some(at);
        }
        let last = last?;
        Some(last.saturating_add(every.saturating_mul(now.saturating_sub(last) / every + 1)))
    }

    /// # Errors
    /// When it is paused already, or EventBridge Scheduler does not take it.
    pub async fn set_paused(&self, client: &Client, reason: &str, until: Option<u64>, now: u64) -> Result<()> {
        let before = self.found.description().unwrap_or_default();
        // A second pause keeps what the first one found.
        let before = Note::parse(before).map_or(before.to_owned(), |note| note.before);
        let note = Note { since: time::rfc3339(now), reason: reason.to_owned(), before };
        self.update(client, until.is_some(), until, note.text()).await
    }

    /// # Errors
    /// When EventBridge Scheduler does not take it.
    pub async fn resume(&self, client: &Client) -> Result<()> {
        let before = self.found.description().unwrap_or_default();
        let before = Note::parse(before).map_or(before.to_owned(), |note| note.before);
        self.update(client, true, None, before).await
    }

    /// An update replaces the whole schedule: everything that is not changed is given again.
    async fn update(&self, client: &Client, enabled: bool, starts_at: Option<u64>, description: String) -> Result<()> {
        let found = &self.found;
        let (Some(name), Some(target), Some(window)) = (found.name(), found.target(), found.flexible_time_window())
        else {
            bail!("EventBridge Scheduler shows a schedule without a name, a target or a window");
        };
        let state = if enabled { ScheduleState::Enabled } else { ScheduleState::Disabled };
        let request = client
            .update_schedule()
            .name(name)
            .set_group_name(found.group_name().map(str::to_owned))
            .schedule_expression(self.expression())
            .set_schedule_expression_timezone(found.schedule_expression_timezone().map(str::to_owned))
            .set_end_date(found.end_date().copied())
            .set_start_date(starts_at.and_then(|at| i64::try_from(at).ok()).map(DateTime::from_secs))
            .set_kms_key_arn(found.kms_key_arn().map(str::to_owned))
            .set_action_after_completion(found.action_after_completion().cloned())
            .set_description(Some(description).filter(|text| !text.is_empty()))
            .target(target.clone())
            .flexible_time_window(window.clone())
            .state(state);
        request.send().await.with_context(|| format!("the schedule {name} was not changed"))?;
        Ok(())
    }
}

/// What a description of ours says.
#[derive(Debug, Eq, PartialEq)]
struct Note {
    since: String,
    reason: String,
    /// What it said before the pause.
    before: String,
}

impl Note {
    fn text(&self) -> String {
        let short =
            |text: &str, limit: usize| text.chars().filter(|char| !char.is_control()).take(limit).collect::<String>();
        let before = short(&self.before, MAX_DESCRIPTION_CHARS / 2 - 50);
        let mut text = format!("{PAUSED}{}: {}", self.since, short(&self.reason, MAX_DESCRIPTION_CHARS / 2));
        if !before.is_empty() {
            text += &format!("{BEFORE}{before}");
        }
        text
    }

    fn parse(text: &str) -> Option<Self> {
        let (since, rest) = text.strip_prefix(PAUSED)?.split_once(": ")?;
        humantime::parse_rfc3339(since).ok()?;
        let (reason, before) = rest.split_once(BEFORE).unwrap_or((rest, ""));
        Some(Self { since: since.to_owned(), reason: reason.to_owned(), before: before.to_owned() })
    }
}

/// The seconds of `rate(5 minutes)`; `None` of a cron expression.
pub fn rate_seconds(expression: &str) -> Option<u64> {
    let (number, unit) = expression.strip_prefix("rate(")?.strip_suffix(')')?.split_once(' ')?;
    let unit = match unit.trim_end_matches('s') {
        "minute" => 60,
        "hour" => 3_600,
        "day" => 86_400,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(unit).filter(|seconds| *seconds > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(state: ScheduleState, start: Option<i64>, description: &str) -> Schedule {
        let found = GetScheduleOutput::builder()
            .name("s")
            .state(state)
            .set_start_date(start.map(DateTime::from_secs))
            .schedule_expression("rate(5 minutes)")
            .description(description);
        Schedule { found: found.build() }
    }

    #[test]
    fn a_pause_is_read_back_and_gives_back_what_was_there_before() {
        let note = Note {
            since: "2026-11-27T12:00:00Z".into(),
            reason: "migration: part 2".into(),
            before: "every 5 min".into(),
        };
        assert_eq!(note.text(), "paused 2026-11-27T12:00:00Z: migration: part 2 | before: every 5 min");
        assert_eq!(Note::parse(&note.text()).as_ref(), Some(&note));
        for other in ["", "a schedule", "paused", "paused by hand: because", "paused : x"] {
            assert_eq!(Note::parse(other), None, "{other}");
        }
        let long = Note { since: note.since, reason: "あ".repeat(9_999), before: "b\n".repeat(9_999) };
        assert!(long.text().chars().count() <= MAX_DESCRIPTION_CHARS);
    }

    #[test]
    fn a_schedule_is_paused_by_its_state_or_by_its_start_date() {
        use ScheduleState::{Disabled, Enabled};
        let now = 1_000;
        assert_eq!(schedule(Enabled, None, "").pause(now), None);
        assert_eq!(schedule(Enabled, Some(999), "").pause(now), None);
        let until = schedule(Enabled, Some(1_060), "paused 2026-11-27T12:00:00Z: why").pause(now).unwrap();
        assert_eq!(until.until.as_deref(), Some("1970-01-01T00:17:40Z"));
        assert_eq!(until.reason.as_deref(), Some("why"));
        let by_hand = schedule(Disabled, None, "").pause(now).unwrap();
        assert_eq!(by_hand, Pause { until: None, since: None, reason: None });
    }

    #[test]
    fn the_next_start_follows_the_rate() {
        use ScheduleState::{Disabled, Enabled};
        assert_eq!(schedule(Enabled, None, "").next_start(Some(1_000), 1_010), Some(1_300));
        assert_eq!(schedule(Enabled, None, "").next_start(Some(1_000), 1_900), Some(2_200));
        assert_eq!(schedule(Enabled, None, "").next_start(None, 1_900), None);
        assert_eq!(schedule(Enabled, Some(5_000), "").next_start(Some(1_000), 1_900), Some(5_000));
        assert_eq!(schedule(Disabled, None, "").next_start(Some(1_000), 1_900), None);
        assert_eq!(rate_seconds("rate(1 hour)"), Some(3_600));
        for other in ["cron(0 12 * * ? *)", "rate(0 minutes)", "rate(5 weeks)", "rate(99999999999999999999 days)", ""] {
            assert_eq!(rate_seconds(other), None, "{other}");
        }
    }
}
