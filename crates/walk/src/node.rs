//! The directories in progress, and the counts below each.
//!
//! A finished directory adds its counts to its parent and is dropped. The remaining directories therefore hold everything
//! counted, each what is below it, and each can be taken back as a whole.

use std::{
    ffi::{CStr, CString},
    ops::{AddAssign, SubAssign},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::{partition::ResumePoint, source::Stamp};

/// The counts of a directory.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Counts {
    pub files: u64,
    pub directories: u64,
    pub vanished: u64,
    pub other_file_systems: u64,
    pub unchanged: u64,
    pub errors: u64,
    /// Steps that need no repetition: reads, stats of entries, directories known unchanged.
    pub steps: u64,
}

impl Counts {
    fn each(&mut self, other: Self, change: impl Fn(&mut u64, u64)) {
        change(&mut self.files, other.files);
        change(&mut self.directories, other.directories);
        change(&mut self.vanished, other.vanished);
        change(&mut self.other_file_systems, other.other_file_systems);
        change(&mut self.unchanged, other.unchanged);
        change(&mut self.errors, other.errors);
        change(&mut self.steps, other.steps);
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.each(other, |one, other| *one += other);
    }
}

impl SubAssign for Counts {
    fn sub_assign(&mut self, other: Self) {
        self.each(other, |one, other| *one -= other);
    }
}

#[derive(Debug, Default)]
struct Shared {
    files: AtomicU64,
    directories: AtomicU64,
    vanished: AtomicU64,
    other_file_systems: AtomicU64,
    unchanged: AtomicU64,
    errors: AtomicU64,
    steps: AtomicU64,
}

/// A directory, identified by its path from the root.
#[derive(Debug)]
pub(crate) struct Node {
    parent: Option<Arc<Node>>,
    name: CString,
    /// The resume point it came from; `None` for one that this walk found.
    given: Option<Box<ResumePoint>>,
    counts: Shared,
    /// Only for a cache.
    record: Option<Box<Record>>,
}

/// What a cache stores about a directory.
#[derive(Debug, Default)]
pub(crate) struct Record {
    /// Its index in the old cache.
    pub old: Option<u32>,
    pub found: Mutex<Found>,
}

#[derive(Debug, Default)]
pub(crate) struct Found {
    /// `None`: not trustworthy.
    pub stamp: Option<Stamp>,
    pub files: u64,
    pub directories: Vec<CString>,
}

impl Node {
    /// The node of a resume point, with the nodes above it.
    pub fn at(root: &Arc<Self>, place: &ResumePoint, record: Option<Box<Record>>) -> Arc<Self> {
        let (last, above) = place.path.0.split_last().map_or((c"", &[][..]), |(last, above)| (last, above));
        let parent =
            above.iter().fold(Arc::clone(root), |parent, name| Arc::new(Self::child(&parent, name.clone(), None)));
        Arc::new(Self::given(&parent, last.to_owned(), place.clone(), record))
    }

    /// The root's node.
    pub fn root() -> Self {
        Self { parent: None, name: CString::default(), given: None, counts: Shared::default(), record: None }
    }

    pub fn child(parent: &Arc<Self>, name: CString, record: Option<Box<Record>>) -> Self {
        Self { parent: Some(Arc::clone(parent)), name, given: None, counts: Shared::default(), record }
    }

    pub fn given(parent: &Arc<Self>, name: CString, place: ResumePoint, record: Option<Box<Record>>) -> Self {
        let mut node = Self::child(parent, name, record);
        node.given = Some(Box::new(place));
        node
    }

    pub fn given_as(&self) -> Option<&ResumePoint> {
        self.given.as_deref()
    }

    pub fn record(&self) -> Option<&Record> {
        self.record.as_deref()
    }

    pub fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    pub fn name(&self) -> &CStr {
        &self.name
    }

    pub fn is_root(&self) -> bool {
        self.names().is_empty()
    }

    /// For a cache: the entries found in it.
    pub fn found<'a>(&self, files: u64, directories: impl IntoIterator<Item = &'a CString>) {
        if let Some(record) = &self.record {
            let mut found = record.found.lock().unwrap_or_else(PoisonError::into_inner);
            found.files += files;
            found.directories.extend(directories.into_iter().cloned());
        }
    }

    /// For a cache: the entries found may be incomplete.
    pub fn mark_uncacheable(&self) {
        if let Some(record) = &self.record {
            record.found.lock().unwrap_or_else(PoisonError::into_inner).stamp = None;
        }
    }

    /// From the root down.
    pub fn names(&self) -> Vec<&CStr> {
        let up = std::iter::successors(Some(self), |node| node.parent.as_deref());
        let mut names: Vec<&CStr> = up.map(Self::name).filter(|name| !name.is_empty()).collect();
        names.reverse();
        names
    }

    pub fn add(&self, counts: Counts) {
        let of = &self.counts;
        for (sum, number) in [
            (&of.files, counts.files),
            (&of.directories, counts.directories),
            (&of.vanished, counts.vanished),
            (&of.other_file_systems, counts.other_file_systems),
            (&of.unchanged, counts.unchanged),
            (&of.errors, counts.errors),
            (&of.steps, counts.steps),
        ] {
            if number != 0 {
                sum.fetch_add(number, Ordering::Relaxed);
            }
        }
    }

    /// The counts in it, and below it in finished directories.
    pub fn counts(&self) -> Counts {
        let of = &self.counts;
        let [files, directories, vanished, other_file_systems, unchanged, errors, steps] =
            [&of.files, &of.directories, &of.vanished, &of.other_file_systems, &of.unchanged, &of.errors, &of.steps]
                .map(|sum| sum.load(Ordering::Relaxed));
        Counts { files, directories, vanished, other_file_systems, unchanged, errors, steps }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // A loop, because a tree may be deeper than the stack.
        let mut counts = self.counts();
        let mut next = self.parent.take();
        while let Some(parent) = next {
            parent.add(counts);
            let Some(mut last) = Arc::into_inner(parent) else { return };
            counts = last.counts();
            next = last.parent.take();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_is_its_parents() {
        let root = Arc::new(Node::root());
        let one = |files| Counts { files, ..Counts::default() };
        let child = Arc::new(Node::child(&root, c"a".to_owned(), None));
        let grandchild = Node::child(&child, c"b".to_owned(), None);
        assert_eq!(grandchild.names(), [c"a", c"b"]);
        child.add(one(1));
        grandchild.add(one(2));
        assert_eq!((root.counts().files, child.counts().files), (0, 1));
        drop(child);
        assert_eq!(root.counts().files, 0, "its child holds it");
        drop(grandchild);
        assert_eq!(root.counts().files, 3);
    }

    #[test]
    fn a_tree_may_be_deeper_than_a_stack() {
        let root = Arc::new(Node::root());
        let mut deepest = Arc::clone(&root);
        for _ in 0..1_000_000 {
            deepest = Arc::new(Node::child(&deepest, c"d".to_owned(), None));
            deepest.add(Counts { files: 1, ..Counts::default() });
        }
        drop(deepest);
        assert_eq!(root.counts().files, 1_000_000);
    }
}
