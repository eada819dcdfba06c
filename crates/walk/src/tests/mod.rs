//! The walk on real directories, with [`Watched`] in between.
#![allow(clippy::panic, reason = "a test that has come to nothing says so")]

use std::{collections::BTreeMap, fs, io, time::Duration};

mod model;

use super::*;
use crate::{kernel::Kernel, source::Source, watched::Watched};

/// In memory, where many small files cost little, if cookies hold there as they do on a disk.
fn folder() -> tempfile::TempDir {
    let resumable = |folder: &tempfile::TempDir| {
        let found = Kernel::new(folder.path(), true).and_then(|kernel| kernel.identity(&kernel.root()?));
        found.is_ok_and(|found| found.resumable)
    };
    let in_memory = tempfile::tempdir_in("/dev/shm").ok().filter(resumable);
    in_memory.unwrap_or_else(|| tempfile::tempdir().unwrap())
}

/// With small buffers, so that small directories take several reads.
fn options() -> Options {
    Walk::new("").buffer(2048).options
}

/// `directories` of them with `files` each, and as many in the root.
fn tree(directories: usize, files: usize) -> tempfile::TempDir {
    filled(folder(), directories, files)
}

fn filled(root: tempfile::TempDir, directories: usize, files: usize) -> tempfile::TempDir {
    let folders = (0..directories).map(|number| root.path().join(format!("d{number}")));
    for folder in std::iter::once(root.path().to_owned()).chain(folders) {
        fs::create_dir_all(&folder).unwrap();
        for number in 0..files {
            fs::write(folder.join(format!("file {number:04}")), "").unwrap();
        }
    }
    root
}

#[test]
fn each_directory_costs_one_open_and_its_reads_and_nothing_else() {
    let root = filled(tempfile::tempdir().unwrap(), 50, 20);
    let source = Watched::new(root.path());
    let counted = source.count(&Walk::new("").options);
    assert_eq!((counted.files, counted.directories, counted.complete()), (51 * 20, 51, true));
    let calls = source.calls.lock().unwrap().clone();
    // Where the file system says of the last entry that it is the last, nobody asks for another.
    let each = if source.ends(&source.root().unwrap(), i64::MAX) { 1 } else { 2 };
    assert_eq!(calls, BTreeMap::from([("root", 1), ("open", 50), ("read", 51 * each)]));
}

#[test]
fn looks_keep_the_nfs_client_telling_kinds() {
    let root = tree(1, 1000);
    for (needed, kinds) in [(1, 0), (9, 0), (11, 1)] {
        let mut source = Watched::new(root.path());
        source.looks_needed = Some(needed);
        let counted = source.count(&options());
        assert_eq!((counted.files, counted.directories), (2000, 2));
        assert_eq!(source.called("kind").min(1), kinds, "{needed} looks are needed");
        // Only where another read follows: the last one that fills less than the buffer needs none.
        let reads = source.called("read");
        assert!(reads > 20 && source.called("look") <= 10 * (reads - 4), "{reads} reads");
    }
    let small = tree(20, 10);
    let mut source = Watched::new(small.path());
    source.looks_needed = Some(9);
    source.count(&options());
    assert_eq!((source.called("look"), source.called("kind")), (0, 0), "what is told at once needs no look");
}

#[test]
fn what_nobody_tells_is_looked_at_by_many_at_once() {
    let root = tree(3, 100);
    fs::create_dir(root.path().join("empty")).unwrap();
    std::os::unix::fs::symlink("d0", root.path().join("link")).unwrap();
    let mut source = Watched::new(root.path());
    source.tells_nothing = true;
    source.delay = Duration::from_millis(2);
    let counted = source.count(&options());
    assert_eq!((counted.files, counted.directories, counted.complete()), (400, 5, true));
    assert_eq!(source.called("kind"), 405, "each once");
    assert!(source.most_looking.into_inner() > 8, "at once");
}

#[test]
fn what_vanishes_is_no_error() {
    let root = tree(3, 10);
    for number in [libc::ENOENT, libc::ENOTDIR] {
        let counted = Watched::new(root.path()).fails("open", c"d1", number, 0, 9).count(&options());
        assert_eq!((counted.files, counted.directories, counted.vanished), (30, 3, 1));
        assert!(counted.complete());
    }
    // Removed while it is read.
    let counted = Watched::new(root.path()).fails("read", c"d1", libc::ENOENT, 0, 9).count(&options());
    assert_eq!((counted.files, counted.vanished, counted.complete()), (30, 1, true));
    let mut source = Watched::new(root.path()).fails("kind", c"file 0003", libc::ENOENT, 0, 1);
    source.tells_nothing = true;
    let counted = source.count(&options());
    assert_eq!((counted.files, counted.complete()), (39, true));
}

