//! Where something is below the root: components between slashes, in bytes.

use crate::error::{Error, Result};

const MAX_COMPONENT_BYTES: usize = 255;
/// As long as Linux takes.
const LONGEST: usize = 4096;

/// A path that names nothing outside the root.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Path<'a>(&'a [u8]);

impl<'a> Path<'a> {
    /// Empty, or with a `/` alone, it is the root. A `/` before or after it, or two for one, say nothing.
    pub fn new(path: &'a [u8]) -> Result<Self> {
        if path.len() > LONGEST {
            return Err(Error::BadPath("the whole is longer than 4,096"));
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

    /// The directory that it is in, and its name there.
    pub fn split(&self) -> Result<(Self, &'a [u8])> {
        let end = self.0.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        let start = self.0[..end].iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        match self.0.get(start..end) {
            Some(name) if !name.is_empty() => Ok((Self(&self.0[..start]), name)),
            _ => Err(Error::BadPath("the root has no name")),
        }
    }
}

pub(crate) fn check(name: &[u8]) -> Result<()> {
    match name {
        b"" => Err(Error::BadPath("a component is empty")),
        b"." | b".." => Err(Error::BadPath("a component is `.` or `..`")),
        name if name.len() > MAX_COMPONENT_BYTES => Err(Error::BadPath("a component is longer than 255")),
        name if name.contains(&0) => Err(Error::BadPath("a component has a NUL")),
        name if name.contains(&b'/') => Err(Error::BadPath("a name has a slash")),
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
