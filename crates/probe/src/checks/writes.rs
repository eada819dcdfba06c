//! What is written, replaced, named and removed.

use std::{collections::HashSet, sync::Arc};

use bytes::Bytes;
use nfs41::{
    AttributeMask, Attributes, Create, Error, Precondition, PutOptions, ReadResult, SetAttributes, Status, Time,
};
use serde_json::json;

use super::{ROUNDS, content, read_file, reads::held};
use crate::{
    grouped,
    outcome::{CheckResult, no, or_no, or_unknown, refused, unknown, yes},
    world::World,
};

/// Two contents under one name: the second one replaces a longer one.
fn replacing(seed: usize) -> [Bytes; 2] {
    [content(70_000, seed), content(5000, seed + 1)]
}

fn replaced(put: nfs41::Result<Attributes>, read: nfs41::Result<ReadResult>, expected: &Bytes) -> CheckResult {
    or_no(put)?;
    match or_unknown(read)?.data == *expected {
        true => Ok(yes("5,000 bytes in the place of 70,000, there and whole")),
        false => Err(no("it is not what was put")),
    }
}

pub async fn put_one_call(world: &World) -> CheckResult {
    let client = world.writer()?;
    let [first, second] = replacing(2);
    or_no(client.put_without_fallback(b"put", first.clone(), PutOptions::default()).await)?;
    if or_unknown(read_file(&client, b"put").await)? != first {
        return Err(no("it is not what was put"));
    }
    let put = client.put_without_fallback(b"put", second.clone(), PutOptions::default()).await;
    replaced(put, client.read(b"put", 0, 100_000).await, &second)
}

pub async fn put_fall_back(world: &World) -> CheckResult {
    world.writer()?;
    let client = world.new_client(world.host()?)?;
    client.disable_current_stateid();
    let [first, second] = replacing(4);
    let begun = client.put(b"put plainly", first.clone(), PutOptions::default()).await;
    let between = read_file(&client, b"put plainly").await;
    let put = client.put(b"put plainly", second.clone(), PutOptions::default()).await;
    let read = client.read(b"put plainly", 0, 100_000).await;
    client.close().await;
    or_no(begun)?;
    if or_unknown(between)? != first {
        return Err(no("it is not what was put"));
    }
    replaced(put, read, &second)
}

/// As the service makes a content that is new, or one whose old one it was told.
pub async fn put_conditional(world: &World) -> CheckResult {
    let client = world.writer()?;
    let put = async |content: &'static str, conditions| {
        client.put(b"condition", content.into(), PutOptions { precondition: conditions, ..PutOptions::default() }).await
    };
    let read = async || Ok(or_unknown(client.read(b"condition", 0, 100).await)?.data);
    let if_it_is = |size: u64| {
        Precondition::If(Arc::new(move |found: Option<&Attributes>| {
            found.is_some_and(|found| found.size == Some(size))
        }))
    };
    or_no(put("first", Precondition::Absent).await)?;
    for (conditions, what) in [(Precondition::Absent, "that there is none"), (if_it_is(9), "of another content")] {
        match put("refused", conditions).await {
            Err(Error::ConditionFailed) => {}
            Ok(_) => return Err(no(format!("one on the condition {what} is done all the same"))),
            Err(err) => return Err(refused(err)),
        }
        if read().await? != "first" {
            return Err(no(format!("one on the condition {what} is refused, and has changed the content")));
        }
    }
    or_no(put("second one", if_it_is(5)).await)?;
    match read().await? == "second one" {
        true => Ok(yes("done of the content that was named and of none, refused of others")),
        false => Err(no("it is said to be done, and the name has another content")),
    }
}

