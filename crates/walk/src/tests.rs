//! The walk on real directories, with [`Watched`] in between.
#![allow(clippy::panic, reason = "a test that has come to nothing says so")]

use std::{collections::BTreeMap, fs, io, os::unix::ffi::OsStrExt, path::Path, thread, time::Duration};

use proptest::prelude::*;

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

/// Nested vectors: each a directory with so many files.
#[derive(Clone, Debug)]
struct Tree(u8, Vec<Tree>);

impl Tree {
    fn make(&self, at: &Path) -> (u64, u64) {
        fs::create_dir_all(at).unwrap();
        for number in 0..self.0 {
            fs::write(at.join(format!("{number}")), "").unwrap();
        }
        let below = self.1.iter().enumerate().map(|(number, tree)| {
            let mut name = format!("d{number}").into_bytes();
            // Not UTF-8, and of some length.
            name.extend([0xFF; 20]);
            tree.make(&at.join(std::ffi::OsStr::from_bytes(&name)))
        });
        below.fold((u64::from(self.0), 1), |(files, directories), (f, d)| (files + f, directories + d))
    }
}

fn trees() -> impl Strategy<Value = Tree> {
    let leaf = (0..60_u8).prop_map(|files| Tree(files, vec![]));
    leaf.prop_recursive(5, 60, 8, |inner| {
        (0..60_u8, proptest::collection::vec(inner, 0..8)).prop_map(|(files, below)| Tree(files, below))
    })
}

/// What happens to a tree between two walks.
#[derive(Clone, Debug)]
enum Change {
    Add(usize),
    Remove(usize),
    AddDirectory(usize),
    RemoveDirectory(usize),
    MoveDirectory(usize, usize),
}

fn directories(root: &Path) -> Vec<PathBuf> {
    let mut found: Vec<_> = walkdir::WalkDir::new(root)
        .sort_by_file_name()
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| entry.file_type().is_dir())
        .map(walkdir::DirEntry::into_path)
        .collect();
    found.sort();
    found
}

impl Change {
    /// A change that is not possible is none.
    fn make(&self, root: &Path, number: usize) {
        let all = directories(root);
        let at = |index: usize| &all[index % all.len()];
        let _ = match *self {
            Self::Add(index) => fs::write(at(index).join(format!("new {number}")), ""),
            Self::Remove(index) => {
                fs::read_dir(at(index)).unwrap().flatten().next().map_or(Ok(()), |first| fs::remove_file(first.path()))
            }
            Self::AddDirectory(index) => fs::create_dir(at(index).join(format!("new {number}"))),
            Self::RemoveDirectory(index) if at(index) != root => fs::remove_dir_all(at(index)),
            Self::MoveDirectory(from, to) if at(from) != root => {
                fs::rename(at(from), at(to).join(format!("moved {number}")))
            }
            _ => Ok(()),
        };
    }
}

fn changes() -> impl Strategy<Value = Change> {
    let any = 0..1000_usize;
    prop_oneof![
        any.clone().prop_map(Change::Add),
        any.clone().prop_map(Change::Remove),
        any.clone().prop_map(Change::AddDirectory),
        any.clone().prop_map(Change::RemoveDirectory),
        (any.clone(), any).prop_map(|(from, to)| Change::MoveDirectory(from, to)),
    ]
}

