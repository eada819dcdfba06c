//! The program `efs-autoscale`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ctl::{bench, count, local, preflight, teardown};

/// Looks after the EFS mount target autoscaler.
#[derive(Parser)]
#[command(name = "efs-autoscale", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Count the files below a directory, as the function `count` does
    #[command(after_help = count::HELP)]
    Count(count::Options),
    /// Measure what one mount target does, and what each further one brings
    #[command(after_help = bench::HELP)]
    Bench(bench::Options),
    /// Ask the mount targets of a file system what they do, and print a report
    #[command(after_help = probe::HELP)]
    Probe(probe::Options),
    /// Look at the account that a system is to be deployed into
    #[command(after_help = preflight::HELP)]
    Preflight(preflight::Options),
    /// Take a deployed system away: the mount targets that it has made, then its stack
    #[command(after_help = teardown::HELP)]
    Teardown(teardown::Options),
    /// The system on this machine: no AWS account, no Docker, nothing but loopback
    #[command(subcommand)]
    Local(Local),
}

#[derive(Subcommand)]
enum Local {
    /// Run one cycle on a real directory, and a second one on what the first has changed
    #[command(after_help = local::RUN_HELP)]
    Run(local::Options),
    /// Run many executions at once, and see how long they take and what they have made together
    #[command(after_help = local::LOAD_HELP)]
    Load(local::LoadOptions),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Count(options) => count::run(&options),
        Command::Bench(options) => bench::run(options),
        Command::Probe(options) => probe::run(options),
        Command::Preflight(options) => preflight::run(options),
        Command::Teardown(options) => teardown::run(options),
        Command::Local(Local::Run(options)) => local::run(options),
        Command::Local(Local::Load(options)) => local::load(options),
    }
}
