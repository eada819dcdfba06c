//! Whatever a server sends: no panic, no more memory than was sent, an end.
//!
//! `cargo test` runs the corpus beside this file and some thousand inputs that are made from it; with
//! `cargo install cargo-bolero`, `cargo bolero test -p nfs41 --test fuzz answer` goes on for as long as it is let.
//! What it finds is put into the corpus.

use bolero::check;

#[test]
fn stream() {
    check!().for_each(|bytes: &[u8]| nfs41::fuzzing::stream(bytes));
}

#[test]
fn answer() {
    check!().for_each(|bytes: &[u8]| nfs41::fuzzing::reply(bytes));
}

#[test]
fn session() {
    check!().for_each(|bytes: &[u8]| nfs41::fuzzing::session(bytes));
}
