//! Mounts of the kernel's own NFS client, in a guest with a real NFS server: are several targets several, and what
//! holds between two tasks that have mounts of their own.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

use std::{
    path::{Path, PathBuf},
    process::Command,
};

/// `nfs-guest.sh` ends so where there is no guest to run anything in.
const NO_GUEST: i32 = 125;

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests").canonicalize().unwrap()
}

/// Runs a script in the guest. All that it checks must hold.
fn in_the_guest(script: &str) {
    let scripts = tests().join("nfs-guest");
    let mut command = Command::new(tests().join("nfs-guest.sh"));
    let output = command.arg(scripts.join(script)).arg(env!("CARGO_BIN_EXE_file-service")).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    if output.status.code() == Some(NO_GUEST) && std::env::var("CI").as_deref() != Ok("true") {
        println!("skipped, there is no guest: {}", String::from_utf8_lossy(&output.stderr));
        return;
    }
    let failed: Vec<_> = said.lines().filter(|line| line.starts_with("FAILED: ")).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    assert!(said.lines().any(|line| line.starts_with("ok: ")), "nothing was checked");
}

#[test]
fn folded_mounts_are_told_and_separate_ones_pass() {
    in_the_guest("separate.sh");
}

#[test]
fn two_tasks_with_clients_of_their_own_keep_what_is_promised_between_them() {
    in_the_guest("between.sh");
}
