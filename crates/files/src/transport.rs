//! The interface of a backend: [`Transport`], the access to the files through one mount target. Everything above it is
//! independent of whether the kernel mounts the target or a client in the process speaks NFS to it.

use std::{
    fmt,
    pin::Pin,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use crate::error::Result;
use router::path::{DirectoryPath, FilePath};

/// Approximate maximum size of the names of a page. A slow reader holds a page in memory for long.
pub const MAX_PAGE_NAME_BYTES: usize = 64 << 10;
/// Approximate number of entries that one step of a sweep examines.
pub const SWEEP_BATCH_ENTRIES: usize = 1000;

/// A boxed future of a [`Result`].
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

/// The metadata of a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Metadata {
    /// Size in bytes.
    pub size: u64,
    /// Time of the last modification.
    pub modified: SystemTime,
    /// Identifies the content.
    pub tag: ETag,
}

/// A strong entity tag: the inode, the modification time in nanoseconds (which this crate never sets twice to the same
/// value within a process) and the size.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ETag {
    /// Inode number, or fileid of NFS.
    pub inode: u64,
    /// Modification time in nanoseconds since 1970.
    pub modified: i128,
    /// Size in bytes.
    pub size: u64,
}

impl ETag {
    /// The tag of a file whose modification time is `seconds` and `nanoseconds` since 1970.
    pub fn new(inode: u64, seconds: i64, nanoseconds: u32, size: u64) -> Self {
        Self { inode, modified: i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds), size }
    }
}

/// The opaque tag of an HTTP `ETag`, without its quotes.
impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.inode, self.modified, self.size)
    }
}

impl Metadata {
    /// The modification time truncated to a second and not before 1970, as HTTP dates are.
    pub fn modified_second(&self) -> SystemTime {
        let since = self.modified.duration_since(UNIX_EPOCH).unwrap_or_default();
        UNIX_EPOCH + Duration::from_secs(since.as_secs())
    }

    /// The metadata that a tag contains.
    pub fn new(tag: ETag) -> Self {
        let since = |nanoseconds: i128| Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let modified = match tag.modified {
            before if before < 0 => UNIX_EPOCH.checked_sub(since(-before)),
            after => UNIX_EPOCH.checked_add(since(after)),
        };
        Self { size: tag.size, modified: modified.unwrap_or(UNIX_EPOCH), tag }
    }
}

/// The value of If-Match or If-None-Match.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ETags {
    /// `*`: any existing content.
    Any,
    /// Tags as [`ETag`]'s `Display` writes them.
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

/// The preconditions of an operation, as in RFC 9110, section 13.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Preconditions {
    /// If-Match.
    pub if_match: Option<ETags>,
    /// If-None-Match.
    pub if_none_match: Option<ETags>,
    /// If-Unmodified-Since, to the second. Ignored with `if_match`.
    pub unmodified_since: Option<SystemTime>,
    /// If-Modified-Since, to the second, for reads. Ignored with `if_none_match`.
    pub modified_since: Option<SystemTime>,
}

impl Preconditions {
    /// `If-None-Match: *`: only if the file does not exist.
    pub fn create_only() -> Self {
        Self { if_none_match: Some(ETags::Any), ..Self::default() }
    }

    /// If-Match with this tag: only if the content is unchanged.
    pub fn matching(tag: ETag) -> Self {
        Self { if_match: Some(ETags::List(vec![tag.to_string()])), ..Self::default() }
    }

    /// Whether these are the preconditions of [`Preconditions::create_only`].
    pub fn is_create_only(&self) -> bool {
        self.if_none_match == Some(ETags::Any) && self.if_match.is_none() && self.unmodified_since.is_none()
    }

    /// Whether a write has no precondition.
    pub fn is_none(&self) -> bool {
        self.if_match.is_none() && self.if_none_match.is_none() && self.unmodified_since.is_none()
    }

    /// Whether If-Match holds or, in its absence, If-Unmodified-Since.
    pub fn meets_if_match(&self, meta: Option<&Metadata>) -> bool {
        match (&self.if_match, self.unmodified_since) {
            (Some(tags), _) => tags.hold(meta),
            (None, Some(since)) => meta.is_none_or(|meta| meta.modified_second() <= since),
            (None, None) => true,
        }
    }

    /// Whether If-None-Match holds.
    pub fn meets_if_none_match(&self, meta: Option<&Metadata>) -> bool {
        !self.if_none_match.as_ref().is_some_and(|tags| tags.hold(meta))
    }

    /// Whether a reader with these preconditions already has this content (304 Not Modified).
    pub fn is_not_modified(&self, meta: &Metadata) -> bool {
        match (&self.if_none_match, self.modified_since) {
            (Some(tags), _) => tags.hold(Some(meta)),
            (None, Some(since)) => meta.modified_second() <= since,
            (None, None) => false,
        }
    }

    /// Whether a write may replace this content (`None`: no file).
    pub fn allow(&self, meta: Option<&Metadata>) -> bool {
        self.meets_if_match(meta) && self.meets_if_none_match(meta)
    }
}

/// A byte range as a request states it, before the size of the file is known (RFC 9110, section 14.1.2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ByteRange {
    /// From the first byte to the last, inclusive; without a last byte, to the end of the file.
    From(u64, Option<u64>),
    /// This number of bytes at the end.
    Last(u64),
}

impl ByteRange {
    /// The half-open range of offsets in a file of this size; `None` when it is empty.
    pub fn of(self, size: u64) -> Option<(u64, u64)> {
        let (first, end) = match self {
            Self::From(first, last) => (first, last.map_or(size, |last| last.saturating_add(1).min(size))),
            Self::Last(length) => (size.saturating_sub(length), size),
        };
        (first < end).then_some((first, end))
    }
}

