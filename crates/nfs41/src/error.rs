//! Why an operation was not done, or is not known to have been.

use std::{io, sync::Arc, time::Duration};

use crate::{op::Op, status::Status};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The server says no. What came before this operation in the same compound was done.
    #[error("{op:?}: {status}")]
    Status { op: Op, status: Status },
    /// Nothing was sent: there is no connection.
    #[error("{address} cannot be reached: {source}")]
    Unreachable { address: String, source: Arc<io::Error> },
    /// Nothing was sent within this time: all that the server lets be on its way was on its way, or there was no
    /// connection.
    #[error("nothing could be sent within {0:?}")]
    Busy(Duration),
    /// A part of it was sent, no answer came in time, and nothing was changed by it or will be.
    #[error("no answer came within {0:?}")]
    Deadline(Duration),
    /// It was sent, and the server has either done it by now or never will. Look before doing it again.
    #[error("it was sent, and whether it was done is not known ({0}); look before doing it again")]
    Uncertain(&'static str),
    /// It was sent, and the server may still do it: nobody could keep it from that.
    #[error("it was sent, and may still be done ({0}); look before doing it again")]
    Pending(&'static str),
    /// What was open or locked is not any more: the server has begun anew, or the lease is over.
    #[error("the session has ended, and with it what was open or locked in it")]
    SessionLost,
    #[error("a path has components of 1 to 255 bytes that are not `.` or `..` and have no NUL: {0}")]
    BadPath(&'static str),
    #[error("{0}")]
    BadInput(&'static str),
    /// What came is not what the protocol says. The connection is given up.
    #[error("the server's answer is not NFS 4.1: {0}")]
    Protocol(&'static str),
    /// The server does not take part at all: wrong version, wrong credentials.
    #[error("the server refuses the call: {0}")]
    Refused(&'static str),
    #[error("the file is not as the condition asks that it be")]
    ConditionFailed,
    #[error("this client is closed")]
    Closed,
    /// Before there was a session.
    #[error("the connection ended: {0}")]
    Connection(#[source] Arc<io::Error>),
}

impl Error {
    /// The server's status, where it gave one.
    pub fn status(&self) -> Option<Status> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }

    /// What an exchange before a session ended with: the server's status, or that nothing is known.
    pub(crate) fn lost(error: io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref()) {
            Some(inner) => Self::clone(inner),
            None => Self::Connection(Arc::new(error)),
        }
    }

    pub(crate) fn is(&self, status: Status) -> bool {
        self.status() == Some(status)
    }

    /// Is the file that a handle named not there any more? Its path may name another by now. That is `STALE`; while a
    /// name is being given to another file, NFS-Ganesha also says `SERVERFAULT` to a PUTFH, and `BAD_STATEID` to a READ
    /// of what has just been opened.
    pub fn is_stale(&self) -> bool {
        matches!(
            self,
            Self::Status { status: Status::STALE, .. }
                | Self::Status { op: Op::PUTFH, status: Status::SERVERFAULT }
                | Self::Status { op: Op::READ, status: Status::BAD_STATEID }
        )
    }

    /// Was it certainly not done? What was sent and refused by its own operation was not either, but what came
    /// before it in the same compound was.
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
