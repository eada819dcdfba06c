//! `efs-autoscale doctor`: is an installation as it should be? Only reads.

mod checks;
mod facts;
mod gather;
mod network;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use schemars::{JsonSchema, Schema, schema_for};
use serde::Serialize;

pub use self::{
    checks::{Finding, Outcome, check},
    facts::Facts,
};
use super::{PROBLEM, Source, finish, print_json, print_lines};

/// What `--help` says below the options.
pub const HELP: &str = "\
Each check says ok, PROBLEM with how it is fixed, or unknown where AWS did not answer. Nothing is changed; --drift has
CloudFormation compare the stack with its template, which takes a minute.

Exit status: 0 when there is no problem (an unknown is none), 1 when there is one, 2 when there is no answer.

Examples:
  efs-autoscale doctor
  efs-autoscale doctor --drift --json | jq '.findings[] | select(.outcome == \"problem\")'";

/// What to check.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Compare the stack with its template too
    #[arg(long)]
    drift: bool,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: Source,
}

#[derive(Serialize, JsonSchema)]
struct Report {
    problems: usize,
    unknown: usize,
    findings: Vec<Finding>,
}

/// The schema of `--json`.
pub fn schema() -> Schema {
    schema_for!(Report)
}

#[tokio::main(flavor = "current_thread")]
pub async fn run(options: Options) -> ExitCode {
    finish(doctor(&options)).await
}

async fn doctor(options: &Options) -> Result<u8> {
    let installation = options.source.connect().await?;
    let findings = check(&gather::gather(&installation, options.drift).await);
    let count = |outcome| findings.iter().filter(|finding| finding.outcome == outcome).count();
    let report = Report { problems: count(Outcome::Problem), unknown: count(Outcome::Unknown), findings };
    match options.json {
        true => print_json(&report)?,
        false => print_lines(lines(&report)),
    }
    Ok(if report.problems == 0 { 0 } else { PROBLEM })
}

fn lines(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    for finding in &report.findings {
        let outcome = match finding.outcome {
            Outcome::Ok => "ok",
            Outcome::Problem => "PROBLEM",
            Outcome::Unknown => "unknown",
        };
        lines.push(format!("{outcome:<8} {:<15} {}", finding.check, finding.what));
        if !finding.fix.is_empty() {
            lines.push(format!("{:<24} → {}", "", finding.fix));
        }
    }
    lines.push(match (report.problems, report.unknown) {
        (0, 0) => "No problem was found.".to_owned(),
        (problems, unknown) => format!("{problems} problems, {unknown} not known"),
    });
    lines
}
