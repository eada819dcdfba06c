//! The seed's algorithm to the letter: `int(hashlib.sha256(path).hexdigest(), 16) % N`, over the published
//! order. Of a target that fails, the paths go to the next index. A new target moves most of the paths.

use super::{HashNode, MAX_TARGETS, Order, Strategy, digest};

/// What services that route as the seed does agree with.
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
        Order::of(count, |position| (first + position) % count)
    }

    fn first(&self, path: &[u8], nodes: &[HashNode], usable: &dyn Fn(usize) -> bool) -> Option<usize> {
        let count = nodes.len().min(MAX_TARGETS);
        let first = index(path, count)?;
        (first..first + count).map(|index| index % count).find(|index| usable(*index))
    }
}

/// The digest as one number of 256 bits, modulo `count`; `None` when there is none.
fn index(path: &[u8], count: usize) -> Option<usize> {
    let count = u64::try_from(count).ok().filter(|count| *count > 0)?;
    // Digits of 64 bits, each division by itself: 2^64 modulo `count` is what each place is worth.
    let position = (u64::MAX % count + 1) % count;
    let remainder = digest(path).chunks_exact(8).fold(0, |remainder, digit| {
        let digit = digit.iter().fold(0, |digit, byte| digit << 8 | u64::from(*byte));
        // Of numbers below 64.
        remainder * position + digit % count
    });
    usize::try_from(remainder % count).ok()
}
