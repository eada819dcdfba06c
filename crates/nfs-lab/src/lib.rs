//! Environment of the NFS tests and benchmarks, on this machine only: a real server ([`Ganesha`]), and relays
//! ([`Relay`]) that stand for mount targets. Each relay has an address of its own and simulates network faults on
//! demand.
//!
//! It depends on no client. It is for tests only, and panics on errors.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it takes for granted")]

mod client_certificate;
mod ganesha;
mod partitions;
mod record;
mod relay;

use std::{
    thread,
    time::{Duration, Instant},
};

pub use client_certificate::AnyClientCertificate;
pub use ganesha::{Ganesha, Options};
pub use partitions::{BindReply, answer_partitions};
pub use record::{RecordTracker, framed, is_answering, null_call, read_record};
pub use relay::{Action, AtLimit, Counts, Direction, End, Handle, Relay, Throttle};

/// Upper bound of a wait for something certain, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Starts a server. Prints why and returns `None` if none can run here, which fails in CI.
pub fn lab_or_skip(options: Options) -> Option<Ganesha> {
    if let Err(reason) = Ganesha::available() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "CI has to have it: {reason}");
        println!("skipped: {reason}");
        return None;
    }
    Some(Ganesha::start(options))
}

/// Polls a condition. Panics after [`PATIENCE`].
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
