//! Paths below the root: components separated by slashes, as bytes.

use crate::error::{Error, Result};

/// NAME_MAX of Linux.
const MAX_COMPONENT_BYTES: usize = 255;
/// PATH_MAX of Linux.
const MAX_PATH_BYTES: usize = 4096;

/// A path that does not leave the root.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Path<'a>(&'a [u8]);

impl<'a> Path<'a> {
    /// An empty path and `/` are the root. Leading, trailing and repeated slashes are ignored.
    pub fn new(path: &'a [u8]) -> Result<Self> {
        if path.len() > MAX_PATH_BYTES {
            return Err(Error::BadPath("it is longer than 4,096 bytes"));
        }
        let path = Self(path);
        path.components().try_for_each(check).map(|()| path)
    }

    pub fn components(&self) -> impl DoubleEndedIterator<Item = &'a [u8]> + use<'a> {
        self.0.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
    }

    pub fn depth(&self) -> usize {
        self.components().count()
    }

    /// The parent directory and the last component.
    pub fn split(&self) -> Result<(Self, &'a [u8])> {
        let end = self.0.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        let start = self.0[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        match self.0.get(start..end) {
            Some(name) if !name.is_empty() => Ok((Self(&self.0[..start]), name)),
            _ => Err(Error::BadPath("it is the root, which has no name")),
        }
    }
}

/// Checks one component.
pub(crate) fn check(name: &[u8]) -> Result<()> {
    match name {
        b"" => Err(Error::BadPath("a component is empty")),
        b"." | b".." => Err(Error::BadPath("a component is `.` or `..`")),
        name if name.len() > MAX_COMPONENT_BYTES => Err(Error::BadPath("a component is longer than 255 bytes")),
        name if name.contains(&0) => Err(Error::BadPath("a component contains a NUL")),
        name if name.contains(&b'/') => Err(Error::BadPath("a name contains a slash")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_its_components_and_nothing_else() {
        for (path, components) in [
            ("", vec![]),
            ("/", vec![]),
            ("a", vec!["a"]),
            ("/a//b/", vec!["a", "b"]),
            ("a/b c/\u{e9}", vec!["a", "b c", "\u{e9}"]),
        ] {
            let found: Vec<_> = Path::new(path.as_bytes()).unwrap().components().collect();
            assert_eq!(found, components.iter().map(|name| name.as_bytes()).collect::<Vec<_>>(), "{path}");
        }
        for path in ["..", "a/../b", "./a", "a/\0", &"x".repeat(256), &"x/".repeat(2049)] {
            assert!(Path::new(path.as_bytes()).is_err(), "{path}");
        }
    }

    #[test]
    fn the_last_component_is_the_name() {
        for (path, directory, name) in [("a", "", "a"), ("a/b", "a/", "b"), ("/a//b//", "/a//", "b"), ("/a", "/", "a")]
        {
            let (found, last) = Path::new(path.as_bytes()).unwrap().split().unwrap();
            assert_eq!((found.0, last), (directory.as_bytes(), name.as_bytes()), "{path}");
        }
        assert!(Path::new(b"//").unwrap().split().is_err());
    }
}
