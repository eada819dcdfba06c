//! Options and preconditions of [`Client::put`](crate::Client::put) and the operations like it.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use crate::{
    attributes::{Attributes, Time},
    error::Result,
    path,
};

/// Decides whether an operation may proceed, given the attributes of the existing file; `None` if there is no file.
pub type Predicate = Arc<dyn Fn(Option<&Attributes>) -> bool + Send + Sync>;

/// What must hold of the existing file.
#[derive(Clone, Default)]
pub enum Precondition {
    /// Nothing.
    #[default]
    None,
    /// A regular file must exist. Otherwise the operation fails with `NOENT`, or with `NOT_SAME` if something else has the
    /// name. Evaluated without a lock: two concurrent operations with this precondition both succeed.
    RegularFile,
    /// Nothing may have the name. Of several concurrent operations with this precondition one succeeds.
    Absent,
    /// The predicate must return true. Evaluated under a lock of the file, which other users of locks respect.
    If(Predicate),
}

impl fmt::Debug for Precondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::RegularFile => "RegularFile",
            Self::Absent => "Absent",
            Self::If(_) => "If",
        })
    }
}

/// How a file is written or replaced.
#[derive(Clone, Debug)]
pub struct PutOptions {
    /// Permissions of a file that did not exist. A file that replaces another inherits its permissions without the set-ID
    /// bits, and its owner and group if the server lets this client set them. Default: `0o644`.
    pub mode: u32,
    /// Modification time; `None` for the server's clock, which may give two changes the same time.
    pub time_modify: Option<Time>,
    /// What must hold of the existing file.
    pub precondition: Precondition,
    /// Name of the temporary file, in the same directory. Nothing else may use it.
    pub temp_name: Vec<u8>,
    /// Second name of a file while it is replaced or removed under a lock, in the same directory. Nothing else may use it.
    pub pin_name: Vec<u8>,
    /// How long to wait for another client's lock. Default: 5 s.
    pub lock_timeout: Duration,
}

impl Default for PutOptions {
    /// Each call returns other names.
    fn default() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos();
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), (now, count));
        Self {
            mode: 0o644,
            time_modify: None,
            precondition: Precondition::None,
            temp_name: format!(".nfs41-{random:016x}.{count}").into(),
            pin_name: format!(".nfs41-{random:016x}.{count}.pin").into(),
            lock_timeout: Duration::from_secs(5),
        }
    }
}

impl PutOptions {
    /// # Errors
    /// [`Error::BadPath`](crate::Error::BadPath): a name is invalid.
    pub(crate) fn check(&self) -> Result<()> {
        path::check(&self.temp_name).and_then(|()| path::check(&self.pin_name))
    }
}
