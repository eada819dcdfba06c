//! The algorithm of the original design: `int(hashlib.sha256(path).hexdigest(), 16) % N` over the published order. The
//! paths of a target that fails go to the next index. A new target moves most of the paths.

use super::{HashNode, MAX_TARGETS, Order, Strategy, digest};

/// Compatible with services that implement the original design.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sha256Modulo;

impl Strategy for Sha256Modulo {
    fn name(&self) -> &'static str {
        "sha256-modulo"
    }

    fn uses_weights(&self) -> bool {
        false
    }

    fn order(&self, path: &[u8], nodes: &[HashNode]) -> Order {
        let count = nodes.len().min(MAX_TARGETS);
        let first = index(path, count).unwrap_or_default();
        Order::from_indexes(count, |base| (first + base) % count)
    }

    fn first(&self, path: &[u8], nodes: &[HashNode], usable: &dyn Fn(usize) -> bool) -> Option<usize> {
        let count = nodes.len().min(MAX_TARGETS);
        let first = index(path, count)?;
        (first..first + count).map(|index| index % count).find(|index| usable(*index))
    }
}

/// The digest as a 256-bit number modulo `count`; `None` when `count` is 0.
fn index(path: &[u8], count: usize) -> Option<usize> {
    let count = u64::try_from(count).ok().filter(|count| *count > 0)?;
    // Long division in base 2^64: `base` is 2^64 modulo `count`.
    let base = (u64::MAX % count + 1) % count;
    let remainder = digest(path).chunks_exact(8).fold(0, |remainder, digit| {
        let digit = digit.iter().fold(0, |digit, byte| digit << 8 | u64::from(*byte));
        // Does not overflow: all operands are below 64.
        remainder * base + digit % count
    });
    usize::try_from(remainder % count).ok()
}
