//! The frontier of a stopped walk: the directories that it found and did not visit, as partitions.

use std::{
    collections::{HashMap, HashSet},
    ffi::CString,
    sync::Arc,
};

use crate::{
    getdents::Kind,
    node::{Counts, Node},
    partition::{Names as PathNames, Partition, Position, ResumePoint},
    pool::{Names, PartialDirectory, Task},
    source::Source,
};

/// The rest of a walk while it is turned into resume points.
#[derive(Default)]
pub(crate) struct Frontier {
    /// Every directory with something left, and all above. They stay here to the end, because a dropped one adds its counts
    /// to its parent.
    left: HashMap<*const Node, Left>,
}

struct Left {
    node: Arc<Node>,
    /// `None`: what is left is deeper.
    place: Option<ResumePoint>,
    /// It cannot resume, only start again.
    anew: bool,
    /// Its counts are counted again.
    taken_back: bool,
}

impl Left {
    fn new(node: &Arc<Node>) -> Self {
        Self { node: Arc::clone(node), place: None, anew: false, taken_back: false }
    }
}

/// In and below one directory.
#[derive(Clone, Copy, Default)]
struct Below {
    /// Bytes of JSON.
    bytes: usize,
    /// Steps that would be repeated.
    steps: u64,
}

impl Frontier {
    /// Tasks that no thread has started.
    pub fn of<S: Source>(source: &S, stack: Vec<Task<S::Directory>>) -> Self {
        let mut frontier = Self::default();
        for task in stack {
            match task {
                Task::ResumePoint(node, place) => frontier.untouched(&node, place),
                Task::Names(Names { of, names, .. }) => {
                    for (kind, name) in names {
                        frontier.name(&of, kind, name);
                    }
                }
                Task::PartialDirectory(PartialDirectory { node, directory: None, inode, cookie, .. }) => {
                    frontier.from(&node, Position { cookie, inode });
                }
                Task::PartialDirectory(PartialDirectory { node, directory: Some(directory), cookie, .. }) => {
                    match source.identity(&directory.directory) {
                        Ok(found) if found.resumable && cookie != 0 => {
                            frontier.from(&node, Position { cookie, inode: found.inode });
                        }
                        _ => frontier.anew(&node),
                    }
                }
            }
        }
        frontier
    }

    fn entry(&mut self, node: &Arc<Node>) -> &mut Left {
        for up in upwards(node) {
            self.left.entry(Arc::as_ptr(up)).or_insert_with(|| Left::new(up));
        }
        self.left.entry(Arc::as_ptr(node)).or_insert_with(|| Left::new(node))
    }

    /// The resume point of this directory, to which its remaining entries are added.
    fn place(&mut self, node: &Arc<Node>) -> &mut ResumePoint {
        self.entry(node).place.get_or_insert_with(|| ResumePoint::whole(PathNames::of(node.names())))
    }

    pub fn name(&mut self, of: &Arc<Node>, kind: Kind, name: CString) {
        let place = self.place(of);
        let names = if kind == Kind::Directory { &mut place.directories } else { &mut place.unknown };
        names.0.push(name);
    }

    pub fn from(&mut self, node: &Arc<Node>, position: Position) {
        self.place(node).from = Some(position);
    }

    /// This directory must start again, with everything below it.
    pub fn anew(&mut self, node: &Arc<Node>) {
        self.entry(node).anew = true;
    }

    /// A resume point that no walk has started.
    pub fn untouched(&mut self, node: &Arc<Node>, place: ResumePoint) {
        self.entry(node).place = Some(place);
    }

    /// The resume points in at most this many partitions and bytes in total, and the counts that will be counted again.
    /// What is too large is cut higher up, first where a byte saved loses the fewest counts.
    pub fn partitions(mut self, most: usize, bytes: usize) -> (Vec<Partition>, Counts) {
        let anew: Vec<_> = self.left.values().filter(|left| left.anew).map(|left| Arc::clone(&left.node)).collect();
        self.take_back(&anew);
        loop {
            let cuts = self.cuts(bytes);
            if cuts.is_empty() {
                break;
            }
            self.take_back(&cuts);
        }
        let mut taken_back = Counts::default();
        for left in self.left.values().filter(|left| left.taken_back) {
            taken_back += left.node.counts();
        }
        let places = self.left.values_mut().filter_map(|left| left.place.take()).collect();
        (deal(places, most, bytes), taken_back)
    }