pub async fn remove(world: &World) -> CheckResult {
    let client = world.writer()?;
    or_unknown(client.put(b"removed", "content".into(), PutOptions::default()).await)?;
    or_no(client.remove_file(b"removed").await)?;
    match (client.read(b"removed", 0, 100).await, client.remove_file(b"removed").await) {
        (Err(read), Err(again)) if [&read, &again].iter().all(|err| err.status() == Some(Status::NOENT)) => {
            Ok(yes("it is gone"))
        }
        (Ok(_), _) => Err(no("it is said to be done, and the file is still read")),
        (_, Ok(())) => Err(no("what is gone is removed once more")),
        (Err(read), Err(again)) => Err(unknown(format!("then reading it says {read}, and removing it {again}"))),
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
        false => Err(no(format!("{} bytes come back, and they are others", grouped(read.len() as u64)))),
    }
}

/// A time that was set, and the one of a content that is put with a time, as the service gives one to each.
pub async fn times(world: &World) -> CheckResult {
    let client = world.writer()?;
    let told = |time: Time| format!("{}.{:09}", time.seconds, time.nanoseconds);
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
        let found = found.ok_or_else(|| unknown("the server does not say when it changed"))?;
        let values = json!({ "set": told(wanted), "kept": told(found) });
        if found != wanted {
            return Err(no(format!("{way} gave it {}, {} is kept", told(wanted), told(found))).with(values));
        }
        kept.push(told(found));
    }
    Ok(yes(kept.join(" and ")).with(json!({ "kept": kept })))
}

pub async fn create_guarded(world: &World) -> CheckResult {
    let client = world.writer()?;
    let create = async || client.open_file(b"guarded", Create::Guarded(0o600)).await?.close().await;
    or_no(create().await)?;
    match create().await {
        Err(err) if err.status() == Some(Status::EXIST) => Ok(yes(err.to_string())),
        Ok(_) => Err(no("a second one is made, too")),
        Err(err) => Err(refused(err)),
    }
}

pub async fn link(world: &World) -> CheckResult {
    let client = world.writer()?;
    or_unknown(client.put(b"linked", "content".into(), PutOptions::default()).await)?;
    or_unknown(client.put(b"taken", "another".into(), PutOptions::default()).await)?;
    or_no(client.link(b"linked", b"second name").await)?;
    let links = or_unknown(client.attributes(b"second name", AttributeMask::NUMLINKS).await)?.numlinks;
    if links != Some(2) {
        return Err(no(format!("it is made, but the file has {links:?} links")));
    }
    // By its own second name, and by a name that another file has.
    for name in [&b"second name"[..], b"taken"] {
        match client.link(b"linked", name).await {
            Err(err) if err.status() == Some(Status::EXIST) => {}
            Ok(()) => return Err(no("a name that is taken is taken again")),
            Err(err) => return Err(unknown(err.to_string())),
        }
    }
    match or_unknown(client.read(b"taken", 0, 100).await)?.data == "another" {
        true => Ok(yes("2 links")),
        false => Err(no("a name that is taken is refused, and has another content then")),
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
        return Err(no("it is said to be done, and the name has the old content"));
    }
    let (word, told) = held(read);
    Ok(yes(format!("done; the file that is open {told}")).with(json!({ "open_file": word })))
}

pub async fn change(world: &World) -> CheckResult {
    let client = world.writer()?;
    or_unknown(client.put(b"change", "0".into(), PutOptions::default()).await)?;
    let mut numbers = Vec::new();
    for round in 0..=ROUNDS {
        if round > 0 {
            // Of the same length.
            or_unknown(client.write_at(b"change", 0, format!("{}", round % 10).into()).await)?;
        }
        let found = or_no(client.attributes(b"change", AttributeMask::CHANGE).await)?.change;
        numbers.push(found.ok_or_else(|| no("the server has none"))?);
    }
    let others: HashSet<_> = numbers.iter().collect();
    let grows = numbers.windows(2).all(|pair| pair[0] < pair[1]);
    let values = json!({ "writes": ROUNDS, "numbers": others.len(), "grows": grows });
    match others.len() == numbers.len() {
        true => Ok(yes(format!("{ROUNDS} writes, and it {}", if grows { "grows" } else { "does not always grow" }))
            .with(values)),
        false => Err(no(format!("{ROUNDS} writes gave {} numbers", others.len())).with(values)),
    }
}
