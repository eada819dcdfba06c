//! `efs-autoscale start`: starts an execution by hand, and follows it.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use domain::explain::Explanation;
use schemars::{JsonSchema, Schema, schema_for};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{PROBLEM, Source, executions, explain::next_steps, finish, print_json};
use crate::screen::Screen;

/// Between two looks at an execution: far below what Step Functions allows.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// What `--help` says below the options.
pub const HELP: &str = "\
With --wait it prints each state as it is entered. Ctrl-C ends the following, not the execution.

Exit status: 0 when the execution was started (with --wait: when it succeeded), 1 when it failed, 2 when it could not be
started, 130 when the following was interrupted.

Examples:
  efs-autoscale start --wait
  efs-autoscale start --threshold 50000 --wait
  efs-autoscale start --dry-run --wait";

/// What to start.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Another threshold than FILE_COUNT_THRESHOLD, for this execution
    #[arg(long, value_name = "FILES")]
    threshold: Option<u64>,
    /// Count and decide, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Follow the execution to its end
    #[arg(long)]
    wait: bool,
    /// One JSON object on stdout, and progress on stderr
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: Source,
}

#[derive(Serialize, JsonSchema)]
struct Report {
    execution_arn: String,
    /// Of `--wait`.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    explanation: Option<Explanation>,
}

/// The schema of `--json`.
pub fn schema() -> Schema {
    schema_for!(Report)
}

#[tokio::main(flavor = "current_thread")]
pub async fn run(options: Options) -> ExitCode {
    finish(start(&options)).await
}

async fn start(options: &Options) -> Result<u8> {
    let installation = options.source.connect().await?;
    let screen = Screen::new(options.json);
    let mut input = Map::new();
    if options.dry_run {
        input.insert("dry_run".to_owned(), json!(true));
    }
    input.extend(options.threshold.map(|files| ("threshold".to_owned(), json!(files))));
    let request = installation.clients.sfn.start_execution().state_machine_arn(&installation.state_machine);
    let started = request.input(Value::Object(input).to_string()).send().await.context("no execution was started")?;
    let arn = started.execution_arn();
    screen.line(&format!("started {arn}"));
    if !options.wait {
        if options.json {
            print_json(&Report { execution_arn: arn.to_owned(), status: None, explanation: None })?;
        }
        return Ok(0);
    }
    let followed = tokio::select! {
        followed = executions::follow(&installation.clients.sfn, arn, POLL_INTERVAL, |state| screen.event(state)) => followed,
        _ = tokio::signal::ctrl_c() => {
            screen.rest();
            screen.line(&format!("The execution goes on. To see how it ended: efs-autoscale explain {arn}"));
            return Ok(super::INTERRUPTED);
        }
    };
    let execution = followed.with_context(|| format!("{arn} was started and cannot be followed"))?;
    screen.rest();
    let explanation = Explanation::of(&execution);
    screen.event(&execution.status);
    for line in
        explanation.observed.iter().chain(&explanation.decided).chain(&explanation.done).chain(&explanation.failed)
    {
        screen.line(&format!("  {line}"));
    }
    let is_well = execution.has_succeeded();
    if !is_well {
        for line in next_steps(&explanation) {
            screen.line(&format!("  {line}"));
        }
    }
    if options.json {
        let explanation = Some(explanation);
        print_json(&Report { execution_arn: arn.to_owned(), status: Some(execution.status), explanation })?;
    }
    Ok(if is_well { 0 } else { PROBLEM })
}
