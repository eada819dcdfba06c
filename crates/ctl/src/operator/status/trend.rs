//! How the number of files grows, and when it reaches the limit.

use schemars::JsonSchema;
use serde::Serialize;

/// A least-squares line through the counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, JsonSchema)]
pub struct Trend {
    /// `None` when there are fewer than two counts.
    pub files_per_day: Option<f64>,
    /// Seconds until there are more files than the limit, when they grow; 0 when there are.
    pub limit_in_seconds: Option<u64>,
}

/// No estimate reaches further: ten years.
const MAX_ESTIMATE_SECONDS: f64 = 10.0 * 365.0 * 86_400.0;

impl Trend {
    /// Of counts: seconds since 1970 and files, the newest last.
    pub fn of(counts: &[(u64, u64)], limit: Option<u64>) -> Self {
        let Some(&(last_at, last)) = counts.last() else { return Self::default() };
        let is_over = limit.is_some_and(|limit| last > limit);
        let number = counts.len() as f64;
        // Seconds before the last count, so that the squares stay small.
        let points =
            counts.iter().map(|&(at, files)| (-(last_at.saturating_sub(at) as f64), files as f64 - last as f64));
        let (mut x, mut y, mut xx, mut xy) = (0.0, 0.0, 0.0, 0.0);
        for (seconds, files) in points {
            x += seconds;
            y += files;
            xx += seconds * seconds;
            xy += seconds * files;
        }
        let spread = number * xx - x * x;
        let per_second = (counts.len() > 1 && spread > 0.0).then(|| (number * xy - x * y) / spread);
        let ahead = per_second.zip(limit).and_then(|(rate, limit)| {
            let seconds = (limit.saturating_sub(last) as f64 + 1.0) / rate;
            (rate > 0.0 && seconds <= MAX_ESTIMATE_SECONDS).then_some(seconds as u64)
        });
        Self {
            files_per_day: per_second.map(|rate| (rate * 86_400.0).round()),
            limit_in_seconds: if is_over { Some(0) } else { ahead },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_reached_when_the_line_does() {
        let day = 86_400;
        let counts: Vec<_> = (0..5).map(|n| (1_800_000_000 + n * day, 1_000 + n * 100)).collect();
        let trend = Trend::of(&counts, Some(1_899));
        assert_eq!(trend, Trend { files_per_day: Some(100.0), limit_in_seconds: Some(5 * day) });
        assert_eq!(Trend::of(&counts, Some(1_399)).limit_in_seconds, Some(0));
        assert_eq!(Trend::of(&counts, None).limit_in_seconds, None);
        let shrinking: Vec<_> = (0..5).map(|n| (1_800_000_000 + n * day, 1_000 - n * 100)).collect();
        assert_eq!(Trend::of(&shrinking, Some(5_000)), Trend { files_per_day: Some(-100.0), limit_in_seconds: None });
        for counts in [&[][..], &[(5, 5)], &[(5, 5), (5, 9)]] {
            assert_eq!(Trend::of(counts, Some(100)), Trend::default(), "{counts:?}");
        }
        assert_eq!(Trend::of(&[(0, u64::MAX), (u64::MAX, 0)], Some(u64::MAX)).limit_in_seconds, None);
    }
}
