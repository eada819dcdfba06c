//! An NFSv4.1 client in the process (RFC 8881): no mount, no privilege, no C.
//!
//! ```no_run
//! # async fn example() -> Result<(), nfs41::Error> {
//! use nfs41::{Client, Options, AttributeMask};
//!
//! let client = Client::new(Options::new("127.0.0.1:2049".parse().expect("an address")))?;
//! client.put(b"reports/today", "seven".into(), Default::default()).await?;
//! let found = client.read(b"reports/today", 0, 4096).await?;
//! assert_eq!(&found.data[..], b"seven");
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! - Paths are bytes below the root that [`Options`] name. `.` and `..` are refused, links are not followed.
//! - An operation is one round trip wherever the protocol lets it be: the way from the root, opening, writing, closing
//!   and renaming go in one compound. See [`Client`].
//! - Each connection has a client and a session of its own at the server. A connection that is lost is made again, and
//!   what had no answer is sent again in its slot: the server does it once. What it cannot say of is reported as
//!   [`Error::Uncertain`] and not repeated.
//! - No answer is believed: every length has a bound.

mod append;
mod attributes;
mod budget;
mod call;
mod channel;
mod client;
mod compound;
mod conditional;
mod connection;
mod dirents;
#[cfg(feature = "efs")]
pub mod efs;
mod error;
mod fence;
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod identity;
mod info;
mod install;
mod namespace;
mod no_fallback;
mod op;
mod open;
mod options;
pub mod partition;
mod path;
mod prefix;
mod put;
mod put_options;
mod read;
mod readdir;
mod rpc;
mod sequence;
mod session;
mod slot_table;
mod status;
#[cfg(feature = "tls")]
pub mod tls;
mod transport;
mod upload;
mod write_at;
mod xdr;

pub use attributes::{AttributeMask, Attributes, FileType, SetAttributes, Time};
#[doc(hidden)]
pub use client::CleanupGuard;
pub use client::Client;
pub use compound::Create;
pub use dirents::{Dirent, Dirents};
pub use error::{Error, Result};
pub use identity::ServerIdentity;
pub use info::Limits;
pub use op::Op;
pub use open::File;
pub use options::{AlternateAddresses, Options};
pub use put_options::{Precondition, Predicate, PutOptions};
pub use read::{FileHandle, ReadResult};
pub use readdir::{DirCursor, Entry, Page};
pub use rpc::Credentials;
pub use status::Status;
pub use upload::Upload;
