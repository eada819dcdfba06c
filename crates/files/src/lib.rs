//! The files of one file system by way of several mount targets.
//!
//! - [`Files`]: read, write, append, delete, list. Every operation of a path goes through the target that the
//!   [`router`] chooses among those that are healthy.
//! - [`transport`]: what a backend offers for one target. `files-mounted` has it for targets that the kernel has mounted,
//!   `files-nfs` for an NFS client in the process.
//! - [`source`]: where the list of targets comes from.
//! - [`health`], [`stats`]: what is known of each target.

#![warn(missing_docs)]

pub mod buffers;
mod error;
mod files;
pub mod health;
mod path_lock;
mod prober;
pub mod source;
pub mod stats;
pub mod temporary;
pub mod transport;

pub use self::{
    error::{Error, RETRY_AFTER, Result},
    files::{Backend, Endpoint, Files, Opened, Options, Route, StartError, Upload, Written},
    health::Health,
    stats::{BUCKET_BOUNDS_MICROS, Stats, StatsSnapshot},
};
pub use router::{BadPath, DirectoryPath, FilePath, PublishedList};
