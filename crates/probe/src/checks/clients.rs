//! Checks with several clients, at one host and at several.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use nfs41::{Client, Create, PutOptions, Status};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{ROUNDS, read_file};
use crate::{
    grouped,
    outcome::{CheckResult, Outcome, format_time, no, not_asked, or_no, or_unknown, unknown, yes},
    world::World,
};

pub async fn one_server(world: &World) -> CheckResult {
    let servers: Vec<_> = world.targets.iter().filter_map(|target| target.server()).collect();
    let [first, rest @ ..] = &servers[..] else { return Err(not_asked("no host granted a session")) };
    if rest.is_empty() {
        return Err(world.too_few_hosts());
    }
    let identities: HashSet<_> = servers.iter().map(|server| (&server.owner_major, &server.scope)).collect();
    let values = json!({ "hosts": servers.len(), "servers": identities.len() });
    let outcome =
        match rest.iter().all(|other| (&other.owner_major, &other.scope) == (&first.owner_major, &first.scope)) {
            true => yes(format!(
                "{} hosts report one owner and scope: Linux shares one connection between mounts of them",
                servers.len()
            )),
            false => no(format!("{} hosts report {} servers", servers.len(), identities.len())),
        };
    Ok(outcome.with(values))
}

pub async fn shared_sessions(world: &World) -> CheckResult {
    let hosts = world.hosts();
    if hosts.len() < 2 {
        return Err(world.too_few_hosts());
    }
    let (client, others) = (world.root_client(hosts[0])?, &hosts[1..]);
    let mut unknown_at = Vec::new();
    for host in others {
        match client.shares_sessions_with(*host).await {
            Ok(true) => {}
            Ok(false) => unknown_at.push(host.to_string()),
            Err(err) => return Err(unknown(format!("{host}: {err}"))),
        }
    }
    Ok(match &unknown_at[..] {
        [] => yes(format!("valid at {} more", others.len())),
        hosts => no(format!("not valid at {}", hosts.join(", "))),
    })
}

pub async fn lock(world: &World) -> CheckResult {
    let client = world.writer()?;
    let mut found = Vec::new();
    for (other, pair) in world.partners()? {
        or_unknown(client.put(b"lock", "content".into(), PutOptions::default()).await)?;
        let file = or_unknown(client.open_file(b"lock", Create::Never).await)?;
        let other_file = or_unknown(other.open_file(b"lock", Create::Never).await)?;
        let first = file.lock(Instant::now()).await;
        let denied = other_file.lock(Instant::now()).await;
        let closed = file.close().await;
        let after = other_file.lock(Instant::now()).await;
        let _ = other_file.close().await;
        or_no(first)?;
        match denied {
            Err(err) if err.status() == Some(Status::DENIED) => {}
            Ok(()) => return Err(no(format!("{pair} hold the lock at the same time"))),
            Err(err) => return Err(unknown(err.to_string())),
        }
        if let Err(err) = closed.and(after) {
            return Err(no(format!("{pair}: the lock is not released when the file is unlocked and closed: {err}")));
        }
        found.push(pair);
    }
    Ok(yes(format!("{}; closing the file releases the lock", found.join(", and "))))
}

/// Short lines, and one of the maximum length: that of an append of the service, or of one call.
pub async fn append(world: &World) -> CheckResult {
    const MAX_APPEND_BYTES: usize = 1 << 20;
    let client = world.writer()?;
    let longest = (or_unknown(client.limits().await)?.max_write_bytes as usize).min(MAX_APPEND_BYTES);
    let line = |index: usize, round: usize| {
        let line = format!("{index} {round} ");
        let more = if round == ROUNDS / 2 { longest.saturating_sub(line.len() + 1) } else { 0 };
        line + &".".repeat(more)
    };
    let mut found = Vec::new();
    for (other, pair) in world.partners()? {
        let clients = [&client, &other];
        or_unknown(client.put(b"log", Bytes::new(), PutOptions::default()).await)?;
        let add = async |index: usize| {
            for round in 0..ROUNDS {
                let line = line(index, round) + "\n";
                if or_no(clients[index].append(b"log", line.into(), PutOptions::default()).await)?.is_none() {
                    return Err(no("the created file does not exist"));
                }
            }
            Ok(())
        };
        let (one, two) = tokio::join!(add(0), add(1));
        one.and(two)?;
        let log = or_unknown(read_file(&client, b"log").await)?;
        let mut lines: Vec<_> = String::from_utf8_lossy(&log).lines().map(str::to_owned).collect();
        lines.sort_unstable();
        let mut expected: Vec<_> = (0..2).flat_map(|index| (0..ROUNDS).map(move |round| line(index, round))).collect();
        expected.sort_unstable();
        if lines != expected {
            return Err(no(format!(
                "{pair}: {} lines were appended, and the file has {}, or they are interleaved",
                expected.len(),
                lines.len()
            )));
        }
        found.push(format!("{} of {pair}", expected.len()));
    }
    Ok(yes(format!("lines: {}; the longest has {} bytes", found.join(", and "), grouped(longest as u64))))
}

