//! Every way of counting, on the same trees with mounts in them: one table of what each tree has in it, and of what is
//! on its root's file system.
//!
//! The mounts are made in a mount namespace of a child process, and go with it.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test says what it takes for granted")]

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    sync::mpsc,
    thread,
    time::Duration,
};

use nfs_lab::Ganesha;

use crate::{Cache, Counted, Options, Partition, Progress, Walk, engine, kernel::Kernel, nfs::Location};

/// Set for the child: the directory that it works in.
const DIRECTORY_VARIABLE: &str = "WALK_TEST_MOUNTS_IN";

/// Runs the test of this name again, in a mount namespace of its own; in there, the directory to work in. It is this
/// process that removes it: for the other one it is full of mounts.
fn in_namespace(name: &str) -> Option<PathBuf> {
    if let Some(place) = env::var_os(DIRECTORY_VARIABLE) {
        return Some(place.into());
    }
    if let Err(err) = Ganesha::available() {
        assert!(env::var("CI").as_deref() != Ok("true"), "CI has to have it: {err}");
        println!("skipped: {err}");
        return None;
    }
    let place = tempfile::tempdir_in("/dev/shm").unwrap();
    let mut child = Command::new("unshare");
    child.arg("-m").arg(env::current_exe().unwrap()).args(["--exact", "--nocapture", &format!("mounts::{name}")]);
    assert!(child.env(DIRECTORY_VARIABLE, place.path()).status().unwrap().success(), "see above");
    place.close().unwrap();
    None
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// So many files in a directory that is made where it is not there.
fn fill(directory: &Path, files: usize) {
    fs::create_dir_all(directory).unwrap();
    for number in 0..files {
        fs::write(directory.join(format!("file {number}")), "").unwrap();
    }
}

fn bind(from: &Path, to: &Path) {
    if from.is_dir() {
        fs::create_dir_all(to).unwrap();
    }
    run("mount", &["--bind", text(from), text(to)]);
}

/// The numbers that the rule decides: files, directories, directories of other file systems.
type Numbers = (u64, u64, u64);

struct Tree {
    name: &'static str,
    root: PathBuf,
    /// On the root's file system.
    same: Numbers,
    /// Whatever is mounted.
    all: Numbers,
}

fn numbers(counted: &Counted) -> Numbers {
    (counted.files, counted.directories, counted.other_file_systems)
}

/// A tmpfs with another mounted in it, and with parts of both bound into it.
fn mounted(place: &Path) -> Tree {
    let (root, other) = (place.join("mounted"), place.join("mounted/other"));
    fs::create_dir(&root).unwrap();
    run("mount", &["-t", "tmpfs", "one", text(&root)]);
    fill(&root, 1);
    fill(&root.join("plain/below"), 2);
    fs::create_dir(&other).unwrap();
    run("mount", &["-t", "tmpfs", "two", text(&other)]);
    fill(&other.join("deep"), 10);
    fill(&other, 10);
    bind(&root.join("plain"), &root.join("same/bound"));
    bind(&other.join("deep"), &root.join("foreign"));
    // A name of this directory, whatever is there.
    bind(&other.join("file 0"), &root.join("file 0"));
    Tree { name: "mounted", root, same: (1 + 2 + 2, 6, 2), all: (1 + 2 + 2 + 20 + 10, 9, 0) }
}

/// A directory bound into itself: not without end, since in there nothing is mounted. `find` reports it as a loop and
/// skips it.
fn looped(place: &Path) -> Tree {
    let root = place.join("looped");
    fill(&root, 3);
    bind(&root, &root.join("itself"));
    Tree { name: "looped", root, same: (6, 3, 0), all: (6, 3, 0) }
}

/// A btrfs with a subvolume in it: another device, and nothing is mounted.
fn subvolumes(place: &Path) -> Option<Tree> {
    let (root, image) = (place.join("subvolumes"), place.join("image"));
    fs::create_dir(&root).unwrap();
    fs::File::create(&image).unwrap().set_len(256 << 20).unwrap();
    let works = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output();
        output.is_ok_and(|output| output.status.success())
    };
    if !works("mkfs.btrfs", &["-q", text(&image)]) || !works("mount", &["-o", "loop", text(&image), text(&root)]) {
        println!("without subvolumes: this machine makes no btrfs, or mounts none");
        return None;
    }
    fill(&root.join("plain"), 2);
    run("btrfs", &["subvolume", "create", text(&root.join("volume"))]);
    fill(&root.join("volume/deep"), 10);
    bind(&root.join("plain"), &root.join("same"));
    bind(&root.join("volume/deep"), &root.join("foreign"));
    Some(Tree { name: "subvolumes", root, same: (4, 3, 2), all: (24, 6, 0) })
}

