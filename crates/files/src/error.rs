//! Why an operation on a file was not done. Each error has a stable code and a sentence for whoever asked.

use std::{io, time::Duration};

use rustix::io::Errno;

use router::path::BadPath;

/// When to come again, where an error says that it helps.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    BadPath(#[from] BadPath),
    #[error("the file system does not take a name in the path: {0}")]
    BadName(io::Error),
    #[error("the path leads through a symbolic link; links are not followed")]
    LinkInPath,
    #[error("there is no such file")]
    NotFound,
    #[error("a component of the path is a file, not a directory")]
    NotADirectory,
    #[error("that is a directory; name a file")]
    IsADirectory,
    #[error("that is neither a file nor a directory")]
    NotAFile,
    #[error("the file is not as If-Match or If-None-Match asked for; read it again")]
    PreconditionFailed,
    #[error("the file is larger than {0} bytes; read it in pieces")]
    TooLarge(u64),
    #[error("that is more than the file system takes: {0}")]
    AboveLimit(io::Error),
    #[error("the file system or the quota is full")]
    NoSpace,
    #[error("the file system does not let this service do that: {0}")]
    Denied(io::Error),
    #[error("the file system cannot do that: {0}")]
    Unsupported(io::Error),
    /// Not begun: nothing has happened.
    #[error("the target of this path has all that it can do; come again")]
    Busy,
    /// Not begun: nothing has happened.
    #[error("an earlier write of this path has not ended yet; come again")]
    Fenced,
    /// Another client of the file system holds a lock on the file. Nothing has happened.
    #[error("another client holds a lock on the file; come again")]
    Locked,
    #[error("no mount target works")]
    NoTarget,
    /// Nothing has happened, and nothing will.
    #[error("the target of this path did not answer in time; nothing was changed")]
    Deadline,
    /// The write has happened, or never will.
    #[error("whether the write was done is not known, and it does not happen any more; read the file to see")]
    Uncertain,
    /// The write may still happen, or have happened; until it has ended, its path is fenced in this process.
    #[error("the write was begun and may still happen; read the file before writing it again")]
    Pending,
    #[error("the cursor is not one that an earlier page returned")]
    BadCursor,
    #[error("the file became shorter while it was read")]
    Shortened,
    #[error("the target failed: {0}")]
    Failed(io::Error),
}

impl Error {
    /// Stable, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadPath(_) => "BadPath",
            Self::BadName(_) => "BadName",
            Self::LinkInPath => "LinkInPath",
            Self::NotFound => "NotFound",
            Self::NotADirectory => "NotADirectory",
            Self::IsADirectory => "IsADirectory",
            Self::NotAFile => "NotAFile",
            Self::PreconditionFailed => "PreconditionFailed",
            Self::TooLarge(_) | Self::AboveLimit(_) => "TooLarge",
            Self::NoSpace => "NoSpace",
            Self::Denied(_) => "Denied",
            Self::Unsupported(_) => "Unsupported",
            Self::Busy => "Busy",
            Self::Fenced => "Fenced",
            Self::Locked => "Locked",
            Self::NoTarget => "NoTarget",
            Self::Deadline => "Deadline",
            Self::Uncertain => "Uncertain",
            Self::Pending => "Pending",
            Self::BadCursor => "BadCursor",
            Self::Shortened => "Shortened",
            Self::Failed(_) => "TargetFailed",
        }
    }

    /// Does it say something about the target, and not about the request?
    pub fn is_target_fault(&self) -> bool {
        matches!(self, Self::Busy | Self::NoTarget | Self::Deadline | Self::Uncertain | Self::Pending | Self::Failed(_))
    }
}

impl From<Errno> for Error {
    fn from(err: Errno) -> Self {
        match err {
            Errno::NOENT => Self::NotFound,
            Errno::NOTDIR => Self::NotADirectory,
            Errno::ISDIR => Self::IsADirectory,
            // openat2 says XDEV of what would lead out of the root, and LOOP of a link.
            Errno::LOOP | Errno::XDEV => Self::LinkInPath,
            // A file system of names in UTF-8 says ILSEQ.
            Errno::NAMETOOLONG | Errno::ILSEQ => Self::BadName(err.into()),
            Errno::FBIG => Self::AboveLimit(err.into()),
            Errno::NOSPC | Errno::DQUOT | Errno::MLINK => Self::NoSpace,
            Errno::ACCESS | Errno::PERM | Errno::ROFS => Self::Denied(err.into()),
            // Of a socket or a device without a driver.
            Errno::NXIO | Errno::NODEV => Self::NotAFile,
            // This process has all the files open that it may.
            Errno::MFILE | Errno::NFILE => Self::Busy,
            other => Self::Failed(other.into()),
        }
    }
}

impl From<io::Error> for Error {
    fn from(err: io::Error) -> Self {
        match Errno::from_io_error(&err) {
            Some(errno) => errno.into(),
            None => Self::Failed(err),
        }
    }
}

pub type Result<T> = std::result::Result<T, Error>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_request_causes_is_not_the_targets() {
        for (errno, code, is_target_fault) in [
            (Errno::ILSEQ, "BadName", false),
            (Errno::NAMETOOLONG, "BadName", false),
            (Errno::FBIG, "TooLarge", false),
            (Errno::MLINK, "NoSpace", false),
            (Errno::DQUOT, "NoSpace", false),
            (Errno::ROFS, "Denied", false),
            (Errno::XDEV, "LinkInPath", false),
            (Errno::MFILE, "Busy", true),
            (Errno::IO, "TargetFailed", true),
            (Errno::STALE, "TargetFailed", true),
        ] {
            let err = Error::from(errno);
            assert_eq!((err.code(), err.is_target_fault()), (code, is_target_fault), "{errno}");
        }
    }
}
