//! The program `file-service`.

mod route;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Routes every file access to one EFS mount target by a hash of the file's path.
#[derive(Parser)]
#[command(name = "file-service", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve files over HTTP until SIGTERM; everything is set by variables
    #[command(after_help = file_service::VARIABLES, after_long_help = file_service::VARIABLES)]
    Serve,
    /// Ask the service whether it answers, as a container's health check does: status 0 when it does
    #[command(after_help = file_service::HEALTHY, after_long_help = file_service::HEALTHY)]
    Healthy,
    /// Ask the mount targets of a file system what they do, and print a report: `make probe` runs it as a task
    #[command(after_help = probe::HELP)]
    Probe(probe::Options),
    /// Say which target each path belongs to; touches no file
    #[command(after_help = route::HELP)]
    Route(route::Options),
}

fn main() -> ExitCode {
    let variable = |name: &str| std::env::var_os(name).map(|value| value.into_string().unwrap_or_default());
    match Cli::parse().command {
        Command::Serve => file_service::serve(&variable),
        Command::Healthy => file_service::healthy(&variable),
        Command::Probe(options) => probe::run(options),
        Command::Route(options) => route::run(options),
    }
}
