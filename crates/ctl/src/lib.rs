//! `efs-autoscale`, the program for people. [`count`] counts the files below a directory; [`local`] is the
//! whole system on one machine; [`probe`](::probe) asks NFS servers what they do; [`teardown`] takes a deployed system away.

mod account;
pub mod bench;
pub mod count;
pub mod local;
pub mod preflight;
mod screen;
mod stack;
pub mod teardown;
mod wait;

use probe::grouped;
