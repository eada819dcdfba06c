//! `efs-autoscale count`, as people and scripts use it.
#![allow(clippy::unwrap_used, reason = "a test says what it takes for granted")]

mod schema;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
    thread,
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

fn tree() -> TempDir {
    let root = tempfile::tempdir().unwrap();
    for number in 0..30 {
        let folder = root.path().join(format!("{}", number % 3));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{number}")), "").unwrap();
    }
    std::os::unix::fs::symlink("0/0", root.path().join("link")).unwrap();
    root
}

fn run(directory: &Path, more: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_efs-autoscale")).arg("count").arg(directory).args(more).output().unwrap()
}

fn json(directory: &Path, more: &[&str]) -> (Value, i32) {
    let output = run(directory, &[more, &["--json"]].concat());
    let printed = serde_json::from_slice(&output.stdout).unwrap();
    schema::check("count", &printed);
    (printed, output.status.code().unwrap())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_person_reads_a_line_and_a_script_an_object() {
    let root = tree();
    let output = run(root.path(), &[]);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    assert!(text(&output.stdout).starts_with("30 files in 4 directories ("), "{}", text(&output.stdout));

    let (object, code) = json(root.path(), &[]);
    assert_eq!(code, 0);
    assert_eq!((&object["files"], &object["directories"], &object["errors"]), (&30.into(), &4.into(), &0.into()));
    assert!(object["complete"] == true && object["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(json(root.path(), &["--follow-file-symlinks"]).0["files"], 31);
    assert_eq!(json(root.path(), &["--threads", "1", "--one-file-system=false"]).0["files"], 30);
}

#[test]
fn a_count_that_is_not_complete_says_so_in_its_exit_status() {
    let root = tree();
    let (object, code) = json(root.path(), &["--stop-above", "5", "--threads", "1"]);
    assert!(object["complete"] == false && object["stopped"] == true && object["files"].as_u64().unwrap() > 5);
    assert_eq!(code, 1);
    let output = run(root.path(), &["--stop-above", "5", "--threads", "1"]);
    assert!(text(&output.stdout).starts_with("at least "));
}

#[test]
fn what_cannot_be_counted_is_an_error_that_names_it() {
    for (more, part) in [
        (&[][..], "/nowhere/at/all cannot be read: No such file or directory"),
        (&["--threads", "0"], "--threads"),
        (&["--stop-above=-1"], "--stop-above"),
        (&["--full"], "--cache"),
        (&["--cache", "x", "--follow-file-symlinks"], "--follow-file-symlinks"),
    ] {
        let output = run(Path::new("/nowhere/at/all"), more);
        assert_eq!(output.status.code(), Some(2), "{more:?}");
        assert!(text(&output.stderr).contains(part), "{}", text(&output.stderr));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_cache_is_gone_by_discarded_or_left_alone() {
    let (root, place) = (tree(), tempfile::tempdir().unwrap());
    let file = place.path().join("cache");
    let cache = ["--cache", file.to_str().unwrap()];
    let unchanged = |more: &[&str]| json(root.path(), &[&cache, more].concat()).0["unchanged"].as_u64().unwrap();
    thread::sleep(Duration::from_millis(2100));
    assert_eq!((unchanged(&[]), unchanged(&[]), unchanged(&["--full"]), unchanged(&[])), (0, 4, 0, 4));
    assert_eq!((unchanged(&["--full-every", "2"]), unchanged(&["--full-every", "2"])), (0, 4));
    fs::write(root.path().join("1/new"), "").unwrap();
    assert_eq!(json(root.path(), &cache).0["files"], 31);

    // Damaged: counted anew, with a warning, and written anew.
    let mut bytes = fs::read(&file).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(&file, bytes).unwrap();
    let output = run(root.path(), &cache);
    assert!(
        text(&output.stderr).contains("the cache is damaged, or of another version; everything is read"),
        "{}",
        text(&output.stderr)
    );
    assert!(output.status.success() && unchanged(&[]) > 0);

    // Of another directory.
    let output = run(tree().path(), &cache);
    assert!(text(&output.stderr).contains("the cache belongs to another directory"), "{}", text(&output.stderr));

    // Somebody's own file is not overwritten.
    fs::write(&file, "dear diary").unwrap();
    let output = run(root.path(), &cache);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("it is not a cache of counts"), "{}", text(&output.stderr));
    assert_eq!(fs::read_to_string(&file).unwrap(), "dear diary");
    // Nothing beside it.
    assert_eq!(fs::read_dir(place.path()).unwrap().count(), 1);

    // A place where it cannot be written is known before anything is counted.
    let output = run(root.path(), &["--cache", "/nowhere/at/all"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("the folder of the file does not exist"), "{}", text(&output.stderr));
}

/// The same as in its own directory, but for how long it takes.
#[test]
fn a_directory_of_a_server_is_counted_without_a_mount() {
    let Some(server) = nfs_lab::lab_or_skip(nfs_lab::Options { cached: false, ..Default::default() }) else { return };
    let place = tempfile::tempdir().unwrap();
    let root = server.directory().join("a tree");
    fs::create_dir(&root).unwrap();
    for number in 0..30 {
        let folder = root.join(format!("{}", number % 3));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(format!("{number}")), "").unwrap();
    }
    let url = format!("nfs://127.0.0.1:{}/a%20tree", server.port());
    let url = Path::new(&url);
    let output = run(url, &[]);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""));
    assert!(text(&output.stdout).starts_with("30 files in 4 directories ("), "{}", text(&output.stdout));
    let timeless = |directory: &Path, more: &[&str]| {
        let (mut object, code) = json(directory, more);
        object.as_object_mut().unwrap().remove("seconds");
        (object, code)
    };
    assert_eq!(timeless(url, &[]), timeless(&root, &[]));
    let limited = json(url, &["--stop-above", "5", "--threads", "1"]);
    assert!(limited.1 == 1 && limited.0["stopped"] == true, "{limited:?}");
    let file = place.path().join("cache");
    let cache = ["--cache", file.to_str().unwrap()];
    thread::sleep(Duration::from_millis(2100));
    let unchanged = || json(url, &cache).0["unchanged"].as_u64().unwrap();
    assert_eq!((unchanged(), unchanged()), (0, 4));

    for (url, more, part) in [
        (url.to_str().unwrap().replace("tree", "bush"), &[][..], "/a%20bush cannot be read: No such file or directory"),
        (url.to_str().unwrap().to_owned(), &["--follow-file-symlinks"], "not supported without a mount"),
        (String::new(), &[], "the name of the directory is empty"),
        ("nfs://".to_owned(), &[], "it has no host; expected nfs://host[:port]/path"),
        ("nfs://h:x/a".to_owned(), &[], "\"x\" is no port"),
        ("nfs://h/100%".to_owned(), &[], "write %25"),
    ] {
        let output = run(Path::new(&url), more);
        assert_eq!(output.status.code(), Some(2), "{url}");
        assert!(text(&output.stderr).contains(part), "{}", text(&output.stderr));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn a_count_that_cannot_be_written_is_an_error_and_no_panic() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_efs-autoscale"));
    let output = command.arg("count").arg(tree().path()).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("cannot write the count"), "{}", text(&output.stderr));
}