fn everything(root: &Path) -> (u64, u64) {
    walkdir::WalkDir::new(root).into_iter().flatten().fold((0, 0), |(files, directories), entry| {
        (files + u64::from(entry.file_type().is_file()), directories + u64::from(entry.file_type().is_dir()))
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    /// However small the budget, and however little may be handed back.
    #[test]
    fn the_parts_are_the_whole(
        tree in trees(),
        reads in 1..30_u64,
        threads in 1..8_usize,
        partitions in 1..5_usize,
        bytes in prop_oneof![Just(usize::MAX), 300..5000_usize],
        resumable in any::<bool>(),
        tells_nothing in any::<bool>(),
    ) {
        let root = folder();
        let expected = tree.make(root.path());
        let mut source = Watched::new(root.path());
        (source.resumable, source.tells_nothing) = (resumable, tells_nothing);
        let options = Options { threads, steps: Some(reads), partitions, partition_bytes: bytes, buffer: 1024, ..options() };
        let (files, directories, exact) = in_parts(&source, &options, 5000);
        if exact.is_some() {
            prop_assert_eq!((files, directories), expected);
        } else {
            prop_assert!(files <= expected.0 && directories <= expected.1);
            prop_assert!(!resumable || bytes < usize::MAX, "there was a way to go on");
        }
    }

    #[test]
    fn what_a_cache_knows_is_what_is_there(
        tree in trees(),
        rounds in proptest::collection::vec(proptest::collection::vec(changes(), 0..6), 1..4),
        threads in 1..8_usize,
    ) {
        let root = folder();
        tree.make(root.path());
        let options = Options { threads, trusted_until: SystemTime::now(), ..options() };
        let mut cache = Cache::default();
        let mut number = 0;
        for changes in rounds {
            let run = |cache: &Cache| {
                let source = Watched::new(root.path());
                engine::run(&source, &options, &Progress::default(), &Partition::whole(), Some(cache)).unwrap()
            };
            let counted = run(&cache);
            prop_assert_eq!((counted.files, counted.directories), everything(root.path()));
            cache = counted.cache.unwrap();
            // A file of it holds the same.
            let file = tempfile::NamedTempFile::new().unwrap();
            cache.save(file.path()).unwrap();
            prop_assert_eq!(&Cache::load(file.path()).unwrap(), &cache);
            let again = run(&cache);
            prop_assert_eq!(again.unchanged, again.directories, "nothing changed");
            for change in changes {
                number += 1;
                change.make(root.path(), number);
            }
        }
    }

    /// Whole by its checksum, and made by somebody else: no walk by it breaks or goes in a circle.
    #[test]
    fn a_crafted_cache_leads_nowhere(body in proptest::collection::vec(0..8_u8, 0..80)) {
        let root = tree(2, 2);
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), cache::sealed(&body)).unwrap();
        if let Ok(cache) = Cache::load(file.path()) {
            prop_assert_eq!(Walk::new(root.path()).count_changed(&cache).unwrap().files, 6);
        }
    }

    #[test]
    fn a_damaged_cache_is_refused(at in 0..2000_usize, to in any::<u8>(), cut in 0..2000_usize) {
        let root = tree(3, 2);
        let cache = Walk::new(root.path()).count_changed(&Cache::default()).unwrap().cache.unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        cache.save(file.path()).unwrap();
        let whole = fs::read(file.path()).unwrap();
        let mut bytes = whole.clone();
        let index = at % bytes.len();
        bytes[index] = to;
        bytes.truncate(bytes.len().saturating_sub(cut % bytes.len()));
        fs::write(file.path(), &bytes).unwrap();
        prop_assert_eq!(Cache::load(file.path()).is_ok(), bytes == whole);
    }
}

#[test]
fn an_unchanged_directory_costs_at_most_three_calls_and_a_file_none() {
    let root = tree(40, 100);
    let options = Options { trusted_until: SystemTime::now(), ..options() };
    let run = |source: &Watched, cache: &Cache| {
        engine::run(source, &options, &Progress::default(), &Partition::whole(), Some(cache)).unwrap()
    };
    let cache = run(&Watched::new(root.path()), &Cache::default()).cache.unwrap();
    let source = Watched::new(root.path());
    let counted = run(&source, &cache);
    assert_eq!((counted.files, counted.unchanged), (4100, 41));
    // The root is stamped once more to see whose cache this is. The others are only looked at from outside.
    assert_eq!(*source.calls.lock().unwrap(), BTreeMap::from([("root", 1), ("stamp", 42)]));
    // One has changed.
    fs::write(root.path().join("d7/new"), "").unwrap();
    let source = Watched::new(root.path());
    let counted = run(&source, &cache);
    assert_eq!((counted.files, counted.unchanged), (4101, 40));
    assert_eq!(source.called("open"), 1);
}

