//! The count against programs that are not ours.
#![allow(clippy::unwrap_used, reason = "a test says what it takes for granted")]

use std::{
    ffi::OsStr,
    fs,
    os::unix::{ffi::OsStrExt, fs::symlink, net::UnixListener},
    path::Path,
    process::Command,
};

use count::handle;
use domain::{
    error::{Code, Coded},
    messages::{CountInput, CountOutput},
};
use proptest::prelude::*;
use serde_json::json;

fn counted(root: &Path) -> CountOutput {
    handle(root, &CountInput { start: json!({}) }).unwrap()
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
    assert_eq!((output.directories, output.complete, output.errors), (5, true, 0));
}

#[test]
fn what_cannot_be_counted_at_all_is_an_error() {
    let root = tempfile::tempdir().unwrap();
    fs::write(root.path().join("file"), "").unwrap();
    for missing in ["missing", "file"] {
        let error = handle(&root.path().join(missing), &CountInput { start: json!({}) }).unwrap_err();
        assert_eq!(error.code(), Code::TargetDirectoryUnreadable);
        assert!(error.to_string().contains(missing), "{error}");
    }
    let error = handle(root.path(), &CountInput { start: json!({"treshold": 1}) }).unwrap_err();
    assert_eq!(error.code(), Code::InvalidInput);
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
    let output = as_nobody(|| counted(root.path()));
    assert_eq!((output.files, output.complete, output.errors), (1, false, 150));
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
        prop_assert!(output.complete);
    }
}
