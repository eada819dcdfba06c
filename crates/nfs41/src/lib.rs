//! An NFSv4.1 client (RFC 8881) for unprivileged processes, in pure Rust and without a mount.
//!
//! ```no_run
//! # async fn example() -> Result<(), nfs41::Error> {
//! use nfs41::{AttributeMask, Client, Options, Precondition, PutOptions};
//!
//! let client = Client::new(Options::new("127.0.0.1:2049".parse().expect("an address")))?;
//! client.create_dir_all(b"reports", 0o755).await?;
//!
//! // Create a file only if there is none, and replace it atomically.
//! let create = PutOptions { precondition: Precondition::Absent, ..PutOptions::default() };
//! client.put(b"reports/today", "six".into(), create).await?;
//! client.put(b"reports/today", "seven".into(), PutOptions::default()).await?;
//!
//! let read = client.read(b"reports/today", 0, 4096).await?;
//! assert_eq!(&read.data[..], b"seven");
//! assert_eq!(client.attributes(b"reports/today", AttributeMask::SIZE).await?.size, Some(5));
//! client.close().await;
//! # Ok(())
//! # }
//! ```
//!
//! # Paths
//! A path is a sequence of bytes below [`Options::root`]. `.` and `..` are rejected, and symbolic links are not followed.
//!
//! # Round trips
//! An operation is one compound, and so one round trip, wherever the protocol allows it: the LOOKUPs of the path, OPEN,
//! WRITE, CLOSE and RENAME share a compound. See [`Client`] for the number of each operation.
//!
//! # Lost connections and deadlines
//! Each connection has its own client ID and session at the server. The client replaces a lost connection, and retransmits
//! the calls that have no reply in their slots, so that the server executes each once. A change whose outcome is unknown
//! returns [`Error::Uncertain`] or [`Error::Pending`] and is not repeated.
//!
//! # Untrusted servers
//! Every length in a reply has an upper bound, and an invalid reply ends the connection.
//!
//! # Features
//! `tls` (default): TLS on port 2049, as Amazon EFS expects it. `efs`: the client certificate that carries an access point
//! and IAM authorization. `settings`: reads both from environment variables.
#![warn(missing_docs)]

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