#[test]
fn a_stale_handle_is_opened_once_more() {
    let root = tree(3, 100);
    for (call, after) in [("open", 0), ("read", 0), ("read", 1), ("read", 2)] {
        let counted = Watched::new(root.path()).fails(call, c"d1", libc::ESTALE, after, 1).count(&options());
        assert_eq!((counted.files, counted.directories, counted.errors), (400, 4, 0), "{call} after {after}");
        let counted = Watched::new(root.path()).fails(call, c"d1", libc::ESTALE, after, 99).count(&options());
        assert_eq!((counted.directories, counted.errors, counted.complete()), (3, 1, false), "{call} again");
    }
    // Its handle answers nothing any more.
    let source = Watched::new(root.path()).fails("read", c"d1", libc::ESTALE, 1, 1);
    let counted = source.fails("identity", c"d1", libc::ESTALE, 1, 9).count(&options());
    assert_eq!((counted.files, counted.errors), (400, 0));
    // A directory that cannot be gone on with, and one that is gone.
    let mut source = Watched::new(root.path()).fails("read", c"d1", libc::ESTALE, 1, 1);
    source.resumable = false;
    assert_eq!(source.count(&options()).errors, 1);
    let gone = Watched::new(root.path()).fails("read", c"d1", libc::ESTALE, 0, 1);
    let counted = gone.fails("open", c"d1", libc::ENOENT, 1, 9).count(&options());
    assert_eq!((counted.errors, counted.vanished, counted.complete()), (0, 1, true));
}

#[test]
fn what_cannot_be_read_makes_the_count_incomplete() {
    let root = tree(3, 10);
    for number in [libc::EACCES, libc::EIO, libc::ELOOP] {
        for call in ["open", "read"] {
            let counted = Watched::new(root.path()).fails(call, c"d1", number, 0, 9).count(&options());
            assert_eq!((counted.files, counted.errors, counted.complete()), (30, 1, false), "{call} {number}");
            assert_eq!(counted.first_errors, [format!("d1: {}", io::Error::from_raw_os_error(number))]);
        }
    }
    let mut source = Watched::new(root.path()).fails("kind", c"file 0003", libc::EIO, 0, 1);
    source.tells_nothing = true;
    let counted = source.count(&options());
    assert_eq!((counted.files, counted.errors, counted.complete()), (39, 1, false));
    assert!(counted.first_errors[0].contains("file 0003: "), "{:?}", counted.first_errors);
}

/// As a server says of a file system that it does not go to.
#[test]
fn a_file_system_that_cannot_be_entered_is_another_or_if_asked_for_an_error() {
    let root = tree(3, 10);
    for (call, tells_nothing) in [("open", false), ("open", true), ("kind", true)] {
        for (one_file_system, others, errors) in [(true, 1, 0), (false, 0, 1)] {
            let mut source = Watched::new(root.path()).fails(call, c"d1", libc::EXDEV, 0, 9);
            source.tells_nothing = tells_nothing;
            let counted = source.count(&Options { one_file_system, ..options() });
            let found = (counted.files, counted.directories, counted.other_file_systems, counted.errors);
            assert_eq!(found, (30, 3, others, errors), "{call}, {one_file_system}");
            assert_eq!(counted.complete(), errors == 0);
        }
    }
}

#[test]
fn a_root_that_cannot_be_read_is_no_count() {
    let root = tree(1, 10);
    for (call, number) in [("root", libc::EACCES), ("read", libc::EIO), ("read", libc::ENOENT)] {
        let source = Watched::new(root.path()).fails(call, c"", number, 0, 9);
        let outcome = engine::run(&source, &options(), &Progress::default(), &Partition::whole(), None);
        assert_eq!(outcome.unwrap_err().raw_os_error(), Some(number));
    }
    // Part of it was there.
    let counted = Watched::new(root.path()).fails("read", c"", libc::EIO, 1, 9).count(&options());
    assert_eq!((counted.files, counted.errors), (20, 1));
}

