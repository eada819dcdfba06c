//! Opening what is below a directory, and nothing else: no `..`, no link, wherever it points.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::{self, Mode, OFlags, ResolveFlags},
    io::Errno,
};

/// Linux has `openat2` since 5.6, and some sandboxes forbid it. Without it each component is opened by itself.
static OPENAT2: AtomicBool = AtomicBool::new(true);

/// Says of a directory what is needed to go on below it.
pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
/// PATH_MAX, which counts the byte that ends it.
const LONGEST: usize = 4096;
const NEW: Mode = Mode::from_raw_mode(0o666);

/// Opens `path`, which has no component `..` or `.`; empty is the root itself.
pub(crate) fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = flags | OFlags::CLOEXEC;
    if path.len() >= LONGEST {
        // The kernel takes no longer one at once.
        return one_by_one(root, path, flags | OFlags::NOFOLLOW);
    }
    if OPENAT2.load(Ordering::Relaxed) {
        match again(|| fs::openat2(root, path, flags, Mode::empty(), RESOLVE)) {
            Err(Errno::NOSYS | Errno::PERM) if !is_there(root) => OPENAT2.store(false, Ordering::Relaxed),
            other => return other,
        }
    }
    one_by_one(root, path, flags | OFlags::NOFOLLOW)
}

/// The same as far as that is known without waiting; `AGAIN` where it is not.
pub(crate) fn open_now(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    if !OPENAT2.load(Ordering::Relaxed) {
        return Err(Errno::AGAIN);
    }
    let flags = flags | OFlags::CLOEXEC;
    // What is mounted below may be of a kind that waits.
    fs::openat2(root, path, flags, Mode::empty(), RESOLVE | ResolveFlags::CACHED | ResolveFlags::NO_XDEV)
}

/// Is there an `openat2` at all? Told from a file that may not be opened, which says `PERM` too.
fn is_there(root: BorrowedFd<'_>) -> bool {
    fs::openat2(root, c".", DIRECTORY, Mode::empty(), RESOLVE).is_ok()
}

/// What `openat2` does, with a call for each component. A directory that somebody moves meanwhile is followed to
/// where it is then; no link is.
fn one_by_one(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let (directories, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&[][..], path),
    };
    let mut at: Option<OwnedFd> = None;
    for directory in directories.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        let parent = at.as_ref().map_or(root, AsFd::as_fd);
        let way = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = again(|| fs::openat(parent, directory, way, Mode::empty()));
        at = Some(opened.map_err(|why| link_or(parent, directory, why))?);
    }
    let parent = at.as_ref().map_or(root, AsFd::as_fd);
    let opened = again(|| fs::openat(parent, name, flags, Mode::empty())).map_err(|why| link_or(parent, name, why))?;
    // A link is opened as itself where only its path is asked for.
    if flags.contains(OFlags::PATH) && fs::FileType::from_raw_mode(fs::fstat(&opened)?.st_mode).is_symlink() {
        return Err(Errno::LOOP);
    }
    Ok(opened)
}

/// `openat` says of a link that it is no directory; `openat2`, that it is a link.
fn link_or(parent: BorrowedFd<'_>, name: &[u8], why: Errno) -> Errno {
    let is_link = || {
        let found = fs::statat(parent, name, fs::AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|found| fs::FileType::from_raw_mode(found.st_mode).is_symlink())
    };
    if why == Errno::NOTDIR && is_link() { Errno::LOOP } else { why }
}

/// Opens a directory and makes it and those above it where they are missing.
/// The number of those that were made.
pub(crate) fn open_or_make(root: BorrowedFd<'_>, path: &[u8]) -> Result<(OwnedFd, usize), Errno> {
    match open(root, path, DIRECTORY) {
        Err(Errno::NOENT) => {}
        other => return other.map(|directory| (directory, 0)),
    }
    let mut made = 0;
    let mut at = open(root, b"", DIRECTORY)?;
    for name in path.split(|byte| *byte == b'/') {
        let mut next = open(at.as_fd(), name, DIRECTORY);
        if next.as_ref().is_err_and(|why| *why == Errno::NOENT) {
            match again(|| fs::mkdirat(&at, name, Mode::from_raw_mode(0o777))) {
                Ok(()) => made += 1,
                // Somebody else made it: what is above it is not ours to take away.
                Err(Errno::EXIST) => made = 0,
                Err(why) => return Err(why),
            }
            next = open(at.as_fd(), name, DIRECTORY);
        }
        at = next?;
    }
    Ok((at, made))
}

