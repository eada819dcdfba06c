//! A table of what was measured: one row for each tool, as Markdown that is plain to read as well.

use std::time::Duration;

use bench_kit::report::markdown;

use crate::{measure::Usage, tools::Tool};

/// What one tool took, in turn with the others.
pub struct Row<'a> {
    pub tool: &'a Tool,
    /// One for each round; of a slow tool fewer than of the others.
    pub usages: Vec<Usage>,
    /// What it counted, where it says.
    pub files: Option<u64>,
}

impl Row<'_> {
    pub fn median(&self) -> Duration {
        median(self.usages.iter().map(|usage| usage.wall).collect()).unwrap_or_default()
    }

    pub fn peak_bytes(&self) -> u64 {
        self.usages.iter().map(|usage| usage.peak_bytes).max().unwrap_or_default()
    }

    /// How many times as long as another, in the same round: what slows a round slows both.
    pub fn times(&self, other: &Self) -> f64 {
        let pairs = self.usages.iter().zip(&other.usages);
        median(pairs.map(|(mine, other)| Ratio(mine.wall.div_duration_f64(other.wall))).collect())
            .map_or(f64::NAN, |Ratio(ratio)| ratio)
    }

    fn spread(&self) -> String {
        let walls = || self.usages.iter().map(|usage| usage.wall);
        match (walls().min(), walls().max()) {
            (Some(first), Some(last)) if first < last => format!("{} – {}", seconds(first), seconds(last)),
            _ => "once".to_owned(),
        }
    }
}

/// Finite, so that there is an order.
#[derive(PartialEq, PartialOrd)]
struct Ratio(f64);

fn median<T: PartialOrd>(mut values: Vec<T>) -> Option<T> {
    values.sort_by(|one, other| one.partial_cmp(other).unwrap_or(std::cmp::Ordering::Equal));
    let middle = values.len() / 2;
    values.into_iter().nth(middle)
}

/// The first row is ours, to which the others are compared.
pub fn compared(rows: &[Row<'_>], expected: u64) -> String {
    let head = ["", "seconds", "from – to", "× ours", "user + system", "peak MB", "files"];
    let lines = rows.iter().map(|row| {
        let processors = median(row.usages.iter().map(|usage| usage.processors).collect()).unwrap_or_default();
        [
            row.tool.name.to_owned(),
            seconds(row.median()),
            row.spread(),
            format!("{:.2}", row.times(&rows[0])),
            seconds(processors),
            format!("{:.1}", row.peak_bytes() as f64 / 1e6),
            match row.files {
                None => String::new(),
                Some(files) if files == expected => "✓".to_owned(),
                Some(files) => format!("{files}, and not {expected}"),
            },
        ]
    });
    markdown(head, lines)
}

pub fn seconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64())
}

/// Whether a target is met, in words.
pub fn verdict(kept: bool) -> &'static str {
    if kept { "kept" } else { "NOT KEPT" }
}