#[test]
fn descriptors_are_not_used_up() {
    let root = folder();
    let mut expected = 0;
    for one in 0..6 {
        for two in 0..6 {
            let folder = root.path().join(format!("{one}/{two}/{one}"));
            fs::create_dir_all(folder.join("deeper/and deeper")).unwrap();
            fs::write(folder.join("deeper/and deeper/file"), "").unwrap();
            expected += 1;
        }
    }
    for most_open in [0, 8, 40] {
        let mut source = Watched::new(root.path());
        source.most_open = most_open;
        let counted = source.count(&options());
        assert_eq!((counted.files, counted.complete()), (expected, true));
        let ever = source.most_ever_open.into_inner();
        assert!(ever <= most_open.max(4), "{ever} open of {most_open}");
    }
    // Others have taken them: it waits for one.
    let counted = Watched::new(root.path()).fails("open", c"deeper", libc::EMFILE, 0, 5).count(&options());
    assert_eq!((counted.files, counted.complete()), (expected, true));
}

#[test]
fn a_panic_in_one_thread_ends_the_walk() {
    let root = tree(20, 10);
    let mut source = Watched::new(root.path());
    // The others wait meanwhile: there is nothing for them to do.
    source.panics_at = Some(c"d7");
    source.delay = Duration::from_millis(50);
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| source.count(&options())));
    assert!(outcome.is_err());
    assert!(source.called("read") > 10, "others have worked, and come to their end");
}

/// Walks in parts until nothing is left: the files, the directories, the rounds; `None` when a part was cut
/// short.
fn in_parts(source: &Watched, options: &Options, limit: usize) -> (u64, u64, Option<usize>) {
    let (mut left, mut files, mut directories, mut whole) = (vec![Partition::whole()], 0, 0, true);
    for round in 0..limit {
        let mut next = vec![];
        for partition in &left {
            let counted = engine::run(source, options, &Progress::default(), partition, None).unwrap();
            assert_eq!((counted.errors, &counted.first_errors), (0, &vec![]));
            files += counted.files;
            directories += counted.directories;
            whole &= !counted.truncated;
            assert!(counted.rest.len() <= options.partitions);
            let json = serde_json::to_string(&counted.rest).unwrap();
            assert!(
                json.len() <= options.partition_bytes.saturating_add(options.partitions * 20),
                "{} bytes: {json}",
                json.len()
            );
            next.extend(serde_json::from_str::<Vec<Partition>>(&json).unwrap());
        }
        if next.is_empty() {
            return (files, directories, whole.then_some(round));
        }
        left = next;
    }
    panic!("after {limit} rounds {} partitions are left", left.len());
}

#[test]
fn one_huge_directory_goes_on_at_its_cookie() {
    let root = tree(0, 3000);
    let options = Options { steps: Some(5), ..options() };
    let (files, directories, rounds) = in_parts(&Watched::new(root.path()), &options, 100);
    assert_eq!((files, directories), (3000, 1));
    assert!(rounds.unwrap() > 5);
}

#[test]
fn a_directory_that_is_gone_on_with_tells_kinds_again_soon() {
    let root = tree(0, 40_000);
    let mut source = Watched::new(root.path());
    source.looks_needed = Some(9);
    // A look is a step, too.
    let options = Options { steps: Some(10), buffer: 64 << 10, ..options() };
    let (files, _, rounds) = in_parts(&source, &options, 1000);
    let (kinds, rounds) = (source.called("kind"), rounds.unwrap());
    assert!(files == 40_000 && rounds > 10, "{rounds} rounds");
    assert!(kinds < 3000, "{kinds} of 40,000 were looked at in {rounds} rounds");
}

#[test]
fn a_directory_that_cannot_be_gone_on_with_ends_as_a_lower_bound() {
    let root = tree(0, 3000);
    let mut source = Watched::new(root.path());
    source.resumable = false;
    let counted = source.count(&Options { steps: Some(5), ..options() });
    assert!(counted.truncated && !counted.complete() && counted.rest.is_empty());
    assert!((100..3000).contains(&counted.files), "{}", counted.files);
}

#[test]
fn a_huge_directory_of_directories_is_handed_back_in_a_few_bytes() {
    let root = tree(2000, 1);
    let options = Options { steps: Some(900), partitions: 4, partition_bytes: 12_000, ..options() };
    let counted = Watched::new(root.path()).count(&options);
    assert!(counted.directories > 200 && !counted.rest.is_empty(), "{counted:?}");
    let (files, directories, _) = in_parts(&Watched::new(root.path()), &options, 100);
    assert_eq!((files, directories), (2001, 2001));
}

