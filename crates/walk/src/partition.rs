//! Partitions: what a stopped walk did not visit, as JSON that the state machine passes on. Names are bytes in base64;
//! 64-bit numbers are text. A partition is input from outside and is validated.

use std::ffi::{CStr, CString};

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// Maximum number of names in one list or path of a resume point. More do not fit into a state of the machine.
const MAX_PARTITION_NAMES: usize = 1 << 16;

/// A part of the remaining tree, for one walk.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Partition {
    pub(crate) places: Vec<ResumePoint>,
}

impl Partition {
    /// The whole tree below the root.
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

/// A directory that is left as a whole, or some of its entries and those from a cookie on.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ResumePoint {
    /// Below the root.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub(crate) path: Names,
    /// Remaining subdirectories.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub(crate) directories: Names,
    /// Remaining entries whose type the file system did not return.
    #[serde(default, skip_serializing_if = "Names::is_empty")]
    pub(crate) unknown: Names,
    /// Where reading resumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<Position>,
}

/// A position in a directory. The cookie is valid in this directory only.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Position {
    #[serde(with = "text")]
    pub cookie: i64,
    #[serde(with = "text")]
    pub inode: u64,
}

impl ResumePoint {
    pub(crate) fn whole(path: Names) -> Self {
        Self { path, ..Self::default() }
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.directories.is_empty() && self.unknown.is_empty() && self.from.is_none()
    }

    /// Maximum bytes of JSON, including separators.
    pub(crate) fn bytes(&self) -> usize {
        let names = [&self.path, &self.directories, &self.unknown];
        130 + names.iter().map(|names| names.bytes().div_ceil(3) * 4).sum::<usize>()
    }

    /// The same in at most this many parts.
    pub(crate) fn split(self, parts: usize) -> Vec<Self> {
        let size = self.directories.0.len().div_ceil(parts).max(1);
        let mut chunks = self.directories.0.chunks(size).map(|names| Names(names.to_vec()));
        let first = Self { directories: chunks.next().unwrap_or_default(), ..self.clone() };
        let more = chunks.map(|directories| Self { directories, ..Self::whole(self.path.clone()) });
        std::iter::once(first).chain(more).collect()
    }
}

/// Names of entries, or the components of a path. None is empty, `.` or `..`, or contains `/`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Names(pub Vec<CString>);

impl Names {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Including separators.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(|name| name.as_bytes_with_nul().len()).sum()
    }

    pub(crate) fn of<'a>(names: impl IntoIterator<Item = &'a CStr>) -> Self {
        Self(names.into_iter().map(CStr::to_owned).collect())
    }

    pub(crate) fn parse(joined: &[u8]) -> Result<Self, &'static str> {
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

/// 64-bit numbers as text, because the state machine's numbers hold 53 bits.
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
