//! `efs-autoscale plan`: what an execution would do now, and why. Changes nothing.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;
use domain::{
    explain::Explanation,
    messages::{EvaluateInput, EvaluateOutput},
    policy::{Excluded, FileCount},
};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Serialize;
use serde_json::{Value, json};

use super::{Installation, Source, executions, explain::next_steps, finish, print_json, print_lines, time};

/// So many executions are looked at for the last count.
const MAX_EXECUTIONS: usize = 20;

/// What `--help` says below the options.
pub const HELP: &str = "\
It observes the mount targets, subnets, parameters and the service as the function evaluate does, with that function's
variables, takes the files of the last execution that counted them (or --files), and decides. It only reads: for a count
made now, `efs-autoscale start --dry-run` runs an execution that changes nothing.

Exit status: 0, or 2 when there is no answer.

Examples:
  efs-autoscale plan
  efs-autoscale plan --files 250000
  efs-autoscale plan --threshold 50000 --json";

/// What to decide from.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Decide as if there were so many files [default: those of the last count]
    #[arg(long, value_name = "NUMBER")]
    files: Option<u64>,
    /// Decide with another threshold than FILE_COUNT_THRESHOLD
    #[arg(long, value_name = "FILES")]
    threshold: Option<u64>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: Source,
}

/// A decision that an execution would make now.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Plan {
    /// When the files were counted; absent of `--files`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub counted_at: Option<String>,
    #[serde(flatten)]
    pub explanation: Explanation,
    pub next: Vec<String>,
    /// As the function `evaluate` answers.
    #[schemars(with = "Evaluated")]
    pub evaluated: EvaluateOutput,
}

/// The shape of [`EvaluateOutput`], for the schema; docs/reference/operations.md has its fields.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
struct Evaluated {
    decision: Value,
    dry_run: bool,
    warnings: Vec<Value>,
    observed: Value,
}

impl Plan {
    /// # Errors
    /// What could not be observed.
    pub async fn make(
        installation: &Installation,
        count: Option<(FileCount, u64)>,
        threshold: Option<u64>,
    ) -> Result<Self> {
        let config = installation.evaluate_config().await?;
        let start =
            threshold.map_or_else(|| json!({"dry_run": true}), |files| json!({"dry_run": true, "threshold": files}));
        let counted = count.map(|(count, _)| count);
        let input = EvaluateInput { start, counted, excluded: Excluded::default() };
        let mut output =
            evaluate::handle(&installation.clients.aws, &config, input).await.context("nothing was decided")?;
        output.dry_run = false;
        let explanation = Explanation::of_decision(&output);
        let counted_at = count.map(|(_, at)| at).filter(|at| *at > 0).map(time::rfc3339);
        Ok(Self { counted_at, next: next_steps(&explanation), explanation, evaluated: output })
    }
}

/// The files that the last execution counted, and when (seconds since 1970).
///
/// # Errors
/// When Step Functions does not answer.
pub async fn last_count(installation: &Installation) -> Result<Option<(FileCount, u64)>> {
    let found = executions::recent(&installation.clients.sfn, &installation.state_machine, 0, MAX_EXECUTIONS).await?;
    Ok(found.iter().find_map(|execution| {
        let observed = &execution.evaluated.as_ref()?.observed;
        Some((FileCount { files: observed.files?, complete: observed.complete }, execution.started_at))
    }))
}

/// The schema of `--json`.
pub fn schema() -> Schema {
    schema_for!(Plan)
}

#[tokio::main(flavor = "current_thread")]
pub async fn run(options: Options) -> ExitCode {
    finish(plan(&options)).await
}

async fn plan(options: &Options) -> Result<u8> {
    let installation = options.source.connect().await?;
    let count = match options.files {
        Some(files) => Some((FileCount { files, complete: true }, 0)),
        None => last_count(&installation).await?,
    };
    let plan = Plan::make(&installation, count, options.threshold).await?;
    if options.json {
        print_json(&plan)?;
        return Ok(0);
    }
    let mut lines = vec![format!("Reason: {}", plan.explanation.reason)];
    let counted = match (&plan.counted_at, options.files) {
        (Some(at), _) => format!("The files are those of the execution of {at}."),
        (None, Some(_)) => "The files are those of --files.".to_owned(),
        (None, None) => "No execution has counted the files yet.".to_owned(),
    };
    let observed = plan.explanation.observed.iter().chain(std::iter::once(&counted));
    for (title, sentences) in [
        ("Observed", observed.cloned().collect()),
        ("Would be decided", plan.explanation.decided.clone()),
        ("What to do now", plan.next.clone()),
    ] as [(&str, Vec<String>); 3]
    {
        if !sentences.is_empty() {
            lines.extend([String::new(), title.to_owned()]);
            lines.extend(sentences.iter().map(|sentence| format!("  {sentence}")));
        }
    }
    print_lines(lines);
    Ok(0)
}