    /// Where to cut when the resume points exceed the limit.
    fn cuts(&self, bytes: usize) -> Vec<Arc<Node>> {
        let size = |left: &Left| left.place.as_ref().map_or(0, ResumePoint::bytes);
        let mut excess = self.left.values().map(size).sum::<usize>().saturating_sub(bytes);
        if excess == 0 {
            return vec![];
        }
        let mut below: HashMap<*const Node, Below> = HashMap::new();
        for left in self.left.values() {
            for up in std::iter::once(&left.node).chain(upwards(&left.node)) {
                let below = below.entry(Arc::as_ptr(up)).or_default();
                below.bytes += size(left);
                below.steps += if left.taken_back { 0 } else { left.node.counts().steps };
            }
        }
        let mut candidates: Vec<(f64, usize, &Arc<Node>)> = (self.left.values())
            .filter_map(|left| {
                let below = below[&Arc::as_ptr(&left.node)];
                let saved = below.bytes.saturating_sub(again(&left.node)?.bytes());
                (saved > 0).then_some((below.steps as f64 / saved as f64, saved, &left.node))
            })
            .collect();
        candidates.sort_by(|one, other| one.0.total_cmp(&other.0));
        let mut cuts = Vec::new();
        for (_, saved, node) in &candidates {
            if *saved >= excess {
                // One more cut is enough: the one that loses least.
                let enough = candidates.iter().filter(|(_, saved, _)| *saved >= excess);
                let least = enough.min_by_key(|(_, saved, node)| (below[&Arc::as_ptr(node)].steps, *saved));
                cuts.extend(least.map(|(_, _, node)| Arc::clone(node)));
                break;
            }
            excess -= saved;
            cuts.push(Arc::clone(node));
        }
        cuts
    }

    /// Returns these as they were before anything in them was counted.
    fn take_back(&mut self, nodes: &[Arc<Node>]) {
        let cut: HashSet<*const Node> = nodes.iter().map(Arc::as_ptr).collect();
        for left in self.left.values_mut() {
            let above = upwards(&left.node).any(|up| cut.contains(&Arc::as_ptr(up)));
            if above || cut.contains(&Arc::as_ptr(&left.node)) {
                left.taken_back = true;
                left.place = if above { None } else { again(&left.node) };
            }
        }
    }
}

fn upwards(node: &Arc<Node>) -> impl Iterator<Item = &Arc<Node>> {
    std::iter::successors(node.parent(), |node| node.parent())
}

/// As what a directory is handed back when what was counted in it is taken back; `None` for one on the way
/// to the places that this walk was given.
fn again(node: &Arc<Node>) -> Option<ResumePoint> {
    match node.given_as() {
        Some(place) => Some(place.clone()),
        None => {
            upwards(node).any(|up| up.given_as().is_some()).then(|| ResumePoint::whole(PathNames::of(node.names())))
        }
    }
}

fn deal(mut places: Vec<ResumePoint>, most: usize, bytes: usize) -> Vec<Partition> {
    // The largest parts are near the root; each partition gets a share of them.
    places.sort_by(|one, other| (one.path.0.len(), &one.path.0).cmp(&(other.path.0.len(), &other.path.0)));
    let number = places.len();
    if number < 4 * most {
        let spare = bytes.saturating_sub(places.iter().map(ResumePoint::bytes).sum());
        let parts = |place: &ResumePoint| {
            let repeated = ResumePoint::whole(place.path.clone()).bytes().saturating_mul(most);
            if repeated <= spare / number { most } else { 1 }
        };
        places = places
            .into_iter()
            .flat_map(|place| {
                let parts = parts(&place);
                place.split(parts)
            })
            .collect();
    }
    let mut partitions = vec![(0, Partition { places: vec![] }); most.min(places.len())];
    for place in places {
        if let Some((bytes, partition)) = partitions.iter_mut().min_by_key(|(bytes, _)| *bytes) {
            *bytes += place.bytes();
            partition.places.push(place);
        }
    }
    partitions.into_iter().map(|(_, partition)| partition).collect()
}
