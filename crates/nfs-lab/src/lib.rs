//! What the NFS tests and benchmarks run on, on this machine alone: a real server ([`Ganesha`]), and relays
//! ([`Relay`]) that stand for mount targets, each at an address of its own, and do on demand what networks do.
//!
//! It knows no client. It is for tests: what it cannot do, it panics about.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it takes for granted")]

mod ganesha;
mod partitions;
mod record;
mod relay;

use std::{
    thread,
    time::{Duration, Instant},
};

pub use ganesha::{Ganesha, Options};
pub use partitions::{Bound, answer_partitions};
pub use record::{Marking, framed, is_answering, null_call, read_record};
pub use relay::{Act, Counts, End, Handle, Relay, Then, Throttle, Way};

/// What is sure to come has come by then, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A server; nothing, and why, where none can be run. CI has to be able to.
pub fn lab_or_skip(options: Options) -> Option<Ganesha> {
    if let Err(reason) = Ganesha::available() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI has to have it: {reason}");
        println!("skipped: {reason}");
        return None;
    }
    Some(Ganesha::start(options))
}

/// Asks until it is so.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
