//! `efs-autoscale completions` and `efs-autoscale man`: from the same source as `--help`.

use std::{fs, io, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_complete::Shell;

use super::FAILED;

/// For which shell.
#[derive(Args, Clone, Debug)]
pub struct CompletionsOptions {
    /// The shell
    shell: Shell,
}

/// What `--help` of `completions` says below the options.
pub const COMPLETIONS_HELP: &str = "\
Examples:
  efs-autoscale completions bash > ~/.local/share/bash-completion/completions/efs-autoscale
  efs-autoscale completions zsh > ~/.zfunc/_efs-autoscale
  efs-autoscale completions fish > ~/.config/fish/completions/efs-autoscale.fish";

/// Where to.
#[derive(Args, Clone, Debug)]
pub struct ManOptions {
    /// Write a page for each command into this directory [default: the page of the program, on stdout]
    directory: Option<PathBuf>,
}

/// What `--help` of `man` says below the options.
pub const MAN_HELP: &str = "\
Examples:
  efs-autoscale man | man -l -
  efs-autoscale man ~/.local/share/man/man1";

pub fn run_completions(options: &CompletionsOptions, mut command: Command) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut command, "efs-autoscale", &mut script);
    // A reader that has gone away ends nothing.
    let _ = io::Write::write_all(&mut io::stdout(), &script);
    ExitCode::SUCCESS
}

pub fn run_man(options: &ManOptions, command: Command) -> ExitCode {
    match man(options, command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("efs-autoscale: {err:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn man(options: &ManOptions, command: Command) -> Result<()> {
    if let Some(directory) = &options.directory {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
        return clap_mangen::generate_to(command, directory).with_context(|| directory.display().to_string());
    }
    let mut page = Vec::new();
    clap_mangen::Man::new(command).render(&mut page)?;
    let _ = io::Write::write_all(&mut io::stdout(), &page);
    Ok(())
}
