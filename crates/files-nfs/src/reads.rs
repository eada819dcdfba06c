//! Contents on their way to whoever reads.

use std::time::Duration;

use bytes::Bytes;
use nfs41::{AttributeMask, Client, Status};

use super::{PIECE, anew, in_time, meta as meta_of};
use crate::status::error_of;
use files::{
    Error, Result, buffers,
    target::{Answer, Part, Reading, Rest, Verdict, Want},
};
use router::path::FilePath;

/// From this byte on, as much as one piece holds.
fn first_piece(want: &Want) -> Option<(u64, u32)> {
    let conditions = &want.conditions;
    let asks = conditions.is_none() && conditions.modified_since.is_none() && want.part_if.is_none();
    match want.part {
        _ if want.only_meta || !asks => None,
        None => Some((0, PIECE)),
        Some(Part::From(from, to)) => {
            let length = to.map_or(u64::from(PIECE), |to| to.saturating_sub(from).saturating_add(1));
            Some((from, u32::try_from(length).unwrap_or(PIECE).min(PIECE)))
        }
        // Where it begins depends on the size.
        Some(Part::Last(_)) => None,
    }
}

/// Up to so many bytes, as many as there is room for.
async fn read_piece(client: &Client, path: &FilePath, from: u64, length: u32) -> nfs41::Result<nfs41::ReadResult> {
    let room = buffers::room(length as usize);
    let found = client.read(path.as_bytes(), from, room.bytes()).await?;
    Ok(nfs41::ReadResult { data: room.hold(found.data), ..found })
}

/// The next bytes of a file that is held, as many as there is room for.
async fn read_on(file: &nfs41::File, at: u64, to: u64) -> nfs41::Result<Bytes> {
    let room = buffers::room(piece(at, to) as usize);
    let (data, _) = file.read(at, room.bytes()).await?;
    Ok(room.hold(data))
}

pub(super) async fn read(client: Client, path: FilePath, want: Want, deadline: Duration) -> Result<Reading> {
    anew(|| read_once(&client, &path, &want, deadline)).await.map_err(error_of)?
}

async fn read_once(
    client: &Client,
    path: &FilePath,
    want: &Want,
    deadline: Duration,
) -> nfs41::Result<Result<Reading>> {
    let found = match first_piece(want) {
        None => None,
        Some((from, length)) => match read_piece(client, path, from, length).await {
            Ok(found) => Some((from, found)),
            // A directory or a link cannot be read, nor what is behind the end of everything.
            Err(nfs41::Error::Status { op: nfs41::Op::READ, status }) if status != Status::STALE => None,
            Err(why) => return Err(why),
        },
    };
    let meta = match &found {
        Some((_, found)) => meta_of(&found.attributes),
        None => meta_of(&client.attributes(path.as_bytes(), AttributeMask::STAT).await?),
    };
    let meta = match meta {
        Ok(meta) => meta,
        Err(why) => return Ok(Err(why)),
    };
    let verdict = want.judge(&meta);
    let nothing = Reading { meta, verdict, first: Bytes::new(), rest: None };
    let (from, to) = match verdict {
        Verdict::Content { from, to, .. } if !want.only_meta && from < to => (from, to),
        _ => return Ok(Ok(nothing)),
    };
    let found = match found {
        Some((place, found)) if place == from => found,
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
            Some(Box::new(Remaining { file, deadline, ahead, at, to }) as Box<dyn Rest>)
        }
    };
    Ok(Ok(Reading { first, rest, ..nothing }))
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

impl Rest for Remaining {
    fn next(mut self: Box<Self>) -> Answer<'static, (Bytes, Box<dyn Rest>)> {
        Box::pin(async move {
            if !self.ahead.is_empty() || self.at == self.to {
                return Ok((std::mem::take(&mut self.ahead), self as Box<dyn Rest>));
            }
            let piece = in_time(self.deadline, read_on(&self.file, self.at, self.to)).await?;
            if piece.is_empty() {
                return Err(Error::Shortened);
            }
            self.at += piece.len() as u64;
            Ok((piece, self as Box<dyn Rest>))
        })
    }
}
