//! The count without a mount: what a real server exports, counted over NFS and in its own directory.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

use std::{
    ffi::OsStr,
    fs,
    net::SocketAddr,
    os::unix::{
        ffi::OsStrExt,
        fs::{MetadataExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::Path,
    process::Command,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use nfs_lab::{Action, Direction, Ganesha, Options, Relay, eventually, lab_or_skip};
use proptest::prelude::*;
use walk::{
    Cache, Counted, Partition, Walk,
    nfs::{Credentials, Location},
};

/// What it exports changes while it runs.
fn lab() -> Option<Ganesha> {
    lab_or_skip(Options { cached: false, ..Options::default() })
}

fn at(address: SocketAddr, path: impl AsRef<[u8]>) -> Location {
    Location::new(address.ip().to_string(), address.port(), path.as_ref())
}

fn over_nfs(server: &Ganesha, path: &str) -> Walk {
    Walk::nfs(at(server.address(), path))
}

fn numbers(counted: &Counted) -> [u64; 5] {
    let Counted { files, directories, vanished, errors, unchanged, .. } = counted;
    [*files, *directories, *vanished, *errors, *unchanged]
}

/// `directories` of them with `files` each, and as many above them.
fn fill(root: &Path, directories: usize, files: usize) {
    let folders = (0..directories).map(|number| root.join(format!("d{number}")));
    for folder in std::iter::once(root.to_owned()).chain(folders) {
        fs::create_dir_all(&folder).unwrap();
        for number in 0..files {
            fs::File::create(folder.join(format!("file {number:04}"))).unwrap();
        }
    }
}

/// A first walk, and walks of all that it and they have left.
fn in_parts(mut walk: impl FnMut() -> Walk) -> (u64, usize) {
    let (mut files, mut walks) = (0, 0);
    let mut left = vec![Partition::whole()];
    while let Some(partition) = left.pop() {
        let counted = walk().count_partition(&partition).unwrap();
        assert_eq!((counted.errors, counted.truncated), (0, false), "{:?}", counted.first_errors);
        files += counted.files;
        walks += 1;
        // As they travel.
        left.extend(
            counted
                .rest
                .iter()
                .map(|rest| serde_json::from_str::<Partition>(&serde_json::to_string(rest).unwrap()).unwrap()),
        );
    }
    (files, walks)
}

#[test]
fn a_tree_with_everything_in_it() {
    let Some(server) = lab() else { return };
    let root = server.directory().join("tree");
    let at = |name: &str| root.join(name);
    fs::create_dir_all(at("a/b/.hidden directory")).unwrap();
    fs::create_dir(at("empty")).unwrap();
    for file in ["plain", ".hidden", "a/new\nline", "a/b/.hidden directory/x", "a/b/-n", "a/ ", "a/*"] {
        fs::write(at(file), "").unwrap();
    }
    for name in [&b"not \xff UTF-8"[..], &[b'x'; 255], b"\\", b"\x01"] {
        fs::write(root.join(OsStr::from_bytes(name)), "").unwrap();
    }
    fs::create_dir(root.join(OsStr::from_bytes(b"nor \xfe this"))).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"nor \xfe this/file")), "").unwrap();
    fs::hard_link(at("plain"), at("a/a second name of it")).unwrap();
    for (to, name) in [("plain", "to a file"), ("a", "to a directory"), ("..", "a/up"), ("nowhere", "broken")] {
        symlink(to, at(name)).unwrap();
    }
    let _socket = UnixListener::bind(at("socket")).unwrap();
    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());

    let counted = over_nfs(&server, "tree").count().unwrap();
    assert_eq!(numbers(&counted), numbers(&walk::count(&root).unwrap()), "{:?}", counted.first_errors);
    assert_eq!((counted.files, counted.directories, counted.complete()), (13, 6, true));
    let below = Location::new("127.0.0.1", server.port(), &b"tree/nor \xfe this"[..]);
    assert_eq!(Walk::nfs(below.to_string().parse().unwrap()).count().unwrap().files, 1);
}

