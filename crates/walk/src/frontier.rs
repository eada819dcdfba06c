//! What a walk that is stopped has left, in a shape that travels: names are bytes and travel as base64,
//! numbers of 64 bits as text. Whoever gets one trusts nothing in it.

use std::{
    collections::{HashMap, HashSet},
    ffi::{CStr, CString},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::{
    getdents::Kind,
    node::{Counts, Node},
};

/// In one list or path of a place that somebody hands in: more do not fit what a state machine passes on.
const MAX_PARTITION_NAMES: usize = 1 << 16;

/// A part of what is left, for one walk.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    places: Vec<ResumePoint>,
}

impl Partition {
    /// All there is below the root.
    pub fn whole() -> Self {
        Self { places: vec![ResumePoint::default()] }
    }

    pub(crate) fn is_whole(&self) -> bool {
        matches!(&*self.places, [place] if place.path.is_empty() && place.is_whole())
    }

    pub(crate) fn places(&self) -> &[ResumePoint] {
        &self.places
    }
}

/// A directory that is left as a whole; or of which these entries are left, and those from a cookie on.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumePoint {
    /// Below the root.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub(crate) path: Names,
    /// Directories in it that are left.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub(crate) directories: Names,
    /// Entries in it of a kind that the file system did not tell.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub(crate) unknown: Names,
    /// Where reading goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<Position>,
}

/// A place in a directory. The cookie means something in this directory only.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Position {
    #[serde(with = "text")]
    pub cookie: i64,
    #[serde(with = "text")]
    pub inode: u64,
}

impl ResumePoint {
    fn whole(path: Names) -> Self {
        Self { path, ..Self::default() }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.directories.is_empty() && self.unknown.is_empty() && self.from.is_none()
    }

    /// At most so many bytes of JSON, with what stands between two.
    fn bytes(&self) -> usize {
        let names = [&self.path, &self.directories, &self.unknown];
        130 + names.iter().map(|names| names.bytes().div_ceil(3) * 4).sum::<usize>()
    }

    /// The same in at most so many parts.
    fn split(self, parts: usize) -> Vec<Self> {
        let size = self.directories.0.len().div_ceil(parts).max(1);
        let mut chunks = self.directories.0.chunks(size).map(|names| Names(names.to_vec()));
        let first = Self { directories: chunks.next().unwrap_or_default(), ..self.clone() };
        let more = chunks.map(|directories| Self { directories, ..Self::whole(self.path.clone()) });
        std::iter::once(first).chain(more).collect()
    }
}

/// Names of entries, or the names that a path consists of: none is empty, `.` or `..`, or has a `/`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Names(pub Vec<CString>);

impl Names {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// With what stands between two.
    fn bytes(&self) -> usize {
        self.0.iter().map(|name| name.as_bytes_with_nul().len()).sum()
    }

    fn of<'a>(names: impl IntoIterator<Item = &'a CStr>) -> Self {
        Self(names.into_iter().map(CStr::to_owned).collect())
    }

    fn parse(joined: &[u8]) -> Result<Self, &'static str> {
        if joined.is_empty() {
            return Ok(Self::default());
        }
        let one = |name: &[u8]| match name {
            b"" | b"." | b".." => Err("a name in it is empty, `.` or `..`"),
            _ if name.len() > 255 => Err("a name in it is longer than 255 bytes"),
            _ => CString::new(name).map_err(|_| "a name in it has a NUL"),
        };
        if joined.iter().filter(|byte| **byte == b'/').count() >= MAX_PARTITION_NAMES {
            return Err("it has more names than any that was handed back");
        }
        joined.split(|byte| *byte == b'/').map(one).collect::<Result<_, _>>().map(Self)
    }
}

impl Serialize for Names {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let joined = self.0.iter().map(CString::as_bytes).collect::<Vec<_>>().join(&b'/');
        serializer.serialize_str(&STANDARD.encode(joined))
    }
}

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let encoded = String::deserialize(deserializer)?;
        let joined = STANDARD.decode(encoded).map_err(|err| D::Error::custom(format!("not base64: {err}")))?;
        Self::parse(&joined).map_err(D::Error::custom)
    }
}

/// Numbers of 64 bits as text: the state machine's numbers hold 53.
mod text {
    use std::{fmt::Display, str::FromStr};

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<T: Display, S: Serializer>(number: &T, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(number)
    }

    pub fn deserialize<'de, T: FromStr<Err: Display>, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// What is left, while it is being made into places.
#[derive(Default)]
pub(crate) struct Frontier {
    /// Every directory in which something is left, and all above. They stay here to the end: one that is
    /// forgotten gives its tally to its parent.
    left: HashMap<*const Node, Left>,
}

struct Left {
    node: Arc<Node>,
    /// `None`: what is left is further down.
    place: Option<ResumePoint>,
    /// It cannot be gone on with, only begun anew.
    anew: bool,
    /// What was counted in it is counted again.
    taken_back: bool,
}

impl Left {
    fn new(node: &Arc<Node>) -> Self {
        Self { node: Arc::clone(node), place: None, anew: false, taken_back: false }
    }
}

/// In and below a directory.
#[derive(Clone, Copy, Default)]
struct Below {
    /// Of JSON.
    bytes: usize,
    /// That would be made again.
    steps: u64,
}

impl Frontier {
    fn entry(&mut self, node: &Arc<Node>) -> &mut Left {
        for up in upwards(node) {
            self.left.entry(Arc::as_ptr(up)).or_insert_with(|| Left::new(up));
        }
        self.left.entry(Arc::as_ptr(node)).or_insert_with(|| Left::new(node))
    }

    /// The place of this directory, to which what is left in it is added.
    fn place(&mut self, node: &Arc<Node>) -> &mut ResumePoint {
        self.entry(node).place.get_or_insert_with(|| ResumePoint::whole(Names::of(node.names())))
    }

    pub fn name(&mut self, of: &Arc<Node>, kind: Kind, name: CString) {
        let place = self.place(of);
        let names = if kind == Kind::Directory { &mut place.directories } else { &mut place.unknown };
        names.0.push(name);
    }

    pub fn from(&mut self, node: &Arc<Node>, position: Position) {
        self.place(node).from = Some(position);
    }

    /// This directory has to begin anew, with all that is below it.
    pub fn anew(&mut self, node: &Arc<Node>) {
        self.entry(node).anew = true;
    }

    /// A place that nobody has begun with.
    pub fn untouched(&mut self, node: &Arc<Node>, place: ResumePoint) {
        self.entry(node).place = Some(place);
    }

    /// The places, in at most so many partitions of at most so many bytes in all; and what was counted and
    /// will be counted again. What is too large is cut higher up, first where the least is lost for a byte.
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

    /// Where to cut, when the places are larger than that in all.
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
                // One cut more is enough: the one that loses least.
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

    /// Hands these back as they were before anything in them was counted.
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
        None => upwards(node).any(|up| up.given_as().is_some()).then(|| ResumePoint::whole(Names::of(node.names()))),
    }
}

fn deal(mut places: Vec<ResumePoint>, most: usize, bytes: usize) -> Vec<Partition> {
    // Near the root is much to do: each partition gets its share of it.
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
