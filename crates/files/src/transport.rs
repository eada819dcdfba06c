//! What a backend offers: one mount target as a place for files. Everything above this file is the same
//! whether the kernel has mounted the target or a client in the process speaks to it.

use std::{
    fmt,
    pin::Pin,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use crate::error::Result;
use router::path::{DirectoryPath, FilePath};

/// A page holds about so many bytes of names at most: whoever reads it slowly has it for long.
pub const MAX_PAGE_NAME_BYTES: usize = 64 << 10;
/// Entries that one step of a sweep looks at, about.
pub const SWEEP_BATCH_ENTRIES: usize = 1000;

/// The future of an answer.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// What there is to know of a file besides its content.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Metadata {
    pub size: u64,
    pub modified: SystemTime,
    pub tag: ETag,
}

/// Tells one content of a path from every other that it had: the inode, the time of the last change in
/// nanoseconds, which this crate never gives twice within a process, and the size.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ETag {
    pub inode: u64,
    pub modified: i128,
    pub size: u64,
}

impl ETag {
    /// Of a time as the kernel gives it.
    pub fn new(inode: u64, seconds: i64, nanoseconds: u32, size: u64) -> Self {
        Self { inode, modified: i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds), size }
    }
}

/// As in an HTTP `ETag`, without the quotes.
impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.inode, self.modified, self.size)
    }
}

impl Metadata {
    /// As HTTP can write it: to the second, from 1970 on.
    pub fn modified_second(&self) -> SystemTime {
        let since = self.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        UNIX_EPOCH + Duration::from_secs(since.as_secs())
    }

    pub fn new(tag: ETag) -> Self {
        let since = |nanoseconds: i128| Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let modified = match tag.modified {
            before if before < 0 => UNIX_EPOCH.checked_sub(since(-before)),
            after => UNIX_EPOCH.checked_add(since(after)),
        };
        Self { size: tag.size, modified: modified.unwrap_or(UNIX_EPOCH), tag }
    }
}

/// Tags to compare with, as in If-Match and If-None-Match.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ETags {
    /// `*`: any content at all.
    Any,
    /// Texts as in [`ETag`]'s `Display`.
    List(Vec<String>),
}

impl ETags {
    fn hold(&self, meta: Option<&Metadata>) -> bool {
        match (self, meta) {
            (_, None) => false,
            (Self::Any, Some(_)) => true,
            (Self::List(tags), Some(meta)) => {
                let tag = meta.tag.to_string();
                tags.contains(&tag)
            }
        }
    }
}

/// What must be true of a file for an operation to be done.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Preconditions {
    pub if_match: Option<ETags>,
    pub if_none_match: Option<ETags>,
    /// Not changed after this, to the second; nothing where there is `if_match`.
    pub unmodified_since: Option<SystemTime>,
    /// Changed after this, to the second, for a reader only; nothing where there is `if_none_match`.
    pub modified_since: Option<SystemTime>,
}

impl Preconditions {
    /// Only if there is no file yet.
    pub fn create_only() -> Self {
        Self { if_none_match: Some(ETags::Any), ..Self::default() }
    }

    /// Only if the file still is the one with this tag.
    pub fn matching(tag: ETag) -> Self {
        Self { if_match: Some(ETags::List(vec![tag.to_string()])), ..Self::default() }
    }

    pub fn is_create_only(&self) -> bool {
        self.if_none_match == Some(ETags::Any) && self.if_match.is_none() && self.unmodified_since.is_none()
    }

    pub fn is_none(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none() && self.unmodified_since.is_none()
    }

    /// Is If-Match met, or in its absence If-Unmodified-Since?
    pub fn meets_if_match(&self, meta: Option<&Metadata>) -> bool {
        match (&self.if_match, self.unmodified_since) {
            (Some(tags), _) => tags.hold(meta),
            (None, Some(since)) => meta.is_none_or(|meta| meta.modified_second() <= since),
            (None, None) => true,
        }
    }

    /// Is If-None-Match met?
    pub fn meets_if_none_match(&self, meta: Option<&Metadata>) -> bool {
        !self.if_none_match.as_ref().is_some_and(|tags| tags.hold(meta))
    }

    /// Has whoever reads with these conditions seen this content?
    pub fn is_not_modified(&self, meta: &Metadata) -> bool {
        match (&self.if_none_match, self.modified_since) {
            (Some(tags), _) => tags.hold(Some(meta)),
            (None, Some(since)) => meta.modified_second() <= since,
            (None, None) => false,
        }
    }

