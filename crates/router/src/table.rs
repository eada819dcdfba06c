//! A list of mount targets with a strategy over it. A table is immutable: a new list makes a new table.

use domain::{
    model::ZoneName,
    published::{PublishedList, PublishedTarget},
};

use crate::select::{HashNode, MAX_TARGETS, Order, Strategy};

/// How paths are distributed over the targets.
#[derive(Clone)]
pub struct Routing {
    /// The algorithm.
    pub strategy: &'static dyn Strategy,
    /// The preferred zone and the weight of its targets: with 2, each gets twice the share of any other target.
    /// Tasks in different zones then may send the same path to different targets.
    pub local: Option<(ZoneName, f64)>,
}

impl Default for Routing {
    fn default() -> Self {
        Self { strategy: crate::select::STRATEGIES[0], local: None }
    }
}

/// A list of at least one target, without duplicates, and the routing over it.
pub struct Table {
    list: PublishedList,
    nodes: Vec<HashNode>,
    routing: Routing,
}

/// The list has more than [`MAX_TARGETS`] targets.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the list has {0} mount targets; at most {MAX_TARGETS} are supported")]
pub struct TooManyTargets(usize);

impl Table {
    /// Makes the table of a list.
    ///
    /// # Errors
    /// [`TooManyTargets`]: the list has more than [`MAX_TARGETS`] targets.
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

    /// The targets in published order. All indexes of this table refer to it.
    pub fn targets(&self) -> &[PublishedTarget] {
        self.list.targets()
    }

    /// The list that the table was made of.
    pub fn list(&self) -> &PublishedList {
        &self.list
    }

    /// The algorithm that distributes the paths.
    pub fn strategy(&self) -> &'static dyn Strategy {
        self.routing.strategy
    }

    /// The indexes of all targets in order of preference for this path.
    pub fn order(&self, path: &[u8]) -> Order {
        self.routing.strategy.order(path, &self.nodes)
    }

    /// The most preferred index that is `usable`, or `None` when no target is.
    pub fn first(&self, path: &[u8], usable: &dyn Fn(usize) -> bool) -> Option<usize> {
        self.routing.strategy.first(path, &self.nodes, usable)
    }
}
