//! Reads.

use std::time::Duration;

use bytes::Bytes;
use nfs41::{AttributeMask, Client, Status};

use super::{READ_BYTES, anew, in_time, meta as meta_of};
use crate::status::error_of;
use files::{
    Error, Result, buffers,
    transport::{BodyStream, BoxFuture, ByteRange, ReadOptions, ReadOutcome, ReadResult},
};
use router::path::FilePath;

/// Opens a file and reads the first piece.
fn first_piece(want: &ReadOptions) -> Option<(u64, u32)> {
    let conditions = &want.conditions;
    let asks = conditions.is_none() && conditions.modified_since.is_none() && want.if_range.is_none();
    match want.part {
        _ if want.head || !asks => None,
        None => Some((0, READ_BYTES)),
        Some(ByteRange::From(from, to)) => {
            let length = to.map_or(u64::from(READ_BYTES), |to| to.saturating_sub(from).saturating_add(1));
            Some((from, u32::try_from(length).unwrap_or(READ_BYTES).min(READ_BYTES)))
        }
        // The first offset depends on the size.
        Some(ByteRange::Last(_)) => None,
    }
}

/// Reads up to this number of bytes, as far as buffers are available.
async fn read_piece(client: &Client, path: &FilePath, from: u64, length: u32) -> nfs41::Result<nfs41::ReadResult> {
    let reserve = buffers::reserve(length as usize);
    let found = client.read(path.as_bytes(), from, reserve.bytes()).await?;
    Ok(nfs41::ReadResult { data: reserve.hold(found.data), ..found })
}

/// Reads the next bytes of an open file, as far as buffers are available.
async fn read_on(file: &nfs41::File, at: u64, to: u64) -> nfs41::Result<Bytes> {
    let reserve = buffers::reserve(piece(at, to) as usize);
    let (data, _) = file.read(at, reserve.bytes()).await?;
    Ok(reserve.hold(data))
}

pub(super) async fn read(client: Client, path: FilePath, want: ReadOptions, deadline: Duration) -> Result<ReadResult> {
    anew(|| read_once(&client, &path, &want, deadline)).await.map_err(error_of)?
}

async fn read_once(
    client: &Client,
    path: &FilePath,
    want: &ReadOptions,
    deadline: Duration,
) -> nfs41::Result<Result<ReadResult>> {
    let found = match first_piece(want) {
        None => None,
        Some((from, length)) => match read_piece(client, path, from, length).await {
            Ok(found) => Some((from, found)),
            // READ fails for a directory or a link, and beyond the maximum offset.
            Err(nfs41::Error::Status { op: nfs41::Op::READ, status }) if status != Status::STALE => None,
            Err(err) => return Err(err),
        },
    };
    let meta = match &found {
        Some((_, found)) => meta_of(&found.attributes),
        None => meta_of(&client.attributes(path.as_bytes(), AttributeMask::STAT).await?),
    };
    let meta = match meta {
        Ok(meta) => meta,
        Err(err) => return Ok(Err(err)),
    };
    let outcome = want.evaluate(&meta);
    let nothing = ReadResult { meta, outcome, first: Bytes::new(), rest: None };
    let (from, to) = match outcome {
        ReadOutcome::Content { from, to, .. } if !want.head && from < to => (from, to),
        _ => return Ok(Ok(nothing)),
    };
    let found = match found {
        Some((cursor, found)) if cursor == from => found,
        _ => read_piece(client, path, from, piece(from, to)).await?,
    };
    // The path names another file or content by now.
    if meta_of(&found.attributes).is_ok_and(|found| found.tag != meta.tag) {
        return Err(nfs41::Error::Status { op: nfs41::Op::READ, status: Status::STALE });
    }
    let wanted = usize::try_from(to - from).unwrap_or(usize::MAX).min(found.data.len());
    let first = found.data.slice(..wanted);
    if first.is_empty() {
        return Ok(Err(Error::Shortened));
    }
    let at = from + first.len() as u64;
    let rest = match at < to {
        false => None,
        // Hold the file open, so that all of it stays readable after another client replaces it. NFS-Ganesha may lose an
        // OPEN that arrives during a RENAME over the name. Therefore read the second piece before anything is returned,
        // while the read can still be restarted.
        true => {
            let file = client.with_timeout(Some(deadline)).open_by_handle(&found.handle).await?;
            let ahead = read_on(&file, at, to).await?;
            if ahead.is_empty() {
                return Ok(Err(Error::Shortened));
            }
            let at = at + ahead.len() as u64;
            Some(Box::new(Remaining { file, deadline, ahead, at, to }) as Box<dyn BodyStream>)
        }
    };
    Ok(Ok(ReadResult { first, rest, ..nothing }))
}

/// The size of the next READ.
fn piece(from: u64, to: u64) -> u32 {
    u32::try_from(to - from).unwrap_or(READ_BYTES).min(READ_BYTES)
}

/// The stream of the remaining bytes of a file.
struct Remaining {
    file: nfs41::File,
    deadline: Duration,
    /// Bytes that are read already and come next; may be empty.
    ahead: Bytes,
    /// The offset of the first byte that is not read yet.
    at: u64,
    to: u64,
}

impl BodyStream for Remaining {
    fn next(mut self: Box<Self>) -> BoxFuture<'static, (Bytes, Box<dyn BodyStream>)> {
        Box::pin(async move {
            if !self.ahead.is_empty() || self.at == self.to {
                return Ok((std::mem::take(&mut self.ahead), self as Box<dyn BodyStream>));
            }
            let piece = in_time(self.deadline, read_on(&self.file, self.at, self.to)).await?;
            if piece.is_empty() {
                return Err(Error::Shortened);
            }
            self.at += piece.len() as u64;
            Ok((piece, self as Box<dyn BodyStream>))
        })
    }
}