    /// May a write be done over this?
    pub fn allow(&self, meta: Option<&Metadata>) -> bool {
        self.meets_if_match(meta) && self.meets_if_none_match(meta)
    }
}

/// A part of a file, as a request names it before it knows the size.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ByteRange {
    /// From this byte on to that one, inclusive; without an end, to the end of the file.
    From(u64, Option<u64>),
    /// So many bytes at the end.
    Last(u64),
}

impl ByteRange {
    /// Its first byte and the one after its last; `None` when the file has nothing of it.
    pub fn of(self, size: u64) -> Option<(u64, u64)> {
        let (first, end) = match self {
            Self::From(first, last) => (first, last.map_or(size, |last| last.saturating_add(1).min(size))),
            Self::Last(length) => (size.saturating_sub(length), size),
        };
        (first < end).then_some((first, end))
    }
}

/// What a reader wants.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// Nothing of the content.
    pub head: bool,
    pub part: Option<ByteRange>,
    /// The part, only if the file has this tag; else the whole.
    pub if_range: Option<String>,
    pub conditions: Preconditions,
}

/// What a file with these properties gives to a reader.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReadOutcome {
    /// These bytes, from and up to, and whether they were asked for as a part.
    Content { from: u64, to: u64, part: bool },
    /// The reader has it already.
    NotModified,
    /// If-Match was not met.
    PreconditionFailed,
    /// The file has nothing of the part.
    Unsatisfiable,
}

impl ReadOptions {
    /// In the order of RFC 9110, section 13.2.2.
    pub fn evaluate(&self, meta: &Metadata) -> ReadOutcome {
        if !self.conditions.meets_if_match(Some(meta)) {
            return ReadOutcome::PreconditionFailed;
        }
        if self.conditions.is_not_modified(meta) {
            return ReadOutcome::NotModified;
        }
        let same = self.if_range.as_ref().is_none_or(|tag| *tag == meta.tag.to_string());
        match self.part.filter(|_| same) {
            None => ReadOutcome::Content { from: 0, to: meta.size, part: false },
            // All of nothing, which no Content-Range can tell (RFC 9110, section 14.1.2).
            Some(ByteRange::Last(1..)) if meta.size == 0 => ReadOutcome::Content { from: 0, to: 0, part: false },
            Some(part) => match part.of(meta.size) {
                Some((from, to)) => ReadOutcome::Content { from, to, part: true },
                None => ReadOutcome::Unsatisfiable,
            },
        }
    }
}

/// A file that is being read.
pub struct ReadResult {
    pub meta: Metadata,
    pub outcome: ReadOutcome,
    /// The first bytes of the content, or all of them.
    pub first: Bytes,
    /// What gives the others.
    pub rest: Option<Box<dyn BodyStream>>,
}

/// The bytes of a file that are still to come.
pub trait BodyStream: Send + Sync {
    /// The next bytes, if they are there without waiting; none at the end.
    fn next_now(&mut self) -> Option<Result<Bytes>> {
        None
    }

    /// The next bytes, and what gives those after them; no bytes at the end.
    fn next(self: Box<Self>) -> BoxFuture<'static, (Bytes, Box<dyn BodyStream>)>;
}

/// A new content that is not in its place yet. Given up when it is dropped.
pub trait StagedUpload: Send + Sync {
    /// The bytes that follow.
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, ()>;

    /// Makes them durable and, if the conditions hold, puts them into their place at once. The second value:
    /// the file is new.
    fn commit(self: Box<Self>, conditions: Preconditions) -> BoxFuture<'static, (Metadata, bool)>;

    /// All that was written, in memory; with that the content is given up.
    fn into_bytes(self: Box<Self>) -> BoxFuture<'static, Bytes>;
}

/// One entry of a directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    pub name: Vec<u8>,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    File,
    Directory,
    Other,
}

/// Some entries of a directory, in no order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Page {
    pub entries: Vec<Entry>,
    /// Where the next page begins; `None` at the end. What it means is the backend's affair.
    pub next: Option<u64>,
}

/// What a part of a sweep did and found.
#[derive(Debug, Default)]
pub struct SweepResult {
    pub removed: u64,
    pub directories: Vec<DirectoryPath>,
    /// Where to go on in the same directory; `None` at its end.
    pub next: Option<u64>,
}

