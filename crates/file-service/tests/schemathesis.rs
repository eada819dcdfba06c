//! The service against its own description: schemathesis asks it what `/openapi.json` allows and forbids.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{path::Path, process::Command};

use common::World;

const TOKEN: &str = "0123456789abcdefghijklmnopqrstuv";

#[test]
fn the_service_does_what_its_description_says() {
    // The Makefile says where it is.
    let Some(program) = std::env::var_os("SCHEMATHESIS").filter(|program| Path::new(program).exists()) else {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI has to have schemathesis");
        eprintln!("skipped: SCHEMATHESIS names no program; `make tools` installs it");
        return;
    };
    let world = World::new(3);
    let server = world.serve(&[("AUTH_TOKEN", TOKEN)]);
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/schemathesis.toml");
    let output = Command::new(program)
        .current_dir(world.at(""))
        .arg("--config-file")
        .arg(config)
        .args(["run", "--no-color"])
        .arg(format!("http://{}/openapi.json", server.address))
        .args(["--header", &format!("Authorization: Bearer {TOKEN}")])
        .output()
        .unwrap();
    let report = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{report}{}", String::from_utf8_lossy(&output.stderr));
    println!("{report}");
}
