//! `efs-autoscale explain`: one execution in sentences.

use std::{fs, io::Read as _, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use domain::{explain::Explanation, record::DecisionRecord};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Serialize;
use serde_json::Value;

use super::{PROBLEM, Source, executions, finish, print_json, print_lines, time};

/// No log line is longer: CloudWatch Logs takes events of at most 1 MiB.
const MAX_LOG_BYTES: u64 = 64 << 20;

/// What `--help` says below the options.
pub const HELP: &str = "\
It says what was observed, what was decided by which rule with which numbers, what was called, what failed, and what to
do now. With --log it reads a log line of the function evaluate (or a whole file of them, and takes the last), and decides
again from it: the same code gives the same decision.

Exit status: 0 when the execution succeeded or runs, 1 when it failed or decides otherwise now, 2 when there is no answer.

Examples:
  efs-autoscale explain latest
  efs-autoscale explain 4b2c9a62-0001-4b8e-9d0c-1f2e3d4c5b6a --json
  aws logs tail /aws/lambda/NAME-evaluate --format short | efs-autoscale explain --log -";

/// Which execution.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Its ARN or its name, or latest
    #[arg(value_name = "EXECUTION", default_value = "latest", conflicts_with = "log")]
    execution: String,
    /// Explain a decision out of the log of evaluate; - reads stdin
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: Source,
}

/// What is printed with `--json`.
#[derive(Serialize, JsonSchema)]
struct Report {
    /// Absent of a log line.
    #[serde(skip_serializing_if = "Option::is_none")]
    execution: Option<Header>,
    #[serde(flatten)]
    explanation: Explanation,
    /// What to do now, by the codes.
    next: Vec<String>,
    /// Of a log line: the decision that the same code would make now.
    #[serde(skip_serializing_if = "Option::is_none")]
    replayed: Option<Value>,
}

#[derive(Serialize, JsonSchema)]
struct Header {
    name: String,
    status: String,
    started_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    stopped_at: Option<String>,
    seconds: Option<u64>,
    input: Value,
    states: Vec<String>,
}

/// The schema of `--json`.
pub fn schema() -> Schema {
    schema_for!(Report)
}

#[tokio::main(flavor = "current_thread")]
pub async fn run(options: Options) -> ExitCode {
    finish(explain(&options)).await
}

async fn explain(options: &Options) -> Result<u8> {
    let (report, is_well) = match &options.log {
        Some(path) => of_log(path)?,
        None => of_execution(options).await?,
    };
    if options.json {
        print_json(&report)?;
    } else {
        print_lines(lines(&report));
    }
    Ok(if is_well { 0 } else { PROBLEM })
}

async fn of_execution(options: &Options) -> Result<(Report, bool)> {
    let installation = options.source.connect().await?;
    let client = &installation.clients.sfn;
    let arn = executions::resolve(client, &installation.state_machine, &options.execution).await?;
    let execution = executions::read(client, &arn, true).await?;
    let explanation = Explanation::of(&execution);
    let is_well = execution.has_succeeded() || execution.stopped_at.is_none();
    let header = Header {
        started_at: time::rfc3339(execution.started_at),
        stopped_at: execution.stopped_at.map(time::rfc3339),
        seconds: execution.stopped_at.map(|stopped| stopped.saturating_sub(execution.started_at)),
        name: execution.name,
        status: execution.status,
        input: execution.input,
        states: execution.states,
    };
    let next = next_steps(&explanation);
    Ok((Report { execution: Some(header), explanation, next, replayed: None }, is_well))
}

