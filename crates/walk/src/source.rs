//! The file system as the walk uses it: one method per call, so that a stand-in can see, count and fail each of them.

use std::{ffi::CStr, io};

use serde::{Deserialize, Serialize};

use crate::getdents::{Kind, MAX_RECORD_BYTES};

pub(crate) trait Source: Sync {
    /// An open directory.
    type Directory: Send + Sync;

    /// Opens the root, once per walk.
    fn root(&self) -> io::Result<Self::Directory>;

    /// Opens the directory of this name, never through a link. `CrossesDevices`: it is on another file system and is not
    /// entered.
    fn open(&self, parent: &Self::Directory, name: &CStr) -> io::Result<Self::Directory>;

    /// Reads the next entries as `linux_dirent64` records; 0 bytes at the end. Retries after `EINTR`.
    fn read(&self, directory: &Self::Directory, buffer: &mut [u8]) -> io::Result<usize>;

    /// Whether the entry with this cookie, the last one read, is the last of the directory. Saves a read; `false` when
    /// unknown.
    fn ends(&self, directory: &Self::Directory, cookie: i64) -> bool;

    /// Whether another read is likely to return more, after one that did not reach the end.
    fn goes_on(&self, filled: usize, buffer: usize) -> bool {
        filled + MAX_RECORD_BYTES > buffer
    }

    /// Continues reading at an entry's `d_off`.
    fn seek(&self, directory: &Self::Directory, cookie: i64) -> io::Result<()>;

    /// The type of an entry; of a link to follow, the type of its destination.
    fn kind(&self, directory: &Self::Directory, name: &CStr, follow: bool) -> io::Result<Kind>;

    /// Whether further reads return types only after some entries were statted.
    fn needs_readdirplus_hints(&self) -> bool;

    /// Stats one such entry; the result does not matter.
    fn look(&self, directory: &Self::Directory, name: &CStr);

    /// The times of the directory itself, or of a subdirectory, as the server reports them.
    fn stamp(&self, directory: &Self::Directory, name: Option<&CStr>) -> io::Result<Stamp>;

    /// The identity of the directory, and whether its cookies stay valid for a later open.
    fn identity(&self, directory: &Self::Directory) -> io::Result<Identity>;

    /// Maximum number of directories open at once.
    fn most_open(&self) -> usize;
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Identity {
    pub inode: u64,
    pub resumable: bool,
}

/// The attributes that change when a name in a directory changes.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub device: u64,
    pub inode: u64,
    /// Seconds and nanoseconds since 1970.
    pub modified: (i64, u32),
    pub changed: (i64, u32),
}

/// It existed when its parent was read, and no longer does.
pub(crate) fn gone(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

pub(crate) fn is(err: &io::Error, number: i32) -> bool {
    err.raw_os_error() == Some(number)
}
