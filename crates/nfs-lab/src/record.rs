//! ONC RPC records over TCP (RFC 5531, section 11): each fragment follows a word with its length, whose highest bit
//! marks the last fragment.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

const LAST: u32 = 1 << 31;

/// Tracks record boundaries in a stream.
#[derive(Default)]
pub struct RecordTracker {
    header: [u8; 4],
    /// Bytes of the header so far.
    known: usize,
    /// Bytes of the fragment that are missing.
    left: usize,
    in_record: bool,
}

impl RecordTracker {
    /// Whether the stream is between two records.
    pub fn is_between(&self) -> bool {
        !self.in_record
    }

    /// Advances to the end of the record or of the bytes. Returns how many bytes that is, and whether the record ends
    /// there.
    pub fn advance(&mut self, bytes: &[u8]) -> (usize, bool) {
        let mut at = 0;
        while at < bytes.len() {
            self.in_record = true;
            if self.known < 4 {
                self.header[self.known] = bytes[at];
                (self.known, at) = (self.known + 1, at + 1);
                if self.known < 4 {
                    continue;
                }
                self.left = (u32::from_be_bytes(self.header) & !LAST) as usize;
            }
            let here = self.left.min(bytes.len() - at);
            (self.left, at) = (self.left - here, at + here);
            if self.left == 0 {
                self.known = 0;
                if u32::from_be_bytes(self.header) & LAST != 0 {
                    self.in_record = false;
                    return (at, true);
                }
            }
        }
        (at, false)
    }
}

/// Encodes a record in one fragment.
pub fn framed(record: &[u8]) -> Vec<u8> {
    let header = LAST | u32::try_from(record.len()).expect("a record of at most 2 GiB");
    [&header.to_be_bytes(), record].concat()
}

/// The content of a record, without fragment headers.
pub(crate) fn unframed(mut bytes: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(bytes.len());
    while let Some((header, rest)) = bytes.split_first_chunk() {
        let (fragment, rest) = rest.split_at((u32::from_be_bytes(*header) & !LAST) as usize);
        record.extend_from_slice(fragment);
        bytes = rest;
    }
    record
}

/// Reads the next record.
///
/// # Errors
/// Those of the stream, and its end.
pub fn read_record(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut record = Vec::new();
    loop {
        let mut header = [0; 4];
        from.read_exact(&mut header)?;
        let header = u32::from_be_bytes(header);
        let start = record.len();
        record.resize(start + (header & !LAST) as usize, 0);
        from.read_exact(&mut record[start..])?;
        if header & LAST != 0 {
            return Ok(record);
        }
    }
}

/// A call of the NULL procedure of NFS 4, which every server answers.
pub fn null_call(xid: u32) -> Vec<u8> {
    // Call, RPC 2, program, version, procedure; no credentials, no verifier.
    [xid, 0, 2, 100_003, 4, 0, 0, 0, 0, 0].into_iter().flat_map(u32::to_be_bytes).collect()
}

/// Whether an NFS server answers at this address.
pub fn is_answering(address: SocketAddr) -> bool {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(&framed(&null_call(1)))?;
        read_record(&mut stream)
    };
    // XID, reply, accepted, no verifier, success.
    ask().is_ok_and(|reply| reply == [1, 1, 0, 0, 0, 0].map(u32::to_be_bytes).concat())
}
