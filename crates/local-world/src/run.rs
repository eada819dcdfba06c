//! `efs-autoscale local run`: one cycle on a real directory, a second one on what the first changed, and the file
//! service on the list that they have published.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::{Args, value_parser};
use serde_json::json;
use tempfile::TempDir;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    Spec, Tools, World, execution, files,
    page::{Page, Toys},
    report::{Cycle, Outcome, Picture, StackOutcome},
    service,
    stack::NAME,
    world::sdk_config,
};
use ctl::{screen::Screen, teardown};

/// Exit status of a run that did not end as expected.
const UNEXPECTED: u8 = 1;
/// Exit status of a run that could not start.
const FAILED: u8 = 2;
/// Exit status of an interrupted run.
const INTERRUPTED: u8 = 130;

/// Timeout of each step of a teardown in the emulator.
const TEARDOWN_SECONDS: u64 = 60;

/// What `--help` says below the options.
pub const RUN_HELP: &str = "\
Counts the directory with the real function, decides, adds a mount target to an emulated file system when there
are too many files, publishes the list of targets, redeploys an emulated service; then does it all again and
shows that the new world needs nothing, or the next step. Then the real file service starts on the published list,
without a mount and without a privilege, on a real NFS server behind an address for each target (with NFS-Ganesha
installed and as root; else on one directory that stands for all of them). Files are written, read back and compared,
one target is cut off meanwhile, and the share of each is drawn. With --stack all of it runs in what CDK has deployed
of cdk/, and that is taken away at the end. The last line is `result: {…}`, in JSON.

Exit status: 0 when all of it ended as expected, 1 when something did not, 2 when the run could not be made, 130 when
it was interrupted.

Examples:
  efs-autoscale local run --files 5000 --threshold 1000 --delay 3
  efs-autoscale local run --stack
  efs-autoscale local run --dir /usr/share --threshold 1000 --zones 4";

/// Options of a run.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The directory to count; it is never written to [default: a fresh one, removed afterwards]
    #[arg(long, value_name = "DIRECTORY", conflicts_with = "files")]
    dir: Option<PathBuf>,
    /// How many files to make in a fresh directory
    #[arg(long, value_name = "NUMBER", default_value = "150000", value_parser = value_parser!(u64).range(0..=20_000_000))]
    files: u64,
    /// More files than this are too many
    #[arg(long, value_name = "FILES", default_value = "100000")]
    threshold: u64,
    /// Availability Zones with a subnet each; the file system has targets in two of them
    #[arg(long, value_name = "NUMBER", default_value = "3", value_parser = value_parser!(u8).range(2..=6))]
    zones: u8,
    /// How long a new mount target is `creating`
    #[arg(long, value_name = "SECONDS", default_value = "15", value_parser = value_parser!(u64).range(0..=600))]
    delay: u64,
    /// Show the run on a page in a browser, which stays until Ctrl-C
    #[arg(long)]
    open: bool,
    /// Deploy the stack of cdk/ into the emulator with the real CDK, run in that, and take it away at the end
    #[arg(long)]
    stack: bool,
    /// One JSON object on stdout, and progress on stderr
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tools: Tools,
}

/// Runs and leaves nothing behind in any case.
#[tokio::main]
pub async fn run(options: Options) -> ExitCode {
    let screen = Screen::new(options.json);
    // The first to end drops the other, and with it the world and all its processes.
    let code = tokio::select! {
        outcome = cycles(&options, &screen) => match outcome {
            Ok(true) => 0,
            Ok(false) => UNEXPECTED,
            Err(err) => {
                screen.rest();
                eprintln!("efs-autoscale: {err:#}");
                FAILED
            }
        },
        signal = interruption() => {
            screen.rest();
            eprintln!("efs-autoscale: {signal}; everything that was started is ended");
            INTERRUPTED
        }
    };
    ExitCode::from(code)
}

/// Waits for SIGINT, SIGTERM or SIGHUP.
pub(crate) async fn interruption() -> &'static str {
    let (Ok(mut terminate), Ok(mut hang_up)) = (signal(SignalKind::terminate()), signal(SignalKind::hangup())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => "interrupted",
        _ = terminate.recv() => "terminated",
        _ = hang_up.recv() => "hung up",
    }
}

