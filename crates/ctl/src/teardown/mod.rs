//! `efs-autoscale teardown`: takes a deployed system away. The mount targets that it has made are outside its stack and
//! block the stack's deletion; they are deleted first, and only those that its ledger names.
//!
//! Each step looks at what there is and may be repeated: a run that was ended anywhere is gone on with by the next.

mod left_to_others;
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
use serde_json::json;

use self::{plan::Plan, system::System};
use crate::{account, screen::Screen};

/// Exit status when something did not go away.
const INCOMPLETE: u8 = 1;
/// Exit status when there is no such system, or nobody agreed.
const FAILED: u8 = 2;
/// Exit status of a run that somebody ended.
const INTERRUPTED: u8 = 130;

/// What `--help` says below the options.
pub const HELP: &str = "\
In this order, and each step again when the command is run again:
  1. the schedule is paused, and executions that run are waited for
  2. the stack's service is scaled to nothing, so that nobody writes any more; one that is not the stack's is redeployed
     on the list without this system's targets, which stay until it runs on that
  3. mount targets that the ledger says this system has made are deleted, and no others
  4. the ledger and, with the stack's service, the published list are deleted
  5. the stack is deleted, whatever state it is in. The stack NAME-data with the files stays
  6. with --data that one is deleted too, with the file system, its key and its network. A vault with backups in it stays,
     with its key, and the last lines say what deletes it

It says first what it would do, and asks; --yes is for scripts. With --dry-run it says it and ends.

Exit status: 0 when all of it is gone, 1 when something is left (the last line says what), 2 when there is no such
system or nobody agreed, 130 when it was interrupted.

Examples:
  efs-autoscale teardown --dry-run
  efs-autoscale teardown --stack efs-mount-autoscaling --region ap-northeast-1 --yes
  efs-autoscale teardown --data";

/// Which system, and how.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The stack's name
    #[arg(long, default_value = "efs-mount-autoscaling", value_name = "NAME", value_parser = account::stack_name)]
    pub stack: String,
    /// Its region [default: that of the environment or the profile]
    #[arg(long, value_name = "REGION", value_parser = NonEmptyStringValueParser::new())]
    pub region: Option<String>,
    /// Say what would be done, and end
    #[arg(long)]
    pub dry_run: bool,
    /// Ask nobody
    #[arg(long)]
    pub yes: bool,
    /// Leave the stack itself: only what is outside of it goes
    #[arg(long, conflicts_with = "data")]
    pub keep_stack: bool,
    /// Also delete the stack with the data: the file system and all files in it
    #[arg(long)]
    pub data: bool,
    /// The name of the published list, where no stack says it any more
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pub parameter: Option<String>,
    /// A service that is not the stack's uses this system's targets no more: do not ask ECS
    #[arg(long)]
    pub service_is_off: bool,
    /// Also delete mount targets whose maker the ledger does not know for certain: an answer of EFS was lost
    #[arg(long)]
    pub uncertain: bool,
    /// The longest that one step is waited for: the network interfaces of functions alone take up to 45 minutes
    #[arg(long, value_name = "SECONDS", default_value = "3600", value_parser = value_parser!(u64).range(1..=86_400))]
    pub wait: u64,
    /// One JSON object on stdout, and progress on stderr
    #[arg(long)]
    pub json: bool,
}

impl Options {
    fn wait(&self) -> Duration {
        Duration::from_secs(self.wait)
    }
}

/// AWS, by what the environment says of credentials and region.
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
    let ended = tokio::select! {
        ended = take_away(&config, &options, &screen) => ended,
        _ = tokio::signal::ctrl_c() => {
            screen.rest();
            eprintln!("efs-autoscale: interrupted; run it again to go on");
            return ExitCode::from(INTERRUPTED);
        }
    };
    screen.rest();
    match ended {
        Ok(code) => ExitCode::from(code),
        Err(err) => {
            eprintln!("efs-autoscale: {err:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// The exit status.
///
/// # Errors
/// There is no such system, AWS does not answer, or nobody agreed.
pub async fn take_away(config: &SdkConfig, options: &Options, screen: &Screen) -> Result<u8> {
    let clients = Clients::new(config);
    let system = System::find(&clients, options).await?;
    let plan = Plan::of(&clients, &system, options.uncertain).await?;
    for line in plan.lines(&system, options) {
        screen.line(&line);
    }
    if options.dry_run {
        return Ok(0);
    }
    // Before anything is deleted: a stack that is half deleted is harder to understand than this line.
    if let Err(err) = steps::none_blocks(&system, &plan, options) {
        eprintln!("efs-autoscale: {err:#}; nothing was changed");
        return Ok(INCOMPLETE);
    }
    if !options.yes {
        match system.file_system.as_ref().filter(|_| system.deletes_file_system(options)) {
            Some(id) if options.data => agree("file system's id", id.as_str())?,
            _ => agree("stack's name", &options.stack)?,
        }
    }
    let ended = steps::all(&clients, &system, options, screen).await;
    screen.rest();
    let done = match ended {
        Ok(done) => done,
        Err(err) => {
            eprintln!("efs-autoscale: {err:#}; run it again to go on");
            return Ok(INCOMPLETE);
        }
    };
    for left in &done.retained {
        screen.line(&format!("  retained      {} {}: {}", left.kind, left.id, left.command()));
    }
    let kept = system.data.as_ref().filter(|_| !options.data).map(|stack| stack.name.as_str());
    if let Some(name) = kept {
        screen.line(&format!(
            "  kept          the stack {name}: `make destroy DATA=1` or --data deletes it with its files"
        ));
    }
    if options.json {
        let retained: Vec<_> = done.retained.iter().map(|left| format!("{} {}", left.kind, left.id)).collect();
        let said = json!({
            "stack": options.stack, "deleted_mount_targets": done.deleted, "retained": retained, "kept_stack": kept,
        });
        println!("{said}");
    }
    screen.line(if options.keep_stack { "All but the stack is gone." } else { "It is gone." });
    Ok(0)
}

/// # Errors
/// When nobody can be asked, or they say something else.
fn agree(what: &str, expected: &str) -> Result<()> {
    if !io::stdin().is_terminal() {
        bail!("nobody can be asked here: --yes says that it is meant");
    }
    eprint!("Type the {what} to go on: ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if answer.trim() != expected {
        bail!("that is not it; nothing was changed");
    }
    Ok(())
}
