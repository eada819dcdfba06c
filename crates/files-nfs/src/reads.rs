//! Contents on their way to whoever reads.

use std::time::Duration;

use bytes::Bytes;
use nfs41::{AttributeMask, Client, Status};

use super::{PIECE, anew, in_time, meta as meta_of};
use crate::status::error_of;
use files::{
    Error, Result, buffers,
    transport::{BodyStream, BoxFuture, ByteRange, ReadOptions, ReadOutcome, ReadResult},
};
use router::path::FilePath;

/// From this byte on, as much as one piece holds.
fn first_piece(want: &ReadOptions) -> Option<(u64, u32)> {
    let conditions = &want.conditions;
    let asks = conditions.is_none() && conditions.modified_since.is_none() && want.if_range.is_none();
    match want.part {
        _ if want.head || !asks => None,
        None => Some((0, PIECE)),
        Some(ByteRange::From(from, to)) => {
            let length = to.map_or(u64::from(PIECE), |to| to.saturating_sub(from).saturating_add(1));
            Some((from, u32::try_from(length).unwrap_or(PIECE).min(PIECE)))
        }
        // Where it begins depends on the size.
        Some(ByteRange::Last(_)) => None,
    }
}

/// Up to so many bytes, as many as there is room for.
async fn read_piece(client: &Client, path: &FilePath, from: u64, length: u32) -> nfs41::Result<nfs41::ReadResult> {
    let reserve = buffers::reserve(length as usize);
    let found = client.read(path.as_bytes(), from, reserve.bytes()).await?;
    Ok(nfs41::ReadResult { data: reserve.hold(found.data), ..found })
}

/// The next bytes of a file that is held, as many as there is room for.
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
            // A directory or a link cannot be read, nor what is behind the end of everything.
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
    // Another file by now, or another content.
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
        // It stays until all of it is read, whoever replaces it. NFS-Ganesha may forget an OPEN that comes while the name
        // is being given to another file, and the file with it; so the next piece is read before anything is answered,
        // while all of it can still be read anew.
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

/// How much of these bytes is asked for at once.
fn piece(from: u64, to: u64) -> u32 {
    u32::try_from(to - from).unwrap_or(PIECE).min(PIECE)
}

/// The rest of a file that is being read.
struct Remaining {
    file: nfs41::File,
    deadline: Duration,
    /// What was read already; what comes next, if it is not empty.
    ahead: Bytes,
    /// The first byte that was not.
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
