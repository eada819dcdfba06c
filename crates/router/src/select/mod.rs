//! Which target a path belongs to. Pure: no clock, no memory of earlier calls, no allocation.

mod modulo;
mod rendezvous;

use sha2::{Digest, Sha256};

pub use modulo::Sha256Modulo;
pub use rendezvous::Rendezvous;

/// A list has at most this many targets: the largest parameter holds fewer.
pub const MAX_TARGETS: usize = 64;

/// One target, as a strategy sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HashNode {
    /// The first 8 bytes of the SHA-256 of the target's id, big-endian.
    pub key: u64,
    /// Its share relative to the others', more than 0.
    pub weight: f64,
}

impl HashNode {
    /// A node for the target with this id.
    pub fn new(id: &str, weight: f64) -> Self {
        Self { key: first_word(&Sha256::digest(id).into()), weight }
    }
}

/// Indexes of targets, the preferred one first.
#[derive(Clone, Copy, Debug)]
pub struct Order {
    indexes: [u8; MAX_TARGETS],
    len: usize,
}

impl Order {
    /// `count` indexes, each given by its place. At most [`MAX_TARGETS`] are taken.
    fn of(count: usize, index: impl Fn(usize) -> usize) -> Self {
        let len = count.min(MAX_TARGETS);
        let mut indexes = [0; MAX_TARGETS];
        for (position, slot) in indexes.iter_mut().take(len).enumerate() {
            *slot = index(position) as u8;
        }
        Self { indexes, len }
    }

    /// The indexes, the preferred one first.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.indexes[..self.len].iter().map(|index| usize::from(*index))
    }
}

/// An algorithm that spreads paths over targets: the same path and targets always give the same answer.
pub trait Strategy: Send + Sync {
    /// Its name in `ROUTE_STRATEGY`.
    fn name(&self) -> &'static str;

    /// Whether [`HashNode::weight`] means anything to it.
    fn uses_weights(&self) -> bool;

    /// Every target, the preferred one first.
    fn order(&self, path: &[u8], nodes: &[HashNode]) -> Order;

    /// The first target in [`Strategy::order`] that is `usable`; `None` when none is.
    fn first(&self, path: &[u8], nodes: &[HashNode], usable: &dyn Fn(usize) -> bool) -> Option<usize>;
}

/// The strategies by name, the default first.
pub const STRATEGIES: [&dyn Strategy; 2] = [&Rendezvous, &Sha256Modulo];

/// The strategy of this name.
pub fn named(name: &str) -> Option<&'static dyn Strategy> {
    STRATEGIES.into_iter().find(|strategy| strategy.name() == name)
}

fn digest(path: &[u8]) -> [u8; 32] {
    Sha256::digest(path).into()
}

fn first_word(digest: &[u8; 32]) -> u64 {
    digest[..8].iter().fold(0, |word, byte| word << 8 | u64::from(*byte))
}
