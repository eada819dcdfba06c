//! What the tests share: where the built parts are ([`tools`]), a world in the emulator to try things in
//! ([`Lab`]), and a stand-in for the world that lives in memory and fails on demand ([`fake`]), and a stand-in for Lambda's
//! runtime API ([`runtime`]).

pub mod fake;
mod lab;
pub mod runtime;

use std::path::{Path, PathBuf};

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
pub fn tools() -> ctl::local::Tools {
    let program = |variable, name: &str| std::env::var_os(variable).map_or_else(|| PathBuf::from(name), PathBuf::from);
    ctl::local::Tools {
        ministack: program("MINISTACK", "ministack"),
        cargo_lambda: program("CARGO_LAMBDA", "cargo-lambda"),
        cdk: None,
        functions: Some(binaries()),
        project: project(),
    }
}
