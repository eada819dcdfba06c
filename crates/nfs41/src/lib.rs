//! An NFSv4.1 client in the process (RFC 8881): no mount, no privilege, no C.
//!
//! ```no_run
//! # async fn example() -> Result<(), nfs41::Error> {
//! use nfs41::{Client, Options, Wanted};
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
mod client;
mod compound;
mod connection;
#[cfg(feature = "efs")]
pub mod efs;
mod error;
mod fence;
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod kinds;
mod list;
mod look;
mod names;
mod open;
pub mod partition;
mod path;
mod put;
mod read;
mod replace;
mod rpc;
mod session;
mod stage;
mod status;
#[cfg(feature = "tls")]
pub mod tls;
mod transport;
mod variants;
mod xdr;

pub use attributes::{Attributes, Kind, Set, Time, Wanted};
#[doc(hidden)]
pub use client::Cleaning;
pub use client::{Client, Options};
pub use compound::{Create, Op, Stable};
pub use connection::Server;
pub use error::{Error, Result};
pub use fence::Alternatives;
pub use kinds::{Kinds, Seen};
pub use list::{Entry, Page, Place};
pub use look::FileSystem;
pub use open::File;
pub use put::{Conditions, Holds, Put};
pub use read::{Content, Handle};
pub use rpc::Credentials;
pub use stage::Staged;
pub use status::Status;