/// # Errors
/// A cycle could not run. `Ok(false)`: a cycle did not end as expected.
async fn cycles(options: &Options, screen: &Screen) -> Result<bool> {
    options.tools.check()?;
    ensure!(!options.stack || options.zones <= 3, "--zones: the emulator has three zones for a stack");
    let (directory, made) = directory(options.dir.as_deref(), options.files, screen).await?;
    let files = made.as_ref().map(|_| options.files);
    let spec = Spec {
        directory,
        zones: options.zones.into(),
        mount_targets: 2,
        creation: Duration::from_secs(options.delay),
        poll_interval: 2,
        poll_timeout: options.delay + 60,
        wait_scale: 1.0,
        variables: vec![("FILE_COUNT_THRESHOLD".to_owned(), options.threshold.to_string())],
        stack: options.stack,
    };
    let world = Arc::new(World::create(&options.tools, &spec, |step| screen.doing(step)).await?);
    let page = match options.open {
        true => Some(Page::serve(Arc::clone(&world), Toys::default(), options.threshold, 0).await?),
        false => None,
    };
    if let Some(page) = &page {
        screen.line(&format!("The page: {}", page.url));
        page.open();
    }

    let mut surprises = Vec::new();
    let mut stack = None;
    if world.stack.is_some() {
        screen.line("\nAn execution that publishes the targets of the stack");
        let publishing = cycle(&world, &spec, screen).await?;
        surprises.extend(publishing.surprises_of_publishing().into_iter().map(|err| format!("publishing: {err}")));
        stack = Some(StackOutcome { publishing: publishing.summary(), left: vec![] });
    }
    screen.line("\nFirst execution");
    let first = cycle(&world, &spec, screen).await?;
    screen.line("\nSecond execution, in the world that the first has left");
    let second = cycle(&world, &spec, screen).await?;
    screen.line("\nThe file service, on the list that is published now");
    let before = first.before.published.as_ref().map(|(text, _)| text.as_str());
    let served = service::serve(&options.tools, &world, before, screen).await?;
    screen.rest();
    for line in served.lines() {
        screen.line(&line);
    }

    let titled = |name: &'static str, cycle: &Cycle| {
        cycle.surprises(&spec, options.threshold, files).into_iter().map(move |surprise| format!("{name}: {surprise}"))
    };
    surprises
        .extend(titled("first execution", &first).chain(titled("second execution", &second)).chain(served.surprises()));
    if let Some(stack) = &mut stack {
        screen.line("\nTaking the stack away");
        stack.left = take_away(&world, screen).await?;
        surprises.extend(stack.left.iter().map(|left| format!("taking away: {left} is left")));
    }
    screen.line("");
    for surprise in &surprises {
        screen.line(&format!("NOT AS EXPECTED  {surprise}"));
    }
    let as_expected = surprises.is_empty();
    let outcome = Outcome { first: first.summary(), next: second.summary(), service: served, stack, as_expected };
    println!("{}{}", if options.json { "" } else { "result: " }, serde_json::to_string(&outcome)?);
    if page.is_some() {
        screen.line("The page stays until Ctrl-C.");
        interruption().await;
    }
    Ok(surprises.is_empty())
}

/// The directory to count, and its guard if it is ours.
pub(crate) async fn directory(given: Option<&Path>, files: u64, screen: &Screen) -> Result<(PathBuf, Option<TempDir>)> {
    if let Some(directory) = given {
        let absolute = directory.canonicalize().with_context(|| format!("--dir {}", directory.display()))?;
        ensure!(absolute.is_dir(), "--dir {}: not a directory", directory.display());
        return Ok((absolute, None));
    }
    screen.doing(&format!("making {files} files"));
    let (wanted, stop) = (files, Arc::new(AtomicBool::new(false)));
    let _stop_when_dropped = SetWhenDropped(Arc::clone(&stop));
    let (sender, mut so_far) = tokio::sync::watch::channel(0);
    let making = tokio::task::spawn_blocking(move || {
        files::make(wanted, |files| {
            sender.send_replace(files);
            !stop.load(Ordering::Relaxed)
        })
    });
    while so_far.changed().await.is_ok() {
        screen.detail(format!("making files: {} of {wanted}", *so_far.borrow_and_update()));
    }
    let made = making.await??;
    Ok((made.path().canonicalize()?, Some(made)))
}

/// Tells a blocking thread to stop.
struct SetWhenDropped(Arc<AtomicBool>);

impl Drop for SetWhenDropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Removes the stack; returns what is left of it and of what was created outside of it.
async fn take_away(world: &World, screen: &Screen) -> Result<Vec<String>> {
    let options = teardown::Options {
        stack: NAME.to_owned(),
        region: None,
        dry_run: false,
        yes: true,
        keep_stack: false,
        data: true,
        parameter: None,
        service_is_off: false,
        uncertain: false,
        wait: TEARDOWN_SECONDS,
        json: false,
    };
    teardown::take_away(&sdk_config(world.proxy.endpoint()), &options, screen).await?;
    world.left().await
}

async fn cycle(world: &World, spec: &Spec, screen: &Screen) -> Result<Cycle> {
    let before = Picture::of(world).await?;
    screen.doing("starting");
    let mut waiting = false;
    let began = Instant::now();
    let execution = execution::run(world, &json!({}), |state| {
        let waits = matches!(state, "WaitForTarget" | "PollAvailable" | "TargetReady");
        if waits && waiting {
            return;
        }
        screen.event(state);
        match waits {
            true => screen.waiting("the new target is creating", spec.creation),
            false => screen.detail(state.to_owned()),
        }
        waiting = waits;
    })
    .await?;
    screen.event(&execution.status);
    let seconds = began.elapsed().as_secs_f64();
    let cycle = Cycle { before, execution, seconds, after: Picture::of(world).await? };
    for line in cycle.lines() {
        screen.line(&line);
    }
    Ok(cycle)
}
