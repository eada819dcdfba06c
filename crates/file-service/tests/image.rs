//! The images of the Dockerfile: what their promises are, that the program finds all that it needs in the smaller one,
//! and, where there is a builder, that it comes out of one and runs. The bases come from registries, so a directory with
//! the libraries that distroless has stands for that one, and the program of the tests for what `make build-image` builds.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use common::{Server, list};
use serde_json::Value;
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_file-service");
const BASE: &str = "gcr.io/distroless/cc-debian12:nonroot";
/// Of libc6 and libgcc-s1. That base has OpenSSL besides, to which nothing here is to be linked; what other libraries had
/// once (threads, loading, clocks) is in libc.
const LIBRARIES: [&str; 3] = ["libc.so.6", "libm.so.6", "libgcc_s.so.1"];
const LOADERS: [&str; 2] = ["ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"];

fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// One line of a Dockerfile: the instruction, and what follows it.
type Line = (String, String);

/// The stages by name, in order.
fn stages() -> Vec<(String, Vec<Line>)> {
    let text = fs::read_to_string(project().join("crates/file-service/Dockerfile")).unwrap();
    let text: String = text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    let mut stages: Vec<(String, Vec<Line>)> = Vec::new();
    for line in text.replace("\\\n", " ").lines().filter(|line| !line.is_empty()) {
        let (instruction, rest) = line.split_once(' ').unwrap();
        if instruction == "FROM" {
            let (_, name) = rest.split_once(" AS ").unwrap();
            stages.push((name.to_owned(), Vec::new()));
        }
        stages.last_mut().unwrap().1.push((instruction.to_owned(), rest.trim().to_owned()));
    }
    stages
}

fn all<'a>(stage: &'a [Line], instruction: &str) -> Vec<&'a str> {
    stage.iter().filter(|(known, _)| known == instruction).map(|(_, rest)| rest.as_str()).collect()
}