/// Decides again, from a log line.
fn of_log(path: &PathBuf) -> Result<(Report, bool)> {
    let mut text = String::new();
    let name = path.display();
    if path.as_os_str() == "-" {
        std::io::stdin().take(MAX_LOG_BYTES + 1).read_to_string(&mut text).context("--log -")?;
    } else {
        let file = fs::File::open(path).with_context(|| format!("--log {name}"))?;
        file.take(MAX_LOG_BYTES + 1).read_to_string(&mut text).with_context(|| format!("--log {name}"))?;
    }
    ensure!(text.len() as u64 <= MAX_LOG_BYTES, "--log {name}: it is larger than {MAX_LOG_BYTES} bytes");
    let Some(record) = text.lines().rev().find_map(record_of) else {
        bail!(
            "--log {name}: no line has a field `record`, as the function evaluate writes it with each decision; \
             `aws logs filter-log-events --log-group-name /aws/lambda/NAME-evaluate --filter-pattern '\"decided\"'` finds \
             them"
        );
    };
    let replayed = record.replay();
    let is_same = replayed == record.decision;
    let explanation = Explanation::of_decision(&record.output());
    let next = next_steps(&explanation);
    let replayed = serde_json::to_value(replayed)?;
    Ok((Report { execution: None, explanation, next, replayed: Some(replayed) }, is_same))
}

/// The record of a line, whatever a tool has written before the JSON: a time, a stream.
fn record_of(line: &str) -> Option<DecisionRecord> {
    let object: Value = serde_json::from_str(&line[line.find('{')?..]).ok()?;
    let record = object.get("record").or_else(|| object.get("fields")?.get("record"))?;
    match record {
        Value::String(text) => serde_json::from_str(text).ok(),
        record => serde_json::from_value(record.clone()).ok(),
    }
}

/// What to do about each code, by the table of codes.
pub fn next_steps(explanation: &Explanation) -> Vec<String> {
    let entries = explanation.codes.iter().filter_map(|code| domain::codes::find(code));
    entries.flat_map(|entry| entry.steps().map(|step| format!("{}: {step}", entry.code))).collect()
}

fn lines(report: &Report) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(header) = &report.execution {
        let seconds = header.seconds.map(|seconds| format!(" in {}", time::duration(seconds))).unwrap_or_default();
        lines.push(format!("{}  {}{seconds}, started {}", header.name, header.status, header.started_at));
        if !header.states.is_empty() {
            lines.push(format!("  {}", header.states.join(" → ")));
        }
    }
    lines.push(format!("Reason: {}", report.explanation.reason));
    let sections = [
        ("Observed", &report.explanation.observed),
        ("Decided", &report.explanation.decided),
        ("Done", &report.explanation.done),
        ("Failed", &report.explanation.failed),
        ("What to do now", &report.next),
    ];
    for (title, sentences) in sections {
        if !sentences.is_empty() {
            lines.push(String::new());
            lines.push(title.to_owned());
            lines.extend(sentences.iter().map(|sentence| format!("  {sentence}")));
        }
    }
    if let Some(replayed) = &report.replayed {
        lines.push(String::new());
        lines.push(format!("Decided again from the same record: {replayed}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use domain::policy::{Decision, Excluded, FileCount, Observation, Policy};

    use super::*;

    #[test]
    fn a_log_line_is_decided_again_whatever_stands_before_it() {
        let observation = Observation {
            now: 1,
            count: Some(FileCount { files: 1, complete: true }),
            one_zone: None,
            targets: vec![],
            subnets: vec![],
            published: None,
            deployed: None,
            last_created: None,
            service: Ok(None),
            refusals: vec![],
            excluded: Excluded::default(),
        };
        let record = DecisionRecord { observation, policy: Policy::default(), decision: Decision::NoAvailableTargets };
        let line = serde_json::json!({"level": "INFO", "message": "decided", "record": record.to_json()});
        for text in [line.to_string(), format!("2026-11-27T12:00:00 2026/11/27/[1]abc {line}")] {
            assert_eq!(record_of(&text).as_ref(), Some(&record), "{text}");
        }
        for text in ["", "{", "{}", "{\"record\": \"{}\"}", "no brace", "{\"record\": 7}"] {
            assert_eq!(record_of(text), None);
        }
        assert_eq!(record.replay(), Decision::NoAvailableTargets);
    }
}
