//! `efs-autoscale help`: every code that an operator meets, from the table that `docs/reference/codes.md` is generated
//! from.

use std::{
    fmt::Write as _,
    io::{self, Write as _},
    process::ExitCode,
};

use clap::Args;
use domain::codes::{CodeKind, Entry, anchor, find_all, of_kind, suggest};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Serialize;

/// Exit status of an unknown code.
const UNKNOWN: u8 = 2;
const LINE_WIDTH: usize = 80;
const DOCUMENT: &str = "docs/reference/codes.md";
/// Begins the names of resources in the commands.
const DEFAULT_STACK: &str = "efs-mount-autoscaling";

/// What `--help` says below the options.
pub const HELP: &str = "\
Codes are in the output of executions, in logs, in responses of the file service and in the names of alarms. Case does
not matter. Without CODE, all codes are listed.

It needs no AWS account and no network.

Exit status: 0, or 2 when there is no such code (the nearest ones are named).

Examples:
  efs-autoscale help TargetTimedOut
  efs-autoscale help no_available_subnet --json
  efs-autoscale help";

#[derive(Args, Clone, Debug)]
pub struct Options {
    /// An error, warning, reason, action or alarm, such as TargetTimedOut [default: list all]
    #[arg(value_name = "CODE")]
    pub code: Option<String>,
    /// JSON on stdout
    #[arg(long)]
    pub json: bool,
}

/// All that is printed with `--json`.
#[derive(Serialize, JsonSchema)]
struct Codes {
    codes: Vec<Explained>,
}

/// The schema of `--json`.
pub fn schema() -> Schema {
    schema_for!(Codes)
}

/// One code in JSON.
#[derive(Serialize, JsonSchema)]
struct Explained {
    code: &'static str,
    kind: &'static str,
    meaning: &'static str,
    cause: &'static str,
    /// Steps, in order.
    remedy: Vec<&'static str>,
    /// Page and anchor below the project's root.
    document: String,
}

impl From<&'static Entry> for Explained {
    fn from(entry: &'static Entry) -> Self {
        let Entry { code, kind, meaning, cause, .. } = *entry;
        let document = format!("{DOCUMENT}#{}", anchor(entry));
        Self { code, kind: kind.name(), meaning, cause, remedy: entry.steps().collect(), document }
    }
}

pub fn run(options: &Options) -> ExitCode {
    match answer(options) {
        Ok(text) => {
            // `head` does not read to the end.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(text) => {
            eprint!("{text}");
            ExitCode::from(UNKNOWN)
        }
    }
}

/// What is printed to stdout.
///
/// # Errors
/// The code is unknown: what is printed to stderr.
fn answer(options: &Options) -> Result<String, String> {
    let entries: Vec<_> = match &options.code {
        None => CodeKind::ALL.into_iter().flat_map(of_kind).collect(),
        Some(code) => find_all(code).collect(),
    };
    match &options.code {
        Some(code) if entries.is_empty() => Err(unknown(code)),
        _ if options.json => {
            let codes = Codes { codes: entries.into_iter().map(Explained::from).collect() };
            serde_json::to_string(&codes).map(|text| text + "\n").map_err(|err| err.to_string())
        }
        None => Ok(list()),
        Some(_) => Ok(entries.into_iter().map(explained).collect::<Vec<_>>().join("\n")),
    }
}

fn unknown(code: &str) -> String {
    let nearest = suggest(code);
    let hint = match nearest.is_empty() {
        true => "`efs-autoscale help` lists all codes".to_owned(),
        false => format!("the nearest: {}", nearest.join(", ")),
    };
    format!("efs-autoscale: no code {code:?}; {hint}. For a command: efs-autoscale COMMAND --help\n")
}

fn list() -> String {
    let mut text = String::new();
    for kind in CodeKind::ALL {
        let _ = writeln!(text, "{}", kind.title());
        for entry in of_kind(kind) {
            text += &wrapped(&format!("  {}  ", entry.code), entry.meaning, 6);
        }
        text.push('\n');
    }
    text + "`efs-autoscale help CODE` says why a code appears and what to do.\n"
}

