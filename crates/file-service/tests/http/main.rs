//! The file service as its clients meet it: what HTTP promises of files, and what this service promises of many
//! who write at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it takes for granted")]

#[path = "../common/mod.rs"]
mod common;
mod concurrent;
mod model;
mod protocol;
mod service;
