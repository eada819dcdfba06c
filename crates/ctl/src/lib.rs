//! The commands of `efs-autoscale`: [`operator`] has those for an installation (status, plan, start, history, explain, doctor,
//! pause and more), [`count`] counts the files below a directory, [`mod@bench`] measures mount targets,
//! [`probe`] checks what NFS servers support, [`preflight`] checks an account before a deployment, and
//! [`teardown`] removes a deployed system.

mod account;
pub mod bench;
pub mod count;
pub mod operator;
pub mod preflight;
pub mod screen;
mod stack;
pub mod teardown;
mod wait;

use probe::grouped;
