//! Options of a client.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use crate::rpc::Credentials;

/// The server's address, and how a client uses it.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address and port of the server.
    pub address: SocketAddr,
    /// TLS for every connection; `None` for plain TCP.
    #[cfg(feature = "tls")]
    pub tls: Option<crate::tls::Tls>,
    /// `AUTH_SYS` credentials of every call.
    pub credentials: Credentials,
    /// The directory at the server that all paths are relative to.
    pub root: Vec<u8>,
    /// Number of connections, at least 1. Each has its own client ID and session at the server. Default: 1.
    pub connections: usize,
    /// Maximum number of concurrent calls per connection, 1 to 256; the server can grant fewer. Default: 64.
    pub max_in_flight: u32,
    /// Maximum number of bytes that one READ or WRITE carries; the server can grant fewer. Default: 1 MiB.
    pub max_io_bytes: u32,
    /// Timeout of one attempt to connect, TLS handshake included. Default: 5 s.
    pub connect_timeout: Duration,
    /// How long a call waits for a connection when there is none. Default: 10 s.
    pub connect_wait: Duration,
    /// No call is sent after this time; `None` for no limit. A change that was sent before is fenced: see
    /// [`Error::Uncertain`](crate::Error::Uncertain) and [`Error::Pending`](crate::Error::Pending). An operation that
    /// needs several calls to walk a deep path applies it to each of them; [`Client::with_deadline`] bounds all of them
    /// together. Default: 30 s.
    ///
    /// [`Client::with_deadline`]: crate::Client::with_deadline
    pub operation_timeout: Option<Duration>,
    /// Other addresses of the same file system. A call that hangs on its way to `address` is fenced through them.
    pub alternate_addresses: AlternateAddresses,
}

impl Options {
    /// Default options for the server at this address.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            #[cfg(feature = "tls")]
            tls: None,
            credentials: Credentials::default(),
            root: Vec::new(),
            connections: 1,
            max_in_flight: 64,
            max_io_bytes: 1 << 20,
            connect_timeout: Duration::from_secs(5),
            connect_wait: Duration::from_secs(10),
            operation_timeout: Some(Duration::from_secs(30)),
            alternate_addresses: AlternateAddresses::default(),
        }
    }
}

/// Other addresses of the same file system. Clones share the list.
#[derive(Clone, Debug, Default)]
pub struct AlternateAddresses(Arc<Mutex<Arc<[SocketAddr]>>>);

impl AlternateAddresses {
    /// Replaces the list. It may contain a client's own address, which that client skips.
    pub fn set(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = addresses.into_iter().collect();
    }

    pub(crate) fn get(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
