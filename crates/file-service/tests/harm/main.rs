//! The file service among those who mean it harm, and in the middle of what goes wrong by itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it takes for granted")]

#[path = "../common/mod.rs"]
mod common;
mod end;
mod failures;
mod paths;
mod slow;

/// A client's own content, as different from every other as can be.
const OWN: &str = "owned by whoever sent it";

/// What lies beside the root, and is nobody's to read or to change.
const SENTINEL: &str = "SENTINEL 5e2b7a, outside of the root";