/// A chain of directories, each with many others beside the next: long names at every level.
fn comb(levels: usize, teeth: usize, name: usize) -> tempfile::TempDir {
    let root = folder();
    let mut at = root.path().to_owned();
    for _ in 0..levels {
        for tooth in 0..teeth {
            fs::create_dir(at.join(format!("{tooth:0name$}"))).unwrap();
        }
        at.push(format!("{:0name$}", 0));
        fs::write(at.join("file"), "").unwrap();
    }
    root
}

#[test]
fn what_can_be_handed_back_is_not_thrown_away() {
    let root = comb(30, 250, 60);
    for steps in (1000..14_000).step_by(500) {
        let options =
            Options { steps: Some(steps), partitions: 8, partition_bytes: 160 << 10, buffer: 1 << 20, ..options() };
        let counted = Watched::new(root.path()).count(&options);
        assert!(!counted.truncated, "after {steps} steps: {} of 7501 directories", counted.directories);
    }
}

#[test]
fn wide_and_deep_at_once_does_not_use_up_descriptors() {
    let root = comb(40, 300, 3);
    let mut source = Watched::new(root.path());
    source.most_open = 40;
    let counted = source.count(&options());
    assert_eq!((counted.files, counted.directories, counted.errors), (40, 12_001, 0), "{:?}", counted.first_errors);
    let ever = source.most_ever_open.into_inner();
    assert!(ever <= 40, "{ever} open");
}

#[test]
fn a_place_that_is_not_there_any_more_makes_the_count_incomplete() {
    let root = tree(3, 100);
    fs::create_dir(root.path().join("d1/below")).unwrap();
    let options = Options { steps: Some(3), ..options() };
    let counted = Watched::new(root.path()).count(&options);
    fs::rename(root.path().join("d0"), root.path().join("e0")).unwrap();
    fs::rename(root.path().join("d1"), root.path().join("e1")).unwrap();
    fs::rename(root.path().join("d2"), root.path().join("e2")).unwrap();
    // Another directory under an old name.
    fs::create_dir(root.path().join("d0")).unwrap();
    let mut errors = 0;
    for partition in &counted.rest {
        let source = Watched::new(root.path());
        let rest = engine::run(&source, &self::options(), &Progress::default(), partition, None).unwrap();
        errors += rest.errors + rest.vanished;
    }
    assert!(errors > 0);
}

#[test]
fn a_crafted_partition_leads_nowhere() {
    let outside = tree(2, 10);
    let root = tree(1, 5);
    std::os::unix::fs::symlink(outside.path(), root.path().join("link")).unwrap();
    let encoded = |path: &[u8]| base64::Engine::encode(&base64::engine::general_purpose::STANDARD, path);
    for path in [&b".."[..], b"d0/..", b"/", b"/etc", b"d0//x", b".", b"a\0b", &[b'x'; 300]] {
        for field in ["path", "directories", "unknown"] {
            let partition =
                serde_json::from_value::<Partition>(serde_json::json!({"places": [{ field: encoded(path) }]}));
            assert!(partition.is_err(), "{field} {path:?}");
        }
    }
    let into_link = serde_json::json!({"places": [
        {"path": encoded(b"link")}, {"path": encoded(b"link/d0")}, {"directories": encoded(b"link")},
        {"unknown": encoded(b"link")}, {"path": encoded(b"d0"), "from": {"cookie": "12345", "inode": "1"}},
    ]});
    let partition: Partition = serde_json::from_value(into_link).unwrap();
    let counted = Walk::new(root.path()).count_partition(&partition).unwrap();
    assert_eq!((counted.files, counted.complete()), (0, false), "{counted:?}");
}

#[test]
fn a_walk_ends_above_a_number() {
    let root = tree(30, 100);
    let counted = Walk::new(root.path()).threads(2).stop_above(Some(500)).count().unwrap();
    assert!(counted.files > 500 && counted.files < 3100 && counted.truncated && !counted.complete(), "{counted:?}");
    assert!(counted.rest.is_empty());
    assert!(Walk::new(root.path()).stop_above(Some(3100)).count().unwrap().complete());
}

#[test]
fn a_budget_of_time_ends_a_walk() {
    let root = tree(30, 100);
    let counted = Walk::new(root.path()).threads(1).until(Instant::now()).count().unwrap();
    assert!(counted.files < 3100 && !counted.rest.is_empty() && !counted.complete());
    let rest: u64 = counted
        .rest
        .iter()
        .map(|partition| Walk::new(root.path()).count_partition(partition).unwrap())
        .map(|rest| rest.files)
        .sum();
    assert_eq!(counted.files + rest, 3100);
}
