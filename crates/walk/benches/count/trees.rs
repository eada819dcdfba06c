//! The trees that are counted. Making them takes minutes, so they are kept and used again.

use std::{
    fs::{self, OpenOptions},
    io,
    os::unix::{ffi::OsStringExt, fs::symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use rustix::fs::{CWD, FileType, Mode, mknodat};

/// One of them, where it is.
pub struct Tree {
    pub name: &'static str,
    pub title: &'static str,
    pub path: PathBuf,
    /// Regular files in it.
    pub files: u64,
    /// Directories, its root among them.
    pub directories: u64,
}

/// How one is made.
struct Kind {
    name: &'static str,
    title: &'static str,
    make: fn(&Path) -> io::Result<u64>,
}

const KINDS: [Kind; 5] = [
    Kind { name: "flat", title: "1,000,000 files in one directory", make: |root| files(root, 1_000_000) },
    Kind { name: "wide", title: "1,000,000 files in 10,000 directories", make: |root| wide(root, 10_000) },
    Kind { name: "deep", title: "75,000 mixed entries in 5,000 directories, 30 deep", make: deep },
    Kind { name: "flat-100k", title: "100,000 files in one directory", make: |root| files(root, 100_000) },
    Kind { name: "small", title: "100,000 files in 1,000 directories", make: |root| wide(root, 1_000) },
];

/// Where they are kept unless told otherwise.
pub fn home() -> Result<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").filter(|cache| !cache.is_empty()).map(PathBuf::from);
    let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache"))).context("there is no HOME")?;
    Ok(cache.join("efs-autoscale/trees"))
}

impl Tree {
    /// The tree of this name, made if it is not there.
    pub fn at(home: &Path, name: &str) -> Result<Self> {
        let Kind { name, title, .. } = kind(name)?;
        let done = home.join(format!("{name}.done"));
        if !done.exists() {
            // In a process of its own: what this one has once taken would be in the peak of each that it starts.
            let made = Command::new(std::env::current_exe()?).arg("tree").arg(home).arg(name).status()?;
            ensure!(made.success(), "{name}: {made}");
        }
        let text = fs::read_to_string(&done)?;
        let numbers =
            text.trim().split_once(' ').and_then(|(files, all)| Some((files.parse().ok()?, all.parse().ok()?)));
        let (files, directories) = numbers.with_context(|| format!("{}: delete it", done.display()))?;
        Ok(Self { name, title, path: home.join(name), files, directories })
    }
}

fn kind(name: &str) -> Result<Kind> {
    KINDS.into_iter().find(|kind| kind.name == name).with_context(|| format!("there is no tree {name}"))
}

/// Makes it, and then `NAME.done` beside it. What is there of it is left, and completed: ext4 makes files
/// slowly where as many have just been deleted. What else is there is an error.
pub fn make(home: &Path, name: &str) -> Result<()> {
    let Kind { title, make, .. } = kind(name)?;
    let path = home.join(name);
    eprintln!("making {}: {title}", path.display());
    let expected = make(&path).with_context(|| format!("making {}", path.display()))?;
    let (mut files, mut directories) = (0, 0);
    for entry in walkdir::WalkDir::new(&path) {
        let entry = entry?;
        files += u64::from(entry.file_type().is_file());
        directories += u64::from(entry.file_type().is_dir());
    }
    ensure!(files == expected, "{} has {files} files, and should have {expected}", path.display());
    fs::write(home.join(format!("{name}.done")), format!("{files} {directories}\n"))?;
    Ok(())
}

fn files(directory: &Path, number: u64) -> io::Result<u64> {
    fs::create_dir_all(directory)?;
    (0..number).try_for_each(|number| touch(&directory.join(format!("{number:08}"))))?;
    Ok(number)
}

fn wide(root: &Path, directories: u64) -> io::Result<u64> {
    (0..directories).map(|number| files(&root.join(format!("{number:05}")), 100)).sum()
}

/// A file is made if there is none, and one that is there stays as it is.
fn touch(path: &Path) -> io::Result<()> {
    OpenOptions::new().append(true).create(true).open(path).map(drop)
}

/// Everything that a walker may stumble over, and the same each time: directories in directories, empty
/// ones, few and many files, hidden names, names that are no text, hard links, symbolic links to files, to
/// directories and to nothing, fifos.
fn deep(root: &Path) -> io::Result<u64> {
    const DIRECTORIES: usize = 5_000;
    const DEPTH: usize = 30;
    fs::create_dir_all(root)?;
    let mut random = Random(1);
    let mut directories = vec![(root.to_owned(), 0)];
    let mut files = 0;
    while directories.len() < DIRECTORIES {
        // Often in the last one, so that it becomes deep.
        let last = directories.len() - 1;
        let parent = if random.below(2) == 0 { last } else { random.below(last + 1) };
        let (parent, depth) = &directories[parent];
        if *depth == DEPTH {
            continue;
        }
        let (directory, depth) = (parent.join(name(&mut random, "d", directories.len())), depth + 1);
        already(fs::create_dir(&directory))?;
        let entries = match random.below(5) {
            0 => 0,
            1 => random.below(80),
            _ => random.below(17),
        };
        for number in 0..entries {
            let path = directory.join(name(&mut random, "f", number));
            match random.below(20) {
                0 => already(symlink("..", path))?,
                1 => already(symlink("nowhere", path))?,
                2 => already(mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).map_err(Into::into))?,
                3 => {
                    touch(&path)?;
                    already(fs::hard_link(&path, directory.join(format!("hard link {number}"))))?;
                    already(symlink(path.file_name().unwrap_or_default(), directory.join(format!("link {number}"))))?;
                    files += 2;
                }
                _ => {
                    touch(&path)?;
                    files += 1;
                }
            }
        }
        directories.push((directory, depth));
    }
    Ok(files)
}

fn already(made: io::Result<()>) -> io::Result<()> {
    made.or_else(|err| if err.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(err) })
}

fn name(random: &mut Random, prefix: &str, number: usize) -> PathBuf {
    let mut name = format!("{prefix}{number}").into_bytes();
    match random.below(12) {
        0 | 1 => name.insert(0, b'.'),
        2 => name.extend(b" with spaces"),
        3 => name.extend([0xFF, b'\n', 0xFE]),
        4 => name.extend([b'x'; 100]),
        _ => {}
    }
    std::ffi::OsString::from_vec(name).into()
}

/// Knuth's linear congruential generator: the same everywhere and for ever, which is all that is asked here.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The lower bits are not random.
        (self.0 >> 33) as usize % end
    }
}
