//! The modes and owners of files and directories that the service makes and replaces, with targets that are mounted.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, chown},
    process::Command,
};

use common::{Request, Server, World};

/// A content that comes in pieces.
const LARGE: usize = 600_000;

/// The service with these variables, run by this script, which has it as `$0`.
fn serve_by(world: &World, script: &str, variables: &[(&str, &str)]) -> Server {
    let program = world.at("router");
    if !program.exists() {
        // Where another user may read it.
        fs::copy(env!("CARGO_BIN_EXE_file-service"), &program).unwrap();
    }
    let inner = world.command(variables);
    let mut command = Command::new("sh");
    command.args(["-c", script]).arg(&program);
    command.env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    Server::start(command)
}

/// The permissions, and to run as others.
fn mode(world: &World, path: &str) -> u32 {
    fs::metadata(world.root().join(path)).unwrap().mode() & 0o7777
}

fn owner(world: &World, path: &str) -> (u32, u32) {
    let found = fs::metadata(world.root().join(path)).unwrap();
    (found.uid(), found.gid())
}

/// Every way to make a file that is not there.
fn ways_to_make() -> Vec<(&'static str, Request)> {
    let create = |path: &str, body: Vec<u8>| Request::put(path, body).header("if-none-match", "*");
    vec![
        ("put", Request::put("/files/put/of/f", "content")),
        ("large", Request::put("/files/large/of/f", vec![b'x'; LARGE]).chunked(100_000)),
        ("append", Request::append("/files/append/of/f", "content")),
        ("create", create("/files/create/of/f", b"content".to_vec())),
        ("large create", create("/files/large%20create/of/f", vec![b'x'; LARGE])),
    ]
}

/// Every way to give another content to a file that is there.
fn ways_to_replace(server: &Server) -> Vec<(&'static str, Request)> {
    let tag = |path: &str| server.get(path).tag().to_owned();
    vec![
        ("put", Request::put("/files/put", "content")),
        ("large", Request::put("/files/large", vec![b'x'; LARGE]).chunked(100_000)),
        ("append", Request::append("/files/append", "content")),
        ("if-match", Request::put("/files/if-match", "content").header("if-match", &tag("/files/if-match"))),
        (
            "large if",
            Request::put("/files/large%20if", vec![b'x'; LARGE]).header("if-match", &tag("/files/large%20if")),
        ),
    ]
}

const REPLACED: [&str; 5] = ["put", "large", "append", "if-match", "large if"];

#[test]
fn what_is_new_has_the_modes_that_are_asked_for_whatever_the_umask_is() {
    let cases = [
        (vec![], 0o644, 0o755),
        (vec![("FILE_MODE", "0600"), ("DIRECTORY_MODE", "0700")], 0o600, 0o700),
        (vec![("FILE_MODE", "666"), ("DIRECTORY_MODE", "777")], 0o666, 0o777),
    ];
    for umask in ["0000", "0022", "0077"] {
        for (variables, file, directory) in &cases {
            let world = World::new(1);
            let server = serve_by(&world, &format!("umask {umask}; exec \"$0\" serve"), variables);
            for (what, request) in ways_to_make() {
                assert_eq!(server.send(&request).status, 201, "{what}");
                let path = |rest: &str| format!("{what}{rest}");
                let found @ [of, above, f] = ["", "/of", "/of/f"].map(|rest| mode(&world, &path(rest)));
                assert_eq!(
                    found,
                    [*directory, *directory, *file],
                    "{what} {umask} {variables:?}: {of:o} {above:o} {f:o}"
                );
            }
        }
    }
}

#[test]
fn a_directory_below_one_with_the_setgid_bit_has_it_too() {
    let world = World::new(1);
    let above = world.root().join("shared");
    fs::create_dir(&above).unwrap();
    fs::set_permissions(&above, fs::Permissions::from_mode(0o2775)).unwrap();
    let server = world.serve(&[]);
    assert_eq!(server.put("/files/shared/a/f", "content").status, 201);
    assert_eq!((mode(&world, "shared/a"), mode(&world, "shared/a/f")), (0o2755, 0o644));
}

#[test]
fn a_file_that_is_replaced_keeps_its_mode_and_its_owner_but_runs_as_nobody_else() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can give a file away");
        return;
    }
    for (before, after) in
        [(0o604, 0o604), (0o660, 0o660), (0o400, 0o400), (0o644, 0o644), (0o6755, 0o755), (0o1640, 0o1640)]
    {
        let world = World::new(1);
        for name in REPLACED {
            let file = world.root().join(name);
            fs::write(&file, "before").unwrap();
            chown(&file, Some(1234), Some(4321)).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(before)).unwrap();
        }
        let server = serve_by(&world, "umask 0077; exec \"$0\" serve", &[]);
        for (what, request) in ways_to_replace(&server) {
            assert_eq!(server.send(&request).status, 204, "{what} {before:o}");
            // An append changes the file that is there, and of that the kernel takes no bit from root.
            let expected = if what == "append" { before } else { after };
            assert_eq!(mode(&world, what), expected, "{what} {before:o}: {:o}", mode(&world, what));
            assert_eq!(owner(&world, what), (1234, 4321), "{what} {before:o}");
        }
    }
}

/// Without privileges the owner cannot be kept, and that is no error.
#[test]
fn a_process_that_may_not_give_files_away_keeps_the_mode_all_the_same() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: only root can become another user");
        return;
    }
    let world = World::new(1);
    for directory in [world.at(""), world.root()] {
        fs::set_permissions(directory, fs::Permissions::from_mode(0o777)).unwrap();
    }
    for name in REPLACED {
        let file = world.root().join(name);
        fs::write(&file, "before").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o6766)).unwrap();
    }
    let script =
        "exec setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps=-all --bounding-set=-all \"$0\" serve";
    let server = serve_by(&world, script, &[]);
    // An append changes the file that is there, whose owner alone may set its time.
    for (what, request) in ways_to_replace(&server).into_iter().filter(|(what, _)| *what != "append") {
        assert_eq!(server.send(&request).status, 204, "{what}");
        let found = (mode(&world, what), owner(&world, what));
        assert_eq!(found, (0o766, (65534, 65534)), "{what}: {:o}", found.0);
    }
}