#[test]
fn the_dockerfile_keeps_its_promises() {
    let stages = stages();
    let names: Vec<_> = stages.iter().map(|(name, _)| name.as_str()).collect();
    // As cdk/ names them; the last is what is built when none is named.
    assert_eq!(names, ["mounted", "nfs"]);
    let [(_, mounted), (_, nfs)] = &stages[..] else { panic!("{names:?}") };
    for stage in [mounted, nfs] {
        for (instruction, expected) in [
            // Nothing is compiled: what is there was built for the processor that it is for.
            ("COPY", "bootstrap /file-service"),
            ("EXPOSE", "8080"),
            ("ENV", "LISTEN=0.0.0.0:8080"),
            // Lists: no shell in between, which would not hand SIGTERM on, and which one of the two has not.
            ("ENTRYPOINT", r#"["/file-service"]"#),
            ("CMD", r#"["serve"]"#),
        ] {
            assert_eq!(all(stage, instruction), [expected], "{instruction}");
        }
    }
    // Numbers: Kubernetes and ECS cannot tell that a name is not root's.
    assert_eq!((all(nfs, "USER"), all(mounted, "USER")), (vec!["65532:65532"], vec!["0:0"]));
    assert_eq!(all(nfs, "FROM"), [format!("{BASE} AS nfs")]);
    assert_eq!(all(nfs, "RUN"), [""; 0]);
    // One release of Debian in both: what runs in one runs in the other.
    assert!(all(mounted, "FROM")[0].contains(":bookworm-") && BASE.contains("debian12"));
    let workspace: String = fs::read_to_string(project().join("Cargo.toml")).unwrap();
    assert!(workspace.contains("\n[profile.service]\n"), "as which the program is built");
}

#[test]
fn the_program_needs_no_library_that_the_smaller_image_has_not() {
    let output = Command::new("readelf").args(["--dynamic", "--wide", PROGRAM]).env("LC_ALL", "C").output();
    let output = output.expect("readelf comes with the linker, in binutils");
    let said = String::from_utf8(output.stdout).unwrap();
    let needed: Vec<_> = said
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split_once('[')?.1.split_once(']'))
        .map(|(name, _)| name)
        .collect();
    assert!(needed.contains(&"libc.so.6"), "{said}");
    for name in needed {
        assert!(LIBRARIES.contains(&name) || LOADERS.contains(&name), "{name} is not in the image");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// With a builder

/// Debian's own, which needs no service and no registry; with a store of its own, which goes with it.
struct Builder(TempDir);

impl Builder {
    /// Nothing, and a word, where there is none.
    fn new() -> Option<Self> {
        let there = Command::new("buildah").arg("--version").output().is_ok_and(|output| output.status.success());
        if there && rustix::process::geteuid().is_root() {
            return Some(Self(tempfile::tempdir().unwrap()));
        }
        assert!(std::env::var("CI").as_deref() != Ok("true"), "there is no builder of images");
        println!("skipped, there is no builder of images, or no root: apt-get install buildah");
        None
    }

    fn run(&self, arguments: &[&str]) -> std::process::Output {
        let at = |name: &str| self.0.path().join(name);
        let mut command = Command::new("buildah");
        command.args(["--storage-driver", "vfs", "--root"]).arg(at("store")).arg("--runroot").arg(at("run"));
        // In the terms of a plain chroot: a machine that is a container itself has no more to give.
        command.env("BUILDAH_ISOLATION", "chroot").env("TMPDIR", self.0.path()).stdin(Stdio::null());
        command.args(arguments).output().unwrap()
    }

    /// What it says on stdout.
    fn done(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// A directory with these files, each of which is executable.
    fn directory(&self, name: &str, files: &[(&str, &Path)]) -> String {
        let directory = self.0.path().join(name);
        fs::create_dir(&directory).unwrap();
        for (name, from) in files {
            let to = directory.join(name);
            fs::create_dir_all(to.parent().unwrap()).unwrap();
            fs::copy(from, to).unwrap();
        }
        directory.to_str().unwrap().to_owned()
    }

    /// An image of such a directory alone.
    fn image(&self, name: &str, directory: &str) {
        let file = self.0.path().join("alone");
        fs::write(&file, "FROM scratch\nCOPY . /\n").unwrap();
        self.done(&["build", "--quiet", "--tag", name, "--file", file.to_str().unwrap(), directory]);
    }
}

/// The libraries of this machine, where the loader looks for them in the image.
fn libraries() -> Vec<(String, PathBuf)> {
    let output = Command::new("ldd").arg(PROGRAM).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let paths = said.split_whitespace().filter(|word| word.starts_with('/'));
    let known = |path: &&str| {
        let name = path.rsplit('/').next().unwrap();
        LIBRARIES.contains(&name) || LOADERS.contains(&name)
    };
    paths.filter(known).map(|path| (path[1..].to_owned(), fs::canonicalize(path).unwrap())).collect()
}

#[test]
fn a_builder_makes_the_smaller_image_and_it_serves_as_nobody() {
    let Some(builder) = Builder::new() else { return };
    let libraries = libraries();
    let files: Vec<_> = libraries.iter().map(|(name, from)| (name.as_str(), from.as_path())).collect();
    builder.image(BASE, &builder.directory("base", &files));
    let built = builder.directory("built", &[("bootstrap", Path::new(PROGRAM))]);
    let file = project().join("crates/file-service/Dockerfile");
    builder.done(&[
        "build",
        "--quiet",
        "--pull=never",
        "--target",
        "nfs",
        "--tag",
        "file-service",
        "--file",
        file.to_str().unwrap(),
        &built,
    ]);
    let container = builder.done(&["from", "--pull=never", "localhost/file-service"]);
    let config: Value = serde_json::from_str(&builder.done(&["inspect", &container])).unwrap();
    let config = &config["OCIv1"]["config"];
    assert_eq!(
        (&config["User"], &config["Entrypoint"][0], &config["Cmd"][0]),
        (&"65532:65532".into(), &"/file-service".into(), &"serve".into())
    );

    // A service in it, with nothing of this machine but its network. It is made by this process, and ended by it.
    let root = builder.done(&["mount", &container]);
    fs::create_dir_all(format!("{root}/mnt/efs-0")).unwrap();
    std::os::unix::fs::chown(format!("{root}/mnt/efs-0"), Some(65532), Some(65532)).unwrap();
    fs::write(format!("{root}/targets.json"), list(1)).unwrap();
    let mut command = Command::new("chroot");
    command.args(["--userspec=65532:65532", &root, "/file-service", "serve"]).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap()).env("TARGETS_FILE", "/targets.json");
    command.envs([("MOUNT_BASE", "/mnt"), ("LISTEN", "127.0.0.1:0")]);
    let mut server = Server::start(command);
    assert_eq!(server.put("/files/f", "content").status, 201);
    assert_eq!(server.get("/files/f").body, b"content");
    let written = fs::metadata(format!("{root}/mnt/efs-0/f")).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::uid(&written), 65532);

    // And its health check as an engine does it: as the image's user, with its variables.
    let listen = format!("LISTEN={}", server.address);
    let healthy = ["run", "--env", &listen, &container, "--", "/file-service", "healthy"];
    builder.done(&healthy);
    server.terminate();
    assert_eq!(server.wait().code(), Some(0));
    let output = builder.run(&healthy);
    assert!(
        !output.status.success() && String::from_utf8_lossy(&output.stderr).contains("not healthy: "),
        "{output:?}"
    );
    // No shell, and nothing else to run.
    assert!(!builder.run(&["run", &container, "--", "/bin/sh", "-c", "true"]).status.success());
}