#[test]
fn a_budget_ends_a_walk_in_which_nothing_has_changed() {
    let root = tree(40, 10);
    let run = |options: &Options, partition: &Partition, cache: Option<&Cache>| {
        engine::run(&Watched::new(root.path()), options, &Progress::default(), partition, cache).unwrap()
    };
    let trusting = || Options { trusted_until: SystemTime::now(), threads: 1, ..options() };
    let cache = run(&trusting(), &Partition::whole(), Some(&Cache::default())).cache.unwrap();
    let counted = run(&Options { steps: Some(5), ..trusting() }, &Partition::whole(), Some(&cache));
    assert!(counted.unchanged == 5 && counted.cache.is_none() && !counted.rest.is_empty(), "{counted:?}");
    let rest: u64 = counted.rest.iter().map(|partition| run(&options(), partition, None).files).sum();
    assert_eq!(counted.files + rest, 410);
}

#[test]
fn a_cache_of_another_directory_is_of_no_use() {
    let (one, other) = (tree(2, 5), tree(3, 5));
    let options = |one_file_system| Options { trusted_until: SystemTime::now(), one_file_system, ..options() };
    let run = |root: &tempfile::TempDir, options: &Options, cache: &Cache| {
        let source = Watched::new(root.path());
        engine::run(&source, options, &Progress::default(), &Partition::whole(), Some(cache)).unwrap()
    };
    let first = run(&one, &options(true), &Cache::default());
    assert!(!first.foreign_cache);
    let cache = first.cache.unwrap();
    let counted = run(&other, &options(true), &cache);
    assert_eq!((counted.files, counted.unchanged, counted.foreign_cache), (20, 0, true));
    assert_eq!(counted.cache.unwrap().age(), 0);
    assert!(run(&one, &options(false), &cache).foreign_cache, "by other rules");
    assert_eq!(run(&one, &options(true), &cache).unchanged, 3);
}

#[test]
fn what_changed_just_now_is_not_trusted() {
    let root = tree(2, 5);
    let first = Walk::new(root.path()).count_changed(&Cache::default()).unwrap();
    let second = Walk::new(root.path()).count_changed(first.cache.as_ref().unwrap()).unwrap();
    assert_eq!((second.files, second.unchanged), (15, 0), "it may change again within the tick of a clock");
    // The machine's own times, and its own walk.
    thread::sleep(cache::RACY_WINDOW + Duration::from_millis(100));
    let third = Walk::new(root.path()).count_changed(second.cache.as_ref().unwrap()).unwrap();
    assert_eq!(third.unchanged, 0);
    let fourth = Walk::new(root.path()).count_changed(third.cache.as_ref().unwrap()).unwrap();
    assert_eq!((fourth.files, fourth.unchanged, fourth.cache.unwrap().age()), (15, 3, 3));
    fs::write(root.path().join("d1/new"), "").unwrap();
    let fifth = Walk::new(root.path()).count_changed(third.cache.as_ref().unwrap()).unwrap();
    assert_eq!((fifth.files, fifth.unchanged), (16, 2));
}

#[test]
fn a_file_that_is_no_cache_is_told_from_a_damaged_one() {
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), "something else, of somebody else").unwrap();
    assert!(matches!(Cache::load(file.path()), Err(NotACache::Other)));
    for damaged in ["efs-autoscale count 0001and then nothing that fits", "efs-autoscale count 0002", ""] {
        fs::write(file.path(), damaged).unwrap();
        assert!(matches!(Cache::load(file.path()), Err(NotACache::Damaged)), "{damaged:?}");
    }
    assert_eq!(Cache::load(Path::new("/nowhere/at all")).unwrap(), Cache::default());
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
