//! The whole system on one machine: AWS is an emulator, the functions are the real ones, the directory is a real one.
//! `efs-autoscale local` starts the program of this crate, so that what operators install has no part of it.

pub mod emulator;
pub mod execution;
mod files;
mod load;
mod page;
pub mod proxy;
mod report;
mod run;
mod serve;
mod service;
pub mod stack;
mod strict;
pub mod tools;
pub mod world;

pub use load::{LOAD_HELP, LoadOptions, load};
pub use run::{Options, RUN_HELP, run};
pub use serve::{SERVE_HELP, ServeOptions, serve};
pub use tools::Tools;
pub use world::{Spec, World};