fn options(one_file_system: bool) -> Options {
    Walk::new("").one_file_system(one_file_system).options
}

fn of_kernel(root: &Path, one_file_system: bool, openat2: bool) -> Counted {
    let kernel = Kernel::new(root, one_file_system).unwrap();
    if !openat2 {
        kernel.forbid_openat2();
    }
    engine::run(&kernel, &options(one_file_system), &Progress::default(), &Partition::whole(), None).unwrap()
}

/// A step at a time.
fn in_parts(walk: impl Fn() -> Walk) -> Counted {
    let mut left = vec![Partition::whole()];
    let mut sum = Counted::default();
    while let Some(partition) = left.pop() {
        let counted = walk().steps(1).count_partition(&partition).unwrap();
        sum.files += counted.files;
        sum.directories += counted.directories;
        sum.other_file_systems += counted.other_file_systems;
        sum.errors += counted.errors;
        sum.first_errors.extend(counted.first_errors);
        left.extend(counted.rest);
    }
    sum
}

/// What a walk says that goes by what an earlier one has seen.
fn from_memory(walk: impl Fn() -> Walk) -> Counted {
    let first = walk().count_changed(&Cache::default()).unwrap();
    let second = walk().count_changed(first.cache.as_ref().unwrap()).unwrap();
    Counted { directories: second.directories + second.unchanged, ..second }
}

/// What `find` says.
fn found(root: &Path, more: &[&str]) -> u64 {
    let output = Command::new("find").arg(root).args(more).args(["-type", "f", "-printf", "x"]).output().unwrap();
    output.stdout.len() as u64
}

#[test]
fn one_file_system_is_the_same_for_every_way_of_counting() {
    let Some(place) = in_namespace("one_file_system_is_the_same_for_every_way_of_counting") else { return };
    for tree in [Some(mounted(&place)), subvolumes(&place)].into_iter().flatten() {
        let Tree { name, root, same, all } = &tree;
        assert_eq!((found(root, &["-xdev"]), found(root, &[])), (same.0, all.0), "{name}: find");
        let server = Ganesha::start(nfs_lab::Options { directory: Some(root.clone()), ..nfs_lab::Options::default() });
        let over_nfs = || Walk::nfs(Location::new("127.0.0.1", server.port(), ""));
        check(
            &tree,
            &[
                ("over NFS", same, over_nfs().count().unwrap()),
                ("over NFS, in parts", same, in_parts(over_nfs)),
                ("over NFS, from memory", same, from_memory(over_nfs)),
                ("over NFS, everything", all, over_nfs().one_file_system(false).count().unwrap()),
            ],
        );
        check_kernel(&tree);
    }
    // NFS-Ganesha has one lock for both of its names, and waits for itself.
    check_kernel(&looped(&place));
}

fn check_kernel(tree: &Tree) {
    let Tree { root, same, all, .. } = tree;
    let walk = |stay| move || Walk::new(root).one_file_system(stay);
    check(
        tree,
        &[
            ("with openat2", same, of_kernel(root, true, true)),
            ("without openat2", same, of_kernel(root, true, false)),
            ("in parts", same, in_parts(walk(true))),
            ("from memory", same, from_memory(walk(true))),
            ("everything", all, of_kernel(root, false, true)),
            ("everything, in parts", all, in_parts(walk(false))),
            ("everything, from memory", all, from_memory(walk(false))),
        ],
    );
}

