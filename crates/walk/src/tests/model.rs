//! Random trees, changes of them, and caches: against a plain recursive count.

use std::{collections::BTreeMap, fs, os::unix::ffi::OsStrExt, path::Path, thread, time::Duration};

use proptest::prelude::*;

use super::{folder, in_parts, options, tree};
use crate::{watched::Watched, *};

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