/// One call for each directory, whatever is in it.
#[test]
fn a_directory_is_one_round_trip() {
    let Some(server) = lab() else { return };
    fill(server.directory(), 50, 20);
    let relay = Relay::target(2, server.address());
    let calls = |walk: Walk| {
        let before = relay.counts().calls;
        let counted = walk.count().unwrap();
        assert_eq!((counted.files, counted.directories), (51 * 20, 51));
        relay.counts().calls - before
    };
    let (one, many) = (calls(Walk::nfs(at(relay.address(), "")).threads(1)), calls(Walk::nfs(at(relay.address(), ""))));
    // To connect and to take leave takes some.
    assert_eq!(one, many);
    assert!((51 + 1..51 + 12).contains(&one), "{one} calls");
}

#[test]
fn a_tree_may_be_deeper_than_a_path_is_long() {
    use rustix::fs::{CWD, Mode, OFlags, mkdirat, openat};
    let Some(server) = lab() else { return };
    let name = "a name that is rather long, since it does not take many of these then";
    let mut at = openat(CWD, server.directory(), OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..200 {
        mkdirat(&at, name, Mode::RWXU).unwrap();
        at = openat(&at, name, OFlags::DIRECTORY, Mode::empty()).unwrap();
        openat(&at, "file", OFlags::CREATE | OFlags::WRONLY, Mode::RUSR).unwrap();
    }
    let counted = over_nfs(&server, "").count().unwrap();
    assert_eq!((counted.files, counted.directories, counted.complete()), (200, 201, true));
    assert_eq!(in_parts(|| over_nfs(&server, "").steps(50).return_unvisited(3, 100_000)).0, 200);
    // Nothing else can remove it without a path that is too long.
    assert!(Command::new("rm").arg("-rf").arg(server.directory().join(name)).status().unwrap().success());
}

#[test]
fn a_directory_of_a_hundred_thousand_entries() {
    let Some(server) = lab() else { return };
    let root = server.directory();
    for number in 0..100_000 {
        fs::File::create(root.join(format!("{number:06} with a name of some length"))).unwrap();
    }
    fill(&root.join("below"), 3, 10);
    let counted = over_nfs(&server, "").count().unwrap();
    assert_eq!((counted.files, counted.directories, counted.complete()), (100_040, 5, true));
    // By its cookies, from one client to the next.
    let (files, walks) = in_parts(|| over_nfs(&server, "").buffer(128 << 10).threads(4).steps(3));
    assert_eq!(files, 100_040);
    assert!(walks > 5, "{walks} walks");
}

/// What is left does not know what the server calls the state of the directory; and that it has changed since is no
/// reason to lose the place in it.
#[test]
fn a_directory_that_changes_is_gone_on_with() {
    let Some(server) = lab() else { return };
    fill(server.directory(), 0, 5000);
    let relay = Relay::target(2, server.address());
    let (directory, mut pages) = (server.directory().to_owned(), 0);
    relay.on_record(move |way, record| {
        // A page that is not the last.
        if way == Direction::ToClient && record.len() > 8000 {
            pages += 1;
            thread::sleep(Duration::from_millis(20));
            fs::write(directory.join(format!("file 0000 {pages}")), "").unwrap();
        }
        Action::Pass
    });
    let counted = Walk::nfs(at(relay.address(), "")).buffer(32 << 10).count().unwrap();
    assert_eq!((counted.errors, counted.complete()), (0, true), "{:?}", counted.first_errors);
    assert!(counted.files >= 5000, "{}", counted.files);
}

#[test]
fn what_cannot_be_read_is_an_error_as_the_kernel_has_it() {
    let Some(server) = lab() else { return };
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(server.directory(), 0o755);
    for number in 0..150 {
        let directory = server.directory().join(format!("closed\t{number}"));
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("file"), "").unwrap();
        mode(&directory, if number % 2 == 0 { 0 } else { 0o100 });
    }
    fs::write(server.directory().join("file"), "").unwrap();
    let nobody = Credentials { user: 65534, group: 65534, groups: vec![] };
    let location = Location { credentials: nobody, ..at(server.address(), "") };
    let counted = Walk::nfs(location.clone()).count().unwrap();
    assert_eq!((counted.files, counted.directories, counted.complete(), counted.errors), (1, 1, false, 150));
    assert_eq!(counted.first_errors.len(), 100);
    assert!(counted.first_errors[0].starts_with("closed\\t"), "{}", counted.first_errors[0]);
    assert!(counted.first_errors[0].ends_with(": Permission denied (os error 13)"), "{}", counted.first_errors[0]);
    assert_eq!(over_nfs(&server, "").count().unwrap().files, 151, "root may");
    mode(server.directory(), 0);
    let err = Walk::nfs(location).count().unwrap_err().to_string();
    assert!(err.contains(&format!("nfs://127.0.0.1:{}/ cannot be read: Permission denied", server.port())), "{err}");
}

