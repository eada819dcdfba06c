//! Calls and answers over a stream: RFC 5531. A record is one call or one answer, and may come in several fragments.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{
    error::{Error, Result},
    xdr::{Decoder, Encode},
};

/// What is read at once when nothing is known yet of what comes: of few answers, and of many.
const READ_CHUNK_BYTES: usize = 16 << 10;
const BULK_READ_CHUNK_BYTES: usize = 64 << 10;
/// With less room than this the next answers have new memory.
const MIN_FREE_BYTES: usize = 4 << 10;
/// `SYSTEM_ERR` (RFC 5531, section 9), for [`Error::Refused`]: it does not say whether the call was executed.
pub(crate) const SYSTEM_ERROR: &str = "it has failed";
/// A record in more pieces than this is not an answer of anybody's.
const MAX_FRAGMENTS: usize = 64;

/// Takes records out of a stream. What was read and not taken stays, so that it is safe to drop a read.
pub(crate) struct Records<R> {
    stream: R,
    buffer: BytesMut,
    /// The earlier fragments of the record that is coming.
    partial: BytesMut,
    fragments: usize,
    chunk_bytes: usize,
    pub max_record_bytes: usize,
}

impl<R: AsyncRead + Unpin> Records<R> {
    pub fn new(stream: R, max_record_bytes: usize) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            partial: BytesMut::new(),
            fragments: 0,
            chunk_bytes: READ_CHUNK_BYTES,
            max_record_bytes,
        }
    }

    /// Whether many answers are to come: so many are read at once. Of few it keeps no more memory than they need.
    pub fn set_bulk(&mut self, is_bulk: bool) {
        self.chunk_bytes = if is_bulk { BULK_READ_CHUNK_BYTES } else { READ_CHUNK_BYTES };
    }

    /// The next one, without its marks.
    ///
    /// # Errors
    /// `UnexpectedEof` when the other side has closed; `InvalidData` when a record is longer than it may be.
    pub async fn next(&mut self) -> io::Result<Bytes> {
        loop {
            if let Some(record) = self.next_buffered()? {
                return Ok(record);
            }
            // To make room in what a large answer has left would be to keep all of that.
            if self.buffer.is_empty() && !(MIN_FREE_BYTES..=self.chunk_bytes).contains(&self.buffer.capacity()) {
                self.buffer = BytesMut::with_capacity(self.chunk_bytes);
            }
            let there = self.buffer.len();
            let wanted = self.buffer.first_chunk().map_or(MIN_FREE_BYTES, |mark| 4 + length(*mark));
            if self.buffer.capacity() < wanted.max(there + 1) {
                self.buffer.reserve(wanted.max(self.chunk_bytes).saturating_sub(there).max(1));
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The next one, if all of it was read with those before it.
    ///
    /// # Errors
    /// As [`Records::next`].
    pub fn next_buffered(&mut self) -> io::Result<Option<Bytes>> {
        take_record(&mut self.buffer, &mut self.partial, &mut self.fragments, self.max_record_bytes)
    }
}

fn length(mark: [u8; 4]) -> usize {
    (u32::from_be_bytes(mark) & !(1 << 31)) as usize
}

/// The record at the front of the buffer, if all of it is there.
pub(crate) fn take_record(
    buffer: &mut BytesMut,
    partial: &mut BytesMut,
    fragments: &mut usize,
    max_record_bytes: usize,
) -> io::Result<Option<Bytes>> {
    let invalid = |err: &'static str| io::Error::new(io::ErrorKind::InvalidData, Error::Protocol(err));
    while let Some(mark) = buffer.first_chunk::<4>() {
        let (length, is_last) = (length(*mark), mark[0] & 0x80 != 0);
        if partial.len() + length > max_record_bytes {
            return Err(invalid("an answer is longer than the session lets it be"));
        }
        if buffer.len() < 4 + length {
            return Ok(None);
        }
        buffer.advance(4);
        let fragment = buffer.split_to(length);
        if is_last && *fragments == 0 {
            return Ok(Some(fragment.freeze()));
        }
        *fragments += 1;
        if *fragments > MAX_FRAGMENTS {
            return Err(invalid("an answer comes in too many fragments"));
        }
        partial.extend_from_slice(&fragment);
        if is_last {
            *fragments = 0;
            return Ok(Some(std::mem::take(partial).freeze()));
        }
    }
    Ok(None)
}

/// Reads what comes before the result of a call that was done, after its number.
///
/// # Errors
/// [`Error::Refused`]: it was not done.
pub(crate) fn decode_reply_header(record: &mut Decoder) -> Result<()> {
    const REPLY: u32 = 1;
    const VERIFIER: usize = 400;
    if record.word()? != REPLY {
        return Err(Error::Protocol("a call has come over a connection for answers"));
    }
    match record.word()? {
        0 => {}
        _ => {
            return Err(match record.word()? {
                1 => Error::Refused("it does not accept these credentials"),
                _ => Error::Refused("it speaks another version of RPC"),
            });
        }
    }
    record.word()?;
    record.opaque(VERIFIER)?;
    match record.word()? {
        0 => Ok(()),
        1 => Err(Error::Refused("it has no such program")),
        2 => Err(Error::Refused("it speaks another version of the program")),
        3 => Err(Error::Refused("it does not know the procedure")),
        4 => Err(Error::Refused("it does not understand the call")),
        _ => Err(Error::Refused(SYSTEM_ERROR)),
    }
}

/// Who asks, as the server believes it: `AUTH_SYS`, RFC 5531, appendix A.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Credentials {
    pub user: u32,
    pub group: u32,
    /// Other groups, 16 at most.
    pub groups: Vec<u32>,
}

impl Default for Credentials {
    /// Those of this process.
    fn default() -> Self {
        let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Self { user, group, groups: Vec::new() }
    }
}

impl Credentials {
    pub(crate) fn encode(&self) -> Result<BytesMut> {
        const MAX_GROUPS: usize = 16;
        if self.groups.len() > MAX_GROUPS {
            return Err(Error::BadInput("AUTH_SYS carries at most 16 groups"));
        }
        let mut bytes = BytesMut::new();
        bytes.word(0).opaque(b"nfs41").word(self.user).word(self.group);
        bytes.word(u32::try_from(self.groups.len()).unwrap_or_default());
        for group in &self.groups {
            bytes.word(*group);
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_read_ahead_for_many_is_not_kept_for_few() {
        let (stream, mut server) = tokio::io::duplex(1 << 20);
        let mut records = Records::new(stream, 8 << 10);
        records.set_bulk(true);
        let record = [&(1_u32 << 31 | 4096).to_be_bytes()[..], &[7; 4096]].concat();
        tokio::io::AsyncWriteExt::write_all(&mut server, &record.repeat(10)).await.unwrap();
        for _ in 0..10 {
            assert_eq!(records.next().await.unwrap(), record[4..]);
        }
        assert!(records.buffer.capacity() > READ_CHUNK_BYTES, "nothing was read ahead");
        records.set_bulk(false);
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(1), records.next()).await;
        assert!(waiting.is_err(), "there is nothing to read");
        assert!(
            (MIN_FREE_BYTES..=READ_CHUNK_BYTES).contains(&records.buffer.capacity()),
            "{}",
            records.buffer.capacity()
        );
    }
}
