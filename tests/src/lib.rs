//! What the tests share: where the built parts are ([`tools`]), a world in the emulator to try things in
//! ([`Lab`]), and a stand-in for the world that lives in memory and fails on demand ([`fake`]), and a stand-in for Lambda's
//! runtime API ([`runtime`]).

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

/// Where the binaries of this build are.
pub fn binaries() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| project().join("target"), PathBuf::from);
    project().join(target).join("debug")
}

/// The programs that a local world is made with, where `make` has put them.
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

/// The program `efs-autoscale` against this endpoint, as a person would run it; what it says is shown.
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
