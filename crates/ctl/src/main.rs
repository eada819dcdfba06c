//! The program `efs-autoscale`.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    process::{self, ExitCode},
};

use clap::{Parser, Subcommand};
use ctl::{bench, count, preflight, teardown};

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
    #[command(disable_help_flag = true)]
    Local {
        /// Commands and options of `efs-autoscale-local`, a program of its own beside this one
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Count(options) => count::run(&options),
        Command::Bench(options) => bench::run(options),
        Command::Probe(options) => probe::run(options),
        Command::Preflight(options) => preflight::run(options),
        Command::Teardown(options) => teardown::run(options),
        Command::Local { arguments } => local(&arguments),
    }
}

/// Becomes `efs-autoscale-local`: the emulator and the NFS server that it runs are no part of what operators install.
fn local(arguments: &[OsString]) -> ExitCode {
    const PROGRAM: &str = "efs-autoscale-local";
    let beside = std::env::current_exe().ok().map(|this| this.with_file_name(PROGRAM)).filter(|path| path.exists());
    let err = process::Command::new(beside.unwrap_or_else(|| PROGRAM.into())).args(arguments).exec();
    eprintln!("efs-autoscale: {PROGRAM} cannot be started: {err}; `make build-local` builds it");
    ExitCode::from(2)
}
