//! The binaries for arm64, run by QEMU: a whole cycle of the six functions on the emulator, and the file service.
//! `make test-arm64` builds them and gives this `ARM64_BINARIES`; `make test` leaves it out.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

use std::{
    ffi::OsString,
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tests::{
    Lab,
    runtime::{Runtime, Told},
};

const QEMU: &str = "qemu-aarch64-static";
/// Debian's libraries for arm64: `libc6-arm64-cross`, `libgcc-s1-arm64-cross`.
const SYSROOT: &str = "/usr/aarch64-linux-gnu";

fn binary(name: &str) -> PathBuf {
    let folder = std::env::var_os("ARM64_BINARIES")
        .unwrap_or_else(|| panic!("ARM64_BINARIES: make test-arm64 says where they are"));
    let binary = Path::new(&folder).join(name).join("bootstrap");
    let header = std::fs::read(&binary).unwrap_or_else(|err| panic!("{}: {err}", binary.display()));
    assert_eq!(&header[18..20], &[0xb7, 0], "{} is for another processor", binary.display());
    binary
}

fn emulated(name: &str) -> [OsString; 3] {
    ["-L".into(), SYSROOT.into(), binary(name).into_os_string()]
}

/// What the function answers to one event.
async fn ask(lab: &Lab, name: &str, event: Value) -> Result<Value> {
    let runtime = Runtime::start().await?;
    let subnets = lab.clients.ec2.describe_subnets().subnet_ids(&lab.subnets[0]).send().await?;
    let vpc = subnets.subnets()[0].vpc_id().context("a subnet without a VPC")?;
    let mut command = runtime.command(Path::new(QEMU));
    command.args(emulated(name)).envs([
        ("AWS_ENDPOINT_URL", lab.proxy.endpoint()),
        ("EFS_FILE_SYSTEM_ID", &lab.file_system),
        ("VPC_ID", vpc),
        ("ECS_CLUSTER_NAME", &lab.service.0),
        ("ECS_SERVICE_NAME", &lab.service.1),
        ("SECURITY_GROUP_IDS", &lab.security_group),
        ("FILE_COUNT_THRESHOLD", "10"),
    ]);
    command.env("TARGET_DIRECTORY", lab.directory());
    let _function = command.spawn()?;
    runtime.send(event);
    match &runtime.told(1).await?[0].1 {
        Told::Response(answer) => Ok(answer.clone()),
        other => panic!("{name}: {other:?}"),
    }
}

#[tokio::test]
#[ignore = "make test-arm64 builds what it needs"]
async fn a_cycle_of_the_functions() -> Result<()> {
    let lab = Lab::start(1, &[]).await?;
    let counted = ask(&lab, "count", json!({"execution": "arn:e", "start": {}})).await?;
    assert_eq!((&counted["files"], &counted["complete"]), (&json!(tests::FILES), &json!(true)));
    let counted = json!({"files": counted["files"], "complete": true});
    let evaluated = ask(&lab, "evaluate", json!({"execution": "arn:e", "start": {}, "counted": counted})).await?;
    let decision = &evaluated["decision"];
    assert_eq!(decision["action"], "create", "{evaluated}");
    let create = json!({"execution": "arn:e", "subnet_id": decision["subnet_id"], "zone_id": decision["zone_id"]});
    let created = ask(&lab, "create-target", create).await?;
    let id = &created["mount_target_id"];
    let mut available = false;
    for _ in 0..20 {
        let polled = ask(&lab, "poll-available", json!({"execution": "arn:e", "mount_target_id": id})).await?;
        available = polled["available"] == true;
        if available {
            break;
        }
    }
    assert!(available);
    let published = ask(&lab, "publish-ssm", json!({"execution": "arn:e", "must_include": id})).await?;
    assert_eq!(published["changed"], true);
    let redeploy = json!({"execution": "arn:e", "published_version": published["version"], "fingerprint": published["fingerprint"]});
    assert_eq!(ask(&lab, "redeploy", redeploy).await?["outcome"], "started");
    lab.published_is_what_there_is().await
}

#[test]
#[ignore = "make test-arm64 builds what it needs"]
fn the_file_service() -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::create_dir(folder.path().join("efs-0"))?;
    let list = json!({"mount_targets": [{"mount_target_id": "fsmt-1", "ip_address": "127.0.0.1",
        "availability_zone": "us-east-1a", "subnet_id": "subnet-1"}]});
    std::fs::write(folder.path().join("targets.json"), list.to_string())?;
    let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut service = std::process::Command::new(QEMU)
        .args(emulated("file-service"))
        .arg("serve")
        .env_clear()
        .env("TARGETS_FILE", folder.path().join("targets.json"))
        .env("MOUNT_BASE", folder.path())
        .env("LISTEN", listen.to_string())
        .spawn()?;
    let until = Instant::now() + Duration::from_secs(60);
    let ask = |head: &str, body: &str| -> Result<String> {
        let mut stream = loop {
            match TcpStream::connect(listen) {
                Ok(stream) => break stream,
                Err(err) if Instant::now() > until => return Err(err.into()),
                Err(_) => std::thread::sleep(Duration::from_millis(100)),
            }
        };
        write!(
            stream,
            "{head} HTTP/1.1\r\nhost: {listen}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let asked = ask("PUT /files/a/b", "content").and_then(|put| Ok((put, ask("GET /files/a/b", "")?)));
    service.kill()?;
    service.wait()?;
    let (put, got) = asked?;
    assert!(put.starts_with("HTTP/1.1 201"), "{put}");
    assert!(got.starts_with("HTTP/1.1 200") && got.ends_with("\r\n\r\ncontent"), "{got}");
    assert_eq!(std::fs::read(folder.path().join("efs-0/a/b"))?, b"content");
    Ok(())
}