fn check(tree: &Tree, ways: &[(&str, &Numbers, Counted)]) {
    let wrong: Vec<_> = ways
        .iter()
        .filter(|(_, expected, counted)| numbers(counted) != **expected || counted.errors > 0)
        .map(|(way, expected, counted)| format!("{way}: {counted:?}, expected {expected:?}"))
        .collect();
    assert!(wrong.is_empty(), "{}: {wrong:#?}", tree.name);
}

/// What does not answer is not asked, when it is enough to know that it is another file system.
#[test]
fn a_mount_that_hangs_is_passed_by() {
    let Some(place) = in_namespace("a_mount_that_hangs_is_passed_by") else { return };
    let (root, behind) = (place.join("root"), place.join("behind"));
    fill(&behind, 1);
    fill(&root, 1);
    fs::create_dir(root.join("hangs")).unwrap();
    let mut server = Command::new("bindfs").arg("-f").args([&behind, &root.join("hangs")]).spawn().unwrap();
    nfs_lab::eventually("it is mounted", || root.join("hangs/file 0").exists().then_some(()));
    run("kill", &["-STOP", &server.id().to_string()]);
    let (done, counted) = mpsc::channel();
    thread::spawn(move || drop(done.send(Walk::new(root).count().unwrap())));
    let counted = counted.recv_timeout(Duration::from_secs(10));
    run("kill", &["-KILL", &server.id().to_string()]);
    server.wait().unwrap();
    let counted = counted.unwrap();
    assert_eq!((numbers(&counted), counted.complete()), ((1, 1, 1), true), "{counted:?}");
}

/// One export below another: the server's word for it is the file system's number, as everywhere.
#[test]
fn an_export_below_another_belongs_to_it_by_its_file_system() {
    let Some(place) = in_namespace("an_export_below_another_belongs_to_it_by_its_file_system") else { return };
    let (root, same, other) = (place.join("root"), place.join("same"), place.join("other"));
    fill(&root, 1);
    fill(&same.join("below"), 2);
    fs::create_dir(&other).unwrap();
    run("mount", &["-t", "tmpfs", "other", text(&other)]);
    fill(&other, 10);
    fs::create_dir(root.join("same")).unwrap();
    fs::create_dir(root.join("other")).unwrap();
    let export = |number: u8, name: &str, path: &Path| {
        format!(
            "}} EXPORT {{ Export_Id = {number}; Path = {path:?}; Pseudo = /{name}; Protocols = 4; Transports = TCP; \
             SecType = sys; Access_Type = RW; Squash = No_Root_Squash; FSAL {{ Name = VFS; }}"
        )
    };
    let export = export(2, "same", &same) + &export(3, "other", &other);
    let server = Ganesha::start(nfs_lab::Options { directory: Some(root), export, ..nfs_lab::Options::default() });
    let walk = || Walk::nfs(Location::new("127.0.0.1", server.port(), ""));
    let staying = walk().count().unwrap();
    assert_eq!((numbers(&staying), staying.complete()), ((3, 3, 1), true), "{staying:?}");
    let crossing = walk().one_file_system(false).count().unwrap();
    assert_eq!((numbers(&crossing), crossing.complete()), ((13, 4, 0), true), "{crossing:?}");
}

/// Mounted while the server runs: NFS-Ganesha does not go there, and does not list the directory that it is in.
#[test]
fn a_directory_that_the_server_does_not_list_for_a_mount_in_it_makes_the_count_incomplete() {
    let Some(place) =
        in_namespace("a_directory_that_the_server_does_not_list_for_a_mount_in_it_makes_the_count_incomplete")
    else {
        return;
    };
    let root = place.join("root");
    let late = root.join("directory/late");
    fill(&late, 1);
    fill(&root.join("directory"), 3);
    fill(&root, 1);
    let options = nfs_lab::Options { directory: Some(root), cached: false, ..nfs_lab::Options::default() };
    let server = Ganesha::start(options);
    run("mount", &["-t", "tmpfs", "late", text(&late)]);
    for stay in [true, false] {
        let counted = Walk::nfs(Location::new("127.0.0.1", server.port(), "")).one_file_system(stay).count().unwrap();
        assert_eq!((numbers(&counted), counted.complete()), ((1, 1, 0), false), "{counted:?}");
        assert_eq!(counted.first_errors, ["directory: READDIR: NFS4ERR_XDEV"]);
    }
}
