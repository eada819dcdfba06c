//! `efs-autoscale history`: every execution, those that did nothing too.

use std::{io::IsTerminal as _, process::ExitCode, time::SystemTime};

use anyhow::Result;
use clap::{Args, value_parser};
use domain::{explain::grouped, messages::Observed, policy::Warning, record::Execution};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Serialize;

use super::{Source, executions, finish, print_json, print_lines, time};

/// What `--help` says below the options.
pub const HELP: &str = "\
One line for each execution, the newest last: when, how long, files against the limit, mount targets (current, minimum,
maximum), and the reason, whose meaning `efs-autoscale help REASON` tells.

Exit status: 0, or 2 when there is no answer.

Examples:
  efs-autoscale history
  efs-autoscale history --since 7d --limit 500
  efs-autoscale history --json | jq -r '.executions[] | [.started_at, .reason] | @tsv'";

/// Which executions.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// How far back: a duration such as 24h or 7d, or a time such as 2026-11-27T12:00:00Z
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = time::past)]
    since: SystemTime,
    /// At most so many, the newest
    #[arg(long, value_name = "NUMBER", default_value = "100", value_parser = value_parser!(u16).range(1..=1000))]
    limit: u16,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: Source,
}

/// One execution, for people and for scripts.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Row {
    pub name: String,
    pub status: String,
    pub started_at: String,
    pub seconds: Option<u64>,
    /// A decision's action or reason, or an error's code.
    pub reason: String,
    pub files: Option<u64>,
    pub complete: Option<bool>,
    pub limit: Option<u64>,
    /// Zones with a mount target.
    pub current: Option<usize>,
    pub minimum: Option<usize>,
    pub maximum: Option<usize>,
    pub warnings: Vec<&'static str>,
}

impl Row {
    pub fn of(execution: &Execution) -> Self {
        let evaluated = execution.evaluated.as_ref();
        let observed = evaluated.map(|evaluated| &evaluated.observed);
        // The output of an older version does not tell it.
        let known = |read: fn(&Observed) -> usize| observed.filter(|observed| observed.maximum > 0).map(read);
        Self {
            name: execution.name.clone(),
            status: execution.status.clone(),
            started_at: time::rfc3339(execution.started_at),
            seconds: execution.stopped_at.map(|stopped| stopped.saturating_sub(execution.started_at)),
            reason: execution.code(),
            files: observed.and_then(|observed| observed.files),
            complete: observed.map(|observed| observed.complete),
            limit: observed.map(|observed| observed.limit),
            current: known(|observed| observed.current),
            minimum: known(|observed| observed.minimum),
            maximum: known(|observed| observed.maximum),
            warnings: evaluated.iter().flat_map(|evaluated| &evaluated.warnings).map(Warning::code).collect(),
        }
    }

    pub fn line(&self) -> String {
        let files = match (self.files, self.complete) {
            (None, _) => "not counted".to_owned(),
            (Some(files), Some(false)) => format!("≥{}", grouped(files)),
            (Some(files), _) => grouped(files),
        };
        let limit = self.limit.map_or_else(|| "-".to_owned(), grouped);
        let targets = match (self.current, self.minimum, self.maximum) {
            (Some(current), Some(minimum), Some(maximum)) => format!("{current} ({minimum}-{maximum})"),
            _ => "-".to_owned(),
        };
        let took = self.seconds.map_or_else(|| "running".to_owned(), time::duration);
        let warnings =
            if self.warnings.is_empty() { String::new() } else { format!("  ! {}", self.warnings.join(" ")) };
        format!(
            "{}  {took:>8}  {files:>13} / {limit:<11} {targets:<9} {:<10} {}{warnings}",
            self.started_at, self.status, self.reason
        )
    }
}

#[derive(Serialize, JsonSchema)]
struct Report {
    since: String,
    /// The newest last.
    executions: Vec<Row>,
    /// There are more than these.
    is_cut: bool,
}

/// The schema of `--json`.
pub fn schema() -> Schema {
    schema_for!(Report)
}

#[tokio::main(flavor = "current_thread")]
pub async fn run(options: Options) -> ExitCode {
    finish(history(&options)).await
}

async fn history(options: &Options) -> Result<u8> {
    let installation = options.source.connect().await?;
    let since = time::seconds(options.since);
    let limit = usize::from(options.limit);
    let mut found = executions::recent(&installation.clients.sfn, &installation.state_machine, since, limit).await?;
    found.reverse();
    let rows: Vec<_> = found.iter().map(Row::of).collect();
    let is_cut = rows.len() == limit;
    if options.json {
        print_json(&Report { since: time::rfc3339(since), executions: rows, is_cut })?;
        return Ok(0);
    }
    if rows.is_empty() {
        print_lines([format!("There was no execution since {}.", time::rfc3339(since))]);
        return Ok(0);
    }
    let title = format!(
        "{:<20}  {:>8}  {:>13}   {:<11} {:<9} {:<10} reason",
        "started (UTC)", "took", "files", "limit", "targets", "status"
    );
    print_lines(std::iter::once(title).chain(rows.iter().map(Row::line)));
    if is_cut {
        print_lines([format!("… and perhaps more: --limit {limit} are shown")]);
    }
    let counts: Vec<u64> = rows.iter().filter(|row| row.complete == Some(true)).filter_map(|row| row.files).collect();
    if counts.len() > 1 && std::io::stdout().is_terminal() {
        print_lines([format!("files  {}", sparkline(&counts))]);
    }
    Ok(0)
}

/// Numbers as a line of blocks, the smallest lowest; the newest 60 of them.
pub fn sparkline(numbers: &[u64]) -> String {
    const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    const MAX_WIDTH: usize = 60;
    let shown = &numbers[numbers.len().saturating_sub(MAX_WIDTH)..];
    let (Some(&low), Some(&high)) = (shown.iter().min(), shown.iter().max()) else { return String::new() };
    let range = u128::from(high - low).max(1);
    let height = |number: u64| (u128::from(number - low) * (BLOCKS.len() as u128 - 1) / range) as usize;
    shown.iter().map(|&number| BLOCKS.get(height(number)).copied().unwrap_or('█')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_has_a_block_for_each_number() {
        assert_eq!(sparkline(&[]), "");
        assert_eq!(sparkline(&[7]), "▁");
        assert_eq!(sparkline(&[0, u64::MAX]), "▁█");
        assert_eq!(sparkline(&[1, 2, 3, 4, 5, 6, 7, 8]), "▁▂▃▄▅▆▇█");
        assert_eq!(sparkline(&(0..1000).collect::<Vec<_>>()).chars().count(), 60);
    }

    #[test]
    fn an_execution_without_a_decision_has_a_line_too() {
        let failed = Execution {
            status: "FAILED".to_owned(),
            error: Some("AwsRefused".to_owned()),
            stopped_at: Some(3),
            ..Execution::default()
        };
        let line = Row::of(&failed).line();
        assert!(line.contains("not counted") && line.ends_with("AwsRefused"), "{line}");
    }
}
