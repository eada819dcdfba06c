//! Progress output: an animated line on a terminal, plain lines elsewhere.

use std::{
    fmt::Write,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

const BAR_WIDTH: usize = 32;
const TICK: Duration = Duration::from_millis(100);

/// Prints results and progress to stdout. With `--json`, stdout holds only the object, and progress goes to stderr.
pub struct Screen {
    /// `None` where there is no terminal.
    bar: Option<ProgressBar>,
    json: bool,
    started: Instant,
}

impl Screen {
    pub fn new(json: bool) -> Self {
        let bar = (!json && io::stdout().is_terminal() && io::stderr().is_terminal()).then(ProgressBar::new_spinner);
        if let Some(bar) = &bar {
            bar.enable_steady_tick(TICK);
        }
        Self { bar, json, started: Instant::now() }
    }

    /// Prints a permanent line.
    pub fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| write_line(io::stdout(), text)),
            None if self.json => write_line(io::stderr(), text),
            None => write_line(io::stdout(), text),
        }
    }

    /// Prints an event with the time since the start.
    pub fn event(&self, text: &str) {
        self.line(&format!("{:7.1} s  {text}", self.started.elapsed().as_secs_f64()));
    }

    /// Shows the current step: in the animated line on a terminal, as an event elsewhere.
    pub fn doing(&self, text: &str) {
        match &self.bar {
            Some(_) => self.detail(text.to_owned()),
            None => self.event(text),
        }
    }

    /// Shows the current step or its progress, on a terminal only.
    pub fn detail(&self, text: String) {
        if let Some(bar) = &self.bar {
            bar.set_style(spinner_style());
            bar.set_message(text);
        }
    }

    /// Shows a progress bar for a wait of about this long, on a terminal only.
    pub fn waiting(&self, text: &str, about: Duration) {
        if let Some(bar) = &self.bar {
            bar.set_style(bar_style(about));
            bar.set_message(text.to_owned());
            bar.reset_elapsed();
        }
    }

    /// Clears the animated line.
    pub fn rest(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Ignores errors: a reader such as `head` may close the pipe early.
fn write_line(mut writer: impl io::Write, text: &str) {
    let _ = writeln!(writer, "{text}");
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.rest();
    }
}

fn spinner_style() -> ProgressStyle {
    template("           {spinner} {msg}")
}

fn bar_style(expected: Duration) -> ProgressStyle {
    let expected = expected.as_secs_f64().max(0.1);
    template("           {spinner} {msg}  {wait}").with_key(
        "wait",
        move |state: &ProgressState, out: &mut dyn Write| {
            let elapsed = state.elapsed().as_secs_f64();
            let filled = ((elapsed / expected).min(1.0) * BAR_WIDTH as f64) as usize;
            // There is nobody to report the error to.
            let _ = write!(
                out,
                "{}{}  {elapsed:.0} of about {expected:.0} s",
                "█".repeat(filled),
                "░".repeat(BAR_WIDTH - filled)
            );
        },
    )
}

fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