#[test]
fn what_cannot_be_counted_at_all_is_an_error() {
    let Some(server) = lab() else { return };
    fs::write(server.directory().join("file"), "").unwrap();
    symlink(".", server.directory().join("link")).unwrap();
    for (path, part) in
        [("missing", "No such file"), ("file", "Not a directory"), ("link", "Not a directory"), ("file/x", "Not a dir")]
    {
        let err = over_nfs(&server, path).count().unwrap_err().to_string();
        assert!(err.contains(&format!("/{path} cannot be read: ")) && err.contains(part), "{err}");
    }
    let err = over_nfs(&server, "").follow_file_symlinks(true).count().unwrap_err().to_string();
    assert!(err.contains("without a mount"), "{err}");
    let port = server.port();
    drop(server);
    let began = Instant::now();
    let err = Walk::nfs(Location::new("127.0.0.1", port, "")).count().unwrap_err();
    assert!(err.to_string().contains("Connection refused"), "{err}");
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
}

#[test]
fn what_vanishes_is_no_error() {
    let Some(server) = lab() else { return };
    fill(server.directory(), 3, 10);
    let relay = Relay::target(2, server.address());
    let victims = [server.directory().join("d0"), server.directory().join("d1")];
    // After the root was read, and before anything else is.
    relay.on_record(move |way, record| {
        if way == Direction::ToClient && record.windows(2).any(|name| name == b"d1") && victims[0].exists() {
            fs::remove_dir_all(&victims[0]).unwrap();
            fs::remove_dir_all(&victims[1]).unwrap();
            // Nor is it a directory any more.
            symlink("d2", &victims[1]).unwrap();
        }
        Action::Pass
    });
    let counted = Walk::nfs(at(relay.address(), "")).count().unwrap();
    assert_eq!((counted.files, counted.directories, counted.vanished, counted.errors), (20, 2, 2, 0));
    assert!(counted.complete());
}

#[test]
fn other_file_systems_are_not_entered() {
    let Some(server) = lab() else { return };
    fill(server.directory(), 3, 10);
    fill(&server.directory().join("elsewhere"), 3, 10);
    let device = fs::metadata(server.directory()).unwrap().dev();
    let number = |number: u32| u64::from(number).to_be_bytes();
    let of_the_root = [number(rustix::fs::major(device)), number(rustix::fs::minor(device))].concat();
    let relay = Relay::target(2, server.address());
    let mut asked = Vec::new();
    // What is reached by this name says that it is another.
    relay.on_record(move |way, record| {
        match way {
            Direction::ToServer if record.windows(9).any(|name| name == b"elsewhere") => {
                asked.push(record[..4].to_vec());
            }
            Direction::ToClient if asked.iter().any(|call| record.starts_with(call)) => {
                let place = record.windows(16).position(|bytes| bytes == of_the_root).unwrap();
                record[place] ^= 1;
            }
            _ => {}
        }
        Action::Pass
    });
    let staying = Walk::nfs(at(relay.address(), "")).count().unwrap();
    assert_eq!((staying.files, staying.directories, staying.other_file_systems), (40, 4, 1));
    assert!(staying.complete());
    let crossing = Walk::nfs(at(relay.address(), "")).one_file_system(false).count().unwrap();
    assert_eq!((crossing.files, crossing.directories, crossing.other_file_systems), (80, 8, 0));
}

#[test]
fn a_server_that_begins_anew_in_the_middle_is_waited_for() {
    let Some(mut server) = lab() else { return };
    fill(server.directory(), 400, 3);
    let relay = Relay::target(2, server.address());
    relay.delay_round_trip(Duration::from_millis(5));
    let walk = Walk::nfs(at(relay.address(), "")).threads(2);
    let progress = walk.progress();
    let counted = thread::scope(|scope| {
        let counted = scope.spawn(|| walk.count().unwrap());
        eventually("it is in the middle", || (progress.directories() > 50).then_some(()));
        server.start_again();
        counted.join().unwrap()
    });
    assert_eq!((counted.files, counted.directories, counted.errors), (1203, 401, 0), "{:?}", counted.first_errors);
}

