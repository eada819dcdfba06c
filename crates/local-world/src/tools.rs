//! The programs that a local world needs, and their paths.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use clap::Args;

/// Paths of the programs. `make` sets all of them.
#[derive(Args, Clone, Debug)]
pub struct Tools {
    /// The emulator: the program `ministack`
    #[arg(long, env = "MINISTACK", default_value = "ministack", value_name = "PROGRAM", help_heading = "Tools")]
    pub ministack: PathBuf,
    /// What deploys the functions: the program `cargo-lambda`
    #[arg(long, env = "CARGO_LAMBDA", default_value = "cargo-lambda", value_name = "PROGRAM", help_heading = "Tools")]
    pub cargo_lambda: PathBuf,
    /// Where the binaries of the functions and of the file service are [default: beside this program]
    #[arg(long, value_name = "DIRECTORY", help_heading = "Tools")]
    pub functions: Option<PathBuf>,
    /// What deploys the stack: the program `cdk` [default: the one installed in the project's cdk/]
    #[arg(long, env = "CDK", value_name = "PROGRAM", help_heading = "Tools")]
    pub cdk: Option<PathBuf>,
    /// The project's checkout, for what its functions say of their deployment
    #[arg(long, default_value = ".", value_name = "DIRECTORY", help_heading = "Tools")]
    pub project: PathBuf,
}

/// Every function: its folder, package, binary and state have this name.
pub const FUNCTIONS: [&str; 6] = ["count", "evaluate", "create-target", "poll-available", "publish-ssm", "redeploy"];

/// The file service.
pub const FILE_SERVICE: &str = "file-service";

impl Tools {
    /// Checks that everything exists before anything starts.
    ///
    /// # Errors
    /// The first missing program, and how to install it.
    pub fn check(&self) -> Result<()> {
        for (flag, program) in [("--ministack", &self.ministack), ("--cargo-lambda", &self.cargo_lambda)] {
            if !is_program(program) {
                bail!("{flag}: there is no program {}; `make tools` installs it", program.display());
            }
        }
        for program in FUNCTIONS.into_iter().chain([FILE_SERVICE]) {
            let binary = self.binary(program)?;
            if !binary.is_file() {
                bail!("--functions: there is no binary {}; `make build-local` builds it", binary.display());
            }
        }
        if !self.project.join("functions").is_dir() {
            bail!("--project: {} is not a checkout of this project", self.project.display());
        }
        Ok(())
    }

    /// # Errors
    /// The path of this program is unknown.
    pub fn binary(&self, program: &str) -> Result<PathBuf> {
        let directory = match &self.functions {
            Some(directory) => directory.clone(),
            None => env::current_exe()?.parent().context("this program has no directory")?.to_owned(),
        };
        Ok(directory.join(program))
    }
}

/// A path to a file, or a name on PATH.
fn is_program(program: &Path) -> bool {
    if program.components().count() > 1 {
        return program.is_file();
    }
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|directory| directory.join(program).is_file()))
}
