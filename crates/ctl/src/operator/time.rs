//! Times for people: RFC 3339 in UTC, durations in the largest units.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since 1970.
pub fn now() -> u64 {
    UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs())
}

/// `2026-11-27T12:00:00Z`, of seconds since 1970.
pub fn rfc3339(seconds: u64) -> String {
    // The last second that RFC 3339 can say: 9999-12-31T23:59:59Z.
    const LAST_SECONDS: u64 = 253_402_300_799;
    let time = UNIX_EPOCH + Duration::from_secs(seconds.min(LAST_SECONDS));
    humantime::format_rfc3339_seconds(time).to_string()
}

/// `3d 4h`, `5m 20s`: the two largest units.
pub fn duration(seconds: u64) -> String {
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let Some(first) = units.iter().position(|(unit, _)| seconds >= *unit) else { return "0s".to_owned() };
    let mut left = seconds;
    let parts = units.iter().skip(first).take(2).filter_map(|(unit, name)| {
        let amount = left / unit;
        left %= unit;
        (amount > 0).then(|| format!("{amount}{name}"))
    });
    parts.collect::<Vec<_>>().join(" ")
}

/// No duration is longer: ten years.
const MAX_DURATION: Duration = Duration::from_secs(10 * 365 * 86_400);

fn parse_duration(text: &str) -> Option<Duration> {
    humantime::parse_duration(text).ok().filter(|duration| *duration <= MAX_DURATION)
}

/// A time in the past: a duration before now (`24h`, `7d`), or RFC 3339.
///
/// # Errors
/// Which forms are expected.
pub fn past(text: &str) -> Result<SystemTime, String> {
    if let Some(ago) = parse_duration(text) {
        return SystemTime::now().checked_sub(ago).ok_or_else(|| format!("{text} is before 1970"));
    }
    humantime::parse_rfc3339_weak(text).map_err(|_| expected(text))
}

/// A time in the future: a duration from now, or RFC 3339.
///
/// # Errors
/// Which forms are expected, or that it is not in the future.
pub fn future(text: &str) -> Result<SystemTime, String> {
    let time = match parse_duration(text) {
        Some(ahead) => SystemTime::now().checked_add(ahead).ok_or_else(|| expected(text))?,
        None => humantime::parse_rfc3339_weak(text).map_err(|_| expected(text))?,
    };
    if time <= SystemTime::now() { Err(format!("{text} is not in the future")) } else { Ok(time) }
}

fn expected(text: &str) -> String {
    format!(
        "{text:?} is no time: expected a duration such as 90m, 24h or 7d (at most ten years), or a time such as 2026-11-27T15:00:00Z"
    )
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_two_units() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (60, "1m"), (61, "1m 1s"), (3_600, "1h"), (93_784, "1d 2h")] {
            assert_eq!(duration(seconds), text);
        }
    }

    #[test]
    fn times_are_read_in_two_forms() {
        assert_eq!(rfc3339(1_795_780_800), "2026-11-27T12:00:00Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59Z");
        assert_eq!(seconds(past("2026-11-27T12:00:00Z").unwrap()), 1_795_780_800);
        let day = now() - seconds(past("1d").unwrap());
        assert!((86_399..=86_401).contains(&day), "{day}");
        assert!(future("1h").is_ok());
        for bad in ["", "soon", "-1h", "2026", "99999999999d"] {
            assert!(past(bad).is_err() && future(bad).is_err(), "{bad}");
        }
        assert!(future("2020-01-01T00:00:00Z").unwrap_err().contains("not in the future"));
    }
}
