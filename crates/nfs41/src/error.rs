//! Errors, and what each says about whether the operation was executed.

use std::{io, sync::Arc, time::Duration};

use crate::{op::Op, status::Status};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation failed, or why its outcome is unknown.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// An operation of the compound failed with an NFS status. Those before it in the compound were executed.
    #[error("{op:?}: {status}")]
    Status {
        /// The operation that failed.
        op: Op,
        /// Its status.
        status: Status,
    },
    /// There is no connection. Nothing was sent.
    #[error("{address} cannot be reached: {source}")]
    Unreachable {
        /// The server's address.
        address: String,
        /// Why the last attempt to connect failed.
        source: Arc<io::Error>,
    },
    /// Nothing was sent within this time: all slots were in use, or there was no connection.
    #[error("nothing could be sent within {0:?}")]
    Busy(Duration),
    /// A call was sent and no reply came within this time. The operation has changed nothing and never will.
    #[error("no reply came within {0:?}")]
    Deadline(Duration),
    /// The request was sent, and the server has either executed it or never will. Check before repeating it.
    #[error("the request was sent and its outcome is unknown ({0}); check before repeating it")]
    Uncertain(&'static str),
    /// The request was sent and could not be fenced: the server may still execute it. Check before repeating it.
    #[error("the request was sent and may still be executed ({0}); check before repeating it")]
    Pending(&'static str),
    /// The session is lost, and with it its open files and locks: the server restarted, or the lease expired.
    #[error("the session is lost, and with it its open files and locks")]
    SessionLost,
    /// Invalid path.
    #[error("invalid path: {0}; components have 1 to 255 bytes, no NUL, and are not `.` or `..`")]
    BadPath(&'static str),
    /// Invalid argument.
    #[error("{0}")]
    BadInput(&'static str),
    /// The server's reply violates the protocol. The connection is closed.
    #[error("the server's reply is not valid NFS 4.1: {0}")]
    Protocol(&'static str),
    /// The server rejects the call at the RPC level: wrong version, wrong credentials.
    #[error("the server rejects the call: {0}")]
    Refused(&'static str),
    /// The precondition does not hold.
    #[error("the file does not meet the precondition")]
    ConditionFailed,
    /// [`Client::close`](crate::Client::close) was called.
    #[error("the client is closed")]
    Closed,
    /// The connection ended before it had a session.
    #[error("the connection ended: {0}")]
    Connection(#[source] Arc<io::Error>),
}

impl Error {
    /// The NFS status, if there is one.
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// The error of a call that set up a session.
    pub(crate) fn lost(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(inner) => Self::clone(inner),
            None => Self::Connection(Arc::new(error)),
        }
    }

    pub(crate) fn is(&self, status: Status) -> bool {
        self.status() == Some(status)
    }

    /// Whether the file of a handle no longer exists. Its path may refer to another file by now. The status is `STALE`. While
    /// a file is being replaced, NFS-Ganesha also returns `SERVERFAULT` for PUTFH, and `BAD_STATEID` for READ of a file that
    /// was just opened.
    pub fn is_stale(&self) -> bool {
        matches!(
            self,
            Self::Status { status: Status::STALE, .. }
                | Self::Status { op: Op::PUTFH, status: Status::SERVERFAULT }
                | Self::Status { op: Op::READ, status: Status::BAD_STATEID }
        )
    }

    /// Whether nothing was sent, so that the operation was certainly not executed.
    pub fn was_never_sent(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Busy(_) | Self::BadPath(_) | Self::BadInput(_) | Self::Closed)
    }
}

impl From<Error> for io::Error {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Status { status, .. } => status.kind(),
            Error::Unreachable { source, .. } => source.kind(),
            Error::Busy(_) | Error::Deadline(_) => io::ErrorKind::TimedOut,
            Error::Uncertain(_) | Error::Pending(_) | Error::SessionLost => io::ErrorKind::ConnectionReset,
            Error::BadPath(_) | Error::BadInput(_) => io::ErrorKind::InvalidInput,
            Error::Protocol(_) => io::ErrorKind::InvalidData,
            Error::Refused(_) => io::ErrorKind::PermissionDenied,
            Error::ConditionFailed => io::ErrorKind::AlreadyExists,
            Error::Closed => io::ErrorKind::NotConnected,
            Error::Connection(error) => error.kind(),
        };
        Self::new(kind, error)
    }
}
