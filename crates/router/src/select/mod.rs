//! Strategies: the order in which a path prefers the targets. Pure functions: no clock, no state between calls, no
//! allocation.
//!
//! To add a strategy, write it as a file of this module and add it to [`STRATEGIES`]. A strategy of another crate
//! implements [`Strategy`] and is passed in [`Routing`](crate::table::Routing); it builds its result with
//! [`Order::from_indexes`]. State for one list, such as a ring, belongs into the value that implements the trait: make
//! one for each list.

mod modulo;
mod rendezvous;

use sha2::{Digest, Sha256};

pub use modulo::Sha256Modulo;
pub use rendezvous::Rendezvous;

/// Maximum number of targets of a list. The largest parameter of Systems Manager (8 KiB) holds fewer.
pub const MAX_TARGETS: usize = 64;

/// A target as input of a strategy.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HashNode {
    /// The first 8 bytes of the SHA-256 of the target's id, big-endian.
    pub key: u64,
    /// Share of the paths relative to the other targets, greater than 0.
    pub weight: f64,
}

impl HashNode {
    /// The node of the target with this id.
    pub fn new(id: &str, weight: f64) -> Self {
        Self { key: first_word(&Sha256::digest(id).into()), weight }
    }
}

/// The indexes of targets in order of preference. On the stack: at most [`MAX_TARGETS`] bytes.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    indexes: [u8; MAX_TARGETS],
    len: usize,
}

impl Order {
    /// The order of `count` indexes, where `index` maps a rank to an index. Takes at most [`MAX_TARGETS`].
    pub fn from_indexes(count: usize, index: impl Fn(usize) -> usize) -> Self {
        let len = count.min(MAX_TARGETS);
        let mut indexes = [0; MAX_TARGETS];
        for (rank, slot) in indexes.iter_mut().take(len).enumerate() {
            *slot = index(rank) as u8;
        }
        Self { indexes, len }
    }

    /// The indexes, most preferred first.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.indexes[..self.len].iter().map(|index| usize::from(*index))
    }
}

/// An algorithm that distributes paths over targets. The same path and nodes always give the same order.
pub trait Strategy: Send + Sync {
    /// The value of `ROUTE_STRATEGY` that selects it.
    fn name(&self) -> &'static str;

    /// Whether the strategy uses [`HashNode::weight`].
    fn uses_weights(&self) -> bool;

    /// The order of preference of all nodes for this path.
    fn order(&self, path: &[u8], nodes: &[HashNode]) -> Order;

    /// The first index of [`Strategy::order`] that is `usable`, or `None` when no target is.
    fn first(&self, path: &[u8], nodes: &[HashNode], usable: &dyn Fn(usize) -> bool) -> Option<usize>;
}

/// Every strategy of this crate, the default first.
pub const STRATEGIES: [&dyn Strategy; 2] = [&Rendezvous, &Sha256Modulo];

/// The strategy with this [`Strategy::name`].
pub fn named(name: &str) -> Option<&'static dyn Strategy> {
    STRATEGIES.into_iter().find(|strategy| strategy.name() == name)
}

fn digest(path: &[u8]) -> [u8; 32] {
    Sha256::digest(path).into()
}

fn first_word(digest: &[u8; 32]) -> u64 {
    digest[..8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
}
