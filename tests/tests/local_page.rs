//! The page of `efs-autoscale local serve`: an execution that it starts, its story, and a mount target that it cuts off.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result};
use serde_json::Value;
use tests::{binaries, project, tools};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    process::Command,
    time::{sleep, timeout},
};

const PATIENCE: Duration = Duration::from_secs(60);

/// The status and the start of the content, which may be a stream.
async fn send(url: &str, request: &str, fields: &str) -> Result<(u16, String)> {
    let host = url.strip_prefix("http://").unwrap().trim_end_matches('/');
    let mut stream = TcpStream::connect(host).await?;
    let host = if fields.contains("host:") { String::new() } else { format!("host: {host}\r\n") };
    let head = format!("{request} HTTP/1.1\r\n{host}{fields}content-length: 0\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let (mut text, mut bytes) = (String::new(), [0; 16 << 10]);
    while !text.contains("data: ") || !text.ends_with("\n\n\r\n") {
        match stream.read(&mut bytes).await? {
            0 => break,
            count => text += &String::from_utf8_lossy(&bytes[..count]),
        }
    }
    let (head, content) = text.split_once("\r\n\r\n").context("no answer")?;
    Ok((head[9..12].parse()?, content.to_owned()))
}

async fn event(page: &str) -> Result<Value> {
    let (_, content) = send(page, "GET /events", "").await?;
    let line = content.lines().find_map(|line| line.strip_prefix("data: ")).context("no event")?;
    Ok(serde_json::from_str(line)?)
}

#[tokio::test]
async fn the_page_starts_an_execution_tells_its_story_and_cuts_a_target_off() -> Result<()> {
    let tools = tools();
    let mut command = Command::new(binaries().join("efs-autoscale"));
    command
        .args(["local", "serve", "--json", "--files", "1500", "--threshold", "1000", "--delay", "1"])
        .arg("--project")
        .arg(project())
        .env("MINISTACK", tools.ministack)
        .env("CARGO_LAMBDA", tools.cargo_lambda)
        .env_remove("AWS_PROFILE")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let up = timeout(PATIENCE, lines.next_line()).await??.context("it has ended")?;
    let up: Value = serde_json::from_str(&up)?;
    let (page, service) = (up["page"].as_str().unwrap(), up["service"].as_str().unwrap());

    let (status, machine) = send(page, "GET /machine", "").await?;
    assert!(status == 200 && machine.contains("CreateTarget"), "{machine}");
    // Another site, by its own origin or by a name that leads here.
    for fields in ["origin: http://example.com\r\n", "origin: null\r\n", "host: example.com\r\n", ""] {
        assert_eq!(send(page, "POST /start", fields).await?.0, 403, "{fields}");
    }
    assert!(event(page).await?["executions"].as_array().unwrap().is_empty());

    let origin = format!("origin: {}\r\n", page.trim_end_matches('/'));
    assert_eq!(send(page, "POST /start", &origin).await?.0, 200);
    let done = async {
        loop {
            let event = event(page).await?;
            if event["executions"][0]["status"] == "SUCCEEDED" {
                return anyhow::Ok(event);
            }
            sleep(Duration::from_millis(200)).await;
        }
    };
    let done = timeout(PATIENCE, done).await??;
    assert_eq!((&done["executions"][0]["code"], &done["states"][0]), (&"create".into(), &"Begin".into()));
    let story = done["story"].to_string();
    assert!(story.contains("The count found 1,500 files.") && story.contains("It created the mount target"), "{story}");
    let targets = done["targets"].as_array().unwrap();
    assert!(targets.len() == 3 && targets.iter().all(|target| target["is_published"] == true), "{done}");

    let id = targets[0]["mount_target_id"].as_str().unwrap();
    for is_cut in [true, false] {
        let request = format!("POST /cut?mount_target_id={id}&is_cut={is_cut}");
        assert_eq!(send(page, &request, &origin).await?.0, 200);
        assert_eq!(event(page).await?["targets"][0]["is_cut"], is_cut);
        let seen = async {
            loop {
                let (_, content) = send(service, "GET /targets", "").await?;
                let shown: Value = serde_json::from_str(&content)?;
                let one = shown["targets"].as_array().unwrap().iter().find(|one| one["mount_target_id"] == id);
                if one.is_some_and(|one| one["up"] == !is_cut) {
                    return anyhow::Ok(());
                }
                sleep(Duration::from_millis(100)).await;
            }
        };
        timeout(PATIENCE, seen).await.context("the service does not see it")??;
    }
    assert_eq!(send(page, "POST /cut?mount_target_id=fsmt-0&is_cut=true", &origin).await?.0, 409);
    assert_eq!(send(page, "POST /files", &origin).await?.0, 200);

    let id = i32::try_from(child.id().unwrap())?;
    // SAFETY: a signal to a process of this test.
    #[expect(unsafe_code, reason = "the standard library has no SIGINT")]
    unsafe {
        libc::kill(id, libc::SIGINT);
    }
    assert!(timeout(PATIENCE, child.wait()).await??.success());
    Ok(())
}
