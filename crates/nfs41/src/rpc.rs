//! ONC RPC over a stream: RFC 5531. A record is one call or one reply, in one or more fragments.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{
    error::{Error, Result},
    xdr::{Decoder, Encode},
};

/// Bytes to read at once when the length of the next record is not known: with few calls in flight, and with many.
const READ_CHUNK_BYTES: usize = 16 << 10;
const BULK_READ_CHUNK_BYTES: usize = 64 << 10;
/// A buffer with less free space than this is replaced.
const MIN_FREE_BYTES: usize = 4 << 10;
/// `SYSTEM_ERR` (RFC 5531, section 9), for [`Error::Refused`]. It does not say whether the call was executed.
pub(crate) const SYSTEM_ERROR: &str = "it had an internal error";
/// A record in more fragments than this is invalid.
const MAX_FRAGMENTS: usize = 64;

/// Reads records from a stream. Data that was read stays buffered, so that dropping a read loses nothing.
pub(crate) struct Records<R> {
    stream: R,
    buffer: BytesMut,
    /// The fragments so far of an incomplete record.
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

    /// Whether many replies are expected: reads larger chunks, at the cost of memory.
    pub fn set_bulk(&mut self, is_bulk: bool) {
        self.chunk_bytes = if is_bulk { BULK_READ_CHUNK_BYTES } else { READ_CHUNK_BYTES };
    }

    /// The next record, without record marks.
    ///
    /// # Errors
    /// `UnexpectedEof`: the peer closed the connection. `InvalidData`: a record is too long.
    pub async fn next(&mut self) -> io::Result<Bytes> {
        loop {
            if let Some(record) = self.next_buffered()? {
                return Ok(record);
            }
            // Reusing the rest of a large reply's buffer would keep all of that buffer.
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

    /// The next record, if it is completely buffered.
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

/// Takes a complete record off the front of the buffer.
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
            return Err(invalid("a reply is longer than the session allows"));
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
            return Err(invalid("a reply has too many fragments"));
        }
        partial.extend_from_slice(&fragment);
        if is_last {
            *fragments = 0;
            return Ok(Some(std::mem::take(partial).freeze()));
        }
    }
    Ok(None)
}

/// Reads the header of a reply after its XID.
///
/// # Errors
/// [`Error::Refused`]: the call was rejected. [`Error::Protocol`].
pub(crate) fn decode_reply_header(record: &mut Decoder) -> Result<()> {
    const REPLY: u32 = 1;
    const VERIFIER: usize = 400;
    if record.word()? != REPLY {
        return Err(Error::Protocol("a call came instead of a reply"));
    }
    match record.word()? {
        0 => {}
        _ => {
            return Err(match record.word()? {
                1 => Error::Refused("it does not accept the credentials"),
                _ => Error::Refused("it supports another version of RPC"),
            });
        }
    }
    record.word()?;
    record.opaque(VERIFIER)?;
    match record.word()? {
        0 => Ok(()),
        1 => Err(Error::Refused("it does not have the program")),
        2 => Err(Error::Refused("it supports another version of the program")),
        3 => Err(Error::Refused("it does not have the procedure")),
        4 => Err(Error::Refused("it cannot decode the call")),
        _ => Err(Error::Refused(SYSTEM_ERROR)),
    }
}

/// `AUTH_SYS` credentials (RFC 5531, appendix A).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Credentials {
    /// User ID.
    pub user: u32,
    /// Group ID.
    pub group: u32,
    /// Supplementary group IDs, at most 16.
    pub groups: Vec<u32>,
}

impl Default for Credentials {
    /// The effective user and group of this process, without supplementary groups.
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
