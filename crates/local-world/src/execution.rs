//! One execution of the state machine: started, followed, read.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use aws_sdk_sfn::types::ExecutionStatus;
use domain::{
    messages::{CountOutput, EvaluateOutput, PublishOutput, RedeployOutput},
    policy::{Decision, Reason},
};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::world::World;

const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The result of an execution, from its history.
#[derive(Clone, Debug)]
pub struct Execution {
    /// `SUCCEEDED`, `FAILED`, …
    pub status: String,
    /// In the order entered.
    pub states: Vec<String>,
    pub seconds: f64,
    pub output: Option<Value>,
    pub error: Option<String>,
    pub cause: Option<String>,
    /// Of the first invocation: what it left is in the total that `evaluated` observed.
    pub counted: Option<CountOutput>,
    /// Of the last time that `Evaluate` ran.
    pub evaluated: Option<EvaluateOutput>,
    pub published: Option<PublishOutput>,
    pub redeployed: Option<RedeployOutput>,
}

impl Execution {
    /// The decision's action.
    pub fn decision(&self) -> Option<&Decision> {
        self.evaluated.as_ref().map(|evaluated| &evaluated.decision)
    }

    /// The reason if nothing was done.
    pub fn reason(&self) -> Option<Reason> {
        match self.decision()? {
            Decision::Nothing { reason } => Some(*reason),
            _ => None,
        }
    }

    /// The number of times that a state was entered.
    pub fn entered(&self, state: &str) -> usize {
        self.states.iter().filter(|entered| *entered == state).count()
    }
}

/// Starts an execution with this input and follows it to its end; calls `entered` with each state.
///
/// # Errors
/// The emulator does not respond. A failed execution is not an error.
pub async fn run(world: &World, input: &Value, entered: impl FnMut(&str)) -> Result<Execution> {
    let request = world.clients.sfn.start_execution().state_machine_arn(&world.state_machine);
    let started = request.input(input.to_string()).send().await?;
    follow(world, started.execution_arn(), entered).await
}

/// Follows a running execution.
///
/// # Errors
/// When the emulator does not answer.
pub async fn follow(world: &World, arn: &str, mut entered: impl FnMut(&str)) -> Result<Execution> {
    let began = Instant::now();
    let mut states = Vec::new();
    loop {
        // Read the status before the history, so that a finished execution has a complete history.
        let described = world.clients.sfn.describe_execution().execution_arn(arn).send().await?;
        let history = history(world, arn).await?;
        let names: Vec<String> = history.iter().filter_map(|event| event.entered.clone()).collect();
        for state in names.iter().skip(states.len()) {
            entered(state);
        }
        states = names;
        if *described.status() == ExecutionStatus::Running {
            tokio::time::sleep(POLL_INTERVAL).await;
            continue;
        }
        return Ok(Execution {
            status: described.status().as_str().to_owned(),
            states,
            seconds: began.elapsed().as_secs_f64(),
            output: described.output().and_then(|text| serde_json::from_str(text).ok()),
            error: described.error().map(str::to_owned),
            cause: described.cause().map(str::to_owned),
            counted: result_of(&history, "Count"),
            evaluated: result_of(&history, "Evaluate"),
            published: result_of(&history, "PublishSsm"),
            redeployed: result_of(&history, "Redeploy"),
        });
    }
}

struct Event {
    entered: Option<String>,
    /// The state that ended, and what its function gave.
    exited: Option<(String, Value)>,
}

/// The last result of a state's function.
fn result_of<T: DeserializeOwned>(history: &[Event], state: &str) -> Option<T> {
    let exited = history.iter().rev().filter_map(|event| event.exited.as_ref());
    let mut results = exited.filter(|(name, _)| name == state).map(|(_, result)| &result["Payload"]);
    results.next().and_then(|payload| serde_json::from_value(payload.clone()).ok())
}

async fn history(world: &World, arn: &str) -> Result<Vec<Event>> {
    let request = world.clients.sfn.get_execution_history().execution_arn(arn).max_results(1000);
    let mut pages = request.into_paginator().items().send();
    let mut history = Vec::new();
    while let Some(event) = pages.next().await {
        let event = event.context("the execution's history cannot be read")?;
        history.push(Event {
            entered: event.state_entered_event_details().map(|details| details.name().to_owned()),
            exited: event.state_exited_event_details().map(|details| {
                let output = details.output().and_then(|text| serde_json::from_str(text).ok());
                (details.name().to_owned(), output.unwrap_or_default())
            }),
        });
    }
    Ok(history)
}
