//! `efs-autoscale status`: what is, in one look.

mod cost;
mod gather;
mod text;
mod trend;
mod watch;

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use clap::{Args, value_parser};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Serialize;

pub use self::{cost::Item, gather::gather, trend::Trend};
use super::{PROBLEM, Source, finish, history::Row, print_json, print_lines, schedule::Pause};

/// What `--help` says below the options.
pub const HELP: &str = "\
Files with their trend, mount targets, the published list, the service's deployment, the schedule, the last executions,
alarms, and what a month costs at list prices of us-east-1, without traffic and requests. A part that AWS does not answer shows
why, and the rest is shown.

Exit status: 0 when everything is well, 1 when there is a problem (the last lines say which), 2 when there is no answer.

Examples:
  efs-autoscale status
  efs-autoscale status --watch --interval 10
  efs-autoscale status --json | jq .problems";

/// Which installation.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// A live screen until q is pressed
    #[arg(long, conflicts_with = "json")]
    pub watch: bool,
    /// Between two questions to AWS, with --watch
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = value_parser!(u16).range(1..=3600))]
    pub interval: u16,
    /// One JSON object on stdout
    #[arg(long)]
    pub json: bool,
    #[command(flatten)]
    pub source: Source,
}

/// Everything that is shown. A part that could not be asked has its error in `unknown`.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Status {
    /// RFC 3339, UTC.
    pub at: String,
    /// `None` of an installation without a stack.
    pub stack: Option<String>,
    pub region: String,
    pub file_system: String,
    pub files: Files,
    pub mount_targets: Vec<Target>,
    pub published: Option<Published>,
    pub service: Option<Service>,
    pub schedule: Option<Schedule>,
    /// The newest last.
    pub executions: Vec<Row>,
    /// What an execution would decide now.
    pub next: Option<Next>,
    pub alarms: Vec<Alarm>,
    pub cost: Vec<Item>,
    /// US dollars.
    pub cost_per_month: f64,
    /// What is not well, in sentences.
    pub problems: Vec<String>,
    /// What could not be asked, and why.
    pub unknown: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
pub struct Files {
    /// Of the last count.
    pub files: Option<u64>,
    pub complete: bool,
    pub counted_at: Option<String>,
    pub limit: Option<u64>,
    #[serde(flatten)]
    pub trend: Trend,
    /// Counts of the executions that counted everything, the newest last.
    pub history: Vec<u64>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Target {
    pub mount_target_id: String,
    pub availability_zone: String,
    pub state: String,
    pub address: Option<String>,
    pub is_published: bool,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Published {
    pub parameter: String,
    pub version: i64,
    /// It is the list of the mount targets that are available.
    pub is_current: bool,
    /// Available and not in the list.
    pub missing: Vec<String>,
    /// In the list and not available.
    pub surplus: Vec<String>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Service {
    pub name: String,
    pub running: Option<i32>,
    pub desired: Option<i32>,
    /// `IN_PROGRESS`, `COMPLETED`, `FAILED`.
    pub rollout: Option<String>,
    /// The tasks have read the published list; `None` when that is not known.
    pub has_read_list: Option<bool>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Schedule {
    pub name: String,
    pub expression: String,
    /// As far as a rate tells.
    pub next_start: Option<String>,
    pub paused: Option<Pause>,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Next {
    /// A decision's action or reason.
    pub reason: String,
    pub sentence: String,
}

#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Alarm {
    pub name: String,
    /// `OK`, `ALARM`, `INSUFFICIENT_DATA`.
    pub state: String,
    pub since: Option<String>,
    pub description: String,
}

/// The schema of `--json`.
pub fn schema() -> Schema {
    schema_for!(Status)
}

#[tokio::main(flavor = "current_thread")]
pub async fn run(options: Options) -> ExitCode {
    finish(status(&options)).await
}

async fn status(options: &Options) -> Result<u8> {
    if options.watch {
        return watch::run(&options.source, Duration::from_secs(options.interval.into())).await;
    }
    let installation = options.source.connect().await?;
    let status = gather(&installation).await?;
    match options.json {
        true => print_json(&status)?,
        false => print_lines(text::lines(&status)),
    }
    Ok(if status.problems.is_empty() { 0 } else { PROBLEM })
}
