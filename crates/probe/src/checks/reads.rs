//! What READ and READDIR give.

use std::collections::HashSet;

use bytes::Bytes;
use nfs41::{AttributeMask, Client, DirCursor, FileType, PutOptions, Status};
use serde_json::json;

use super::content;
use crate::{
    grouped,
    outcome::{CheckResult, Outcome, excluded, no, not_asked, or_no, or_unknown, unknown, with_values, yes},
    world::World,
};

/// A client and a plain file that it can read; and what is in it, where that is known.
async fn readable(world: &World) -> Result<(Client, Vec<u8>, Option<Bytes>), Outcome> {
    /// Pages of a directory that somebody else has filled.
    const PAGES: usize = 5;
    let host = world.host()?;
    if !world.only_reads() {
        let (client, expected) = (world.writer()?, content(10_000, 1));
        or_unknown(client.put(b"read", expected.clone(), PutOptions::default()).await)?;
        return Ok((client, b"read".to_vec(), Some(expected)));
    }
    let client = world.root_client(host)?;
    let mut place = DirCursor::default();
    for _ in 0..PAGES {
        let page = or_unknown(client.list(b"", place, AttributeMask::TYPE, 1 << 16).await)?;
        if let Some(file) = page.entries.iter().find(|entry| entry.attributes.file_type == Some(FileType::File)) {
            return Ok((client, file.name.to_vec(), None));
        }
        if page.eof {
            break;
        }
        place = page.cursor;
    }
    Err(unknown("there is no plain file in the root to read"))
}

/// From a place within the file to behind its end: what comes has to be the rest, and the server has to say so.
const FROM: u64 = 1000;
const MORE_THAN_ALL: u32 = 32 << 10;

fn read_says(read: nfs41::ReadResult, expected: Option<Bytes>) -> CheckResult {
    match expected {
        Some(expected) if read.data != expected.slice(FROM as usize..) => {
            Err(no("what is read is not what was written"))
        }
        Some(_) if !read.eof => Err(no("all is read, and the server does not say that it is the end")),
        _ => Ok(yes(format!("{} bytes", grouped(read.data.len() as u64)))),
    }
}

/// Of a file of somebody else, whose size is not known.
fn from(expected: Option<&Bytes>) -> u64 {
    expected.map_or(0, |_| FROM)
}

pub async fn read_anonymous(world: &World) -> CheckResult {
    let (client, path, expected) = readable(world).await?;
    let read = client.read_without_fallback(&path, from(expected.as_ref()), MORE_THAN_ALL).await;
    read_says(or_no(read)?, expected)
}

pub async fn read_opened(world: &World) -> CheckResult {
    let (_, path, expected) = readable(world).await?;
    let host = world.host()?;
    let client = if world.only_reads() { world.root_client(host)? } else { world.new_client(host)? };
    client.disable_anonymous_read();
    let read = client.read(&path, from(expected.as_ref()), MORE_THAN_ALL).await;
    client.close().await;
    read_says(or_no(read)?, expected)
}

/// What reading a file says that has no name any more.
pub fn held(read: nfs41::Result<(Bytes, bool)>) -> (&'static str, String) {
    match read {
        Ok((data, _)) if &data[..] == b"old" => ("content", "still reads its own content".to_owned()),
        Ok((data, _)) if &data[..] == b"new" => ("other", "reads the new file's content".to_owned()),
        Ok(_) => ("other", "reads something else".to_owned()),
        Err(err) if err.status() == Some(Status::STALE) => ("stale", format!("is gone ({err})")),
        Err(err) => ("unknown", format!("is not read: {err}")),
    }
}

fn held_says(read: nfs41::Result<(Bytes, bool)>) -> CheckResult {
    let (word, told) = held(read);
    let outcome = match word {
        "content" => Ok(yes(format!("it {told}"))),
        "unknown" => Err(unknown(format!("it {told}"))),
        _ => Err(no(format!("it {told}"))),
    };
    let values = json!({ "file": word });
    with_values(outcome, values)
}

pub async fn hold_replaced(world: &World) -> CheckResult {
    let (client, other) = (world.writer()?, world.second_client()?);
    or_unknown(client.put(b"held", "old".into(), PutOptions::default()).await)?;
    let found = or_unknown(client.read(b"held", 0, 1).await)?;
    let file = or_no(client.open_by_handle(&found.handle).await)?;
    let replaced = other.put(b"held", "new".into(), PutOptions::default()).await;
    let read = file.read(0, 100).await;
    let _ = file.close().await;
    or_unknown(replaced)?;
    held_says(read)
}

pub async fn read_on_replaced(world: &World) -> CheckResult {
    let (client, other) = (world.writer()?, world.second_client()?);
    or_unknown(client.put(b"read on", "old".into(), PutOptions::default()).await)?;
    let found = or_unknown(client.read(b"read on", 0, 1).await)?;
    or_unknown(other.put(b"read on", "new".into(), PutOptions::default()).await)?;
    held_says(client.read_by_handle(&found.handle, 0, 100).await)
}

pub async fn readdir(world: &World) -> CheckResult {
    const ENTRIES: usize = 60;
    /// Of a directory that somebody else has filled.
    const MAX_PAGES: usize = 20;
    const PAGE: u32 = 4 << 10;
    let host = world.host()?;
    let own = !world.only_reads();
    let client = if own { world.writer()? } else { world.root_client(host)? };
    let mut expected = HashSet::new();
    for number in 0..if own { ENTRIES } else { 0 } {
        // Long names: fewer of them in a page.
        let name = format!("entry {number:0>100}");
        or_unknown(client.put(name.as_bytes(), Bytes::new(), PutOptions::default()).await)?;
        expected.insert(Bytes::from(name));
    }
    let (mut place, mut seen, mut pages, mut verifier, mut highest) = (DirCursor::default(), Vec::new(), 0, false, 0);
    let mut ended = false;
    while !ended && (own || pages < MAX_PAGES) {
        let page = or_no(client.list(b"", place, AttributeMask::STAT, PAGE).await)?;
        pages += 1;
        verifier |= page.has_cookie_verifier();
        highest = page.entries.iter().map(|entry| entry.cookie).fold(highest, u64::max);
        if let (true, 1, Some(last)) = (own, pages, page.entries.last()) {
            or_unknown(client.remove(&last.name).await)?;
        }
        (place, ended) = (page.cursor, page.eof);
        seen.extend(page.entries.into_iter().map(|entry| entry.name));
    }
    let once: HashSet<_> = seen.iter().cloned().collect();
    let missing = expected.difference(&once).count();
    let bits = u64::BITS - highest.leading_zeros();
    let found = format!(
        "entries {}, pages {pages}, cookies of up to {bits} bits, {} verifier",
        grouped(seen.len() as u64),
        if verifier { "with a" } else { "without a" }
    );
    let values = json!({ "entries": seen.len(), "pages": pages, "cookie_bits": bits, "verifier": verifier });
    let outcome = match (missing, seen.len() - once.len()) {
        (0, 0) if pages > 1 && own => Ok(yes(found)),
        (0, 0) if pages > 1 => Ok(yes(format!("{found}; nothing was removed"))),
        (0, 0) if own => Err(unknown(format!("one page has all: {found}"))),
        (0, 0) if world.setup.options.read_only => {
            Err(excluded(format!("one page has all that is in the root, and nothing shall be changed: {found}")))
        }
        (0, 0) => Err(not_asked(format!("one page has all that is in the root: {found}"))),
        (missing, twice) => Err(no(format!("{missing} are missing, {twice} came twice: {found}"))),
    };
    with_values(outcome, values)
}
