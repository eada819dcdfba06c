//! Whatever a server sends, the client does not panic, does not allocate more than was sent, and terminates.
//!
//! `cargo test` runs the corpus beside this file and some thousand inputs that are derived from it. With `cargo install
//! cargo-bolero`, `cargo bolero test -p nfs41 --test fuzz answer` fuzzes until it is stopped. Add what it finds to the
//! corpus.

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