fn explained(entry: &'static Entry) -> String {
    let mut text = format!("{}  ({})\n\n", entry.code, entry.kind.title());
    text += &wrapped("  ", entry.meaning, 2);
    text += "\nCause\n";
    text += &wrapped("  ", entry.cause, 2);
    text += "\nRemedy\n";
    let is_single = entry.steps().count() == 1;
    for (index, step) in entry.steps().enumerate() {
        let bullet = if is_single { "  ".to_owned() } else { format!("  {}. ", index + 1) };
        text += &wrapped(&bullet, step, bullet.len());
    }
    text.push('\n');
    if text.contains(DEFAULT_STACK) {
        text += &wrapped("", &format!("Names are those of the stack {DEFAULT_STACK} with default settings."), 0);
    }
    let _ = writeln!(text, "{DOCUMENT}#{}", anchor(entry));
    text
}

/// `text` after `first`, in lines of [`LINE_WIDTH`] that begin with `indent` spaces. What is in backquotes stays in one
/// line, however long, so that a command can be copied.
fn wrapped(first: &str, text: &str, indent: usize) -> String {
    let mut lines = first.to_owned();
    let mut width = first.chars().count();
    let mut is_first = true;
    for word in words(text) {
        let length = word.chars().count();
        if !is_first && width + 1 + length > LINE_WIDTH {
            lines.push('\n');
            lines.extend(std::iter::repeat_n(' ', indent));
            width = indent;
        } else if !is_first {
            lines.push(' ');
            width += 1;
        }
        lines += word;
        width += length;
        is_first = false;
    }
    lines + "\n"
}

/// The text, cut at the spaces outside of backquotes.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let mut is_quoted = false;
    text.split(move |char| {
        is_quoted ^= char == '`';
        char == ' ' && !is_quoted
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn asked(code: Option<&str>, json: bool) -> Result<String, String> {
        answer(&Options { code: code.map(str::to_owned), json })
    }

    #[test]
    fn a_code_is_explained_with_cause_and_remedy() {
        let text = asked(Some("targettimedout"), false).unwrap();
        assert!(
            text.starts_with("TargetTimedOut  (Errors of the state machine and of Lambda)\n\n  The new mount"),
            "{text}"
        );
        for part in
            ["\nCause\n  EFS took longer", "\nRemedy\n  1. Nothing at first", "\n  2. ", "codes.md#targettimedout\n"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
        let is_command = |line: &str| line.trim_start().starts_with('`');
        assert!(text.lines().all(|line| line.chars().count() <= LINE_WIDTH || is_command(line)), "{text}");
        assert!(text.contains("`make deploy SET=\"pipeline.pollTimeoutSeconds=900\"`"), "in one line: {text}");
        let both = asked(Some("TargetFailed"), false).unwrap();
        assert_eq!(both.matches("\nRemedy\n").count(), 2, "a function's, and the file service's: {both}");
    }

    #[test]
    fn without_a_code_all_are_listed() {
        let text = asked(None, false).unwrap();
        for entry in CodeKind::ALL.into_iter().flat_map(of_kind) {
            assert!(text.contains(&format!("\n  {}  ", entry.code)), "{}", entry.code);
        }
        assert!(CodeKind::ALL.into_iter().all(|kind| text.contains(kind.title())));
    }

    #[test]
    fn json_has_the_same() {
        let one: Value = serde_json::from_str(&asked(Some("IoLimit"), true).unwrap()).unwrap();
        let code = &one["codes"][0];
        assert_eq!((&code["code"], &code["kind"]), (&"IoLimit".into(), &"alarm".into()));
        assert_eq!(code["document"], "docs/reference/codes.md#iolimit");
        assert!(code["remedy"].as_array().is_some_and(|steps| steps.len() > 1), "{code}");
        let all: Value = serde_json::from_str(&asked(None, true).unwrap()).unwrap();
        assert_eq!(all["codes"].as_array().unwrap().len(), domain::codes::all().count());
    }

    #[test]
    fn an_unknown_code_gets_the_nearest() {
        for json in [false, true] {
            assert!(asked(Some("TargetTimeout"), json).unwrap_err().contains("the nearest: TargetTimedOut"));
        }
        assert!(asked(Some("qqqq"), false).unwrap_err().contains("lists all codes"));
    }
}
