//! `efs-autoscale local serve`: a system on this machine that stays, to play with.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use aws_sdk_scheduler::types::{FlexibleTimeWindow, FlexibleTimeWindowMode, ScheduleState, Target};
use clap::{Args, value_parser};
use ctl::screen::Screen;
use domain::published::PublishedList;
use serde_json::json;

use super::{
    Spec, Tools, World,
    emulator::{ACCOUNT, REGION},
    page::{Page, Toys},
    service::Router,
    world::{ROLE, sdk_config},
};
use crate::run::{directory, interruption};

/// Exit status when it could not be started.
const FAILED: u8 = 2;

/// The emulator starts nothing by a schedule: it is there to be paused and resumed.
pub const SCHEDULE: &str = "efs-mount-autoscaling-schedule";

/// How often the file service looks for another list.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// What `--help` says below the options.
pub const SERVE_HELP: &str = "\
It makes the same world as `local run` and leaves it up until Ctrl-C: a file system with two mount targets, a directory to
count, the six functions, the state machine and a schedule, all in the emulator, and the real file service on a real NFS
server. It prints the address of a page that shows the state machine live, and on which files are created, executions
started and mount targets cut off; and the variables by which every command of efs-autoscale, and the AWS CLI, finds it. With --env FILE it also writes them there.

Exit status: 0 after Ctrl-C, 2 when it could not be started.

Examples:
  efs-autoscale local serve --files 1500 --threshold 1000 --env world.env
  . ./world.env && efs-autoscale status
  . ./world.env && efs-autoscale start --wait && efs-autoscale explain latest";

/// What the world is to be like.
#[derive(Args, Clone, Debug)]
pub struct ServeOptions {
    /// The directory to count; it is never written to [default: a fresh one, removed afterwards]
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "files")]
    dir: Option<PathBuf>,
    /// How many files to make in a fresh directory
    #[arg(long, value_name = "NUMBER", default_value = "1500", value_parser = value_parser!(u64).range(0..=20_000_000))]
    files: u64,
    /// More files than this are too many
    #[arg(long, value_name = "FILES", default_value = "1000")]
    threshold: u64,
    /// Availability Zones with a subnet each; the file system has targets in two of them
    #[arg(long, value_name = "NUMBER", default_value = "3", value_parser = value_parser!(u8).range(2..=6))]
    zones: u8,
    /// How long a new mount target is `creating`
    #[arg(long, value_name = "SECONDS", default_value = "5", value_parser = value_parser!(u64).range(0..=600))]
    delay: u64,
    /// The port of the page on 127.0.0.1; 0 for any that is free
    #[arg(long, value_name = "NUMBER", default_value = "0")]
    port: u16,
    /// Open the page in a browser
    #[arg(long)]
    open: bool,
    /// Write the variables into this file, for a shell
    #[arg(long, value_name = "FILE")]
    env: Option<PathBuf>,
    /// One JSON object on stdout when it is up, and progress on stderr
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tools: Tools,
}

/// Runs until somebody ends it, and leaves nothing behind.
#[tokio::main]
pub async fn serve(options: ServeOptions) -> ExitCode {
    let screen = Screen::new(options.json);
    let ended = tokio::select! {
        ended = stay(&options, &screen) => ended,
        _ = interruption() => Ok(()),
    };
    screen.rest();
    match ended {
        Ok(()) => {
            screen.line("everything that was started is ended");
            ExitCode::SUCCESS
        }
        Err(err) => {
            eprintln!("efs-autoscale: {err:#}");
            ExitCode::from(FAILED)
        }
    }
}

async fn stay(options: &ServeOptions, screen: &Screen) -> Result<()> {
    options.tools.check()?;
    // A fresh directory lives as long as the world.
    let (directory, made) = directory(options.dir.as_deref(), options.files, screen).await?;
    let spec = Spec {
        directory: directory.clone(),
        zones: options.zones.into(),
        mount_targets: 2,
        creation: Duration::from_secs(options.delay),
        poll_interval: 2,
        poll_timeout: options.delay + 60,
        wait_scale: 1.0,
        variables: vec![("FILE_COUNT_THRESHOLD".to_owned(), options.threshold.to_string())],
        stack: false,
    };
    let world = Arc::new(World::create(&options.tools, &spec, |step| screen.doing(step)).await?);
    create_schedule(&world).await.context("the schedule was not created")?;
    let endpoint = world.proxy.endpoint();
    let variables = [
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_REGION", REGION),
        ("AWS_ACCESS_KEY_ID", ACCOUNT),
        ("AWS_SECRET_ACCESS_KEY", "local"),
        ("EFS_AUTOSCALE_STATE_MACHINE", &world.state_machine),
        ("EFS_AUTOSCALE_SCHEDULE", SCHEDULE),
    ];
    let shell: String = variables.iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect();
    if let Some(path) = &options.env {
        std::fs::write(path, &shell).with_context(|| format!("--env {}", path.display()))?;
    }
    screen.doing("starting the file service");
    let list = world.published().await?.map(|(text, _)| PublishedList::parse(&text)).transpose()?;
    let list = list.context("nothing is published")?;
    let service = Router::start(&options.tools, &world, &list, spec.zones, Some(REFRESH_INTERVAL)).await?;
    let service_url = format!("http://{}/", service.address);
    let toys = Toys { directory: made.is_some().then(|| directory.clone()), service: Some(service) };
    let page = Page::serve(Arc::clone(&world), toys, options.threshold, options.port).await?;
    if options.open {
        page.open();
    }
    screen.rest();
    if options.json {
        let object: serde_json::Map<_, _> =
            variables.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        println!(
            "{}",
            json!({
                "variables": object,
                "directory": directory,
                "file_system": world.file_system,
                "page": page.url,
                "service": service_url,
            })
        );
    } else {
        screen.line(&format!("\nThe system is up. It counts {}.", directory.display()));
        screen.line(&format!("The page: {}\nThe file service: {service_url}\nIn another terminal:\n", page.url));
        screen.line(&shell);
        screen.line("efs-autoscale status\nefs-autoscale start --wait\n\nCtrl-C ends it.");
    }
    std::future::pending().await
}

async fn create_schedule(world: &World) -> Result<()> {
    let scheduler = aws_sdk_scheduler::Client::new(&sdk_config(world.endpoint()));
    let target = Target::builder().arn(&world.state_machine).role_arn(ROLE).input("{}").build()?;
    let window = FlexibleTimeWindow::builder().mode(FlexibleTimeWindowMode::Off).build()?;
    scheduler
        .create_schedule()
        .name(SCHEDULE)
        .schedule_expression("rate(5 minutes)")
        .flexible_time_window(window)
        .target(target)
        .state(ScheduleState::Enabled)
        .send()
        .await?;
    Ok(())
}