/// Options of a read.
#[derive(Clone, Debug, Default)]
pub struct ReadOptions {
    /// Metadata only, like HEAD.
    pub head: bool,
    /// The range to read; the whole file by default.
    pub part: Option<ByteRange>,
    /// If-Range: apply the range only if the file has this tag; otherwise read the whole file.
    pub if_range: Option<String>,
    /// The preconditions.
    pub conditions: Preconditions,
}

/// The outcome of [`ReadOptions`] for a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ReadOutcome {
    /// The bytes `from..to`; `part` if a range was requested.
    Content {
        /// The offset of the first byte.
        from: u64,
        /// The offset after the last byte.
        to: u64,
        /// Whether a range was requested.
        part: bool,
    },
    /// 304: the reader already has the content.
    NotModified,
    /// 412: If-Match or If-Unmodified-Since does not hold.
    PreconditionFailed,
    /// 416: the range is outside of the file.
    Unsatisfiable,
}

impl ReadOptions {
    /// Evaluates the options against a file, in the order of RFC 9110, section 13.2.2.
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
            // A suffix of an empty file: no Content-Range can express it (RFC 9110, section 14.1.2).
            Some(ByteRange::Last(1..)) if meta.size == 0 => ReadOutcome::Content { from: 0, to: 0, part: false },
            Some(part) => match part.of(meta.size) {
                Some((from, to)) => ReadOutcome::Content { from, to, part: true },
                None => ReadOutcome::Unsatisfiable,
            },
        }
    }
}

/// The result of a read.
pub struct ReadResult {
    /// The metadata of the file.
    pub meta: Metadata,
    /// What the options give for this file.
    pub outcome: ReadOutcome,
    /// The first bytes of the content, or all of them.
    pub first: Bytes,
    /// The stream of the remaining bytes.
    pub rest: Option<Box<dyn BodyStream>>,
}

/// A stream of the remaining bytes of a file.
pub trait BodyStream: Send + Sync {
    /// The next bytes if they are available without waiting; empty at the end.
    fn next_now(&mut self) -> Option<Result<Bytes>> {
        None
    }

    /// The next bytes and the stream of the bytes after them; empty at the end.
    fn next(self: Box<Self>) -> BoxFuture<'static, (Bytes, Box<dyn BodyStream>)>;
}

/// An upload: a temporary file that is not installed under its path yet. Dropping it removes the file.
pub trait StagedUpload: Send + Sync {
    /// Appends bytes.
    fn write(&mut self, bytes: Bytes) -> BoxFuture<'_, ()>;

    /// Makes the content durable and, if the preconditions hold, installs it atomically. The second value is whether the
    /// file is new.
    fn commit(self: Box<Self>, conditions: Preconditions) -> BoxFuture<'static, (Metadata, bool)>;

    /// Aborts the upload and returns what was written.
    fn into_bytes(self: Box<Self>) -> BoxFuture<'static, Bytes>;
}

/// An entry of a directory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Entry {
    /// The name, without a path.
    pub name: Vec<u8>,
    /// The type of the file.
    pub kind: Kind,
}

/// The type of a directory entry.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, socket, device or pipe.
    Other,
}

/// A page of the entries of a directory, in no order.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Page {
    /// The entries.
    pub entries: Vec<Entry>,
    /// The cursor of the next page; `None` at the end. Its meaning depends on the backend.
    pub next: Option<u64>,
}

/// The result of one step of a sweep.
#[derive(Debug, Default)]
pub struct SweepResult {
    /// Number of temporary files removed.
    pub removed: u64,
    /// The subdirectories found.
    pub directories: Vec<DirectoryPath>,
    /// The cursor of the next step in the same directory; `None` at its end.
    pub next: Option<u64>,
}

/// Access to the files through one mount target. Every operation takes a path and returns within the deadline of the
/// backend. Dropping a future is safe; a dropped write may still happen.
pub trait Transport: Send + Sync {
    /// Connects or mounts if necessary, and checks that the target answers. Has no deadline, and uses no resource that
    /// the other operations need.
    fn probe(&self) -> BoxFuture<'_, ()>;

    /// Releases what the transport holds outside this process, at the end.
    fn close(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Number of connections for requests; `None` where the kernel manages them.
    fn connections(&self) -> Option<usize> {
        None
    }

    /// The result of [`Transport::read`] if it is available without waiting.
    fn read_now(&self, path: &FilePath, want: &ReadOptions) -> Option<Result<ReadResult>> {
        let _ = (path, want);
        None
    }

    /// Opens a file and reads its first bytes.
    fn read(&self, path: &FilePath, want: &ReadOptions) -> BoxFuture<'_, ReadResult>;

    /// Replaces the content of a file atomically, like an upload that is committed. The second value is whether the file is
    /// new.
    fn put(&self, path: &FilePath, content: Bytes, conditions: Preconditions) -> BoxFuture<'_, (Metadata, bool)>;

    /// Starts an upload.
    fn stage(&self, path: &FilePath) -> BoxFuture<'_, Box<dyn StagedUpload>>;

    /// Appends to a file and creates it if it does not exist. All or nothing, except after a crash of this process.
    fn append(&self, path: &FilePath, content: Bytes, conditions: Preconditions) -> BoxFuture<'_, (Metadata, bool)>;

    /// Deletes a file.
    fn delete(&self, path: &FilePath, conditions: Preconditions) -> BoxFuture<'_, ()>;

    /// Lists at most `limit` entries from `cursor`, the `next` of an earlier page, or from the beginning.
    fn list(&self, directory: &DirectoryPath, cursor: Option<u64>, limit: usize) -> BoxFuture<'_, Page>;

    /// Examines some entries of a directory from `cursor`: removes temporary files that were not written to for `age`, and
    /// returns the subdirectories.
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
