//! Calls and answers over a stream: RFC 5531. A record is one call or one answer, and may come in several fragments.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::{
    error::{Error, Result},
    xdr::{Decoder, Encode},
};

/// What is read at once when nothing is known yet of what comes: of few answers, and of many.
const FEW: usize = 16 << 10;
const MANY: usize = 64 << 10;
/// With less room than this the next answers have new memory.
const LEAST_ROOM: usize = 4 << 10;
/// `SYSTEM_ERR` (RFC 5531, section 9), for [`Error::Refused`]: it does not say whether the call was executed.
pub(crate) const SYSTEM_ERROR: &str = "it has failed";
/// A record in more pieces than this is not an answer of anybody's.
const MOST_FRAGMENTS: usize = 64;

/// Takes records out of a stream. What was read and not taken stays, so that it is safe to drop a read.
pub(crate) struct Records<R> {
    from: R,
    buffer: BytesMut,
    /// The earlier fragments of the record that is coming.
    begun: BytesMut,
    fragments: usize,
    chunk: usize,
    pub longest: usize,
}

impl<R: AsyncRead + Unpin> Records<R> {
    pub fn new(from: R, longest: usize) -> Self {
        Self { from, buffer: BytesMut::new(), begun: BytesMut::new(), fragments: 0, chunk: FEW, longest }
    }

    /// Whether many answers are to come: so many are read at once. Of few it keeps no more memory than they need.
    pub fn expect(&mut self, many: bool) {
        self.chunk = if many { MANY } else { FEW };
    }

    /// The next one, without its marks.
    ///
    /// # Errors
    /// `UnexpectedEof` when the other side has closed; `InvalidData` when a record is longer than it may be.
    pub async fn next(&mut self) -> io::Result<Bytes> {
        loop {
            if let Some(record) = self.whole()? {
                return Ok(record);
            }
            // To make room in what a large answer has left would be to keep all of that.
            if self.buffer.is_empty() && !(LEAST_ROOM..=self.chunk).contains(&self.buffer.capacity()) {
                self.buffer = BytesMut::with_capacity(self.chunk);
            }
            let there = self.buffer.len();
            let wanted = self.buffer.first_chunk().map_or(LEAST_ROOM, |mark| 4 + length(*mark));
            if self.buffer.capacity() < wanted.max(there + 1) {
                self.buffer.reserve(wanted.max(self.chunk).saturating_sub(there).max(1));
            }
            if self.from.read_buf(&mut self.buffer).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// The next one, if all of it was read with those before it.
    ///
    /// # Errors
    /// As [`Records::next`].
    pub fn whole(&mut self) -> io::Result<Option<Bytes>> {
        take(&mut self.buffer, &mut self.begun, &mut self.fragments, self.longest)
    }
}

fn length(mark: [u8; 4]) -> usize {
    (u32::from_be_bytes(mark) & !(1 << 31)) as usize
}

/// The record at the front of the buffer, if all of it is there.
pub(crate) fn take(
    buffer: &mut BytesMut,
    begun: &mut BytesMut,
    fragments: &mut usize,
    longest: usize,
) -> io::Result<Option<Bytes>> {
    let invalid = |why: &'static str| io::Error::new(io::ErrorKind::InvalidData, Error::Protocol(why));
    while let Some(mark) = buffer.first_chunk::<4>() {
        let (length, is_last) = (length(*mark), mark[0] & 0x80 != 0);
        if begun.len() + length > longest {
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
        if *fragments > MOST_FRAGMENTS {
            return Err(invalid("an answer comes in too many pieces"));
        }
        begun.extend_from_slice(&fragment);
        if is_last {
            *fragments = 0;
            return Ok(Some(std::mem::take(begun).freeze()));
        }
    }
    Ok(None)
}

/// Reads what comes before the result of a call that was done, after its number.
///
/// # Errors
/// [`Error::Refused`]: it was not done.
pub(crate) fn accepted(record: &mut Decoder) -> Result<()> {
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
        const MOST_GROUPS: usize = 16;
        if self.groups.len() > MOST_GROUPS {
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
        let (from, mut server) = tokio::io::duplex(1 << 20);
        let mut records = Records::new(from, 8 << 10);
        records.expect(true);
        let record = [&(1_u32 << 31 | 4096).to_be_bytes()[..], &[7; 4096]].concat();
        tokio::io::AsyncWriteExt::write_all(&mut server, &record.repeat(10)).await.unwrap();
        for _ in 0..10 {
            assert_eq!(records.next().await.unwrap(), record[4..]);
        }
        assert!(records.buffer.capacity() > FEW, "nothing was read ahead");
        records.expect(false);
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(1), records.next()).await;
        assert!(waiting.is_err(), "there is nothing to read");
        assert!((LEAST_ROOM..=FEW).contains(&records.buffer.capacity()), "{}", records.buffer.capacity());
    }
}
