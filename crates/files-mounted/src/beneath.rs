//! Opening what is below a directory, and nothing else: no `..`, no link, wherever it points.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::{
    fs::{self, Gid, Mode, OFlags, ResolveFlags, Uid},
    io::Errno,
};

/// Linux has `openat2` since 5.6, and some sandboxes forbid it. Without it each component is opened by itself.
static OPENAT2: AtomicBool = AtomicBool::new(true);

/// Says of a directory what is needed to go on below it.
pub(crate) const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const RESOLVE: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS).union(ResolveFlags::NO_MAGICLINKS);
/// PATH_MAX, which counts the byte that ends it.
const MAX_PATH_BYTES: usize = 4096;
/// To run as the owner or the group of the file: nothing that a new content takes over from the one before.
const RUNS_AS_OTHERS: Mode = Mode::SUID.union(Mode::SGID);

/// Why a call failed whose arguments are all right, but perhaps for a name: `INVAL` says that the file system does not
/// take it, as an NFS server does that takes UTF-8 only. That is `ILSEQ`, which says nothing else.
pub(crate) fn of_a_name(err: Errno) -> Errno {
    if err == Errno::INVAL { Errno::ILSEQ } else { err }
}

/// Opens `path`, which has no component `..` or `.`; empty is the root itself.
pub(crate) fn open(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    open_as_told(root, path, flags).map_err(of_a_name)
}

fn open_as_told(root: BorrowedFd<'_>, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = flags | OFlags::CLOEXEC;
    if path.len() >= MAX_PATH_BYTES {
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
        at = Some(opened.map_err(|err| link_or(parent, directory, err))?);
    }
    let parent = at.as_ref().map_or(root, AsFd::as_fd);
    let opened = again(|| fs::openat(parent, name, flags, Mode::empty())).map_err(|err| link_or(parent, name, err))?;
    // A link is opened as itself where only its path is asked for.
    if flags.contains(OFlags::PATH) && fs::FileType::from_raw_mode(fs::fstat(&opened)?.st_mode).is_symlink() {
        return Err(Errno::LOOP);
    }
    Ok(opened)
}

/// `openat` says of a link that it is no directory; `openat2`, that it is a link.
fn link_or(parent: BorrowedFd<'_>, name: &[u8], err: Errno) -> Errno {
    let is_link = || {
        let found = fs::statat(parent, name, fs::AtFlags::SYMLINK_NOFOLLOW);
        found.is_ok_and(|found| fs::FileType::from_raw_mode(found.st_mode).is_symlink())
    };
    if err == Errno::NOTDIR && is_link() { Errno::LOOP } else { err }
}

/// Opens a directory and makes it and those above it where they are missing, with this mode. The number of those that
/// were made.
pub(crate) fn open_or_make(root: BorrowedFd<'_>, path: &[u8], mode: Mode) -> Result<(OwnedFd, usize), Errno> {
    match open(root, path, DIRECTORY) {
        Err(Errno::NOENT) => {}
        other => return other.map(|directory| (directory, 0)),
    }
    let mut made = 0;
    let mut at = open(root, b"", DIRECTORY)?;
    for name in path.split(|byte| *byte == b'/') {
        let mut next = open(at.as_fd(), name, DIRECTORY);
        if next.as_ref().is_err_and(|err| *err == Errno::NOENT) {
            let is_ours = match again(|| fs::mkdirat(&at, name, mode)) {
                Ok(()) => true,
                Err(Errno::EXIST) => false,
                Err(err) => return Err(of_a_name(err)),
            };
            // What somebody else made, and what is above it, is not ours to take away.
            made = if is_ours { made + 1 } else { 0 };
            next = open(at.as_fd(), name, DIRECTORY);
            if let (true, Ok(directory)) = (is_ours, &next) {
                // A directory below one with the setgid bit has that bit, too.
                let found = self::mode(&fs::fstat(directory)?);
                set_mode(directory.as_fd(), found, mode | found & Mode::SGID)?;
            }
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

/// Makes a file that is not there yet, in this directory. The umask may take bits from its mode.
pub(crate) fn create(directory: BorrowedFd<'_>, name: &[u8], mode: Mode) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    again(|| fs::openat(directory, name, flags, mode))
}

/// What a new content keeps of this mode: permissions, but not to run as the owner of the content before.
pub(crate) fn kept_mode(found: &fs::Stat) -> Mode {
    mode(found).difference(RUNS_AS_OTHERS)
}

/// Its permissions, and to run as others; without its kind.
pub(crate) fn mode(found: &fs::Stat) -> Mode {
    Mode::from_raw_mode(found.st_mode)
}

/// Changes a mode, if it is another one: on NFS that is a round trip. Whether it was changed.
pub(crate) fn set_mode(file: BorrowedFd<'_>, found: Mode, mode: Mode) -> Result<bool, Errno> {
    if found == mode {
        return Ok(false);
    }
    again(|| fs::fchmod(file, mode))?;
    Ok(true)
}

/// Gives a file the owner and the group of another, as far as this process may. Whether anything was changed.
pub(crate) fn set_owner(file: BorrowedFd<'_>, found: &fs::Stat, like: &fs::Stat) -> Result<bool, Errno> {
    let owner = (found.st_uid != like.st_uid).then(|| Uid::from_raw(like.st_uid));
    let group = (found.st_gid != like.st_gid).then(|| Gid::from_raw(like.st_gid));
    // Without a privilege a process may give a file to its own groups, and to nobody.
    for (owner, group) in [(owner, group), (None, group)] {
        if owner.is_none() && group.is_none() {
            return Ok(false);
        }
        match again(|| fs::fchown(file, owner, group)) {
            Ok(()) => return Ok(true),
            Err(Errno::PERM | Errno::ACCESS | Errno::INVAL | Errno::OPNOTSUPP) => {}
            Err(err) => return Err(err),
        }
    }
    Ok(false)
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
        let cursor = tempfile::tempdir().unwrap();
        let path = |name: &str| cursor.path().join(name);
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
        let cursor = tempfile::tempdir().unwrap();
        create_dir_all(cursor.path().join("root")).unwrap();
        create_dir_all(cursor.path().join("elsewhere")).unwrap();
        symlink("../elsewhere", cursor.path().join("root/link")).unwrap();
        let root = fs::open(cursor.path().join("root"), DIRECTORY, Mode::empty()).unwrap();
        assert_eq!(open_or_make(root.as_fd(), b"x/y/z", Mode::RWXU).unwrap().1, 3);
        assert_eq!(open_or_make(root.as_fd(), b"x/y/z", Mode::RWXU).unwrap().1, 0);
        assert!(cursor.path().join("root/x/y/z").is_dir());
        let (_, made) = open_or_make(root.as_fd(), b"x/y/a/b", Mode::RWXU).unwrap();
        assert_eq!(made, 2);
        remove_empty(root.as_fd(), b"x/y/a/b", made);
        assert!(cursor.path().join("root/x/y/z").is_dir() && !cursor.path().join("root/x/y/a").exists());
        assert_eq!(open_or_make(root.as_fd(), b"link/x", Mode::RWXU).err(), Some(Errno::LOOP));
        assert!(!cursor.path().join("elsewhere/x").exists());
    }
}
