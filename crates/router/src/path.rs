//! Names of files, checked once, on the way in. Bytes, as in the kernel and in NFS.

use std::{fmt, sync::Arc};

/// Temporary files have names that begin so. Nothing else may.
pub const RESERVED_PREFIX: &[u8] = b".efs-router.";
const MAX_PATH_BYTES: usize = 4096;
const MAX_COMPONENT_BYTES: usize = 255;
/// Each may cost a call to make and one to look at: deeper trees than this are nobody's.
const MAX_COMPONENTS: usize = 255;

/// A file's path below the root of the file system: relative, no empty component, no `.`, no `..`, no NUL.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct FilePath(Arc<[u8]>);

/// A directory's path below the root; empty is the root itself.
#[derive(Clone, Eq, PartialEq)]
pub struct DirectoryPath(Arc<[u8]>);

/// Why a path is refused.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadPath {
    #[error("the path is empty; name a file")]
    Empty,
    #[error("the path begins with `/`; give it relative to the root of the file system")]
    Absolute,
    #[error("the path has an empty component; write one `/` between two names and none at the end")]
    EmptyComponent,
    #[error("the path has a component `.` or `..`; write the path without them")]
    Dots,
    #[error("the path holds a NUL byte; no file has such a name")]
    Nul,
    #[error("a component of the path is longer than 255 bytes")]
    LongComponent,
    #[error("the path is longer than 4096 bytes")]
    Long,
    #[error("the path has more than 255 components; use fewer directories")]
    Deep,
    #[error("a component begins with `.efs-router.`, which is kept for temporary files; take another name")]
    Reserved,
}

impl FilePath {
    /// # Errors
    /// [`BadPath`] says what is wrong.
    pub fn new(path: impl AsRef<[u8]>) -> Result<Self, BadPath> {
        let path = path.as_ref();
        match path {
            [] => Err(BadPath::Empty),
            _ => check(path).map(|()| Self(path.into())),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The directory's path, empty for the root, and the name in it.
    pub fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&[], &self.0),
        }
    }
}

impl DirectoryPath {
    /// One `/` at the end is allowed, as people write it.
    ///
    /// # Errors
    /// [`BadPath`] says what is wrong.
    pub fn new(path: impl AsRef<[u8]>) -> Result<Self, BadPath> {
        let path = path.as_ref();
        match path.strip_suffix(b"/").unwrap_or(path) {
            [] if path.is_empty() => Ok(Self([].into())),
            path => check(path).map(|()| Self(path.into())),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

fn check(path: &[u8]) -> Result<(), BadPath> {
    if path.len() > MAX_PATH_BYTES {
        return Err(BadPath::Long);
    }
    if path.starts_with(b"/") {
        return Err(BadPath::Absolute);
    }
    if path.contains(&0) {
        return Err(BadPath::Nul);
    }
    if path.iter().filter(|byte| **byte == b'/').count() >= MAX_COMPONENTS {
        return Err(BadPath::Deep);
    }
    path.split(|byte| *byte == b'/').try_for_each(|component| match component {
        [] => Err(BadPath::EmptyComponent),
        b"." | b".." => Err(BadPath::Dots),
        _ if component.len() > MAX_COMPONENT_BYTES => Err(BadPath::LongComponent),
        _ if component.starts_with(RESERVED_PREFIX) => Err(BadPath::Reserved),
        _ => Ok(()),
    })
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for DirectoryPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_or_refused_with_a_reason() {
        let long = "a/".repeat(2048);
        let cases: &[(&[u8], Option<BadPath>)] = &[
            (b"a", None),
            (b"user/12345/document.pdf", None),
            (b"..a/b../c..d/...", None),
            ("ünïcode/文件".as_bytes(), None),
            (b"not\xFFutf8/%2e%2e", None),
            (&[b'a'; 255], None),
            (&long.as_bytes()[..509], None),
            (&long.as_bytes()[..511], Some(BadPath::Deep)),
            (&long.as_bytes()[..4095], Some(BadPath::Deep)),
            (b"", Some(BadPath::Empty)),
            (b"/", Some(BadPath::Absolute)),
            (b"/etc/passwd", Some(BadPath::Absolute)),
            (b"a//b", Some(BadPath::EmptyComponent)),
            (b"a/", Some(BadPath::EmptyComponent)),
            (b".", Some(BadPath::Dots)),
            (b"a/./b", Some(BadPath::Dots)),
            (b"..", Some(BadPath::Dots)),
            (b"a/..", Some(BadPath::Dots)),
            (b"a/../b", Some(BadPath::Dots)),
            (b"a\0b", Some(BadPath::Nul)),
            (&[b'a'; 256], Some(BadPath::LongComponent)),
            (long.as_bytes(), Some(BadPath::Deep)),
            (&[b'/'; 4097], Some(BadPath::Long)),
            (b"a/.efs-router.1.2", Some(BadPath::Reserved)),
            (b".efs-router./a", Some(BadPath::Reserved)),
        ];
        for (path, refused) in cases {
            assert_eq!(FilePath::new(path).err(), *refused, "{}", String::from_utf8_lossy(path));
        }
    }

    #[test]
    fn a_directory_may_be_the_root_and_end_with_a_slash() {
        for (path, kept) in [("", Some("")), ("a", Some("a")), ("a/b/", Some("a/b")), ("/", None), ("a//", None)] {
            assert_eq!(DirectoryPath::new(path).ok().map(|path| path.0), kept.map(|kept| kept.as_bytes().into()));
        }
    }
}
