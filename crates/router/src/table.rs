//! The targets that there are, and which of them a path belongs to. Never changed, only replaced whole.

use domain::{
    model::ZoneName,
    published::{PublishedList, PublishedTarget},
};

use crate::select::{HashNode, MAX_TARGETS, Order, Strategy};

/// How paths are spread over targets.
#[derive(Clone)]
pub struct Routing {
    pub strategy: &'static dyn Strategy,
    /// The zone whose targets are preferred, and how much: 2 gives each of them twice the share of another.
    /// Then the same path may go to different targets in tasks of different zones.
    pub local: Option<(ZoneName, f64)>,
}

impl Default for Routing {
    fn default() -> Self {
        Self { strategy: crate::select::STRATEGIES[0], local: None }
    }
}

/// A list of targets with the routing over it: at least one, each once.
pub struct Table {
    list: PublishedList,
    nodes: Vec<HashNode>,
    routing: Routing,
}

/// Why a list cannot be routed over.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0} targets are more than the {MAX_TARGETS} that a file system's zones could hold")]
pub struct TooManyTargets(usize);

impl Table {
    /// # Errors
    /// More than [`MAX_TARGETS`] targets.
    pub fn new(list: PublishedList, routing: Routing) -> Result<Self, TooManyTargets> {
        let targets = list.targets();
        if targets.len() > MAX_TARGETS {
            return Err(TooManyTargets(targets.len()));
        }
        let weight = |target: &PublishedTarget| match &routing.local {
            Some((zone, weight)) if *zone == target.availability_zone => *weight,
            _ => 1.0,
        };
        let nodes =
            targets.iter().map(|target| HashNode::new(target.mount_target_id.as_str(), weight(target))).collect();
        Ok(Self { list, nodes, routing })
    }

    /// The targets, in the order in which they were published.
    pub fn targets(&self) -> &[PublishedTarget] {
        self.list.targets()
    }

    pub fn list(&self) -> &PublishedList {
        &self.list
    }

    pub fn strategy(&self) -> &'static dyn Strategy {
        self.routing.strategy
    }

    /// Every target's index, the path's own first.
    pub fn order(&self, path: &[u8]) -> Order {
        self.routing.strategy.order(path, &self.nodes)
    }

    /// The first index in [`Table::order`] that is `usable`; `None` when none is.
    pub fn first(&self, path: &[u8], usable: &dyn Fn(usize) -> bool) -> Option<usize> {
        self.routing.strategy.first(path, &self.nodes, usable)
    }
}
