//! Checks of writing, replacing, linking and removing files.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use nfs41::{
    AttributeMask, Attributes, Create, Error, Precondition, PutOptions, ReadResult, SetAttributes, Status, Time,
};
use serde_json::json;

use super::{ROUNDS, content, read_file, reads::describe_replaced};
use crate::{
    grouped,
    outcome::{CheckResult, error_outcome, no, or_no, or_unknown, unknown, yes},
    world::World,
};

/// Two contents for one name; the second is shorter.
fn two_contents(seed: usize) -> [Bytes; 2] {
    [content(70_000, seed), content(5000, seed + 1)]
}

fn replaced(put: nfs41::Result<Attributes>, read: nfs41::Result<ReadResult>, expected: &Bytes) -> CheckResult {
    or_no(put)?;
    match or_unknown(read)?.data == *expected {
        true => Ok(yes("5,000 bytes replaced 70,000")),
        false => Err(no("the content differs from what was put")),
    }
}

pub async fn put_one_call(world: &World) -> CheckResult {
    let client = world.writer()?;
    let [first, second] = two_contents(2);
    or_no(client.put_without_fallback(b"put", first.clone(), PutOptions::default()).await)?;
    if or_unknown(read_file(&client, b"put").await)? != first {
        return Err(no("the content differs from what was put"));
    }
    let put = client.put_without_fallback(b"put", second.clone(), PutOptions::default()).await;
    replaced(put, client.read(b"put", 0, 100_000).await, &second)
}

pub async fn put_fall_back(world: &World) -> CheckResult {
    world.writer()?;
    let client = world.new_client(world.host()?)?;
    client.disable_current_stateid();
    let [first, second] = two_contents(4);
    let first_put = client.put(b"put plainly", first.clone(), PutOptions::default()).await;
    let first_read = read_file(&client, b"put plainly").await;
    let put = client.put(b"put plainly", second.clone(), PutOptions::default()).await;
    let read = client.read(b"put plainly", 0, 100_000).await;
    client.close().await;
    or_no(first_put)?;
    if or_unknown(first_read)? != first {
        return Err(no("the content differs from what was put"));
    }
    replaced(put, read, &second)
}

/// The conditional puts of the service: only if the file does not exist, or only over a certain version.
pub async fn put_conditional(world: &World) -> CheckResult {
    let client = world.writer()?;
    let put = async |content: &'static str, precondition| {
        client.put(b"condition", content.into(), PutOptions { precondition, ..PutOptions::default() }).await
    };
    let read = async || Ok(or_unknown(client.read(b"condition", 0, 100).await)?.data);
    let if_size_is = |size: u64| {
        Precondition::If(Arc::new(move |found: Option<&Attributes>| {
            found.is_some_and(|found| found.size == Some(size))
        }))
    };
    or_no(put("first", Precondition::Absent).await)?;
    for (precondition, condition) in
        [(Precondition::Absent, "that the file does not exist"), (if_size_is(9), "of another version")]
    {
        match put("refused", precondition).await {
            Err(Error::ConditionFailed) => {}
            Ok(_) => {
                return Err(no(format!("a put on the condition {condition} succeeded, although it does not hold")));
            }
            Err(err) => return Err(error_outcome(err)),
        }
        if read().await? != "first" {
            return Err(no(format!("a put on the condition {condition} was refused, but changed the content")));
        }
    }
    or_no(put("second one", if_size_is(5)).await)?;
    match read().await? == "second one" {
        true => Ok(yes("done if the condition held, refused otherwise")),
        false => Err(no("the put reported success, but the file has other content")),
    }
}

pub async fn remove(world: &World) -> CheckResult {
    let client = world.writer()?;
    or_unknown(client.put(b"removed", "content".into(), PutOptions::default()).await)?;
    or_no(client.remove_file(b"removed").await)?;
    match (client.read(b"removed", 0, 100).await, client.remove_file(b"removed").await) {
        (Err(read), Err(again)) if [&read, &again].iter().all(|err| err.status() == Some(Status::NOENT)) => {
            Ok(yes("the file is removed"))
        }
        (Ok(_), _) => Err(no("REMOVE reported success, but the file can still be read")),
        (_, Ok(())) => Err(no("removing the file again succeeded")),
        (Err(read), Err(again)) => {
            Err(unknown(format!("afterwards a read returns {read}, and another removal {again}")))
        }
    }
}

pub async fn pieces(world: &World) -> CheckResult {
    let client = world.writer()?;
    let largest = or_unknown(client.limits().await)?.max_write_bytes as usize;
    let expected = content(2 * largest + 1, 6);
    let mut staged = or_no(client.begin_upload(b"pieces", PutOptions::default()).await)?;
    or_no(staged.write(expected.clone()).await)?;
    or_no(staged.commit().await)?;
    let read = or_unknown(read_file(&client, b"pieces").await)?;
    match read == expected {
        true => Ok(yes(format!("{} bytes", grouped(expected.len() as u64)))),
        false => Err(no(format!("{} bytes were read, which differ from what was written", grouped(read.len() as u64)))),
    }
}

