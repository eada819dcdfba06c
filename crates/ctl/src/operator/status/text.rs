//! A status for people: 80 columns.

use domain::explain::grouped;

use super::Status;
use crate::operator::{
    history::{Row, sparkline},
    time,
};

/// The width that every line but an execution's fits into.
const WIDTH: usize = 80;

pub fn lines(status: &Status) -> Vec<String> {
    let mut lines = vec![format!(
        "{} in {}, {}, at {}",
        status.stack.as_deref().unwrap_or("installation"),
        status.region,
        status.file_system,
        status.at
    )];
    let mut section = |title: &str, rows: Vec<String>| {
        for (index, row) in rows.into_iter().enumerate() {
            lines.push(format!("{:<11}{row}", if index == 0 { title } else { "" }));
        }
    };
    section("files", files(status));
    section("targets", targets(status));
    section("published", published(status));
    section("service", service(status));
    section("schedule", schedule(status));
    section("next", status.next.iter().flat_map(|next| wrap(&next.sentence, WIDTH - 11)).collect());
    section("executions", status.executions.iter().map(Row::line).collect());
    let ringing: Vec<_> = status.alarms.iter().filter(|alarm| alarm.state == "ALARM").collect();
    section(
        "alarms",
        match (status.alarms.len(), ringing.len()) {
            (0, _) => vec!["none are known".to_owned()],
            (all, 0) => vec![format!("{all}, none rings")],
            (all, some) => std::iter::once(format!("{some} of {all} ring"))
                .chain(
                    ringing
                        .iter()
                        .map(|alarm| format!("{} since {}", alarm.name, alarm.since.as_deref().unwrap_or("?"))),
                )
                .collect(),
        },
    );
    if !status.cost.is_empty() {
        let items: Vec<_> = status.cost.iter().map(|item| format!("{} {:.0}", item.item, item.usd)).collect();
        let text = format!("about {:.0} USD a month: {}", status.cost_per_month, items.join(", "));
        section("cost", wrap(&text, WIDTH - 11));
    }
    section("unknown", status.unknown.clone());
    section("PROBLEMS", status.problems.clone());
    lines
}

fn files(status: &Status) -> Vec<String> {
    let files = &status.files;
    let Some(number) = files.files else { return vec!["not counted yet".to_owned()] };
    let limit = files.limit.map(|limit| format!(" of {} that are not too many", grouped(limit))).unwrap_or_default();
    let least = if files.complete { "" } else { "at least " };
    let mut rows =
        vec![format!("{least}{}{limit}, counted {}", grouped(number), files.counted_at.as_deref().unwrap_or("?"))];
    let per_day = files.trend.files_per_day.map(|rate| {
        let sign = if rate < 0.0 { "-" } else { "+" };
        format!("{sign}{} a day", grouped(rate.abs() as u64))
    });
    let limit_in = files.trend.limit_in_seconds.map(|seconds| match seconds {
        0 => "over the limit".to_owned(),
        seconds => format!("over the limit in about {}", time::duration(seconds)),
    });
    let trend: Vec<_> = per_day.into_iter().chain(limit_in).collect();
    if !trend.is_empty() {
        rows.push(format!("{}  {}", trend.join(", "), sparkline(&files.history)));
    }
    rows
}

fn targets(status: &Status) -> Vec<String> {
    let rows = status.mount_targets.iter().map(|target| {
        let published = if target.is_published { "published" } else { "not published" };
        let address = target.address.as_deref().unwrap_or("no address");
        format!("{}  {}  {:<9}  {address}  {published}", target.availability_zone, target.mount_target_id, target.state)
    });
    let rows: Vec<_> = rows.collect();
    if rows.is_empty() { vec!["none".to_owned()] } else { rows }
}

fn published(status: &Status) -> Vec<String> {
    let Some(published) = &status.published else { return vec!["nothing yet".to_owned()] };
    let mut rows = vec![format!(
        "version {} of {}, {}",
        published.version,
        published.parameter,
        if published.is_current { "current" } else { "NOT CURRENT" }
    )];
    for (name, ids) in [("missing", &published.missing), ("surplus", &published.surplus)] {
        if !ids.is_empty() {
            rows.push(format!("{name}: {}", ids.join(", ")));
        }
    }
    rows
}

fn service(status: &Status) -> Vec<String> {
    let Some(service) = &status.service else { return vec![] };
    let number = |number: Option<i32>| number.map_or_else(|| "?".to_owned(), |number| number.to_string());
    let rollout = service.rollout.as_deref().unwrap_or("unknown").to_lowercase();
    let list = match service.has_read_list {
        Some(true) => ", runs on the published list",
        Some(false) => ", has not read the published list yet",
        None => "",
    };
    vec![
        service.name.clone(),
        format!("{} of {} tasks run, deployment {rollout}{list}", number(service.running), number(service.desired)),
    ]
}

fn schedule(status: &Status) -> Vec<String> {
    let Some(schedule) = &status.schedule else { return vec!["not known".to_owned()] };
    let mut rows = vec![match (&schedule.paused, &schedule.next_start) {
        (Some(pause), _) => format!(
            "PAUSED{}{}: {}",
            pause.since.as_ref().map(|since| format!(" since {since}")).unwrap_or_default(),
            pause.until.as_ref().map(|until| format!(" until {until}")).unwrap_or_default(),
            pause.reason.as_deref().unwrap_or("nobody says why")
        ),
        (None, Some(next)) => format!("{}, the next execution at {next}", schedule.expression),
        (None, None) => schedule.expression.clone(),
    }];
    if schedule.paused.is_some() {
        rows.push(format!("{}; `efs-autoscale resume` resumes it", schedule.expression));
    }
    rows
}

/// Lines of whole words, as wide as they may be.
pub fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::operator::status::{Files, Trend};

    #[test]
    fn an_empty_status_has_a_line_for_everything() {
        let text = lines(&Status::default()).join("\n");
        for expected in ["not counted yet", "none", "nothing yet", "not known", "none are known"] {
            assert!(text.contains(expected), "{expected}: {text}");
        }
    }

    #[test]
    fn the_trend_tells_when_the_limit_is_reached() {
        let files = Files {
            files: Some(80_000),
            complete: true,
            counted_at: Some("2026-11-27T12:00:00Z".to_owned()),
            limit: Some(100_000),
            trend: Trend { files_per_day: Some(10_000.0), limit_in_seconds: Some(172_800) },
            history: vec![70_000, 80_000],
        };
        let text = lines(&Status { files, ..Status::default() }).join("\n");
        assert!(text.contains("80,000 of 100,000 that are not too many, counted 2026-11-27T12:00:00Z"), "{text}");
        assert!(text.contains("+10,000 a day, over the limit in about 2d  ▁█"), "{text}");
    }

    #[test]
    fn words_are_kept_whole() {
        assert_eq!(wrap("a bc def", 4), ["a bc", "def"]);
        assert_eq!(wrap("longer than that", 3), ["longer", "than", "that"]);
        assert!(wrap("", 3).is_empty());
    }
}
