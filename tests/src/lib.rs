//! Shared by the tests: paths of the built programs ([`tools`]), a world in the emulator ([`Lab`]), an in-memory fake of
//! AWS with faults ([`fake`]), and a fake of Lambda's runtime API ([`runtime`]).

pub mod fake;
mod lab;
pub mod runtime;

use std::{
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use anyhow::Result;

pub use lab::{FILES, Lab, found_by_find};

/// The project's folder.
pub fn project() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The directory of the binaries of this build.
pub fn binaries() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| project().join("target"), PathBuf::from);
    project().join(target).join("debug")
}

/// The programs that a local world needs, where `make` installs them.
pub fn tools() -> local_world::Tools {
    let program = |variable, name: &str| std::env::var_os(variable).map_or_else(|| PathBuf::from(name), PathBuf::from);
    local_world::Tools {
        ministack: program("MINISTACK", "ministack"),
        cargo_lambda: program("CARGO_LAMBDA", "cargo-lambda"),
        cdk: None,
        functions: Some(binaries()),
        project: project(),
    }
}

/// Runs the program `efs-autoscale` against this endpoint, and prints its output.
pub async fn efs_autoscale(endpoint: &str, arguments: &[&str]) -> Result<Output> {
    let mut command = tokio::process::Command::new(binaries().join("efs-autoscale"));
    command
        .args(arguments)
        .args(["--region", "us-east-1"])
        .env_clear()
        .env("AWS_ENDPOINT_URL", endpoint)
        .env("AWS_ACCESS_KEY_ID", "123456789012")
        .env("AWS_SECRET_ACCESS_KEY", "local")
        .stdin(Stdio::null());
    let output = command.output().await?;
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    eprintln!("{arguments:?}\n{out}{err}");
    Ok(output)
}
