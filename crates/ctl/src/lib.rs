//! `efs-autoscale`, the program for people. [`count`] counts the files below a directory; [`probe`](::probe) asks NFS servers what they do; [`teardown`] takes a deployed system away.

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
