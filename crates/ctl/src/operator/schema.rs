//! `efs-autoscale schema`: what a command prints with `--json`, as a JSON Schema.

use std::process::ExitCode;

use clap::Args;
use schemars::Schema;

use super::{FAILED, doctor, explain, help, history, pause, plan, print_lines, start, status};
use crate::{bench, count, preflight, teardown};

/// What `--help` says below the options.
pub const HELP: &str = "\
The schemas are JSON Schema 2020-12. Fields may be added; none is renamed or removed without a line in the CHANGELOG.

Examples:
  efs-autoscale schema
  efs-autoscale schema status > status.schema.json";

/// Of which command.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The command [default: list those that have one]
    command: Option<String>,
}

/// A command and its schema.
type Entry = (&'static str, fn() -> Schema);

/// The commands with `--json`, and their schemas.
pub const SCHEMAS: &[Entry] = &[
    ("bench", bench::schema),
    ("count", count::schema),
    ("doctor", doctor::schema),
    ("explain", explain::schema),
    ("help", help::schema),
    ("history", history::schema),
    ("pause", pause::schema),
    ("plan", plan::schema),
    ("preflight", preflight::schema),
    ("probe", probe::schema),
    ("resume", pause::schema),
    ("start", start::schema),
    ("status", status::schema),
    ("teardown", teardown::schema),
];

/// Prints a schema, or the list of commands.
pub fn run(options: &Options) -> ExitCode {
    let Some(command) = &options.command else {
        print_lines(SCHEMAS.iter().map(|(name, _)| name));
        return ExitCode::SUCCESS;
    };
    match SCHEMAS.iter().find(|(name, _)| name == command) {
        Some((_, schema)) => {
            print_lines([text(&schema())]);
            ExitCode::SUCCESS
        }
        None => {
            let names: Vec<_> = SCHEMAS.iter().map(|(name, _)| *name).collect();
            eprintln!("efs-autoscale: {command:?} has no schema; these have: {}", names.join(", "));
            ExitCode::from(FAILED)
        }
    }
}

fn text(schema: &Schema) -> String {
    serde_json::to_string_pretty(schema).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    /// `UPDATE_SCHEMAS=1` writes them.
    #[test]
    fn the_documents_have_the_schemas_of_the_code() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reference/schemas");
        for (name, schema) in SCHEMAS {
            let path = folder.join(format!("{name}.json"));
            let expected = text(&schema()) + "\n";
            if std::env::var_os("UPDATE_SCHEMAS").is_some() {
                fs::create_dir_all(&folder).unwrap();
                fs::write(&path, &expected).unwrap();
            }
            assert_eq!(fs::read_to_string(&path).unwrap(), expected, "{name}: UPDATE_SCHEMAS=1 writes it");
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), SCHEMAS.len());
    }
}
