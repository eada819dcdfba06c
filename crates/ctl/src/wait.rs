//! Polls AWS until a condition holds, and shows what the program waits for.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::screen::Screen;

/// Bounds of the poll interval, which is a fifth of the elapsed time.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(500);
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(10);
/// How often a line says that the wait continues, where there is no terminal.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Calls `poll` until it returns `None`. Until then it returns what the program waits for.
///
/// # Errors
/// `poll` fails, or `timeout` (`--wait`) has passed.
pub async fn until(
    screen: &Screen,
    what: &str,
    timeout: Duration,
    mut poll: impl AsyncFnMut() -> Result<Option<String>>,
) -> Result<()> {
    let began = Instant::now();
    let mut last_report = began;
    while let Some(waiting) = poll().await? {
        let elapsed = began.elapsed();
        ensure!(elapsed < timeout, "{what}: timed out after {} s (--wait): {waiting}", timeout.as_secs());
        let text = format!("{what}: {waiting}");
        if last_report.elapsed() >= REPORT_INTERVAL {
            last_report = Instant::now();
            screen.doing(&text);
        } else {
            screen.detail(text);
        }
        tokio::time::sleep((elapsed / 5).clamp(MIN_POLL_INTERVAL, MAX_POLL_INTERVAL).min(timeout)).await;
    }
    Ok(())
}
