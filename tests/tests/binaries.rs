//! The built binaries, as Lambda runs them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

use std::{fs, process::Stdio};

use anyhow::Result;
use domain::metric;
use local_world::tools::FUNCTIONS;
use serde_json::{Value, json};
use tests::{
    binaries,
    runtime::{Runtime, Told},
};

const FILE_SYSTEM: (&str, &str) = ("EFS_FILE_SYSTEM_ID", "fs-0123456789abcdef0");

fn lines(output: &[u8]) -> Vec<Value> {
    let text = String::from_utf8_lossy(output);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"))).collect()
}

#[tokio::test]
async fn a_missing_or_bad_variable_ends_init_and_is_named() -> Result<()> {
    for function in FUNCTIONS {
        let runtime = Runtime::start().await?;
        let output = runtime.command(&binaries().join(function)).output().await?;
        assert_eq!(output.status.code(), Some(1), "{function}");
        let told = runtime.told(1).await?;
        let Told::InitError(error) = &told[0].1 else { panic!("{told:?}") };
        assert_eq!(error["errorType"], "InvalidConfiguration", "{function}");
        let message = error["errorMessage"].as_str().unwrap();
        assert!(message.starts_with("EFS_FILE_SYSTEM_ID is missing: expected the id of an EFS"), "{message}");
        let log = &lines(&output.stdout)[0];
        assert_eq!((&log["level"], &log["code"]), (&json!("ERROR"), &json!("InvalidConfiguration")));
        assert_eq!(log["error"], message);
    }
    let runtime = Runtime::start().await?;
    let mut command = runtime.command(&binaries().join("count"));
    command.envs([FILE_SYSTEM, ("TARGET_DIRECTORY", "not/absolute")]);
    assert_eq!(command.output().await?.status.code(), Some(1));
    assert!(matches!(&runtime.told(1).await?[0].1, Told::InitError(error)
        if error["errorMessage"].as_str().unwrap().starts_with("TARGET_DIRECTORY is \"not/absolute\": expected the absolute")));
    Ok(())
}

/// One process, four requests: the logs, the metrics, and what a warm process must not carry over.
#[tokio::test]
async fn a_warm_function_logs_and_measures_each_request_by_itself() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let root = directory.path().join("data");
    fs::create_dir(&root)?;
    fs::write(root.join("one"), "")?;
    fs::write(root.join("two"), "")?;

    let runtime = Runtime::start().await?;
    let mut command = runtime.command(&binaries().join("count"));
    command.envs([FILE_SYSTEM, ("TARGET_DIRECTORY", root.to_str().unwrap())]).stdout(Stdio::piped());
    let mut child = command.spawn()?;
    runtime.send(json!({"execution": "arn:aws:states:::execution:one", "start": {}}));
    runtime.told(1).await?;
    fs::rename(&root, directory.path().join("aside"))?;
    runtime.send(json!({"execution": "arn:aws:states:::execution:two", "start": {}}));
    runtime.send(json!({"start": {"dry_run": 1}}));
    runtime.send(json!({"stort": {}}));
    let told = runtime.told(4).await?;
    child.start_kill()?;
    let output = child.wait_with_output().await?;

    let Told::Response(counted) = &told[0].1 else { panic!("{told:?}") };
    assert_eq!((&counted["files"], &counted["complete"]), (&json!(2), &json!(true)));
    for ((_, told), (code, part)) in told[1..].iter().zip([
        ("TargetDirectoryUnreadable", "cannot be read: No such file"),
        ("InvalidInput", "`dry_run` is 1: expected true or false"),
        ("InvalidInput", "unknown field `stort`"),
    ]) {
        let Told::Error(error) = told else { panic!("{told:?}") };
        assert_eq!(error["errorType"], code);
        assert!(error["errorMessage"].as_str().unwrap().contains(part), "{error}");
    }

    let lines = lines(&output.stdout);
    let (metrics, logs): (Vec<_>, Vec<_>) = lines.into_iter().partition(|line| line["_aws"].is_object());
    let spans: Vec<_> = logs.iter().map(|log| (&log["execution"], &log["cold_start"])).collect();
    let (one, two) = (json!("arn:aws:states:::execution:one"), json!("arn:aws:states:::execution:two"));
    let (none, cold, warm) = (json!("none"), json!(true), json!(false));
    assert_eq!(spans, [(&one, &cold), (&two, &warm), (&none, &warm), (&none, &warm)]);

    assert_eq!(metrics.len(), 1, "only the request that counted says so: {metrics:?}");
    let described = &metrics[0]["_aws"]["CloudWatchMetrics"][0];
    assert_eq!(described["Namespace"], metric::NAMESPACE);
    assert_eq!(described["Dimensions"], json!([["FileSystemId"]]));
    assert_eq!(metrics[0]["FileSystemId"], FILE_SYSTEM.1);
    assert!(metrics[0]["CountDuration"][0].as_f64().unwrap() > 0.0);
    for said in described["Metrics"].as_array().unwrap() {
        let known = metric::TABLE.iter().find(|known| said["Name"] == known.name).unwrap();
        assert_eq!(said["Unit"], known.unit.name(), "{}", known.name);
    }
    Ok(())
}
