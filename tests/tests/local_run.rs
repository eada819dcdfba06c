//! The program for people, `efs-autoscale local run`, as a person or a script uses it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

use std::{
    fs,
    process::{Output, Stdio},
    time::Duration,
};

use anyhow::Result;
use serde_json::{Value, json};
use tests::{binaries, found_by_find, tools};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    process::Command,
};

fn program(arguments: &[&str]) -> Command {
    let tools = tools();
    let mut command = Command::new(binaries().join("efs-autoscale"));
    command
        .args(["local", "run", "--ministack"])
        .arg(tools.ministack)
        .arg("--cargo-lambda")
        .arg(tools.cargo_lambda)
        .arg("--project")
        .arg(tools.project)
        .args(arguments)
        // Nobody listens there: nothing may leave by way of a proxy, which is on another machine.
        .envs(["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"].map(|name| (name, "http://127.0.0.1:9")))
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// The last line's object.
fn result(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    let last = text.lines().last().unwrap_or_default();
    let object = last.strip_prefix("result: ").unwrap_or_else(|| {
        panic!("no result in:\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    });
    serde_json::from_str(object).unwrap()
}

#[tokio::test]
async fn two_runs_at_once_each_scale_a_world_of_their_own() -> Result<()> {
    let temporary = tempfile::tempdir()?;
    // Nothing that a shell, a deployer or a list of variables would leave alone.
    let directory = temporary.path().join("it's, A=b \"ö\"");
    for number in 0..30 {
        let folder = directory.join(format!("folder {}", number % 4));
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(format!("{number}")), "kept as it is")?;
    }
    let listing =
        || -> Result<Vec<u8>> { Ok(std::process::Command::new("ls").arg("-lAR").arg(&directory).output()?.stdout) };
    let before = listing()?;

    let dir = directory.to_str().unwrap();
    let (own, fresh) = tokio::try_join!(
        program(&["--dir", dir, "--threshold", "10", "--delay", "1", "--zones", "4"]).output(),
        program(&["--files", "2500", "--threshold", "3000", "--delay", "1"]).output(),
    )?;

    let seen = result(&own);
    assert!(own.status.success(), "{}", String::from_utf8_lossy(&own.stderr));
    assert_eq!(seen["files"], found_by_find(&directory)?);
    assert_eq!((&seen["complete"], &seen["threshold"]), (&json!(true), &json!(10)));
    assert_eq!((&seen["decision"], &seen["reason"]), (&json!("create"), &json!("over_threshold")));
    let count = |ids: &Value| ids.as_array().unwrap().len();
    assert_eq!((count(&seen["mount_targets_before"]), count(&seen["mount_targets_after"])), (2, 3));
    let published: Value = serde_json::from_str(seen["published"].as_str().unwrap())?;
    assert_eq!((count(&published["mount_targets"]), &seen["published_version"]), (3, &json!(2)));
    assert_eq!(seen["execution_status"], "SUCCEEDED");
    assert_eq!((&seen["states"][0], &seen["states"][1]), (&json!("Begin"), &json!("Count")));
    assert!(seen["deployment"].as_str().unwrap().starts_with("ecs-svc/") && seen["seconds"].is_f64());
    // Four zones: the second execution takes the next step.
    assert_eq!((&seen["next"]["decision"], count(&seen["next"]["mount_targets_after"])), (&json!("create"), 4));
    assert_eq!(before, listing()?, "the directory was not touched");
    // The file service on the four: what was written is read back, and each has its share.
    let service = &seen["service"];
    assert_eq!((&service["written"], &service["verified"]), (&json!(3000), &json!(3000)));
    let shares: Vec<_> =
        service["targets"].as_array().unwrap().iter().map(|one| one["after"].as_f64().unwrap()).collect();
    assert!(shares.len() == 4 && shares.iter().all(|share| (share - 0.25).abs() < 0.05), "{shares:?}");
    let moved = |strategy: &str| service["moved"][strategy].as_f64().unwrap();
    assert!((moved("rendezvous") - 0.5).abs() < 0.05 && moved("sha256-modulo") > 0.45, "{service}");

    let seen = result(&fresh);
    assert!(fresh.status.success());
    assert_eq!((&seen["files"], &seen["reason"]), (&json!(2500), &json!("below_threshold")));
    assert_eq!(seen["mount_targets_before"], seen["mount_targets_after"]);
    Ok(())
}

/// While files are made, while the functions are deployed, and in the middle of an execution.
#[tokio::test]
async fn an_interrupt_leaves_no_process_and_no_file_behind() -> Result<()> {
    for (moment, files, running) in
        [("making 3000000 files", "3000000", 1), ("deploying", "50", 2), ("WaitForTarget", "50", 3)]
    {
        let temporary = tempfile::tempdir()?;
        let mut command = program(&["--files", files, "--threshold", "10", "--delay", "60"]);
        command.env("TMPDIR", temporary.path()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let id = child.id().unwrap();
        let mut output = child.stdout.take().unwrap();
        let mut seen = String::new();
        while !seen.contains(moment) {
            let mut part = [0; 4096];
            let read = tokio::time::timeout(Duration::from_secs(60), output.read(&mut part)).await??;
            assert_ne!(read, 0, "it ended by itself:\n{seen}");
            seen.push_str(&String::from_utf8_lossy(&part[..read]));
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        let marker = temporary.path().to_str().unwrap().to_owned();
        let started = processes_with(&marker);
        assert!(started.len() >= running, "{moment}: {started:?}");
        for (_, process) in &started {
            assert_eq!(listening_beyond_loopback(*process), Vec::<String>::new());
        }
        interrupt(id);
        let status = tokio::time::timeout(Duration::from_secs(10), child.wait()).await??;
        assert_eq!(status.code(), Some(130), "{moment}");
        assert_eq!(processes_with(&marker), [], "{moment}");
        let left: Vec<_> = fs::read_dir(temporary.path())?.map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.is_empty(), "{moment}: left behind: {left:?}");
    }
    Ok(())
}

/// The addresses other than loopback on which this process listens: what the kernel says of its sockets.
fn listening_beyond_loopback(process: u32) -> Vec<String> {
    const LISTEN: &str = "0A";
    let open = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let open: Vec<_> = open.filter_map(|entry| fs::read_link(entry.path()).ok()).collect();
    let mut found = vec![];
    for table in ["tcp", "tcp6"] {
        for line in fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default().lines().skip(1) {
            let fields: Vec<_> = line.split_whitespace().collect();
            let socket = format!("socket:[{}]", fields[9]);
            let ours = open.iter().any(|link| link.as_os_str() == socket.as_str());
            if ours && fields[3] == LISTEN && !fields[1].starts_with("0100007F:") {
                found.push(fields[1].to_owned());
            }
        }
    }
    found
}

#[expect(unsafe_code, reason = "the standard library cannot send SIGINT")]
fn interrupt(process: u32) {
    // SAFETY: no memory is involved, and the process is a child of ours that has not been waited for.
    unsafe { libc::kill(process.cast_signed(), libc::SIGINT) };
}

/// The processes that have this text in their environment.
fn processes_with(text: &str) -> Vec<(String, u32)> {
    let mut found = vec![];
    for process in fs::read_dir("/proc").unwrap().flatten() {
        // A process may be gone by now, and most of /proc is none.
        let environment = fs::read(process.path().join("environ")).unwrap_or_default();
        if String::from_utf8_lossy(&environment).contains(text) {
            let name = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.push((name.trim().to_owned(), process.file_name().to_str().unwrap().parse().unwrap()));
        }
    }
    found
}

#[tokio::test]
async fn wrong_words_are_answered_with_what_to_do() -> Result<()> {
    for (arguments, status, part) in [
        (vec!["--dir", "/nowhere"], 2, "--dir /nowhere: No such file"),
        (vec!["--dir", "/proc/version"], 2, "not a directory"),
        (vec!["--zones", "9"], 2, "invalid value '9' for '--zones"),
        (vec!["--threshold", "many"], 2, "invalid value 'many' for '--threshold"),
        (vec!["--dir", "/tmp", "--files", "3"], 2, "cannot be used with"),
        (vec!["--functions", "/nowhere"], 2, "--functions: there is no binary /nowhere/count; `make build-local`"),
    ] {
        let output = program(&arguments).output().await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {said}");
        assert!(said.contains(part), "{arguments:?}: {said}");
    }
    let mut command = Command::new(binaries().join("efs-autoscale"));
    let output = command.args(["local", "run"]).env("MINISTACK", "/nowhere/ministack").output().await?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2));
    assert!(said.contains("--ministack: there is no program /nowhere/ministack; `make tools` installs it"), "{said}");
    Ok(())
}

/// The load test of the original design, a short one.
#[tokio::test]
async fn many_executions_at_once_make_what_one_after_the_other_does() -> Result<()> {
    let tools = tools();
    let mut command = Command::new(binaries().join("efs-autoscale"));
    command.args(["local", "load", "--executions", "3", "--json", "--ministack"]).arg(tools.ministack);
    command.arg("--cargo-lambda").arg(tools.cargo_lambda).arg("--project").arg(tools.project);
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await?;
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_slice(&output.stdout)?;
    assert!(
        said["executions"].as_u64() >= Some(9) && said["p50_seconds"].as_f64() <= said["p99_seconds"].as_f64(),
        "{said}"
    );
    assert_eq!((&said["failed"], &said["wrong"]), (&serde_json::json!([]), &serde_json::json!([])));
    Ok(())
}

/// The picture in the README is drawn from `docs/images/run.txt`: a run still prints those lines, with other numbers and ids.
/// `make picture` draws it again.
#[tokio::test]
async fn the_picture_in_the_readme_is_that_of_a_run() -> Result<()> {
    let has_nfs_server = std::process::Command::new("ganesha.nfsd").arg("-v").output().is_ok();
    if !has_nfs_server && std::env::var_os("CI").is_none() {
        eprintln!("skipped: without NFS-Ganesha the run prints other lines");
        return Ok(());
    }
    let run = program(&["--files", "500", "--threshold", "100", "--delay", "1"]).output().await?;
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let mut compare = Command::new("python3")
        .arg(tools().project.join("tests/docs/picture.py"))
        .arg("compare")
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    compare.stdin.take().unwrap().write_all(&run.stdout).await?;
    let compared = compare.wait_with_output().await?;
    assert!(compared.status.success(), "{}", String::from_utf8_lossy(&compared.stderr));
    Ok(())
}
