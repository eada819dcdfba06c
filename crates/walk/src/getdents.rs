//! The records that `getdents64` fills a buffer with; see `getdents(2)`.
//!
//! ```text
//! struct linux_dirent64 { u64 d_ino; i64 d_off; u16 d_reclen; u8 d_type; char d_name[]; }
//! ```

use std::{ffi::CStr, io};

/// What stands before the name.
const HEADER_BYTES: usize = 19;
/// The longest record: a name of 255 bytes and its end, aligned to 8.
pub(crate) const MAX_RECORD_BYTES: usize = 280;

/// What an entry is, as far as the walk cares.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    File,
    Directory,
    Link,
    Other,
    /// The file system does not say.
    Unknown,
}

/// One record.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Entry<'a> {
    pub inode: u64,
    pub kind: Kind,
    /// Where reading goes on after this entry.
    pub cookie: i64,
    /// The name, its end, and what pads it.
    padded: &'a [u8],
}

impl<'a> Entry<'a> {
    /// # Errors
    /// `InvalidData`: not a name that can be in a directory.
    pub fn name(&self) -> io::Result<&'a CStr> {
        let name = CStr::from_bytes_until_nul(self.padded).map_err(|_| invalid("a name without an end"))?;
        if name.is_empty() || name.to_bytes().contains(&b'/') {
            return Err(invalid("a name that is none"));
        }
        Ok(name)
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the file system answered with {what}"))
}

/// The records in a buffer, as far as it was filled.
pub(crate) struct Entries<'a> {
    left: &'a [u8],
}

impl<'a> Entries<'a> {
    pub fn new(filled: &'a [u8]) -> Self {
        Self { left: filled }
    }

    /// What has not been taken yet.
    pub fn left(&self) -> &'a [u8] {
        self.left
    }
}

impl<'a> Iterator for Entries<'a> {
    type Item = io::Result<Entry<'a>>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.left.is_empty() {
            return None;
        }
        let record = self.left.split_first_chunk::<HEADER_BYTES>().and_then(|(header, _)| {
            let length = usize::from(u16::from_ne_bytes([header[16], header[17]]));
            let padded = self.left.get(HEADER_BYTES..length)?;
            Some((header, padded, length))
        });
        let Some((header, padded, length)) = record else {
            self.left = &[];
            return Some(Err(invalid("a record that does not fit")));
        };
        self.left = &self.left[length..];
        let (mut inode, mut cookie) = ([0; 8], [0; 8]);
        inode.copy_from_slice(&header[..8]);
        cookie.copy_from_slice(&header[8..16]);
        let kind = match header[18] {
            libc::DT_REG => Kind::File,
            libc::DT_DIR => Kind::Directory,
            libc::DT_LNK => Kind::Link,
            libc::DT_UNKNOWN => Kind::Unknown,
            _ => Kind::Other,
        };
        Some(Ok(Entry { inode: u64::from_ne_bytes(inode), kind, cookie: i64::from_ne_bytes(cookie), padded }))
    }
}

/// Writes a record as the kernel does, and says how long it is; `None` where there is no room.
#[cfg(feature = "nfs")]
pub(crate) fn write(buffer: &mut [u8], inode: u64, kind: Kind, cookie: i64, name: &[u8]) -> Option<usize> {
    let length = (HEADER_BYTES + name.len() + 1).next_multiple_of(8);
    let record = buffer.get_mut(..length)?;
    record[..8].copy_from_slice(&inode.to_ne_bytes());
    record[8..16].copy_from_slice(&cookie.to_ne_bytes());
    record[16..18].copy_from_slice(&u16::try_from(length).ok()?.to_ne_bytes());
    record[18] = match kind {
        Kind::File => libc::DT_REG,
        Kind::Directory => libc::DT_DIR,
        Kind::Link => libc::DT_LNK,
        Kind::Unknown => libc::DT_UNKNOWN,
        Kind::Other => libc::DT_SOCK,
    };
    record[HEADER_BYTES..HEADER_BYTES + name.len()].copy_from_slice(name);
    record[HEADER_BYTES + name.len()..].fill(0);
    Some(length)
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A record as the kernel writes it.
    pub(crate) fn record(kind: u8, cookie: i64, name: &[u8]) -> Vec<u8> {
        let length = (HEADER_BYTES + name.len() + 1).next_multiple_of(8);
        let mut record = vec![0; length];
        record[8..16].copy_from_slice(&cookie.to_ne_bytes());
        record[16..18].copy_from_slice(&u16::try_from(length).unwrap().to_ne_bytes());
        record[18] = kind;
        record[HEADER_BYTES..HEADER_BYTES + name.len()].copy_from_slice(name);
        record
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            entries in proptest::collection::vec((any::<u8>(), any::<i64>(), "[a-z.\u{e9}]{1,200}"), 0..50),
        ) {
            let bytes: Vec<u8> = entries.iter().flat_map(|(k, c, name)| record(*k, *c, name.as_bytes())).collect();
            let read: Vec<_> = Entries::new(&bytes).map(Result::unwrap).collect();
            prop_assert_eq!(read.len(), entries.len());
            for (entry, (_, cookie, name)) in read.iter().zip(&entries) {
                prop_assert_eq!(entry.cookie, *cookie);
                prop_assert_eq!(entry.name().unwrap().to_bytes(), name.as_bytes());
            }
        }

        /// A hostile server may write anything: it ends, within the buffer, and nothing breaks.
        #[test]
        fn anything_else_ends(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            for entry in Entries::new(&bytes).flatten() {
                let _ = entry.name();
            }
            prop_assert!(Entries::new(&bytes).count() <= bytes.len() / HEADER_BYTES + 1);
        }

        #[test]
        fn a_record_that_is_cut_is_an_error(name in "[a-z]{1,20}", cut in 1_usize..10) {
            let whole = record(libc::DT_REG, 1, name.as_bytes());
            prop_assert!(Entries::new(&whole[..whole.len() - cut]).next().unwrap().is_err());
        }
    }

    #[test]
    fn a_length_of_nothing_does_not_hold_the_walk_up() {
        let mut bytes = record(libc::DT_REG, 1, b"a");
        bytes[16..18].copy_from_slice(&[0, 0]);
        assert_eq!(Entries::new(&bytes).filter(Result::is_err).count(), 1);
    }

    #[test]
    fn a_name_that_leads_elsewhere_is_refused() {
        for name in [&b"a/b"[..], b"", b"/"] {
            let bytes = record(libc::DT_DIR, 1, name);
            assert!(Entries::new(&bytes).next().unwrap().unwrap().name().is_err());
        }
    }
}