/// The content that the reader must find; `None` if the file must not exist.
type Expected<'a> = Option<&'a [u8]>;

/// Reads until the expected content is found. Returns how late it was, or `None` if the first read found it.
async fn wait_until_visible(reader: &Client, name: &[u8], expected: Expected<'_>) -> Result<Option<Duration>, Outcome> {
    const MAX_DELAY: Duration = Duration::from_secs(5);
    const RETRY_INTERVAL: Duration = Duration::from_millis(5);
    let began = Instant::now();
    let mut delay = None;
    loop {
        let read = reader.read(name, 0, 100).await;
        let matches = match (&read, expected) {
            (Ok(read), Some(expected)) => read.data == expected && read.attributes.size == Some(expected.len() as u64),
            (Err(err), None) => err.status() == Some(Status::NOENT),
            _ => false,
        };
        if matches {
            return Ok(delay);
        }
        if let Err(err) = read
            && err.status().is_none()
        {
            return Err(unknown(err.to_string()));
        }
        delay = Some(began.elapsed());
        if began.elapsed() > MAX_DELAY {
            return Err(no(format!("a write is not visible within {MAX_DELAY:?}")));
        }
        sleep(RETRY_INTERVAL).await;
    }
}

/// Lets each client read what the other wrote: a replaced file, a write in place that extends the file, a removed file,
/// and a file that did not exist before. Returns the number of late writes, and the longest delay.
async fn check_visibility(one: &Client, two: &Client, name: &str) -> Result<(usize, Duration), Outcome> {
    let (mut late, mut longest) = (0, Duration::ZERO);
    for round in 0..ROUNDS {
        let (writer, reader) = if round % 2 == 0 { (one, two) } else { (two, one) };
        let written = format!("{name} {}", "x".repeat(round));
        let (path, content) = (name.as_bytes(), written.as_bytes());
        let (step, expected): (_, Expected<'_>) = match round / 2 {
            0 | 1 => (writer.put(path, written.clone().into(), PutOptions::default()).await.map(drop), Some(content)),
            2 | 3 => (writer.write_at(path, 0, written.clone().into()).await.map(drop), Some(content)),
            _ => (writer.remove_file(path).await, None),
        };
        or_unknown(step)?;
        let seen = [wait_until_visible(reader, path, expected).await?];
        // The reader now knows that the file does not exist; create it again.
        let recreated = match expected {
            Some(_) => None,
            None => {
                or_unknown(writer.put(path, written.clone().into(), PutOptions::default()).await)?;
                wait_until_visible(reader, path, Some(content)).await?
            }
        };
        for delay in seen.into_iter().chain([recreated]).flatten() {
            late += 1;
            longest = longest.max(delay);
        }
    }
    Ok((late, longest))
}

fn visibility_outcome((late, longest): (usize, Duration), rounds: usize) -> CheckResult {
    let values = json!({ "writes": rounds, "late": late, "longest_seconds": longest.as_secs_f64() });
    match late {
        0 => Ok(yes(format!("{rounds} writes, each visible to the next read")).with(values)),
        late => {
            Err(no(format!("{late} of {rounds} writes were visible late, by up to {}", format_time(longest)))
                .with(values))
        }
    }
}

pub async fn visible_connections(world: &World) -> CheckResult {
    let client = world.writer()?;
    let second = world.new_client(world.host()?)?;
    let seen = check_visibility(&client, &second, "connections").await;
    second.close().await;
    visibility_outcome(seen?, ROUNDS)
}

/// Pairs the first host with all others, and each of the others with the next one.
pub async fn visible_hosts(world: &World) -> CheckResult {
    let client = world.writer()?;
    let hosts = world.hosts();
    if hosts.len() < 2 {
        return Err(world.too_few_hosts());
    }
    let others = if world.is_first { &hosts[1..] } else { &hosts[1..2] };
    let (mut late, mut longest) = (0, Duration::ZERO);
    for (index, host) in others.iter().enumerate() {
        let other = world.new_client(*host)?;
        let seen = check_visibility(&client, &other, &format!("host {index}")).await;
        other.close().await;
        let (found, delay) = seen?;
        (late, longest) = (late + found, longest.max(delay));
    }
    visibility_outcome((late, longest), ROUNDS * others.len())
}
