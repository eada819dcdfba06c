//! The program `efs-autoscale-local`, which `efs-autoscale local` starts.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The system on this machine: no AWS account, no Docker, nothing but loopback
#[derive(Parser)]
#[command(name = "efs-autoscale local", bin_name = "efs-autoscale local", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run one cycle on a real directory, and a second one on what the first has changed
    #[command(after_help = local_world::RUN_HELP)]
    Run(local_world::Options),
    /// Make a system that stays up until Ctrl-C, to play with
    #[command(after_help = local_world::SERVE_HELP)]
    Serve(local_world::ServeOptions),
    /// Run many executions at once, and see how long they take and what they have made together
    #[command(after_help = local_world::LOAD_HELP)]
    Load(local_world::LoadOptions),
}

fn main() -> ExitCode {
    match Cli::parse().command {
        Command::Run(options) => local_world::run(options),
        Command::Serve(options) => local_world::serve(options),
        Command::Load(options) => local_world::load(options),
    }
}