/// One mount target. Every operation is by path, answers within the target's deadline or says
/// [`Deadline`](crate::Error::Deadline), and is safe to drop; a write that is dropped may still happen.
pub trait Transport: Send + Sync {
    /// Makes the target usable if it is not, and asks whether it answers. Takes as long as it takes, and
    /// nothing of what the other operations need.
    fn probe(&self) -> BoxFuture<'_, ()>;

    /// Gives back what the target keeps outside this process, at the end.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Connections for requests that there are now; `None` where somebody else has them.
    fn connections(&self) -> Option<usize> {
        None
    }

    /// The answer to [`Transport::read`], if it is there without waiting.
    fn read_now(&self, path: &FilePath, want: &ReadOptions) -> Option<Result<ReadResult>> {
        let _ = (path, want);
        None
    }

    fn read(&self, path: &FilePath, want: &ReadOptions) -> BoxFuture<'_, ReadResult>;

    /// Puts a new content into its place at once, as one that is staged and committed.
    fn put(&self, path: &FilePath, content: Bytes, conditions: Preconditions) -> BoxFuture<'_, (Metadata, bool)>;

    /// Begins a new content that comes in pieces.
    fn stage(&self, path: &FilePath) -> BoxFuture<'_, Box<dyn StagedUpload>>;

    /// Adds to the end; makes the file if there is none. All of it or nothing, but for a crash.
    fn append(&self, path: &FilePath, content: Bytes, conditions: Preconditions) -> BoxFuture<'_, (Metadata, bool)>;

    fn delete(&self, path: &FilePath, conditions: Preconditions) -> BoxFuture<'_, ()>;

    /// At most `limit` entries from `cursor`, an earlier page's `next`, or from the beginning.
    fn list(&self, directory: &DirectoryPath, cursor: Option<u64>, limit: usize) -> BoxFuture<'_, Page>;

    /// Looks at some entries of a directory, from `cursor` on as in [`Transport::list`]: removes the temporary files
    /// that nobody has written to for `age`, and names the directories.
    fn sweep(&self, directory: &DirectoryPath, cursor: Option<u64>, age: Duration) -> BoxFuture<'_, SweepResult>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_cut_to_the_file() {
        for (part, size, expected) in [
            (ByteRange::From(0, None), 10, Some((0, 10))),
            (ByteRange::From(3, Some(5)), 10, Some((3, 6))),
            (ByteRange::From(3, Some(u64::MAX)), 10, Some((3, 10))),
            (ByteRange::From(9, Some(9)), 10, Some((9, 10))),
            (ByteRange::From(10, None), 10, None),
            (ByteRange::From(0, None), 0, None),
            (ByteRange::From(5, Some(4)), 10, None),
            (ByteRange::Last(4), 10, Some((6, 10))),
            (ByteRange::Last(40), 10, Some((0, 10))),
            (ByteRange::Last(0), 10, None),
        ] {
            assert_eq!(part.of(size), expected, "{part:?} of {size}");
        }
    }

    #[test]
    fn conditions_are_those_of_http() {
        let meta = Metadata::new(ETag::new(1, 2, 3, 4));
        let other = ETag::new(1, 2, 4, 4);
        let none_of = |tag: ETag| Preconditions {
            if_none_match: Some(ETags::List(vec![tag.to_string()])),
            ..Preconditions::default()
        };
        let exists = Preconditions { if_match: Some(ETags::Any), ..Preconditions::default() };
        let since = |second| Preconditions {
            unmodified_since: Some(UNIX_EPOCH + Duration::from_secs(second)),
            ..Preconditions::default()
        };
        for (conditions, over_it, over_nothing) in [
            (Preconditions::default(), true, true),
            (Preconditions::create_only(), false, true),
            (Preconditions::matching(meta.tag), true, false),
            (Preconditions::matching(other), false, false),
            (none_of(meta.tag), false, true),
            (none_of(other), true, true),
            (exists, true, false),
            (since(1), false, true),
            // The file's time is 2 s and 3 ns.
            (since(2), true, true),
        ] {
            assert_eq!(conditions.allow(Some(&meta)), over_it, "{conditions:?}");
            assert_eq!(conditions.allow(None), over_nothing, "{conditions:?}");
        }
    }

    #[test]
    fn times_before_1970_are_times() {
        let meta = Metadata::new(ETag::new(1, -2, 500_000_000, 0));
        assert_eq!(meta.modified, UNIX_EPOCH - Duration::from_millis(1500));
    }
}