#[test]
fn a_server_that_says_nothing_any_more_ends_the_count_with_its_budget() {
    let Some(server) = lab() else { return };
    fill(server.directory(), 400, 3);
    let relay = Relay::target(2, server.address());
    relay.delay_round_trip(Duration::from_millis(5));
    let walk = Walk::nfs(at(relay.address(), "")).threads(2).until(Instant::now() + Duration::from_secs(2));
    let progress = walk.progress();
    let (began, counted) = thread::scope(|scope| {
        let counted = scope.spawn(|| walk.count().unwrap());
        eventually("it is in the middle", || (progress.directories() > 50).then_some(()));
        relay.hang(true);
        (Instant::now(), counted.join().unwrap())
    });
    assert!(!counted.complete() && counted.files > 100 && counted.errors > 0, "{counted:?}");
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
}

#[test]
fn limits_hold() {
    let Some(server) = lab() else { return };
    fill(server.directory(), 300, 10);
    let counted = over_nfs(&server, "").threads(1).stop_above(Some(50)).count().unwrap();
    assert!(counted.truncated && (51..200).contains(&counted.files), "{}", counted.files);
    let counted = over_nfs(&server, "").until(Instant::now()).count().unwrap();
    assert!(!counted.rest.is_empty() && counted.errors == 0);
    assert_eq!(in_parts(|| over_nfs(&server, "").steps(40).return_unvisited(2, 5000)).0, 3010);
}

#[test]
fn what_has_not_changed_is_not_read_again() {
    let Some(mut server) = lab() else { return };
    fill(server.directory(), 5, 10);
    thread::sleep(Duration::from_millis(2100));
    let first = over_nfs(&server, "").count_changed(&Cache::default()).unwrap();
    let second = over_nfs(&server, "").count_changed(first.cache.as_ref().unwrap()).unwrap();
    assert_eq!((first.unchanged, second.unchanged, second.files, second.foreign_cache), (0, 6, 60, false));
    fs::write(server.directory().join("d3/new"), "").unwrap();
    // Or it would not see that itself.
    server.start_again();
    let third = over_nfs(&server, "").count_changed(second.cache.as_ref().unwrap()).unwrap();
    assert_eq!((third.unchanged, third.files), (5, 61));
}

/// As Lambda calls it: on a thread of a runtime.
#[tokio::test]
async fn a_runtime_may_be_around_it() {
    let Some(server) = lab() else { return };
    fill(server.directory(), 200, 2);
    assert_eq!(over_nfs(&server, "").count().unwrap().files, 402);
}

#[test]
fn any_tree_is_counted_as_in_its_own_directory() {
    let Some(server) = lab() else { return };
    let number = AtomicUsize::new(0);
    let entry = (
        proptest::collection::vec("[a-c\u{e9} .]{1,3}", 1..6),
        prop_oneof![4 => Just(0), 2 => Just(1), 1 => Just(2), 1 => Just(3)],
    );
    let config = ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(entries in proptest::collection::vec(entry, 0..80), steps in 1_u64..30, threads in 1_usize..9)| {
        let name = format!("tree {}", number.fetch_add(1, Ordering::Relaxed));
        let root = server.directory().join(&name);
        fs::create_dir(&root).unwrap();
        for (path, kind) in entries {
            if path.iter().any(|name| matches!(&**name, "." | "..")) {
                continue;
            }
            let path = root.join(path.join("/"));
            // Some are in the way of others.
            let _ = fs::create_dir_all(path.parent().unwrap());
            let _ = match kind {
                0 => fs::write(&path, ""),
                1 => fs::create_dir(&path),
                2 => symlink(".", &path),
                _ => UnixListener::bind(&path).map(drop),
            };
        }
        let expected = walk::count(&root).unwrap();
        let counted = over_nfs(&server, &name).threads(threads).count().unwrap();
        prop_assert_eq!(numbers(&counted), numbers(&expected), "{:?}", counted.first_errors);
        prop_assert!(counted.complete());
        let (files, _) = in_parts(|| over_nfs(&server, &name).threads(threads).steps(steps).return_unvisited(3, 3000));
        prop_assert_eq!(files, expected.files);
    });
}
