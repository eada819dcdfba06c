//! Checks of READ and READDIR.

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

/// A client, a regular file that it can read, and the content of the file if the probe created it.
async fn readable(world: &World) -> Result<(Client, Vec<u8>, Option<Bytes>), Outcome> {
    /// Number of pages to search for an existing file.
    const MAX_PAGES: usize = 5;
    let host = world.host()?;
    if !world.only_reads() {
        let (client, expected) = (world.writer()?, content(10_000, 1));
        or_unknown(client.put(b"read", expected.clone(), PutOptions::default()).await)?;
        return Ok((client, b"read".to_vec(), Some(expected)));
    }
    let client = world.root_client(host)?;
    let mut cursor = DirCursor::default();
    for _ in 0..MAX_PAGES {
        let page = or_unknown(client.list(b"", cursor, AttributeMask::TYPE, 1 << 16).await)?;
        if let Some(file) = page.entries.iter().find(|entry| entry.attributes.file_type == Some(FileType::File)) {
            return Ok((client, file.name.to_vec(), None));
        }
        if page.eof {
            break;
        }
        cursor = page.cursor;
    }
    Err(unknown("the root contains no regular file to read"))
}

/// A read from within the file to beyond its end: it must return the rest, with `eof`.
const READ_OFFSET: u64 = 1000;
const READ_BYTES: u32 = 32 << 10;

fn read_outcome(read: nfs41::ReadResult, expected: Option<Bytes>) -> CheckResult {
    match expected {
        Some(expected) if read.data != expected.slice(READ_OFFSET as usize..) => {
            Err(no("the content differs from what was written"))
        }
        Some(_) if !read.eof => Err(no("the read reached the end of the file, but eof is not set")),
        _ => Ok(yes(format!("{} bytes", grouped(read.data.len() as u64)))),
    }
}

/// Existing files are read from the start, since their size is unknown.
fn read_offset(expected: Option<&Bytes>) -> u64 {
    expected.map_or(0, |_| READ_OFFSET)
}

pub async fn read_anonymous(world: &World) -> CheckResult {
    let (client, path, expected) = readable(world).await?;
    let read = client.read_without_fallback(&path, read_offset(expected.as_ref()), READ_BYTES).await;
    read_outcome(or_no(read)?, expected)
}

pub async fn read_opened(world: &World) -> CheckResult {
    let (_, path, expected) = readable(world).await?;
    let host = world.host()?;
    let client = if world.only_reads() { world.root_client(host)? } else { world.new_client(host)? };
    client.disable_anonymous_read();
    let read = client.read(&path, read_offset(expected.as_ref()), READ_BYTES).await;
    client.close().await;
    read_outcome(or_no(read)?, expected)
}

/// Describes a read of a file that has been replaced.
pub fn describe_replaced(read: nfs41::Result<(Bytes, bool)>) -> (&'static str, String) {
    match read {
        Ok((data, _)) if &data[..] == b"old" => ("content", "still has its own content".to_owned()),
        Ok((data, _)) if &data[..] == b"new" => ("other", "has the content of the new file".to_owned()),
        Ok(_) => ("other", "has other content".to_owned()),
        Err(err) if err.status() == Some(Status::STALE) => ("stale", format!("is gone ({err})")),
        Err(err) => ("unknown", format!("cannot be read: {err}")),
    }
}

fn replaced_outcome(read: nfs41::Result<(Bytes, bool)>) -> CheckResult {
    let (word, description) = describe_replaced(read);
    let outcome = match word {
        "content" => Ok(yes(format!("the file {description}"))),
        "unknown" => Err(unknown(format!("the file {description}"))),
        _ => Err(no(format!("the file {description}"))),
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
    replaced_outcome(read)
}

pub async fn read_on_replaced(world: &World) -> CheckResult {
    let (client, other) = (world.writer()?, world.second_client()?);
    or_unknown(client.put(b"read on", "old".into(), PutOptions::default()).await)?;
    let found = or_unknown(client.read(b"read on", 0, 1).await)?;
    or_unknown(other.put(b"read on", "new".into(), PutOptions::default()).await)?;
    replaced_outcome(client.read_by_handle(&found.handle, 0, 100).await)
}

pub async fn readdir(world: &World) -> CheckResult {
    const ENTRIES: usize = 60;
    /// Page limit for existing directories, which may be large.
    const MAX_PAGES: usize = 20;
    const PAGE_BYTES: u32 = 4 << 10;
    let host = world.host()?;
    let own = !world.only_reads();
    let client = if own { world.writer()? } else { world.root_client(host)? };
    let mut expected = HashSet::new();
    for number in 0..if own { ENTRIES } else { 0 } {
        // Long names, so that few fit into a page.
        let name = format!("entry {number:0>100}");
        or_unknown(client.put(name.as_bytes(), Bytes::new(), PutOptions::default()).await)?;
        expected.insert(Bytes::from(name));
    }
    let (mut cursor, mut seen, mut pages, mut verifier, mut highest) = (DirCursor::default(), Vec::new(), 0, false, 0);
    let mut ended = false;
    while !ended && (own || pages < MAX_PAGES) {
        let page = or_no(client.list(b"", cursor, AttributeMask::STAT, PAGE_BYTES).await)?;
        pages += 1;
        verifier |= page.has_cookie_verifier();
        highest = page.entries.iter().map(|entry| entry.cookie).fold(highest, u64::max);
        if let (true, 1, Some(last)) = (own, pages, page.entries.last()) {
            or_unknown(client.remove(&last.name).await)?;
        }
        (cursor, ended) = (page.cursor, page.eof);
        seen.extend(page.entries.into_iter().map(|entry| entry.name));
    }
    let unique: HashSet<_> = seen.iter().cloned().collect();
    let missing = expected.difference(&unique).count();
    let bits = u64::BITS - highest.leading_zeros();
    let found = format!(
        "entries {}, pages {pages}, cookies of up to {bits} bits, {} verifier",
        grouped(seen.len() as u64),
        if verifier { "with a" } else { "without a" }
    );
    let values = json!({ "entries": seen.len(), "pages": pages, "cookie_bits": bits, "verifier": verifier });
    let outcome = match (missing, seen.len() - unique.len()) {
        (0, 0) if pages > 1 && own => Ok(yes(found)),
        (0, 0) if pages > 1 => Ok(yes(format!("{found}; no entry was removed"))),
        (0, 0) if own => Err(unknown(format!("everything fits into one page: {found}"))),
        (0, 0) if world.setup.options.read_only => {
            Err(excluded(format!("the root fits into one page, and --read-only is given: {found}")))
        }
        (0, 0) => Err(not_asked(format!("the root fits into one page: {found}"))),
        (missing, repeated) => Err(no(format!("{missing} missing, {repeated} repeated: {found}"))),
    };
    with_values(outcome, values)
}
