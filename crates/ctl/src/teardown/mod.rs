//! `efs-autoscale teardown`: removes a deployed system. The mount targets that the system created are outside its stack
//! and block the deletion of the stack. They are deleted first, and only those that the ledger records.
//!
//! Each step observes the current state and is idempotent: the next run continues an interrupted one.

mod external_service;
mod plan;
mod steps;
mod system;

use std::{
    io::{self, IsTerminal, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Result, bail};
use aws_config::SdkConfig;
use clap::{Args, builder::NonEmptyStringValueParser, value_parser};
use schemars::{JsonSchema, Schema, schema_for};
use serde::Serialize;

use self::{plan::Plan, system::System};
use crate::{account, screen::Screen};

/// Exit status when something was not deleted.
const INCOMPLETE: u8 = 1;
/// Exit status when the system does not exist, or the user did not confirm.
const FAILED: u8 = 2;
/// Exit status after Ctrl-C: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

/// Text below the options in `--help`.
pub const HELP: &str = "\
The command takes these steps. It can be run again after any of them:
  1. Pause the schedule, and wait for running executions to end.
  2. Scale the service of the stack to zero tasks, which ends all writes. Redeploy a service outside the stack on the list
     without this system's mount targets, and wait until it runs on that list.
  3. Delete the mount targets that this system created according to the ledger, and no others.
  4. Delete the ledger. If the service belongs to the stack, delete the published list too.
  5. Delete the stack, in whatever state it is. The stack NAME-data, which holds the files, stays.
  6. With --data, delete NAME-data too: the file system, its key, and its network. A vault that contains backups stays with
     its key; the last lines show the commands that delete them.

The command first prints what it will do and asks for confirmation; --yes skips the question. With --dry-run it only prints.
The stack comes from --stack alone: EFS_AUTOSCALE_STACK and efs-autoscale.toml do not choose what is deleted.

Exit status: 0 if everything was deleted, 1 if something is left (the last line says what), 2 if the system does not exist or
the user did not confirm, 130 if it was interrupted.

Examples:
  efs-autoscale teardown --dry-run
  efs-autoscale teardown --stack efs-mount-autoscaling --region ap-northeast-1 --yes
  efs-autoscale teardown --data";

/// Options of `efs-autoscale teardown`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Name of the stack
    #[arg(long, default_value = "efs-mount-autoscaling", value_name = "NAME", value_parser = account::stack_name)]
    pub stack: String,
    /// Region of the stack [default: from the environment or the profile]
    #[arg(long, value_name = "REGION", value_parser = NonEmptyStringValueParser::new())]
    pub region: Option<String>,
    /// Print what would be done, and exit
    #[arg(long)]
    pub dry_run: bool,
    /// Do not ask for confirmation
    #[arg(long)]
    pub yes: bool,
    /// Keep the stack, and delete only what is outside it
    #[arg(long, conflicts_with = "data")]
    pub keep_stack: bool,
    /// Also delete the data stack: the file system and all files in it
    #[arg(long)]
    pub data: bool,
    /// Name of the published list, if no stack has it as an output any more
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub parameter: Option<String>,
    /// A service outside the stack no longer uses this system's mount targets: do not redeploy it
    #[arg(long)]
    pub service_is_off: bool,
    /// Also delete mount targets that this system may have created (a reply of EFS was lost)
    #[arg(long)]
    pub uncertain: bool,
    /// Maximum wait per step; Lambda takes up to 45 minutes to release network interfaces
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = value_parser!(u64).range(1..=86_400))]
    pub wait: u64,
    /// Print one JSON object to stdout, and progress to stderr
    #[arg(long)]
    pub json: bool,
}

impl Options {
    fn wait_timeout(&self) -> Duration {
        Duration::from_secs(self.wait)
    }
}

/// The AWS clients.
pub struct Clients {
    aws: aws::Aws,
    cloudformation: aws_sdk_cloudformation::Client,
    elb: aws_sdk_elasticloadbalancingv2::Client,
    scheduler: aws_sdk_scheduler::Client,
    sfn: aws_sdk_sfn::Client,
}

