//! What a person sees meanwhile: on a terminal a line that moves, elsewhere plain lines.

use std::{
    fmt::Write,
    io::{self, IsTerminal},
    time::{Duration, Instant},
};

use indicatif::{ProgressBar, ProgressState, ProgressStyle};

const BAR_WIDTH: usize = 32;
const TICK: Duration = Duration::from_millis(100);

/// Where progress goes. Results go to stdout; progress goes with them, but for `--json`, which has
/// stdout to itself.
pub struct Screen {
    moving: Option<ProgressBar>,
    json: bool,
    started: Instant,
}

impl Screen {
    pub fn new(json: bool) -> Self {
        let moving = (!json && io::stdout().is_terminal() && io::stderr().is_terminal()).then(ProgressBar::new_spinner);
        if let Some(bar) = &moving {
            bar.enable_steady_tick(TICK);
        }
        Self { moving, json, started: Instant::now() }
    }

    /// A line that stays.
    pub fn line(&self, text: &str) {
        match &self.moving {
            Some(bar) => bar.suspend(|| say(io::stdout(), text)),
            None if self.json => say(io::stderr(), text),
            None => say(io::stdout(), text),
        }
    }

    /// Something that happened, with the time since the beginning.
    pub fn event(&self, text: &str) {
        self.line(&format!("{:7.1} s  {text}", self.started.elapsed().as_secs_f64()));
    }

    /// What is being done now: moves on a terminal, and is an event elsewhere.
    pub fn doing(&self, text: &str) {
        match &self.moving {
            Some(_) => self.detail(text.to_owned()),
            None => self.event(text),
        }
    }

    /// What is being done now, or how far it has come; on a terminal only.
    pub fn detail(&self, text: String) {
        if let Some(bar) = &self.moving {
            bar.set_style(spinner());
            bar.set_message(text);
        }
    }

    /// Waiting for something that takes about this long: a bar on a terminal.
    pub fn waiting(&self, text: &str, about: Duration) {
        if let Some(bar) = &self.moving {
            bar.set_style(waiting(about));
            bar.set_message(text.to_owned());
            bar.reset_elapsed();
        }
    }

    /// Nothing is being done any more.
    pub fn rest(&self) {
        if let Some(bar) = &self.moving {
            bar.finish_and_clear();
        }
    }
}

/// To whoever still reads: `head` does not to the end.
fn say(mut to: impl io::Write, text: &str) {
    let _ = writeln!(to, "{text}");
}

impl Drop for Screen {
    fn drop(&mut self) {
        self.rest();
    }
}

fn spinner() -> ProgressStyle {
    template("           {spinner} {msg}")
}

fn waiting(about: Duration) -> ProgressStyle {
    let about = about.as_secs_f64().max(0.1);
    template("           {spinner} {msg}  {wait}").with_key(
        "wait",
        move |state: &ProgressState, out: &mut dyn Write| {
            let elapsed = state.elapsed().as_secs_f64();
            let filled = ((elapsed / about).min(1.0) * BAR_WIDTH as f64) as usize;
            // A bar that cannot be written is a bar that nobody sees.
            let _ = write!(
                out,
                "{}{}  {elapsed:.0} of about {about:.0} s",
                "█".repeat(filled),
                "░".repeat(BAR_WIDTH - filled)
            );
        },
    )
}

fn template(text: &str) -> ProgressStyle {
    ProgressStyle::with_template(text).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
