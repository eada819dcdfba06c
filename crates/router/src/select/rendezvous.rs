//! Rendezvous hashing: every target has a score for every path, and the highest wins (Thaler and
//! Ravishankar, "A Name-Based Mapping Scheme for Rendezvous", 1996). A new target takes only the paths
//! for which it wins, 1/N of them. A target that is removed gives away only its own. The order of the list does not
//! matter.
//!
//! The path is hashed once, with SHA-256; a score is that hash mixed with the target's key by the
//! finalizer of SplitMix64 (Steele, Lea and Flood, 2014; Stafford's variant 13). Weights follow Schindelhauer
//! and Schomaker's logarithmic method (2005): weight / −ln(score as a fraction of 1).

use std::hint::select_unpredictable;

use super::{HashNode, MAX_TARGETS, Order, Strategy, digest, first_word};

/// The default strategy.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rendezvous;

impl Strategy for Rendezvous {
    fn name(&self) -> &'static str {
        "rendezvous"
    }

    fn uses_weights(&self) -> bool {
        true
    }

    fn order(&self, path: &[u8], nodes: &[HashNode]) -> Order {
        let path = first_word(&digest(path));
        let scored = |index| score(path, nodes[index]);
        let mut order = Order::from_indexes(nodes.len(), |position| position);
        let by_score = |a: &u8, b: &u8| scored(usize::from(*b)).cmp(&scored(usize::from(*a)));
        order.indexes[..nodes.len().min(MAX_TARGETS)].sort_unstable_by(by_score);
        order
    }

    fn first(&self, path: &[u8], nodes: &[HashNode], usable: &dyn Fn(usize) -> bool) -> Option<usize> {
        let path = first_word(&digest(path));
        // Nearly always the best target is usable: ask for it first.
        let first = best(path, nodes, |_| true)?;
        if usable(first) { Some(first) } else { best(path, nodes, usable) }
    }
}

fn best(path: u64, nodes: &[HashNode], usable: impl Fn(usize) -> bool) -> Option<usize> {
    let mut found = None;
    let mut highest = (0, 0);
    for (index, node) in nodes.iter().enumerate().take(MAX_TARGETS).filter(|(index, _)| usable(*index)) {
        let score = score(path, *node);
        // The winner is unpredictable: a branch would be mispredicted about twice a call.
        let wins = found.is_none() || score >= highest;
        found = select_unpredictable(wins, Some(index), found);
        highest = (select_unpredictable(wins, score.0, highest.0), select_unpredictable(wins, score.1, highest.1));
    }
    found
}

/// A score that compares like a number. Equal scores are ordered by key, so that the order of the list never matters.
fn score(path: u64, node: HashNode) -> (u64, u64) {
    let mixed = mix(path ^ node.key);
    if node.weight == 1.0 {
        return (mixed, node.key);
    }
    // 53 bits, which an f64 holds exactly; the half keeps it off 0 and 1.
    let fraction = ((mixed >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    // The score that an unweighted target would need for the same rank, fraction^(1/weight), so that weighted and
    // unweighted targets compare.
    let same_rank = fraction.powf(node.weight.recip()) * (1_u64 << 53) as f64;
    ((same_rank as u64).min((1 << 53) - 1) << 11, node.key)
}

fn mix(word: u64) -> u64 {
    let word = (word ^ word >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let word = (word ^ word >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    word ^ word >> 31
}
