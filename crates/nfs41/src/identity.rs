//! Identities of client and server: RFC 8881, sections 2.4 and 2.5.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;

use crate::{compound, error::Result, options::Options};

/// The server's identity as EXCHANGE_ID returns it (RFC 8881, section 18.35). Addresses with equal `owner_major` and
/// `scope` belong to one server (section 2.10.5).
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ServerIdentity {
    /// `so_major_id`.
    pub owner_major: Bytes,
    /// `so_minor_id`.
    pub owner_minor: u64,
    /// `server_scope`.
    pub scope: Bytes,
    /// `nii_domain` and `nii_name` of the server's implementation, if it sends them.
    pub implementation: Option<String>,
}

impl ServerIdentity {
    /// Whether both belong to one server, possibly at different addresses (RFC 8881, section 2.10.5).
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (&self.owner_major, &self.scope) == (&other.owner_major, &other.scope)
    }
}

/// The client owner of one connection (RFC 8881, section 2.4), with what its calls have in common.
#[derive(Debug)]
pub(crate) struct ClientOwner {
    pub options: Arc<Options>,
    pub rpc_header: Bytes,
    /// `co_ownerid`.
    pub id: Bytes,
    /// The last `co_verifier` that was used.
    verifier: AtomicU64,
}

impl ClientOwner {
    /// # Errors
    /// [`Error::BadInput`](crate::Error::BadInput): invalid credentials.
    pub fn new(options: Arc<Options>) -> Result<Self> {
        let rpc_header = compound::rpc_header(&options.credentials.encode()?);
        Ok(Self { options, rpc_header, id: unique_owner_id(), verifier: AtomicU64::new(0) })
    }

    /// A `co_verifier` that no earlier EXCHANGE_ID of this owner has used.
    pub fn next_verifier(&self) -> u64 {
        self.verifier.fetch_add(1, Ordering::Relaxed) + 1
    }
}

/// A `co_ownerid` that no other client and no other connection of this process uses: start time, a random number, the
/// process ID and a counter.
fn unique_owner_id() -> Bytes {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), now);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("nfs41 {now:x} {random:x} {} {count}", std::process::id()).into()
}
