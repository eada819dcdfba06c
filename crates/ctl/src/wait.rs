//! Waiting for AWS, with a word about what is waited for.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::screen::Screen;

/// Between two looks: a fifth of the time so far, within these.
const MIN_POLL_INTERVAL: Duration = Duration::from_millis(500);
const MAX_POLL_INTERVAL: Duration = Duration::from_secs(10);
/// Where there is no terminal, a line this often says that it is still waited for.
const REPORT_INTERVAL: Duration = Duration::from_secs(60);

/// Looks again and again until `look` gives `None`. What it gives otherwise says what is waited for.
///
/// # Errors
/// When looking fails, or `timeout` (`--wait`) is over.
pub async fn until(
    screen: &Screen,
    what: &str,
    timeout: Duration,
    mut look: impl AsyncFnMut() -> Result<Option<String>>,
) -> Result<()> {
    let began = Instant::now();
    let mut told = began;
    while let Some(waiting) = look().await? {
        let elapsed = began.elapsed();
        ensure!(elapsed < timeout, "{what}: not after {} s (--wait): {waiting}", timeout.as_secs());
        let text = format!("{what}: {waiting}");
        if told.elapsed() >= REPORT_INTERVAL {
            told = Instant::now();
            screen.doing(&text);
        } else {
            screen.detail(text);
        }
        tokio::time::sleep((elapsed / 5).clamp(MIN_POLL_INTERVAL, MAX_POLL_INTERVAL).min(timeout)).await;
    }
    Ok(())
}
