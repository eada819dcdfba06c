//! `efs-autoscale pause` and `efs-autoscale resume`: no execution is started by the schedule, and it is again.

use std::{process::ExitCode, time::SystemTime};

use anyhow::{Context, Result};
use clap::{Args, builder::NonEmptyStringValueParser};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Serialize;

use super::{
    Installation, Source, finish, print_json, print_lines,
    schedule::{Pause, Schedule},
    time,
};

/// What `--help` of `pause` says below the options.
pub const PAUSE_HELP: &str = "\
The reason is kept in the schedule's description, and `status` shows it. With --until EventBridge Scheduler resumes by
itself at that time. An execution that runs goes on, and executions started by hand still run. A deployment of the stack
resumes; the setting pipeline.paused keeps it paused for good.

Exit status: 0 when it is paused, 2 when it is not.

Examples:
  efs-autoscale pause --reason 'restore from backup' --until 2h
  efs-autoscale pause --reason 'VPC migration, ticket 4711'";

/// What `--help` of `resume` says below the options.
pub const RESUME_HELP: &str = "\
Exit status: 0 when executions are started again, 2 when they are not.

Example:
  efs-autoscale resume";

/// Why, and how long.
#[derive(Args, Clone, Debug)]
pub struct PauseOptions {
    /// Why: shown by status
    #[arg(long, value_name = "TEXT", value_parser = NonEmptyStringValueParser::new())]
    reason: String,
    /// Resume by itself: after a duration such as 90m, or at a time such as 2026-11-27T15:00:00Z [default: never]
    #[arg(long, value_name = "TIME", value_parser = time::future)]
    until: Option<SystemTime>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: Source,
}

/// Which schedule.
#[derive(Args, Clone, Debug)]
pub struct ResumeOptions {
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    source: Source,
}

#[derive(Serialize, JsonSchema)]
struct Report {
    schedule: String,
    /// `null` when executions are started.
    paused: Option<Pause>,
    /// This command changed the schedule.
    changed: bool,
}

/// The schema of `--json`.
pub fn schema() -> Schema {
    schema_for!(Report)
}

#[tokio::main(flavor = "current_thread")]
pub async fn run_pause(options: PauseOptions) -> ExitCode {
    finish(pause(&options)).await
}

#[tokio::main(flavor = "current_thread")]
pub async fn run_resume(options: ResumeOptions) -> ExitCode {
    finish(resume(&options)).await
}

async fn pause(options: &PauseOptions) -> Result<u8> {
    let installation = options.source.connect().await?;
    let name = schedule_name(&installation)?;
    let client = &installation.clients.scheduler;
    let until = options.until.map(time::seconds);
    let schedule = Schedule::read(client, name).await?;
    schedule.set_paused(client, &options.reason, until, time::now()).await?;
    let paused = Schedule::read(client, name).await?.pause(time::now());
    if options.json {
        print_json(&Report { schedule: name.to_owned(), paused, changed: true })?;
        return Ok(0);
    }
    let end = until.map_or_else(
        || "`efs-autoscale resume` resumes it.".to_owned(),
        |at| format!("It resumes by itself at {}.", time::rfc3339(at)),
    );
    print_lines([format!("The schedule {name} is paused: {}. {end}", options.reason)]);
    Ok(0)
}

async fn resume(options: &ResumeOptions) -> Result<u8> {
    let installation = options.source.connect().await?;
    let name = schedule_name(&installation)?;
    let client = &installation.clients.scheduler;
    let schedule = Schedule::read(client, name).await?;
    let changed = schedule.pause(time::now()).is_some();
    // A pause that has ended by itself leaves its note in the description.
    if changed || schedule.has_note() {
        schedule.resume(client).await?;
    }
    if options.json {
        print_json(&Report { schedule: name.to_owned(), paused: None, changed })?;
        return Ok(0);
    }
    print_lines([match changed {
        true => format!("The schedule {name} starts executions again: {}.", schedule.expression()),
        false => format!("The schedule {name} was not paused: {}.", schedule.expression()),
    }]);
    Ok(0)
}

fn schedule_name(installation: &Installation) -> Result<&str> {
    installation.schedule.as_deref().context("--schedule: nobody says which schedule starts the executions")
}
