//! What several clients see of each other, at one host and at several.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use nfs41::{Client, Create, PutOptions, Status};
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::{ROUNDS, read_file};
use crate::{
    grouped,
    outcome::{CheckResult, Outcome, no, not_asked, or_no, or_unknown, time, unknown, yes},
    world::World,
};

pub async fn one_server(world: &World) -> CheckResult {
    let servers: Vec<_> = world.targets.iter().filter_map(|target| target.server()).collect();
    let [first, rest @ ..] = &servers[..] else { return Err(not_asked("no host has given a session")) };
    if rest.is_empty() {
        return Err(world.too_few_hosts());
    }
    let kinds: HashSet<_> = servers.iter().map(|server| (&server.owner_major, &server.scope)).collect();
    let values = json!({ "hosts": servers.len(), "servers": kinds.len() });
    let outcome =
        match rest.iter().all(|other| (&other.owner_major, &other.scope) == (&first.owner_major, &first.scope)) {
            true => yes(format!(
                "{} hosts name one owner and scope: Linux folds mounts of them into one connection",
                servers.len()
            )),
            false => no(format!("{} hosts name {} servers", servers.len(), kinds.len())),
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
        [] => yes(format!("known at {} more", others.len())),
        hosts => no(format!("not known at {}", hosts.join(", "))),
    })
}

pub async fn lock(world: &World) -> CheckResult {
    let client = world.writer()?;
    let mut found = Vec::new();
    for (other, who) in world.partners()? {
        or_unknown(client.put(b"lock", "content".into(), PutOptions::default()).await)?;
        let file = or_unknown(client.open_file(b"lock", Create::Never).await)?;
        let others = or_unknown(other.open_file(b"lock", Create::Never).await)?;
        let mine = file.lock(Instant::now()).await;
        let denied = others.lock(Instant::now()).await;
        let closed = file.close().await;
        let after = others.lock(Instant::now()).await;
        let _ = others.close().await;
        or_no(mine)?;
        match denied {
            Err(err) if err.status() == Some(Status::DENIED) => {}
            Ok(()) => return Err(no(format!("{who} have it at the same time"))),
            Err(err) => return Err(unknown(err.to_string())),
        }
        if let Err(err) = closed.and(after) {
            return Err(no(format!("{who}: it is not free when the file is unlocked and closed: {err}")));
        }
        found.push(who);
    }
    Ok(yes(format!("{}; it is free when the file is closed", found.join(", and "))))
}

/// Short lines, and one as long as the service lets an append be, or as one call carries.
pub async fn append(world: &World) -> CheckResult {
    const MOST: usize = 1 << 20;
    let client = world.writer()?;
    let longest = (or_unknown(client.limits().await)?.max_write_bytes as usize).min(MOST);
    // One of the lines, with its end.
    let line = |index: usize, round: usize| {
        let line = format!("{index} {round} ");
        let more = if round == ROUNDS / 2 { longest.saturating_sub(line.len() + 1) } else { 0 };
        line + &".".repeat(more)
    };
    let mut found = Vec::new();
    for (other, who) in world.partners()? {
        let clients = [&client, &other];
        or_unknown(client.put(b"log", Bytes::new(), PutOptions::default()).await)?;
        let add = async |index: usize| {
            for round in 0..ROUNDS {
                let line = line(index, round) + "\n";
                if or_no(clients[index].append(b"log", line.into(), PutOptions::default()).await)?.is_none() {
                    return Err(no("the file that was made is not there"));
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
                "{who}: {} were made, {} lines are there, or they are mixed",
                expected.len(),
                lines.len()
            )));
        }
        found.push(format!("{} of {who}", expected.len()));
    }
    Ok(yes(format!("{}; the longest has {} bytes", found.join(", and "), grouped(longest as u64))))
}

/// What the reader is to find.
type Expected<'a> = Option<&'a [u8]>;

/// Until the reader finds it; whether it found something else first, and for how long.
async fn until_seen(reader: &Client, name: &[u8], expected: Expected<'_>) -> Result<Option<Duration>, Outcome> {
    let began = Instant::now();
    let mut late = None;
    loop {
        let read = reader.read(name, 0, 100).await;
        let is_it = match (&read, expected) {
            (Ok(read), Some(expected)) => read.data == expected && read.attributes.size == Some(expected.len() as u64),
            (Err(err), None) => err.status() == Some(Status::NOENT),
            _ => false,
        };
        if is_it {
            return Ok(late);
        }
        if let Err(err) = read
            && err.status().is_none()
        {
            return Err(unknown(err.to_string()));
        }
        late = Some(began.elapsed());
        if began.elapsed() > Duration::from_secs(5) {
            return Err(no("a write is not seen within 5 s"));
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// One writes, the other reads, and the other way round: so often something else was seen than what was written, and how
/// long. By a file that comes into the place of another, by a write in place that makes it longer, by one that was known
/// not to be there, and by one that is removed.
async fn sees(one: &Client, two: &Client, name: &str) -> Result<(usize, Duration), Outcome> {
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
        let seen = [until_seen(reader, path, expected).await?];
        // It is not there now for the one, and is made by the other.
        let again = match expected {
            Some(_) => None,
            None => {
                or_unknown(writer.put(path, written.clone().into(), PutOptions::default()).await)?;
                until_seen(reader, path, Some(content)).await?
            }
        };
        for took in seen.into_iter().chain([again]).flatten() {
            late += 1;
            longest = longest.max(took);
        }
    }
    Ok((late, longest))
}

fn sees_says((late, longest): (usize, Duration), rounds: usize) -> CheckResult {
    let values = json!({ "writes": rounds, "late": late, "longest_seconds": longest.as_secs_f64() });
    match late {
        0 => Ok(yes(format!("{rounds} writes, each was seen by the next read")).with(values)),
        late => Err(no(format!("{late} of {rounds} writes were seen later, the last of them {} later", time(longest)))
            .with(values)),
    }
}

pub async fn visible_connections(world: &World) -> CheckResult {
    let client = world.writer()?;
    let second = world.new_client(world.host()?)?;
    let seen = sees(&client, &second, "connections").await;
    second.close().await;
    sees_says(seen?, ROUNDS)
}

/// The first host with each of the others, and each of those with the next one.
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
        let seen = sees(&client, &other, &format!("host {index}")).await;
        other.close().await;
        let (found, took) = seen?;
        (late, longest) = (late + found, longest.max(took));
    }
    sees_says((late, longest), ROUNDS * others.len())
}
