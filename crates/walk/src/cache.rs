//! What a walk remembers of directories, so that the next one need not read what has not changed.

use std::{
    collections::HashMap,
    ffi::{CStr, CString},
    fs, io,
    io::Write,
    ops::Range,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{
    node::{Node, Record},
    source::Stamp,
};

/// What a file begins with, and then the version of what follows.
const MAGIC: &[u8] = b"efs-autoscale count ";
const VERSION: &[u8] = b"0001";
/// More directories are not remembered: each takes about a kilobyte while a walk goes on.
const MAX_CACHED_DIRECTORIES: usize = 500_000;
/// A directory that has changed this shortly before a walk may change again without its times showing it.
pub(crate) const RACY_WINDOW: Duration = Duration::from_secs(2);

/// The directories of a tree, with what was found in each.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cache {
    /// The inode of the directory that was walked; its device may have another number after each mount.
    root: u64,
    one_file_system: bool,
    /// The first is the root; the children of each stand together, by name.
    directories: Vec<Directory>,
    /// Walks since the last one that read everything.
    age: u32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Directory {
    name: CString,
    /// `None`: it has to be read.
    stamp: Option<Stamp>,
    /// Directly in it.
    files: u64,
    children: Range<u32>,
}

/// Why a file is not a usable cache.
#[derive(Debug, thiserror::Error)]
pub enum NotACache {
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    UnreadableRoot(#[from] io::Error),
    /// The file is something else.
    #[error("it is not a cache of counts")]
    Other,
    /// The checksum does not match, or the version is another one.
    #[error("it is damaged, or of another version")]
    Damaged,
}

impl Cache {
    /// How many walks have gone by it since one read everything.
    pub fn age(&self) -> u32 {
        self.age
    }

    /// # Errors
    /// [`NotACache`]. One that is not there is empty.
    pub fn load(path: &Path) -> Result<Self, NotACache> {
        let bytes = match fs::read(path) {
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            other => other?,
        };
        let body = match bytes.strip_prefix(MAGIC) {
            None if bytes.is_empty() => return Err(NotACache::Damaged),
            None => return Err(NotACache::Other),
            Some(rest) => rest.strip_prefix(VERSION).ok_or(NotACache::Damaged)?,
        };
        let (sum, body) = body.split_first_chunk().ok_or(NotACache::Damaged)?;
        if crc32fast::hash(body) != u32::from_le_bytes(*sum) {
            return Err(NotACache::Damaged);
        }
        let cache: Self = postcard::from_bytes(body).map_err(|_| NotACache::Damaged)?;
        if cache.is_sound() { Ok(cache) } else { Err(NotACache::Damaged) }
    }

    /// Replaces the file as a whole: whoever reads meanwhile reads the old one, and a crash leaves it.
    ///
    /// # Errors
    /// When it cannot be written there.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let body = postcard::to_stdvec(self).map_err(io::Error::other)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        file.write_all(&sealed(&body))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    }

    /// Children come after their parents, once, by name: no walk by it goes in a circle, or out of the root.
    fn is_sound(&self) -> bool {
        let leads_down = |directory: &Directory| {
            let name = directory.name.as_bytes();
            !matches!(name, b"" | b"." | b"..") && !name.contains(&b'/')
        };
        let by_name = |directory: &Directory| {
            let Range { start, end } = directory.children;
            let children = self.directories.get(start as usize..end as usize);
            children.is_some_and(|children| children.is_sorted_by(|one, other| one.name < other.name))
        };
        if !self.directories.iter().skip(1).all(leads_down) || !self.directories.iter().all(by_name) {
            return false;
        }
        let mut next = 1;
        let number = self.directories.len() as u64;
        let in_order = |directory: &Directory| {
            let Range { start, end } = directory.children;
            let fits = (start == end) || (u64::from(start) == next && start < end && u64::from(end) <= number);
            next = next.max(u64::from(end));
            fits
        };
        self.directories.iter().all(in_order) && (next == number || self.directories.is_empty())
    }

    fn children(&self, of: u32) -> &[Directory] {
        let range = self.directories.get(of as usize).map_or(0..0, |directory| directory.children.clone());
        self.directories.get(range.start as usize..range.end as usize).unwrap_or_default()
    }

    fn child(&self, of: u32, name: &CStr) -> Option<u32> {
        let children = self.children(of);
        let at = children.binary_search_by(|child| child.name.as_c_str().cmp(name)).ok()?;
        Some(self.directories.get(of as usize)?.children.start + u32::try_from(at).ok()?)
    }
}

/// A file with this in it: what it is, a checksum, and the body.
pub(crate) fn sealed(body: &[u8]) -> Vec<u8> {
    [MAGIC, VERSION, &crc32fast::hash(body).to_le_bytes(), body].concat()
}

/// A walk's: the old cache, and what becomes the new one.
pub(crate) struct Memory<'a> {
    old: &'a Cache,
    root: u64,
    one_file_system: bool,
    trusted_until: SystemTime,
    /// `None`: too many.
    seen: Mutex<Option<Vec<Arc<Node>>>>,
}

impl<'a> Memory<'a> {
    /// For a walk of the directory with this stamp. What changed after `trusted_until` may change again
    /// without its times showing it.
    pub fn new(old: &'a Cache, root: Stamp, one_file_system: bool, trusted_until: SystemTime) -> Self {
        Self { old, root: root.inode, one_file_system, trusted_until, seen: Mutex::new(Some(vec![])) }
    }

    /// Is the old cache of another directory, or of a walk by other rules?
    pub fn is_foreign(&self) -> bool {
        let same = self.old.root == self.root && self.old.one_file_system == self.one_file_system;
        !self.old.directories.is_empty() && !same
    }

    pub fn root(&self) -> Box<Record> {
        let known = !self.is_foreign() && !self.old.directories.is_empty();
        Box::new(Record { old: known.then_some(0), ..Record::default() })
    }

    pub fn child(&self, of: &Node, name: &CStr) -> Box<Record> {
        let parent = of.record().and_then(|record| record.old);
        Box::new(Record { old: parent.and_then(|parent| self.old.child(parent, name)), ..Record::default() })
    }

    /// The files and the directories in one that is unchanged.
    pub fn unchanged(
        &self,
        node: &Arc<Node>,
        stamp: impl FnOnce() -> io::Result<Stamp>,
    ) -> Option<(u64, Vec<CString>)> {
        let index = node.record()?.old?;
        let known = self.old.directories.get(index as usize)?;
        let expected = known.stamp?;
        if stamp().ok()? != expected {
            return None;
        }
        let names: Vec<CString> = self.old.children(index).iter().map(|child| child.name.clone()).collect();
        self.begin(node, Some(expected));
        node.found(known.files, &names);
        Some((known.files, names))
    }

    /// A directory that is about to be read, as it is now.
    pub fn begin(&self, node: &Arc<Node>, stamp: Option<Stamp>) {
        let Some(record) = node.record() else { return };
        let trusted = |(seconds, nanoseconds): (i64, u32)| {
            let since = u64::try_from(seconds).ok().map(|seconds| Duration::new(seconds, nanoseconds));
            since.and_then(|since| SystemTime::UNIX_EPOCH.checked_add(since)).is_some_and(|at| at < self.trusted_until)
        };
        let stamp = stamp.filter(|stamp| trusted(stamp.modified) && trusted(stamp.changed));
        record.found.lock().unwrap_or_else(PoisonError::into_inner).stamp = stamp;
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *seen {
            Some(seen) if seen.len() < MAX_CACHED_DIRECTORIES => seen.push(Arc::clone(node)),
            // Forgets them all, and with them what they hold.
            seen => *seen = None,
        }
    }

    /// What the next walk may go by; `None` when there are too many directories to remember.
    pub fn into_cache(self) -> Option<Cache> {
        let fresh = self.is_foreign() || self.old.directories.is_empty();
        let age = if fresh { 0 } else { self.old.age.saturating_add(1) };
        let seen = self.seen.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        let by_parent: HashMap<(*const Node, &CStr), &Arc<Node>> =
            seen.iter().filter_map(|node| Some(((Arc::as_ptr(node.parent()?), node.name()), node))).collect();
        let root = seen.iter().find(|node| node.is_root());
        // By level, so that the children of each stand together.
        let mut directories = vec![Directory::default()];
        let mut nodes = vec![root];
        let mut at = 0;
        while let Some(node) = nodes.get(at).copied() {
            let record = node.and_then(|node| Some((node, node.record()?)));
            if let Some((node, record)) = record {
                let found = record.found.lock().unwrap_or_else(PoisonError::into_inner);
                let mut names = found.directories.clone();
                names.sort();
                names.dedup();
                let start = directories.len();
                nodes.extend(names.iter().map(|name| by_parent.get(&(Arc::as_ptr(node), name.as_c_str())).copied()));
                directories.extend(names.into_iter().map(|name| Directory { name, ..Directory::default() }));
                let (start, end) = (u32::try_from(start).ok()?, u32::try_from(directories.len()).ok()?);
                let directory = &mut directories[at];
                directory.stamp = found.stamp;
                directory.files = found.files;
                directory.children = if start == end { 0..0 } else { start..end };
            }
            at += 1;
        }
        Some(Cache { root: self.root, one_file_system: self.one_file_system, directories, age })
    }
}
