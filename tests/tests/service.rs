//! The file service against the emulator: where its list of targets comes from, at the start and while it runs.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    os::unix::fs::symlink,
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::{Lab, binaries};

/// A router, and three directories for its targets.
struct Router {
    child: Child,
    log: BufReader<ChildStdout>,
    said: Vec<Value>,
    _directory: TempDir,
}

impl Router {
    fn start(variables: &[(&str, &str)]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        std::fs::create_dir(directory.path().join("files"))?;
        for target in 0..3 {
            symlink("files", directory.path().join(format!("efs-{target}")))?;
        }
        let mut child = Command::new(binaries().join("file-service"))
            .arg("serve")
            .env_clear()
            .env("AWS_ACCESS_KEY_ID", "123456789012")
            .env("AWS_SECRET_ACCESS_KEY", "local")
            .env("AWS_REGION", "us-east-1")
            .env("MOUNT_BASE", directory.path())
            .env("LISTEN", "127.0.0.1:0")
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let log = BufReader::new(child.stdout.take().unwrap());
        Ok(Self { child, log, said: Vec::new(), _directory: directory })
    }

    /// Reads the log until it says this, or ends.
    fn says(&mut self, message: &str) -> Option<&Value> {
        let mut line = String::new();
        while self.log.read_line(&mut line).unwrap() > 0 {
            eprint!("{line}");
            self.said.push(serde_json::from_str(&line).unwrap());
            if self.said.last().unwrap()["message"] == message {
                return self.said.last();
            }
            line.clear();
        }
        None
    }

    fn ready(&mut self) -> String {
        self.says("ready").unwrap()["address"].as_str().unwrap().to_owned()
    }

    fn source(&self) -> &str {
        let read = self.said.iter().find(|event| event["message"] == "the list of targets is read");
        read.unwrap()["source"].as_str().unwrap()
    }

    /// All that is said until it ends by itself.
    fn ended(mut self) -> Result<(ExitStatus, String)> {
        let mut rest = String::new();
        self.log.read_to_string(&mut rest)?;
        Ok((self.child.wait()?, rest))
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(address: &str, path: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: local\r\nconnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer.split_once("\r\n\r\n").context("no answer")?.1.to_owned())
}

fn targets(address: &str) -> Result<Vec<String>> {
    let answer: Value = serde_json::from_str(&get(address, "/targets")?)?;
    let ids = answer["targets"].as_array().unwrap().iter().filter(|target| target["up"] == true);
    Ok(ids.map(|target| target["mount_target_id"].as_str().unwrap().to_owned()).collect())
}

async fn published(lab: &Lab) -> Result<Vec<String>> {
    Ok(lab.list().await?.targets().iter().map(|target| target.mount_target_id.to_string()).collect())
}

fn until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<()> {
    let began = Instant::now();
    while !holds()? {
        assert!(began.elapsed() < Duration::from_secs(20), "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_is_the_pipelines_and_each_source_stands_in_for_the_one_before() -> Result<()> {
    let lab = Lab::start(2, &[]).await?;
    let endpoint = ("AWS_ENDPOINT_URL", lab.endpoint());
    let file_system = ("EFS_FILE_SYSTEM_ID", lab.file_system.as_str());

    // What the pipeline publishes while the service runs is used without a redeployment.
    let mut router = Router::start(&[endpoint, file_system, ("REFRESH_SECONDS", "0.2"), ("PROBE_SECONDS", "0.2")])?;
    let address = router.ready();
    assert_eq!(router.source(), "the parameter /efs-mount-autoscaling/mount-targets");
    let two = published(&lab).await?;
    // It is ready with the first target that answers.
    until("both targets are used", || Ok(targets(&address)? == two))?;
    assert_eq!(lab.run(json!({})).await?.status, "SUCCEEDED");
    let three = published(&lab).await?;
    assert_eq!(three.len(), 3);
    until("the third target is used", || Ok(targets(&address)? == three))?;

    // What is no list changes nothing.
    for damaged in ["{", r#"{"mount_targets":[]}"#] {
        lab.publish(damaged).await?;
        let unreadable = || -> Result<u64> {
            let page = get(&address, "/metrics")?;
            let line = page.lines().find_map(|line| line.strip_prefix("router_unreadable_lists_total "));
            Ok(line.unwrap().parse()?)
        };
        let before = unreadable()?;
        until("it is read again", || Ok(unreadable()? >= before + 2))?;
        assert_eq!(targets(&address)?, three);
    }
    drop(router);

    // A damaged parameter, and none: EFS itself is asked.
    for parameter in [Some("{}"), None] {
        if parameter.is_none() {
            lab.clients.ssm.delete_parameter().name("/efs-mount-autoscaling/mount-targets").send().await?;
        }
        let mut router = Router::start(&[endpoint, file_system])?;
        let address = router.ready();
        assert_eq!(router.source(), format!("the mount targets of {}", lab.file_system));
        until("the three targets are used", || Ok(targets(&address)? == three))?;
    }
    Ok(())
}

#[test]
fn without_aws_the_given_list_is_used_and_without_that_the_service_ends() -> Result<()> {
    // Nobody listens there.
    let nowhere = ("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
    let file_system = ("EFS_FILE_SYSTEM_ID", "fs-0123456789abcdef0");
    let list = r#"{"mount_targets":[{"mount_target_id":"fsmt-12345678","ip_address":"10.0.1.100","availability_zone":"ap-northeast-1a","subnet_id":"subnet-12345678"}]}"#;
    let mut router = Router::start(&[nowhere, file_system, ("DEFAULT_MOUNT_TARGETS", list)])?;
    let address = router.ready();
    assert_eq!(router.source(), "the given list");
    assert_eq!(targets(&address)?, ["fsmt-12345678"]);

    let (status, said) = Router::start(&[nowhere, file_system])?.ended()?;
    assert_eq!(status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap();
    for part in ["NoList", "/efs-mount-autoscaling/mount-targets", "fs-0123456789abcdef0", "DEFAULT_MOUNT_TARGETS"] {
        assert!(last.contains(part), "{part} is not in {last}");
    }
    Ok(())
}
