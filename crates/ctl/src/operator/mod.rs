//! The commands for operators: what is, why, and what next. Each reads an [`Installation`], and most change nothing.

mod alarms;
pub mod doctor;
pub mod executions;
pub mod explain;
pub mod help;
pub mod history;
pub mod installation;
pub mod pause;
pub mod permissions;
pub mod plan;
pub mod schedule;
pub mod schema;
pub mod shell;
pub mod start;
pub mod status;
mod time;

use std::process::ExitCode;

use anyhow::{Error, Result};

pub use self::installation::{Installation, Source};

/// Exit status when the answer is a problem: an execution that failed, an alarm that rings.
pub const PROBLEM: u8 = 1;
/// Exit status when there is no answer: a flag, credentials, an installation that was not found.
pub const FAILED: u8 = 2;
/// Exit status of a command that somebody ended.
pub const INTERRUPTED: u8 = 130;

/// What `--help` says of the exit status of every operator command.
pub const EXIT_STATUS: &str = "\
Exit status: 0 when everything is well, 1 when the answer is a problem (an execution that failed, an alarm that rings),
2 when there is no answer (a flag, credentials, an installation that was not found), 130 when it was interrupted.";

/// Runs a command to its end, and says why when it has none.
pub async fn finish(command: impl Future<Output = Result<u8>>) -> ExitCode {
    match command.await {
        Ok(status) => ExitCode::from(status),
        Err(err) => {
            say_error(&err);
            ExitCode::from(FAILED)
        }
    }
}

fn say_error(err: &Error) {
    eprintln!("efs-autoscale: {err:#}");
}

/// One JSON object on stdout. A reader that has gone away ends nothing.
pub fn print_json(value: &impl serde::Serialize) -> Result<()> {
    use std::io::Write as _;
    let text = serde_json::to_string(value)?;
    let _ = writeln!(std::io::stdout(), "{text}");
    Ok(())
}

/// Lines on stdout.
pub fn print_lines(lines: impl IntoIterator<Item = impl AsRef<str>>) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    for line in lines {
        if writeln!(out, "{}", line.as_ref()).is_err() {
            return;
        }
    }
}
