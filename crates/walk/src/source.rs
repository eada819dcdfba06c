//! What the walk asks of a file system: one method for each call that reaches it, so that whoever stands in
//! for it sees, counts and breaks every one.

use std::{ffi::CStr, io};

use serde::{Deserialize, Serialize};

use crate::getdents::{Kind, MAX_RECORD_BYTES};

pub(crate) trait Source: Sync {
    /// An open directory.
    type Directory: Send + Sync;

    /// The root, open. Once for each walk.
    fn root(&self) -> io::Result<Self::Directory>;

    /// The directory of this name; never through a link. `CrossesDevices`: it is on another file system, and is
    /// not to be entered.
    fn open(&self, parent: &Self::Directory, name: &CStr) -> io::Result<Self::Directory>;

    /// The next entries, as `linux_dirent64` records; 0 bytes at the end. What a signal interrupts is
    /// asked again.
    fn read(&self, directory: &Self::Directory, buffer: &mut [u8]) -> io::Result<usize>;

    /// Does nothing come after the entry with this cookie, which was the last that was read? Saves asking; `false`
    /// when it cannot be said.
    fn ends(&self, directory: &Self::Directory, cookie: i64) -> bool;

    /// Of a read that did not come to the end: is it likely that another one gives more?
    fn goes_on(&self, filled: usize, buffer: usize) -> bool {
        filled + MAX_RECORD_BYTES > buffer
    }

    /// Goes on reading where an entry's `d_off` says.
    fn seek(&self, directory: &Self::Directory, cookie: i64) -> io::Result<()>;

    /// What an entry is; what it leads to, if it is a link to be followed.
    fn kind(&self, directory: &Self::Directory, name: &CStr, follow: bool) -> io::Result<Kind>;

    /// Does reading on need a look at some entries, so that their kinds are told?
    fn needs_readdirplus_hints(&self) -> bool;

    /// One such look. Whatever it finds.
    fn look(&self, directory: &Self::Directory, name: &CStr);

    /// The times of the directory itself, or of the one of this name in it, by the server's word.
    fn stamp(&self, directory: &Self::Directory, name: Option<&CStr>) -> io::Result<Stamp>;

    /// Which directory this is, and whether its cookies hold for whoever opens it later.
    fn identity(&self, directory: &Self::Directory) -> io::Result<Identity>;

    /// How many directories may be open at once.
    fn most_open(&self) -> usize;
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Identity {
    pub inode: u64,
    pub resumable: bool,
}

/// What changes when a name in a directory does.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stamp {
    pub device: u64,
    pub inode: u64,
    /// Seconds and nanoseconds since 1970.
    pub modified: (i64, u32),
    pub changed: (i64, u32),
}

/// What was there when its parent was read, and is not any more.
pub(crate) fn gone(err: &io::Error) -> bool {
    matches!(err.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

pub(crate) fn is(err: &io::Error, number: i32) -> bool {
    err.raw_os_error() == Some(number)
}
