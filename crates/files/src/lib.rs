//! The files of one file system by way of several mount targets.
//!
//! - [`Files`]: read, write, append, delete, list. Every operation of a path goes through the target that the
//!   [`router`] chooses among those that are healthy.
//! - [`target`]: what a backend offers for one target. `files-mounted` has it for targets that the kernel has mounted,
//!   `files-nfs` for an NFS client in the process.
//! - [`source`]: where the list of targets comes from.
//! - [`health`], [`stats`]: what is known of each target.

pub mod buffers;
mod error;
mod fence;
mod files;
pub mod health;
mod prober;
pub mod source;
pub mod stats;
pub mod target;
pub mod temporary;

pub use self::{
    error::{Error, RETRY_AFTER, Result},
    files::{Backend, CannotStart, Files, Member, Opened, Options, Route, Upload, Written},
    health::Health,
    stats::{BOUNDS, Counted, Stats},
};
pub use router::{BadPath, DirectoryPath, FilePath, PublishedList};
