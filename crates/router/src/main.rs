//! The program `router`.

mod route;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Routes every file access to one EFS mount target by a hash of the file's path.
#[derive(Parser)]
#[command(name = "router", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve files over HTTP until SIGTERM; everything is set by variables
    #[command(after_help = router::service::VARIABLES, after_long_help = router::service::VARIABLES)]
    Serve,
    /// Say which target each path belongs to; touches no file
    #[command(after_help = route::HELP)]
    Route(route::Options),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Serve => {
            let variable = |name: &str| std::env::var_os(name).map(|value| value.into_string().unwrap_or_default());
            router::service::serve(&variable)
        }
        Command::Route(options) => route::run(options),
    }
}
