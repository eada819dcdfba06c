//! The command-line program `efs-autoscale`.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    process::{self, ExitCode},
};

use clap::{Parser, Subcommand};
use ctl::{bench, count, preflight, teardown};

/// Operates the EFS mount target autoscaler.
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
    /// Measure one mount target, and the gain of each further one
    #[command(after_help = bench::HELP)]
    Bench(bench::Options),
    /// Check what the mount targets of a file system support, and print a report
    #[command(after_help = probe::HELP)]
    Probe(probe::Options),
    /// Check the account before a deployment
    #[command(after_help = preflight::HELP)]
    Preflight(preflight::Options),
    /// Remove a deployed system: the mount targets that it created, then its stack
    #[command(after_help = teardown::HELP)]
    Teardown(teardown::Options),
    /// Run the system on this machine: no AWS account, no Docker, loopback only
    #[command(disable_help_flag = true)]
    Local {
        /// Commands and options of `efs-autoscale-local`, a separate program next to this one
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

/// Replaces this process by `efs-autoscale-local`, a separate program so that operators need not install the emulator
/// and the NFS server.
fn local(arguments: &[OsString]) -> ExitCode {
    const PROGRAM: &str = "efs-autoscale-local";
    let sibling = std::env::current_exe().ok().map(|this| this.with_file_name(PROGRAM)).filter(|path| path.exists());
    let err = process::Command::new(sibling.unwrap_or_else(|| PROGRAM.into())).args(arguments).exec();
    eprintln!("efs-autoscale: cannot start {PROGRAM}: {err}; `make build-local` builds it");
    ExitCode::from(2)
}
