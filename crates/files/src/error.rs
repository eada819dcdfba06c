//! Errors of operations on files. Each has a stable code for programs and a message that says what to do.

use std::{io, time::Duration};

use rustix::io::Errno;

use router::path::BadPath;

/// Delay before a retry, where a retry helps.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The error of an operation on a file or directory. Unless a variant says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The path is invalid.
    #[error("{0}")]
    BadPath(#[from] BadPath),
    /// The file system rejects a component of the path, for example because it is not UTF-8.
    #[error("the file system rejects a name in the path: {0}")]
    BadName(io::Error),
    /// A component of the path is a symbolic link. The service never follows links.
    #[error("the path leads through a symbolic link; links are not followed")]
    LinkInPath,
    /// The file or directory does not exist.
    #[error("there is no such file")]
    NotFound,
    /// A component before the last is a file.
    #[error("a component of the path is a file, not a directory")]
    NotADirectory,
    /// The path names a directory where a file is expected.
    #[error("the path names a directory; name a file")]
    IsADirectory,
    /// The path names a socket, a device or a pipe.
    #[error("the path names neither a file nor a directory")]
    NotAFile,
    /// If-Match, If-None-Match or If-Unmodified-Since does not hold.
    #[error("the file does not meet If-Match or If-None-Match; read it again")]
    PreconditionFailed,
    /// The file is larger than the caller accepts, in bytes.
    #[error("the file is larger than {0} bytes; read it in ranges")]
    TooLarge(u64),
    /// A limit of the file system is exceeded, such as the size of a file.
    #[error("a limit of the file system is exceeded: {0}")]
    AboveLimit(io::Error),
    /// The file system or the quota is full.
    #[error("the file system or the quota is full")]
    NoSpace,
    /// The file system denies access.
    #[error("the file system denies access: {0}")]
    Denied(io::Error),
    /// The file system does not support the operation.
    #[error("the file system does not support this operation: {0}")]
    Unsupported(io::Error),
    /// The target has no capacity left. The operation was not started.
    #[error("the target of this path is at capacity; try again")]
    Busy,
    /// An earlier write of this path has not ended, or its outcome is uncertain. The operation was not started.
    #[error("an earlier write of this path has not ended yet; try again")]
    Fenced,
    /// Another client of the file system holds a lock on the file.
    #[error("another client holds a lock on the file; try again")]
    Locked,
    /// No mount target is healthy.
    #[error("no mount target is healthy")]
    NoTarget,
    /// The deadline passed before the operation changed anything. It will not change anything later either.
    #[error("the target of this path did not answer in time; nothing was changed")]
    Deadline,
    /// The write happened or will never happen; which one is unknown.
    #[error("the outcome of the write is unknown, but final; read the file to see it")]
    Uncertain,
    /// The write may have happened or may still happen. This process refuses other writes of the path until it has ended.
    #[error("the write was started and may still happen; read the file before you write it again")]
    Pending,
    /// The cursor of a listing is not one that an earlier page returned.
    #[error("the cursor is not one that an earlier page returned")]
    BadCursor,
    /// Another client truncated the file during the read.
    #[error("the file was truncated while it was read")]
    Shortened,
    /// The target, or the network on the way to it, failed.
    #[error("the target failed: {0}")]
    Failed(io::Error),
}

impl Error {
    /// The stable code of the error, such as `NotFound`.
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

    /// Whether the target caused the error, rather than the request.
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
            // openat2 returns XDEV for a path that leaves the root, and LOOP for a link.
            Errno::LOOP | Errno::XDEV => Self::LinkInPath,
            // A file system that requires UTF-8 returns ILSEQ.
            Errno::NAMETOOLONG | Errno::ILSEQ => Self::BadName(err.into()),
            Errno::FBIG => Self::AboveLimit(err.into()),
            Errno::NOSPC | Errno::DQUOT | Errno::MLINK => Self::NoSpace,
            Errno::ACCESS | Errno::PERM | Errno::ROFS => Self::Denied(err.into()),
            // A socket, or a device without a driver.
            Errno::NXIO | Errno::NODEV => Self::NotAFile,
            // The process or the machine has no free file descriptor.
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

/// The result of an operation on a file or directory.
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
