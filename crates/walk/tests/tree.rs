//! The count against programs that are not ours.
#![allow(clippy::unwrap_used, reason = "a test says what it takes for granted")]

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink, net::UnixListener},
    path::Path,
    process::Command,
};

use proptest::prelude::*;
use walk::{Counted, Walk};

fn counted(root: &Path) -> Counted {
    walk::count(root).unwrap()
}

/// What `find` finds.
fn find(root: &Path) -> u64 {
    let output = Command::new("find").arg(root).args(["-type", "f", "-printf", "x"]).output().unwrap();
    assert!(output.status.success());
    output.stdout.len() as u64
}

/// What Python's `os.scandir` finds.
fn scandir(root: &Path) -> u64 {
    const COUNT: &str = "
import os, sys
def count(path):
    with os.scandir(path) as entries:
        return sum(1 if e.is_file(follow_symlinks=False) else count(e.path) if e.is_dir(follow_symlinks=False) else 0 for e in entries)
print(count(os.fsencode(sys.argv[1])))";
    let output = Command::new("python3").args(["-c", COUNT]).arg(root).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
}

#[test]
fn a_tree_with_everything_in_it() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::create_dir_all(at("a/b/.hidden directory")).unwrap();
    fs::create_dir(at("empty")).unwrap();
    for file in ["plain", ".hidden", "a/new\nline", "a/b/.hidden directory/x", "a/b/-n", "a/ ", "a/*"] {
        fs::write(at(file), "").unwrap();
    }
    fs::write(root.path().join(OsStr::from_bytes(b"not \xff UTF-8")), "").unwrap();
    fs::hard_link(at("plain"), at("a/a second name of it")).unwrap();
    symlink("plain", at("link to a file")).unwrap();
    symlink("a", at("link to a directory")).unwrap();
    symlink("..", at("a/link to a parent")).unwrap();
    symlink("nowhere", at("broken link")).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());

    let output = counted(root.path());
    assert_eq!(output.files, 9);
    assert_eq!((output.files, output.files), (find(root.path()), scandir(root.path())));
    assert_eq!((output.directories, output.complete(), output.errors), (5, true, 0));
}

#[test]
fn what_cannot_be_counted_at_all_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    for missing in ["missing", "file"] {
        let error = walk::count(&root.path().join(missing)).unwrap_err().to_string();
        assert!(error.contains(missing) && error.contains("cannot be read: "), "{error}");
    }
    // A link to a root is followed: somebody has asked for it.
    symlink(".", root.path().join("link")).unwrap();
    assert_eq!(counted(&root.path().join("link")).files, 1);
}

/// What Python's `is_file()` says, which follows links.
#[test]
fn links_to_files_count_when_asked_for() {
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    fs::create_dir(at("directory")).unwrap();
    fs::write(at("directory/file"), "").unwrap();
    for (to, name) in [
        ("directory/file", "to a file"),
        ("to a file", "to a link"),
        ("directory", "to a directory"),
        ("nowhere", "broken"),
        ("circle", "circle"),
    ] {
        symlink(to, at(name)).unwrap();
    }
    let script = "import sys, pathlib; print(sum(1 for p in pathlib.Path(sys.argv[1]).rglob('*') if p.is_file()))";
    let python = Command::new("python3").args(["-c", script]).arg(root.path()).output().unwrap();
    let expected = String::from_utf8(python.stdout).unwrap().trim().parse::<u64>().unwrap();
    let followed = Walk::new(root.path()).follow_file_symlinks(true).count().unwrap();
    assert_eq!((followed.files, followed.complete()), (expected, true), "{followed:?}");
    assert_eq!((expected, counted(root.path()).files), (3, 1));
}

/// `/dev` has other file systems mounted in it on every Linux machine.
#[test]
fn other_file_systems_are_not_entered() {
    let found = Command::new("find").args(["/dev", "-xdev", "-type", "f", "-printf", "x"]).output().unwrap();
    let staying = counted(Path::new("/dev"));
    assert_eq!(staying.files, found.stdout.len() as u64);
    assert!(staying.other_file_systems > 0);
    let crossing = Walk::new("/dev").one_file_system(false).count().unwrap();
    assert_eq!(crossing.other_file_systems, 0);
    assert!(crossing.directories >= staying.directories + staying.other_file_systems);
}

/// Deeper than a path may be long: each is opened in the one above.
#[test]
fn a_tree_may_be_deeper_than_a_path_is_long() {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let root = tempfile::tempdir().unwrap();
    let name = "a name that is rather long, since it does not take many of these then";
    let mut at = openat(CWD, root.path(), OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..200 {
        mkdirat(&at, name, Mode::RWXU).unwrap();
        at = openat(&at, name, OFlags::DIRECTORY, Mode::empty()).unwrap();
        openat(&at, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    }
    assert_eq!((counted(root.path()).files, counted(root.path()).directories), (200, 201));
    let in_parts = Walk::new(root.path()).steps(150).return_unvisited(3, 100_000).count().unwrap();
    let rest: u64 = in_parts
        .rest
        .iter()
        .map(|partition| Walk::new(root.path()).count_partition(partition).unwrap())
        .inspect(|rest| assert!(rest.complete(), "{rest:?}"))
        .map(|rest| rest.files)
        .sum();
    assert!(!in_parts.rest.is_empty());
    assert_eq!(in_parts.files + rest, 200);
    // Nothing else can remove it without a path that is too long.
    assert!(Command::new("rm").arg("-rf").arg(root.path()).status().unwrap().success());
}

#[test]
fn a_directory_that_cannot_be_read_makes_the_count_incomplete() {
    use std::os::unix::fs::PermissionsExt;
    let root = tempfile::tempdir().unwrap();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(root.path(), 0o755);
    for number in 0..150 {
        let directory = root.path().join(format!("closed\t{number}"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("file"), "").unwrap();
        mode(&directory, 0);
    }
    fs::write(root.path().join("file"), "").unwrap();
    // On this thread only, which is the one that is somebody else.
    let output = as_nobody(|| Walk::new(root.path()).threads(1).count().unwrap());
    assert_eq!((output.files, output.complete(), output.errors), (1, false, 150));
    assert_eq!(output.first_errors.len(), 100);
    assert!(output.first_errors[0].contains("closed\\t"), "escaped: {}", output.first_errors[0]);
    assert!(output.first_errors[0].contains("Permission denied"));
}

/// Root may read everything: looks at files as somebody else, on this thread.
#[expect(unsafe_code, reason = "the standard library cannot change the user of a thread")]
fn as_nobody<T>(work: impl FnOnce() -> T) -> T {
    // SAFETY: setfsuid touches no memory, and changes this thread only.
    let before = unsafe { libc::setfsuid(65534) };
    let outcome = work();
    // SAFETY: as above.
    unsafe { libc::setfsuid(before.unsigned_abs()) };
    outcome
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_tree_is_counted_as_others_count_it(
        paths in proptest::collection::btree_set(("[a-c.]{1,2}", "[a-c ]{1,2}", "[a-z]{1,3}"), 0..120),
        links in proptest::collection::vec(("[x-z]{1,3}", "[a-c]"), 0..5),
    ) {
        let root = tempfile::tempdir().unwrap();
        for (one, two, name) in paths {
            let directory = root.path().join(format!("d{one}")).join(two);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join(name), "").unwrap();
        }
        for (name, to) in links {
            // Some names come twice.
            let _ = symlink(format!("d{to}"), root.path().join(name));
        }
        let output = counted(root.path());
        prop_assert_eq!((output.files, output.files), (find(root.path()), scandir(root.path())));
        prop_assert!(output.complete());
    }
}
