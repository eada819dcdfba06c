//! `efs-autoscale local load`: many concurrent executions on the emulator, their duration, and whether the result equals
//! that of sequential executions.

use std::{
    collections::BTreeSet,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::{Args, value_parser};
use domain::{published::PublishedList, record::Execution};
use serde_json::json;
use tokio::task::JoinSet;

use super::{Spec, Tools, World, execution};
use ctl::screen::Screen;

/// Exit status when the result is wrong or an execution failed.
const UNEXPECTED: u8 = 1;
/// Exit status when it could not be run.
const FAILED: u8 = 2;

const ZONES: usize = 6;

/// What `--help` says below the options.
pub const LOAD_HELP: &str = "\
Starts so many executions of the state machine at once, with the real functions, on a file system with one mount target and
zones for five more, over and over until nothing is left to do. Prints within which time half, 90 and 99 % of them end, and
holds the world against what executions one after the other would have made: at most one target in each zone, the published
list that of the targets, each target in the ledger, and the service redeployed for the list.

The emulator and all functions share this machine: the times are of this machine, and not of AWS.

Exit status: 0, 1 when an execution failed or the world is not as it should be, 2 when it could not be run.

Examples:
  efs-autoscale local load
  efs-autoscale local load --executions 50 --json";

/// How much of it.
#[derive(Args, Clone, Debug)]
pub struct LoadOptions {
    /// Executions at once
    #[arg(long, value_name = "NUMBER", default_value = "10", value_parser = value_parser!(u8).range(1..=100))]
    executions: u8,
    /// One JSON object on stdout, and progress on stderr
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    tools: Tools,
}

#[tokio::main]
pub async fn load(options: LoadOptions) -> ExitCode {
    let screen = Screen::new(options.json);
    let ended = tokio::select! {
        ended = rounds(&options, &screen) => ended,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted; everything that was started is ended")),
    };
    screen.rest();
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(UNEXPECTED),
        Err(err) => {
            eprintln!("efs-autoscale: {err:#}");
            ExitCode::from(FAILED)
        }
    }
}

/// Runs the rounds; returns whether everything is as expected.
async fn rounds(options: &LoadOptions, screen: &Screen) -> Result<bool> {
    options.tools.check()?;
    let folder = tempfile::tempdir()?;
    let directory = folder.path().join("files");
    std::fs::create_dir(&directory)?;
    for number in 0..20 {
        std::fs::write(directory.join(number.to_string()), "content")?;
    }
    let spec = Spec {
        directory,
        zones: ZONES,
        mount_targets: 1,
        creation: Duration::from_secs(1),
        poll_interval: 2,
        poll_timeout: 120,
        wait_scale: 0.2,
        variables: vec![("FILE_COUNT_THRESHOLD".to_owned(), "10".to_owned())],
        stack: false,
    };
    let world = Arc::new(World::create(&options.tools, &spec, |step| screen.doing(step)).await?);
    let (mut seconds, mut failed) = (Vec::new(), Vec::new());
    for round in 1.. {
        screen.doing(&format!("round {round}: {} executions at once", options.executions));
        let ended = at_once(&world, options.executions).await?;
        seconds.extend(ended.iter().map(|(_, seconds)| *seconds));
        failed.extend(ended.iter().map(|(one, _)| one).filter(|one| one.status != "SUCCEEDED").map(|one| {
            format!("{}: {}", one.error.as_deref().unwrap_or(&one.status), one.cause.as_deref().unwrap_or_default())
        }));
        let at_rest = ended.iter().all(|(one, _)| one.reason().is_some());
        // One round per zone, and one to see that nothing is left to do.
        if at_rest || round > ZONES + 4 {
            break;
        }
    }
    let wrong = wrong(&world).await?;
    seconds.sort_by(f64::total_cmp);
    let within = |share: f64| {
        let index = ((seconds.len() as f64 * share).ceil() as usize).clamp(1, seconds.len()) - 1;
        seconds[index]
    };
    let [p50, p90, p99] = [0.5, 0.9, 0.99].map(within);
    for line in failed.iter().chain(&wrong) {
        screen.line(&format!("  ✗ {line}"));
    }
    screen.line(&format!(
        "{} executions, {} at once: half within {p50:.1} s, 90 % within {p90:.1} s, 99 % within {p99:.1} s; {} failed",
        seconds.len(),
        options.executions,
        failed.len()
    ));
    if options.json {
        let object = json!({
            "executions": seconds.len(), "at_once": options.executions, "failed": failed, "wrong": wrong,
            "p50_seconds": p50, "p90_seconds": p90, "p99_seconds": p99,
        });
        println!("{object}");
    }
    Ok(failed.is_empty() && wrong.is_empty())
}

async fn at_once(world: &Arc<World>, executions: u8) -> Result<Vec<(Execution, f64)>> {
    let mut tasks = JoinSet::new();
    for _ in 0..executions {
        let world = Arc::clone(world);
        tasks.spawn(async move {
            let began = Instant::now();
            let execution = execution::run(&world, &json!({}), |_| {}).await?;
            anyhow::Ok((execution, began.elapsed().as_secs_f64()))
        });
    }
    let mut ended = Vec::new();
    while let Some(one) = tasks.join_next().await {
        ended.push(one??);
    }
    Ok(ended)
}

/// Deviations from the result of sequential executions.
async fn wrong(world: &World) -> Result<Vec<String>> {
    let targets = world.targets().await?;
    let mut wrong = Vec::new();
    let mut expect = |holds: bool, what: &str| {
        if !holds {
            wrong.push(what.to_owned());
        }
    };
    let zones: BTreeSet<_> = targets.iter().map(|target| &target.zone).collect();
    expect(zones.len() == targets.len(), "a zone has two targets");
    expect(targets.len() == ZONES, "a zone that could have a target has none");
    let (text, _) = world.published().await?.context("nothing is published")?;
    let list = PublishedList::parse(&text)?;
    expect(Some(&list) == PublishedList::of(&targets, None).as_ref(), "the published list is not that of the targets");
    let deployed = world.deployed().await?;
    let is_deployed = deployed.is_some_and(|fact| fact.started && fact.fingerprint == list.fingerprint());
    expect(is_deployed, "the service was not redeployed for the published list");
    for target in &targets[1..] {
        let known = world.created(&target.zone).await?;
        expect(
            known.is_some_and(|fact| fact.mount_target_id == target.id),
            &format!("the ledger does not know {}", target.id),
        );
    }
    Ok(wrong)
}