/// A time set with SETATTR, and one set by a put, as the service does.
pub async fn times(world: &World) -> CheckResult {
    let client = world.writer()?;
    let text = |time: Time| format!("{}.{:09}", time.seconds, time.nanoseconds);
    let mut kept = Vec::new();
    for (way, wanted) in [
        ("SETATTR", Time { seconds: 1_700_000_001, nanoseconds: 123_456_789 }),
        ("a put", Time { seconds: 1_700_000_002, nanoseconds: 987_654_321 }),
    ] {
        if way == "SETATTR" {
            or_unknown(client.put(b"times", Bytes::new(), PutOptions::default()).await)?;
            or_no(client.set_attributes(b"times", SetAttributes::modified(wanted)).await)?;
        } else {
            let put = PutOptions { time_modify: Some(wanted), ..PutOptions::default() };
            or_no(client.put(b"times", content(5000, 7), put).await)?;
        }
        let found = or_unknown(client.attributes(b"times", AttributeMask::TIME_MODIFY).await)?.time_modify;
        let found = found.ok_or_else(|| unknown("the server does not report the time"))?;
        let values = json!({ "set": text(wanted), "kept": text(found) });
        if found != wanted {
            return Err(no(format!("{way} set {}, the server kept {}", text(wanted), text(found))).with(values));
        }
        kept.push(text(found));
    }
    Ok(yes(kept.join(" and ")).with(json!({ "kept": kept })))
}

pub async fn create_guarded(world: &World) -> CheckResult {
    let client = world.writer()?;
    let create = async || client.open_file(b"guarded", Create::Guarded(0o600)).await?.close().await;
    or_no(create().await)?;
    match create().await {
        Err(err) if err.status() == Some(Status::EXIST) => Ok(yes(err.to_string())),
        Ok(_) => Err(no("a second create succeeded")),
        Err(err) => Err(error_outcome(err)),
    }
}

pub async fn link(world: &World) -> CheckResult {
    let client = world.writer()?;
    or_unknown(client.put(b"linked", "content".into(), PutOptions::default()).await)?;
    or_unknown(client.put(b"taken", "another".into(), PutOptions::default()).await)?;
    or_no(client.link(b"linked", b"second name").await)?;
    let links = or_unknown(client.attributes(b"second name", AttributeMask::NUMLINKS).await)?.numlinks;
    if links != Some(2) {
        return Err(no(format!("LINK succeeded, but the file has {links:?} links")));
    }
    // Its own second name, and the name of another file.
    for name in [&b"second name"[..], b"taken"] {
        match client.link(b"linked", name).await {
            Err(err) if err.status() == Some(Status::EXIST) => {}
            Ok(()) => return Err(no("LINK over an existing name succeeded")),
            Err(err) => return Err(unknown(err.to_string())),
        }
    }
    match or_unknown(client.read(b"taken", 0, 100).await)?.data == "another" {
        true => Ok(yes("2 links")),
        false => Err(no("LINK over an existing name was refused, but changed the file")),
    }
}

pub async fn rename_over_open(world: &World) -> CheckResult {
    let (client, other) = (world.writer()?, world.second_client()?);
    or_unknown(client.put(b"open", "old".into(), PutOptions::default()).await)?;
    or_unknown(client.put(b"to come", "new".into(), PutOptions::default()).await)?;
    let file = or_unknown(client.open_file(b"open", Create::Never).await)?;
    let renamed = other.rename(b"to come", b"open").await;
    let read = file.read(0, 100).await;
    let _ = file.close().await;
    or_no(renamed)?;
    let by_name = or_unknown(other.read(b"open", 0, 100).await)?;
    if &by_name.data[..] != b"new" {
        return Err(no("RENAME reported success, but the name has the old content"));
    }
    let (word, description) = describe_replaced(read);
    Ok(yes(format!("done; the open file {description}")).with(json!({ "open_file": word })))
}

pub async fn change(world: &World) -> CheckResult {
    let client = world.writer()?;
    or_unknown(client.put(b"change", "0".into(), PutOptions::default()).await)?;
    let mut numbers = Vec::new();
    for round in 0..=ROUNDS {
        if round > 0 {
            // The same length, so that the size does not change.
            or_unknown(client.write_at(b"change", 0, format!("{}", round % 10).into()).await)?;
        }
        let found = or_no(client.attributes(b"change", AttributeMask::CHANGE).await)?.change;
        numbers.push(found.ok_or_else(|| no("the server does not support it"))?);
    }
    let unique: HashSet<_> = numbers.iter().collect();
    let grows = numbers.windows(2).all(|pair| pair[0] < pair[1]);
    let values = json!({ "writes": ROUNDS, "numbers": unique.len(), "grows": grows });
    match unique.len() == numbers.len() {
        true => Ok(yes(format!("{ROUNDS} writes, and it {}", if grows { "grows" } else { "does not always grow" }))
            .with(values)),
        false => Err(no(format!("{ROUNDS} writes gave {} different values", unique.len())).with(values)),
    }
}
