//! What is compared: each tool as a command that is a process of its own.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, ensure};

use crate::trees::Tree;

/// The original design's way, and its way with a pool, which leaves out the files directly in the root.
const RGLOB: &str = "
import pathlib, sys
print(sum(1 for path in pathlib.Path(sys.argv[1]).rglob('*') if path.is_file()))";
const POOL: &str = "
import concurrent.futures, pathlib, sys
def count(directory): return sum(1 for path in directory.rglob('*') if path.is_file())
with concurrent.futures.ThreadPoolExecutor(max_workers=4) as pool:
    print(sum(pool.map(count, [path for path in pathlib.Path(sys.argv[1]).iterdir() if path.is_dir()])))";

/// What a tool prints of what it counted.
#[derive(Clone, Copy, PartialEq)]
pub enum Prints {
    /// The number.
    Number,
    /// This byte for each file.
    Each(u8),
    /// Nothing that is a count.
    Nothing,
}

/// A tool with one setting.
pub struct Tool {
    /// What it is called in a table.
    pub name: &'static str,
    /// One of the tools that differ in their setting only.
    pub family: &'static str,
    pub prints: Prints,
    command: Kind,
}

enum Kind {
    /// A mode of this program, and whether it goes by a file.
    Peer(&'static str, Option<File>),
    /// A program and its arguments; `{}` is the directory.
    Program(&'static str, &'static [&'static str]),
    Python(&'static str),
}

/// What some are given besides the directory.
#[derive(Clone, Copy)]
enum File {
    List,
    Cache,
}

impl Tool {
    const fn peer(name: &'static str, family: &'static str, mode: &'static str) -> Self {
        Self { name, family, prints: Prints::Number, command: Kind::Peer(mode, None) }
    }

    const fn program(
        name: &'static str,
        prints: Prints,
        program: &'static str,
        arguments: &'static [&'static str],
    ) -> Self {
        Self { name, family: program, prints, command: Kind::Program(program, arguments) }
    }

    const fn python(name: &'static str, program: &'static str) -> Self {
        Self { name, family: name, prints: Prints::Number, command: Kind::Python(program) }
    }

    pub fn is_python(&self) -> bool {
        matches!(self.command, Kind::Python(_))
    }

    /// No tool, but what they all need.
    pub fn is_bare(&self) -> bool {
        matches!(self.command, Kind::Peer("pure", _))
    }

    /// The process that counts a tree.
    pub fn command(&self, tree: &Tree, files: &Files) -> Result<Command> {
        let mut command = match self.command {
            Kind::Peer(mode, file) => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["peer", mode]).arg(&tree.path);
                command.args(file.map(|file| match file {
                    File::List => files.list(tree),
                    File::Cache => files.cache(tree),
                }));
                command
            }
            Kind::Program(program, arguments) => {
                let mut command = Command::new(program);
                for argument in arguments {
                    match *argument {
                        "{}" => command.arg(&tree.path),
                        other => command.arg(other),
                    };
                }
                command
            }
            Kind::Python(program) => {
                let mut command = Command::new(&files.python);
                command.args(["-c", program]).arg(&tree.path);
                command
            }
        };
        // Cargo's, which would have each program look for its libraries in dozens of places first.
        command.env_remove("LD_LIBRARY_PATH").stdin(Stdio::null()).stderr(Stdio::inherit());
        Ok(command)
    }
}

pub const OURS: Tool = Tool::peer("ours", "ours", "ours");
pub const PURE: Tool = Tool {
    prints: Prints::Nothing,
    command: Kind::Peer("pure", Some(File::List)),
    ..Tool::peer("pure getdents64", "pure getdents64", "pure")
};
pub const UNCHANGED: Tool = Tool {
    command: Kind::Peer("unchanged", Some(File::Cache)),
    ..Tool::peer("ours, by a cache", "ours, by a cache", "unchanged")
};

/// All that counts everything each time, ours first.
pub const TOOLS: [Tool; 16] = [
    OURS,
    PURE,
    Tool::program("find", Prints::Each(b'x'), "find", &["{}", "-type", "f", "-printf", "x"]),
    Tool::program("fd", Prints::Each(0), "fd", &["--no-ignore", "--hidden", "--type", "f", "-0", ".", "{}"]),
    Tool::program(
        "fd -j64",
        Prints::Each(0),
        "fd",
        &["-j64", "--no-ignore", "--hidden", "--type", "f", "-0", ".", "{}"],
    ),
    Tool::program("rg --files", Prints::Each(0), "rg", &["--files", "--no-ignore", "--hidden", "-0", "{}"]),
    Tool::program(
        "rg --files -j64",
        Prints::Each(0),
        "rg",
        &["-j64", "--files", "--no-ignore", "--hidden", "-0", "{}"],
    ),
    Tool::program("dua aggregate", Prints::Nothing, "dua", &["aggregate", "{}"]),
    Tool::program("dua aggregate -t64", Prints::Nothing, "dua", &["-t64", "aggregate", "{}"]),
    Tool::peer("ignore", "ignore", "ignore"),
    Tool::peer("ignore, 64 threads", "ignore", "ignore-64"),
    Tool::peer("jwalk", "jwalk", "jwalk"),
    Tool::peer("jwalk, 64 threads", "jwalk", "jwalk-64"),
    Tool::peer("walkdir", "walkdir", "walkdir"),
    Tool::python("Python rglob", RGLOB),
    Tool::python("Python, 4 threads", POOL),
];

/// What is made of the trees beforehand, and gone afterwards.
pub struct Files {
    directory: tempfile::TempDir,
    /// The interpreter itself: what is in the PATH may be a script that looks for it.
    python: PathBuf,
}

impl Files {
    pub fn new() -> Result<Self> {
        let found = Command::new("python3").args(["-c", "import sys; print(sys.executable, end='')"]).output();
        let python = String::from_utf8(found.context("python3")?.stdout)?.into();
        Ok(Self { directory: tempfile::tempdir()?, python })
    }

    /// In processes of their own: what this one has once taken would be in the peak of each that it starts.
    pub fn make(&self, tree: &Tree) -> Result<()> {
        let list: [&Path; 3] = [Path::new("list"), &tree.path, &self.list(tree)];
        let cache: [&Path; 4] = [Path::new("peer"), Path::new("learn"), &tree.path, &self.cache(tree)];
        for arguments in [&list[..], &cache] {
            let made = Command::new(std::env::current_exe()?).args(arguments).stdout(Stdio::null()).status()?;
            ensure!(made.success(), "{arguments:?}: {made}");
        }
        Ok(())
    }

    fn list(&self, tree: &Tree) -> PathBuf {
        self.directory.path().join(format!("{}.list", tree.name))
    }

    fn cache(&self, tree: &Tree) -> PathBuf {
        self.directory.path().join(format!("{}.cache", tree.name))
    }
}
