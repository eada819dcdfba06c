//! The command-line program `efs-autoscale`.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    process::{self, ExitCode},
};

use clap::{CommandFactory as _, Parser, Subcommand};
use ctl::{bench, count, operator, preflight, teardown};

/// Operates the EFS mount target autoscaler.
#[derive(Parser)]
#[command(name = "efs-autoscale", version, propagate_version = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Is it well now? Files, mount targets, the published list, the service, the schedule, alarms, cost
    #[command(after_help = operator::status::HELP)]
    Status(operator::status::Options),
    /// What an execution would do now, and why; changes nothing
    #[command(after_help = operator::plan::HELP)]
    Plan(operator::plan::Options),
    /// Start an execution; with --wait, follow it state by state
    #[command(after_help = operator::start::HELP)]
    Start(operator::start::Options),
    /// Every execution, those that did nothing too, with its reason
    #[command(after_help = operator::history::HELP)]
    History(operator::history::Options),
    /// One execution in sentences: what was observed, decided and done, what failed, and what to do now
    #[command(after_help = operator::explain::HELP)]
    Explain(operator::explain::Options),
    /// Is it set up right? Each check is ok, or a problem with how it is fixed
    #[command(after_help = operator::doctor::HELP)]
    Doctor(operator::doctor::Options),
    /// Let the schedule start no executions
    #[command(after_help = operator::pause::PAUSE_HELP)]
    Pause(operator::pause::PauseOptions),
    /// Let the schedule start executions again
    #[command(after_help = operator::pause::RESUME_HELP)]
    Resume(operator::pause::ResumeOptions),
    /// What an operator's role needs, as an IAM policy
    #[command(after_help = operator::permissions::HELP)]
    Permissions(operator::permissions::Options),
    /// Count the files below a directory, as the function `count` does
    #[command(after_help = count::HELP)]
    Count(count::Options),
    /// Measure one mount target, and the gain of each further one
    #[command(after_help = bench::HELP)]
    Bench(bench::Options),
    /// Check what the mount targets of a file system support, and print a report
    #[command(after_help = probe::HELP)]
    Probe(probe::Options),
    /// Check the account before a deployment; lifts the termination protection of a stack whose creation failed
    #[command(after_help = preflight::HELP)]
    Preflight(preflight::Options),
    /// Remove a deployed system: the mount targets that it created, then its stack
    #[command(after_help = teardown::HELP)]
    Teardown(teardown::Options),
    /// Explain a code: an error, a warning, a reason, an alarm; or the use of a command
    #[command(after_help = operator::help::HELP)]
    Help(operator::help::Options),
    /// What a command prints with --json, as a JSON Schema
    #[command(after_help = operator::schema::HELP)]
    Schema(operator::schema::Options),
    /// Completions for a shell
    #[command(after_help = operator::shell::COMPLETIONS_HELP)]
    Completions(operator::shell::CompletionsOptions),
    /// The manual pages
    #[command(after_help = operator::shell::MAN_HELP)]
    Man(operator::shell::ManOptions),
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
        Command::Status(options) => operator::status::run(options),
        Command::Plan(options) => operator::plan::run(options),
        Command::Start(options) => operator::start::run(options),
        Command::History(options) => operator::history::run(options),
        Command::Explain(options) => operator::explain::run(options),
        Command::Doctor(options) => operator::doctor::run(options),
        Command::Pause(options) => operator::pause::run_pause(options),
        Command::Resume(options) => operator::pause::run_resume(options),
        Command::Permissions(options) => operator::permissions::run(&options),
        Command::Count(options) => count::run(&options),
        Command::Bench(options) => bench::run(options),
        Command::Probe(options) => probe::run(options),
        Command::Preflight(options) => preflight::run(options),
        Command::Teardown(options) => teardown::run(options),
        Command::Help(options) => help(&options),
        Command::Schema(options) => operator::schema::run(&options),
        Command::Completions(options) => operator::shell::run_completions(&options, Cli::command()),
        Command::Man(options) => operator::shell::run_man(&options, Cli::command()),
        Command::Local { arguments } => local(&arguments),
    }
}

/// The help of a command of this name, else the meaning of a code.
fn help(options: &operator::help::Options) -> ExitCode {
    let command = options.code.as_deref().and_then(|name| Cli::command().find_subcommand_mut(name).cloned());
    let Some(command) = command else { return operator::help::run(options) };
    let name = format!("efs-autoscale {}", command.get_name());
    let mut command = command.bin_name(name);
    // As `efs-autoscale COMMAND --help`; a reader that has gone away ends nothing.
    let _ = command.print_long_help();
    ExitCode::SUCCESS
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
