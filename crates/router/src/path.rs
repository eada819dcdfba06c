//! Paths of files and directories, validated once at the boundary. Paths are bytes, as in the kernel and in NFS.

use std::{fmt, sync::Arc};

/// Prefix of the names of temporary files. A path with a component that begins with it is refused.
pub const RESERVED_PREFIX: &[u8] = b".efs-router.";
/// `PATH_MAX` of Linux.
const MAX_PATH_BYTES: usize = 4096;
/// `NAME_MAX` of Linux, and the limit of EFS.
const MAX_COMPONENT_BYTES: usize = 255;
/// Each component may cost one call to create and one to look up. EFS allows 1,000.
const MAX_COMPONENTS: usize = 255;

/// The path of a file, relative to the root of the file system: no empty component, no `.` or `..`, no NUL.
#[derive(Clone, Eq, Hash, PartialEq)]
pub struct FilePath(Arc<[u8]>);

/// The path of a directory, relative to the root. The empty path is the root.
#[derive(Clone, Eq, PartialEq)]
pub struct DirectoryPath(Arc<[u8]>);

/// The reason why a path is invalid. Its `Display` says how to correct it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BadPath {
    /// The path has no bytes.
    #[error("the path is empty; name a file")]
    Empty,
    /// The path begins with `/`.
    #[error("the path begins with `/`; give it relative to the root of the file system")]
    Absolute,
    /// Two slashes in a row, or one at the end of a file's path.
    #[error("the path has an empty component; write one `/` between two names and none at the end")]
    EmptyComponent,
    /// A component is `.` or `..`.
    #[error("the path has a component `.` or `..`; write the path without them")]
    Dots,
    /// The path contains a NUL byte.
    #[error("the path contains a NUL byte; remove it")]
    Nul,
    /// A component is longer than 255 bytes.
    #[error("a component of the path is longer than 255 bytes")]
    LongComponent,
    /// The path is longer than 4,096 bytes.
    #[error("the path is longer than 4096 bytes")]
    Long,
    /// The path has more than 255 components.
    #[error("the path has more than 255 components; use fewer directories")]
    Deep,
    /// A component begins with [`RESERVED_PREFIX`].
    #[error("a component begins with `.efs-router.`, which is reserved for temporary files; choose another name")]
    Reserved,
}

impl FilePath {
    /// Validates a path.
    ///
    /// # Errors
    /// [`BadPath`] names the first rule that the path breaks.
    pub fn new(path: impl AsRef<[u8]>) -> Result<Self, BadPath> {
        let path = path.as_ref();
        match path {
            [] => Err(BadPath::Empty),
            _ => check(path).map(|()| Self(path.into())),
        }
    }

    /// The path as bytes, without a `/` at either end.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path of the parent directory (empty for the root) and the file's name.
    pub fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (&[], &self.0),
        }
    }
}

impl DirectoryPath {
    /// Validates a path. One `/` at the end is allowed.
    ///
    /// # Errors
    /// [`BadPath`] names the first rule that the path breaks.
    pub fn new(path: impl AsRef<[u8]>) -> Result<Self, BadPath> {
        let path = path.as_ref();
        match path.strip_suffix(b"/").unwrap_or(path) {
            [] if path.is_empty() => Ok(Self([].into())),
            path => check(path).map(|()| Self(path.into())),
        }
    }

    /// The path as bytes, without a `/` at either end.
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
