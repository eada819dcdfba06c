//! The tutorial `docs/tutorial/first-scale-out.md`: every command of it, in one shell, as a reader types them.
#![allow(clippy::unwrap_used, reason = "a test says what it takes for granted")]

use std::{fs, process::Stdio};

use anyhow::Result;
use tests::{binaries, project, tools};

/// The shell blocks, in order.
fn commands(text: &str) -> String {
    let blocks = text.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    blocks.collect::<Vec<_>>().join("\n")
}

#[tokio::test]
async fn every_command_of_the_first_scale_out_does_what_it_says() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let document = fs::read_to_string(project().join("docs/tutorial/first-scale-out.md"))?;
    // The binaries of this build instead of those of `make build-local`; the rest is to the letter.
    let script = commands(&document).replace("$PWD/target/local", binaries().to_str().unwrap());
    let script = script.replace("--env world.env", &format!("--env world.env --project '{}'", project().display()));
    let tools = tools();
    let output = tokio::process::Command::new("bash")
        .args(["-m", "-c", &format!("set -x; {script}\nwait %1; echo \"ended with $?\"")])
        .current_dir(folder.path())
        .env("MINISTACK", tools.ministack)
        .env("CARGO_LAMBDA", tools.cargo_lambda)
        .env_remove("AWS_PROFILE")
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await?;
    let out = String::from_utf8_lossy(&output.stdout);
    let text = format!("{out}{}", String::from_utf8_lossy(&output.stderr));
    let expected = [
        "not counted yet",
        "There was no execution since",
        "Reason: below_threshold",
        "Reason: create",
        "It published version 2 of the list, with 3 mount targets.",
        "there are 1,500 files, over the limit of 1,000",
        "Reason: no_available_subnet",
        "PAUSED since",
        "lunch",
        "starts executions again",
        "everything that was started is ended",
        "ended with 0",
    ];
    let mut rest = &*out;
    for expected in expected {
        let at = rest.find(expected);
        assert!(at.is_some(), "{expected} in:\n{text}");
        rest = &rest[at.unwrap()..];
    }
    Ok(())
}