/// Removes the directory at this path and those above it, so many in all, as long as they are empty. Each is looked
/// for from the root: one that somebody has moved is somebody's.
pub(crate) fn remove_empty(root: BorrowedFd<'_>, path: &[u8], count: usize) {
    let mut path = path;
    for _ in 0..count {
        let (above, name) = match path.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&path[..slash], &path[slash + 1..]),
            None => (&[][..], path),
        };
        let removed = open(root, above, DIRECTORY).and_then(|above| fs::unlinkat(&above, name, fs::AtFlags::REMOVEDIR));
        if removed.is_err() {
            return;
        }
        path = above;
    }
}

/// Makes a file that is not there yet, in this directory.
pub(crate) fn create(directory: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    again(|| fs::openat(directory, name, flags, NEW))
}

/// Asks again what a signal, or a rename at the wrong moment, has interrupted.
pub(crate) fn again<T>(mut call: impl FnMut() -> Result<T, Errno>) -> Result<T, Errno> {
    for _ in 0..100 {
        match call() {
            Err(Errno::INTR | Errno::AGAIN) => {}
            other => return other,
        }
    }
    call()
}

#[cfg(test)]
mod tests {
    use std::{fs::create_dir_all, os::unix::fs::symlink};

    use super::*;

    /// Opens by a way: with `openat2`, or one component after the other.
    type Way = fn(BorrowedFd<'_>, &[u8], OFlags) -> Result<OwnedFd, Errno>;

    #[test]
    fn both_ways_open_the_same_and_no_link() {
        let place = tempfile::tempdir().unwrap();
        let path = |name: &str| place.path().join(name);
        create_dir_all(path("root/a/b")).unwrap();
        std::fs::write(path("root/a/b/file"), "inside").unwrap();
        std::fs::write(path("secret"), "outside").unwrap();
        symlink("../secret", path("root/relative")).unwrap();
        symlink(path("secret"), path("root/absolute")).unwrap();
        symlink("..", path("root/up")).unwrap();
        symlink("a", path("root/within")).unwrap();
        symlink("file", path("root/a/b/link")).unwrap();
        let root = fs::open(path("root"), DIRECTORY, Mode::empty()).unwrap();
        let ways: [Way; 2] = [open, |root, path, flags| one_by_one(root, path, flags | OFlags::NOFOLLOW)];
        for way in ways {
            for flags in [OFlags::RDONLY, OFlags::PATH] {
                for (name, expected) in [
                    ("a/b/file", None),
                    ("a/b", None),
                    ("relative", Some(Errno::LOOP)),
                    ("absolute", Some(Errno::LOOP)),
                    ("up/secret", Some(Errno::LOOP)),
                    ("within/b/file", Some(Errno::LOOP)),
                    ("a/b/link", Some(Errno::LOOP)),
                    ("a/nothing", Some(Errno::NOENT)),
                    ("a/b/file/c", Some(Errno::NOTDIR)),
                ] {
                    assert_eq!(way(root.as_fd(), name.as_bytes(), flags).err(), expected, "{name} {flags:?}");
                }
            }
        }
        assert_eq!(open(root.as_fd(), b"a/../../secret", OFlags::RDONLY).err(), Some(Errno::XDEV));
    }

    #[test]
    fn missing_directories_are_made_but_not_behind_links() {
        let place = tempfile::tempdir().unwrap();
        create_dir_all(place.path().join("root")).unwrap();
        create_dir_all(place.path().join("elsewhere")).unwrap();
        symlink("../elsewhere", place.path().join("root/link")).unwrap();
        let root = fs::open(place.path().join("root"), DIRECTORY, Mode::empty()).unwrap();
        assert_eq!(open_or_make(root.as_fd(), b"x/y/z").unwrap().1, 3);
        assert_eq!(open_or_make(root.as_fd(), b"x/y/z").unwrap().1, 0);
        assert!(place.path().join("root/x/y/z").is_dir());
        let (_, made) = open_or_make(root.as_fd(), b"x/y/a/b").unwrap();
        assert_eq!(made, 2);
        remove_empty(root.as_fd(), b"x/y/a/b", made);
        assert!(place.path().join("root/x/y/z").is_dir() && !place.path().join("root/x/y/a").exists());
        assert_eq!(open_or_make(root.as_fd(), b"link/x").err(), Some(Errno::LOOP));
        assert!(!place.path().join("elsewhere/x").exists());
    }
}
