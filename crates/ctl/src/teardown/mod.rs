//! `efs-autoscale teardown`: takes a deployed system away. The mount targets that it has made are outside its stack and
//! block the stack's deletion; they are deleted first, and only those that its ledger names.
//!
//! Each step looks at what there is and may be repeated: a run that was ended anywhere is gone on with by the next.

mod plan;
mod steps;
mod system;

use std::{
    io::{self, IsTerminal, Write as _},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Result, bail};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use clap::{Args, value_parser};
use serde_json::json;

use self::{plan::Plan, system::System};
use crate::screen::Screen;

/// Exit status when something did not go away.
const LEFT: u8 = 1;
/// Exit status when there is no such system, or nobody agreed.
const FAILED: u8 = 2;
/// Exit status of a run that somebody ended.
const INTERRUPTED: u8 = 130;

/// What `--help` says below the options.
pub const HELP: &str = "\
In this order, and each step again when the command is run again:
  1. the schedule is paused, and executions that run are waited for
  2. the stack's service is scaled to nothing, so that nobody writes any more; one that is not the stack's is redeployed
     on the list without this system's targets
  3. mount targets that the ledger says this system has made are deleted, and no others
  4. the ledger and, with the stack's service, the published list are deleted
  5. the stack is deleted; what it retains (the file system, its key, its backups) is named at the end

It says first what it would do, and asks; --yes is for scripts. With --dry-run it says it and ends.

Exit status: 0 when all of it is gone, 1 when something is left (the last line says what), 2 when there is no such
system or nobody agreed, 130 when it was interrupted.

Examples:
  efs-autoscale teardown --dry-run
  efs-autoscale teardown --stack efs-mount-autoscaling --region ap-northeast-1 --yes";

/// Which system, and how.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The stack's name
    #[arg(long, default_value = "efs-mount-autoscaling", value_name = "NAME")]
    pub stack: String,
    /// Its region [default: that of the environment or the profile]
    #[arg(long, value_name = "REGION")]
    pub region: Option<String>,
    /// Say what would be done, and end
    #[arg(long)]
    pub dry_run: bool,
    /// Ask nobody
    #[arg(long)]
    pub yes: bool,
    /// Leave the stack itself: only what is outside of it goes
    #[arg(long)]
    pub keep_stack: bool,
    /// Also delete mount targets whose maker the ledger does not know for certain: an answer of EFS was lost
    #[arg(long)]
    pub uncertain: bool,
    /// The longest that one step is waited for
    #[arg(long, value_name = "SECONDS", default_value = "1800", value_parser = value_parser!(u64).range(1..=86_400))]
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
    scheduler: aws_sdk_scheduler::Client,
    sfn: aws_sdk_sfn::Client,
}

impl Clients {
    fn new(config: &SdkConfig) -> Self {
        Self {
            aws: aws::Aws::new(config),
            cloudformation: aws_sdk_cloudformation::Client::new(config),
            scheduler: aws_sdk_scheduler::Client::new(config),
            sfn: aws_sdk_sfn::Client::new(config),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
pub async fn run(options: Options) -> ExitCode {
    let screen = Screen::new(options.json);
    let mut loader = aws_config::defaults(BehaviorVersion::latest());
    if let Some(region) = options.region.clone() {
        loader = loader.region(Region::new(region));
    }
    let config = loader.load().await;
    if config.region().is_none() {
        eprintln!("efs-autoscale: --region: neither the environment (AWS_REGION) nor the profile says which");
        return ExitCode::from(FAILED);
    }
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
        Err(why) => {
            eprintln!("efs-autoscale: {why:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// The exit status.
///
/// # Errors
/// There is no such system, AWS does not answer, or nobody agreed.
pub(crate) async fn take_away(config: &SdkConfig, options: &Options, screen: &Screen) -> Result<u8> {
    let clients = Clients::new(config);
    let system = System::find(&clients, &options.stack).await?;
    let plan = Plan::of(&clients, &system, options.uncertain).await?;
    for line in plan.lines(&system, options) {
        screen.line(&line);
    }
    if options.dry_run {
        return Ok(0);
    }
    if !options.yes {
        agree(&options.stack)?;
    }
    let ended = steps::all(&clients, &system, options, screen).await;
    screen.rest();
    let (deleted, retained) = match ended {
        Ok(done) => done,
        Err(why) => {
            eprintln!("efs-autoscale: {why:#}; run it again to go on");
            return Ok(LEFT);
        }
    };
    for name in &retained {
        screen.line(&format!("  retained      {name}"));
    }
    if options.json {
        println!("{}", json!({"stack": options.stack, "deleted_mount_targets": deleted, "retained": retained}));
    }
    screen.line(if options.keep_stack { "All but the stack is gone." } else { "It is gone." });
    Ok(0)
}

/// # Errors
/// When nobody can be asked, or they say something else.
fn agree(stack: &str) -> Result<()> {
    if !io::stdin().is_terminal() {
        bail!("nobody can be asked here: --yes says that it is meant");
    }
    eprint!("Type the stack's name to go on: ");
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    if answer.trim() != stack {
        bail!("that is not its name; nothing was changed");
    }
    Ok(())
}
