//! Executions of the state machine, as Step Functions keeps them.

use std::time::Duration;

use anyhow::{Context, Result};
use aws_sdk_sfn::{
    Client,
    types::{ExecutionListItem, ExecutionStatus},
};
use domain::{messages::EvaluateOutput, record::Execution};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// As many executions are read at once.
const MAX_READS_IN_FLIGHT: usize = 4;
/// Step Functions keeps at most this many events of an execution.
const MAX_HISTORY_EVENTS: usize = 25_000;

/// Executions of a machine, the newest first, those that started at `since` or later, at most `limit`.
///
/// # Errors
/// When Step Functions does not answer.
pub async fn list(client: &Client, state_machine: &str, since: u64, limit: usize) -> Result<Vec<ExecutionListItem>> {
    let page = i32::try_from(limit.clamp(1, 1000)).unwrap_or(1000);
    let request = client.list_executions().state_machine_arn(state_machine).max_results(page);
    let mut pages = request.into_paginator().items().send();
    let mut found = Vec::new();
    while found.len() < limit
        && let Some(execution) = pages.next().await
    {
        let execution = execution.context("the executions of the state machine cannot be listed")?;
        if seconds(execution.start_date()) < since {
            break;
        }
        found.push(execution);
    }
    Ok(found)
}

/// The same, each read.
///
/// # Errors
/// As [`list`] and [`read`].
pub async fn recent(client: &Client, state_machine: &str, since: u64, limit: usize) -> Result<Vec<Execution>> {
    let found = list(client, state_machine, since, limit).await?;
    let reads = found.iter().map(|execution| read(client, execution.execution_arn(), false));
    stream::iter(reads).buffered(MAX_READS_IN_FLIGHT).try_collect().await
}

/// One execution. Its history is read where `with_states` asks for it, and where it has no output to tell what was
/// decided.
///
/// # Errors
/// When there is no such execution, or Step Functions does not answer.
pub async fn read(client: &Client, arn: &str, with_states: bool) -> Result<Execution> {
    let described = client.describe_execution().execution_arn(arn).send().await;
    let described = described.with_context(|| format!("the execution {arn} cannot be described"))?;
    let json = |text: Option<&str>| text.and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    let output = json(described.output());
    let mut execution = Execution {
        name: described.name().unwrap_or_else(|| arn.rsplit(':').next().unwrap_or(arn)).to_owned(),
        status: described.status().as_str().to_owned(),
        input: json(described.input()),
        started_at: seconds(described.start_date()),
        stopped_at: described.stop_date().map(seconds),
        evaluated: parse::<EvaluateOutput>(&output),
        created: parse(&output["target"]),
        published: parse(&output["published"]),
        redeployed: parse(&output["redeployed"]),
        error: described.error().map(str::to_owned),
        cause: described.cause().map(str::to_owned),
        output,
        ..Execution::default()
    };
    if with_states || *described.status() != ExecutionStatus::Succeeded {
        let history = history(client, arn).await?;
        execution.counted = history.result("Count");
        execution.evaluated = history.result("Evaluate").or(execution.evaluated);
        execution.created = history.result("CreateTarget").or(execution.created);
        execution.published = history.result("PublishSsm").or(execution.published);
        execution.redeployed = history.result("Redeploy").or(execution.redeployed);
        execution.states = history.entered;
    }
    Ok(execution)
}

/// Follows an execution to its end: reads it every `interval`, and calls `entered` with each state.
///
/// # Errors
/// As [`read`]. A failed execution is not an error.
pub async fn follow(
    client: &Client,
    arn: &str,
    interval: Duration,
    mut entered: impl FnMut(&str),
) -> Result<Execution> {
    let mut shown = 0;
    loop {
        let execution = read(client, arn, true).await?;
        for state in execution.states.iter().skip(shown) {
            entered(state);
        }
        shown = execution.states.len();
        if execution.stopped_at.is_some() || !matches!(execution.status.as_str(), "RUNNING" | "PENDING_REDRIVE") {
            return Ok(execution);
        }
        tokio::time::sleep(interval).await;
    }
}

/// `Null`, `{}` and other shapes are none: a state that was not entered assigned nothing.
fn parse<T: DeserializeOwned>(value: &Value) -> Option<T> {
    value.is_object().then(|| serde_json::from_value(value.clone()).ok()).flatten()
}

/// The events of an execution, as far as they matter here.
#[derive(Default)]
struct History {
    /// States, in the order entered.
    entered: Vec<String>,
    /// A state that ended, and what its function gave.
    exited: Vec<(String, Value)>,
}

impl History {
    /// What the function of a state gave when it ended the last time.
    fn result<T: DeserializeOwned>(&self, state: &str) -> Option<T> {
        let mut results = self.exited.iter().rev().filter(|(name, _)| name == state);
        results.next().and_then(|(_, output)| serde_json::from_value(output["Payload"].clone()).ok())
    }
}

async fn history(client: &Client, arn: &str) -> Result<History> {
    let request = client.get_execution_history().execution_arn(arn).max_results(1000).include_execution_data(true);
    let mut events = request.into_paginator().items().send();
    let (mut history, mut read) = (History::default(), 0);
    while read < MAX_HISTORY_EVENTS
        && let Some(event) = events.next().await
    {
        read += 1;
        let event = event.with_context(|| format!("the history of the execution {arn} cannot be read"))?;
        if let Some(entered) = event.state_entered_event_details() {
            history.entered.push(entered.name().to_owned());
        }
        if let Some(exited) = event.state_exited_event_details() {
            let output = exited.output().and_then(|text| serde_json::from_str(text).ok());
            history.exited.push((exited.name().to_owned(), output.unwrap_or_else(|| json!({}))));
        }
    }
    Ok(history)
}

fn seconds(time: &aws_smithy_types::DateTime) -> u64 {
    u64::try_from(time.secs()).unwrap_or_default()
}

/// The ARN of an execution that a person named: an ARN, the name of an execution of this machine, or `latest`.
///
/// # Errors
/// When there is none yet, or Step Functions does not answer.
pub async fn resolve(client: &Client, state_machine: &str, name: &str) -> Result<String> {
    if name == "latest" {
        let found = list(client, state_machine, 0, 1).await?;
        let latest = found.first().context("there is no execution yet; `efs-autoscale start` starts one")?;
        return Ok(latest.execution_arn().to_owned());
    }
    if name.starts_with("arn:") {
        return Ok(name.to_owned());
    }
    // arn:aws:states:REGION:ACCOUNT:stateMachine:NAME and arn:aws:states:REGION:ACCOUNT:execution:NAME:EXECUTION
    Ok(format!("{}:{name}", state_machine.replacen(":stateMachine:", ":execution:", 1)))
}
