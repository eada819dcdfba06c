//! Which of several EFS mount targets a file's path belongs to.
//!
//! - [`path`]: names of files, checked once.
//! - [`select`]: the strategies: the order in which a path prefers the targets.
//! - [`table`]: one list of targets with a strategy over it, replaced whole.
//!
//! Pure: no file, no clock, no runtime. The crate `files` has the files over it.
//!
//! ```
//! use router::{FilePath, PublishedList, table::{Routing, Table}};
//!
//! let list = PublishedList::parse(
//!     r#"{"mount_targets":[
//!         {"mount_target_id":"fsmt-1","ip_address":"10.0.1.5","availability_zone":"a","subnet_id":"subnet-1"},
//!         {"mount_target_id":"fsmt-2","ip_address":"10.0.2.5","availability_zone":"c","subnet_id":"subnet-2"}]}"#,
//! )?;
//! let table = Table::new(list, Routing::default())?;
//! let path = FilePath::new("user/12345/document.pdf")?;
//!
//! let chosen = table.first(path.as_bytes(), &|_| true).ok_or("no target")?;
//! assert_eq!(table.order(path.as_bytes()).iter().next(), Some(chosen));
//! // When that target fails, the path goes to the next in its order.
//! let next = table.first(path.as_bytes(), &|index| index != chosen);
//! assert_eq!(table.order(path.as_bytes()).iter().nth(1), next);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

#![warn(missing_docs)]

pub mod path;
pub mod select;
pub mod table;

pub use self::path::{BadPath, DirectoryPath, FilePath};
pub use domain::published::PublishedList;