impl Clients {
    fn new(config: &SdkConfig) -> Self {
        Self {
            aws: aws::Aws::new(config),
            cloudformation: aws_sdk_cloudformation::Client::new(config),
            elb: aws_sdk_elasticloadbalancingv2::Client::new(config),
            scheduler: aws_sdk_scheduler::Client::new(config),
            sfn: aws_sdk_sfn::Client::new(config),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
pub async fn run(options: Options) -> ExitCode {
    let screen = Screen::new(options.json);
    let config = match account::config(options.region.as_deref(), None).await {
        Ok(config) => config,
        Err(err) => {
            eprintln!("efs-autoscale: {err:#}");
            return ExitCode::from(FAILED);
        }
    };
    let result = tokio::select! {
        result = take_away(&config, &options, &screen) => result,
        _ = tokio::signal::ctrl_c() => {
            screen.rest();
            eprintln!("efs-autoscale: interrupted; run the command again to continue");
            return ExitCode::from(INTERRUPTED);
        }
    };
    screen.rest();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(err) => {
            eprintln!("efs-autoscale: {err:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// Removes the system. Returns the exit status.
///
/// # Errors
/// The system does not exist, AWS cannot be called, or the user does not confirm.
pub async fn take_away(config: &SdkConfig, options: &Options, screen: &Screen) -> Result<u8> {
    let clients = Clients::new(config);
    let system = System::find(&clients, options).await?;
    let plan = Plan::new(&clients, &system, options.uncertain).await?;
    for line in plan.lines(&system, options) {
        screen.line(&line);
    }
    if options.dry_run {
        return Ok(0);
    }
    // Check before anything is deleted: a half-deleted stack is harder to understand than this message.
    if let Err(err) = steps::check_no_blocking_targets(&system, &plan, options) {
        eprintln!("efs-autoscale: {err:#}; nothing was changed");
        return Ok(INCOMPLETE);
    }
    if !options.yes {
        match system.file_system.as_ref().filter(|_| system.deletes_file_system(options)) {
            Some(id) if options.data => confirm("ID of the file system", id.as_str())?,
            _ => confirm("name of the stack", &options.stack)?,
        }
    }
    let result = steps::run_all(&clients, &system, options, screen).await;
    screen.rest();
    let done = match result {
        Ok(done) => done,
        Err(err) => {
            eprintln!("efs-autoscale: {err:#}; run the command again to continue");
            return Ok(INCOMPLETE);
        }
    };
    for resource in &done.retained {
        screen.line(&format!("  retained      {} {}: {}", resource.kind, resource.id, resource.command()));
    }
    let kept = system.data.as_ref().filter(|_| !options.data).map(|stack| stack.name.as_str());
    if let Some(name) = kept {
        screen.line(&format!(
            "  kept          the stack {name}: `make destroy DATA=1` or --data deletes it and its files"
        ));
    }
    if options.json {
        let summary = Summary {
            stack: &options.stack,
            deleted_mount_targets: &done.deleted,
            retained: done.retained.iter().map(|resource| format!("{} {}", resource.kind, resource.id)).collect(),
            kept_stack: kept,
        };
        println!("{}", serde_json::to_string(&summary)?);
    }
    screen.line(if options.keep_stack {
        "Everything outside the stack was deleted."
    } else {
        "The system was deleted."
    });
    Ok(0)
}

/// What `--json` prints when everything was deleted.
#[derive(Serialize, JsonSchema)]
struct Summary<'a> {
    stack: &'a str,
    deleted_mount_targets: &'a [String],
    /// Resources that the stack kept: their kind and their id.
    retained: Vec<String>,
    /// The stack with the files; `null` with `--data`.
    kept_stack: Option<&'a str>,
}

/// The schema of `--json`.
pub fn schema() -> Schema {
    schema_for!(Summary<'_>)
}

/// # Errors
/// There is no terminal, or the user types something else.
fn confirm(what: &str, expected: &str) -> Result<()> {
    if !io::stdin().is_terminal() {
        bail!("stdin is not a terminal, so the command cannot ask for confirmation; give --yes");
    }
    eprint!("Type the {what} to continue: ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if answer.trim() != expected {
        bail!("the input does not match; nothing was changed");
    }
    Ok(())
}
