//! Routes every file access to one of several EFS mount targets by a hash of the file's path.
//!
//! - [`select`]: which target a path belongs to; pure functions, of use by themselves.
//! - [`table`]: the targets that there are, replaced whole. [`source`]: where their list comes from.
//! - [`files`]: the files behind them: read, write, append, delete, list.
//! - [`target`]: what a backend offers; [`mounted`] is the one for targets that the kernel has mounted, [`nfs`] the one
//!   that needs no mount.
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use router::{FilePath, Files, PublishedList, files::Options, mounted, target::Conditions};
//!
//! // `/mnt/efs-0` and so on, in the order of the published list.
//! let list = PublishedList::parse(&std::fs::read_to_string("targets.json")?)?;
//! let files = Files::start(list, mounted::Options::default(), Options::default()).await?;
//! let path = FilePath::new("user/12345/document.pdf")?;
//! files.write(&path, "content".into(), Conditions::default()).await?;
//! assert_eq!(files.read(&path, 1 << 20).await?, "content");
//! # Ok(())
//! # }
//! ```

mod buffers;
#[cfg(feature = "nfs")]
mod clients;
mod error;
mod fence;
pub mod files;
mod health;
pub mod mounted;
#[cfg(feature = "nfs")]
pub mod nfs;
mod path;
mod prober;
pub mod select;
#[cfg(feature = "service")]
pub mod service;
pub mod source;
mod stats;
pub mod table;
pub mod target;
mod temporary;

pub use self::{
    error::{Error, RETRY_AFTER, Result},
    files::Files,
    health::Health,
    path::{BadPath, DirectoryPath, FilePath},
    stats::{BOUNDS, Counted, Stats},
};
pub use domain::published::PublishedList;
