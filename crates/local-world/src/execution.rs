//! Executions of the local world's state machine.

use std::time::Duration;

use anyhow::Result;
use ctl::operator::executions;
use domain::record::Execution;
use serde_json::Value;

use super::world::World;

const POLL_INTERVAL: Duration = Duration::from_millis(100);

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
pub async fn follow(world: &World, arn: &str, entered: impl FnMut(&str)) -> Result<Execution> {
    executions::follow(&world.clients.sfn, arn, POLL_INTERVAL, entered).await
}
