//! All that `http.rs` and `harm.rs` ask of the service, with targets that it reaches by an NFS client of its own: a real
//! server behind relays that stand for the mount targets.
#![cfg(feature = "service")]

#[path = "harm.rs"]
mod harm;
#[path = "http.rs"]
mod http;
