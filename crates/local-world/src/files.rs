//! A fresh directory with many files in it.

use std::{
    env,
    fs::{self, File},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

const FILES_PER_DIRECTORY: u64 = 1000;
const MAX_FILES_IN_MEMORY: u64 = 1_000_000;

/// Creates a directory of `files` empty files, a thousand per subdirectory. `go_on` gets the number so far and returns
/// `false` to stop. Dropping the result removes the directory.
///
/// # Errors
/// The file system is full or out of inodes.
pub fn make(files: u64, go_on: impl Fn(u64) -> bool) -> Result<TempDir> {
    let root = tempfile::Builder::new().prefix("efs-autoscale-files-").tempdir_in(place(files))?;
    for first in (0..files).step_by(FILES_PER_DIRECTORY as usize) {
        let directory = root.path().join(format!("{:05}", first / FILES_PER_DIRECTORY));
        fs::create_dir(&directory)?;
        let last = files.min(first + FILES_PER_DIRECTORY);
        (first..last)
            .try_for_each(|number| create(&directory.join(format!("{number:08}"))))
            .with_context(|| format!("after {first} of {files} files"))?;
        ensure!(go_on(last), "stopped after {last} of {files} files");
    }
    Ok(root)
}

/// Creates `files` more empty files in a new subdirectory.
///
/// # Errors
/// As [`make`].
pub fn add(root: &Path, files: u64) -> Result<()> {
    let directory = tempfile::Builder::new().prefix("more-").tempdir_in(root)?.keep();
    (0..files).try_for_each(|number| create(&directory.join(format!("{number:08}"))))
}

/// `TMPDIR` if set, otherwise in memory, about a kilobyte per file. After many deletions ext4 checks each recently freed
/// inode before it takes a new one, and creates a hundred times fewer files per second.
pub fn place(files: u64) -> PathBuf {
    let memory = Path::new("/dev/shm");
    match env::var_os("TMPDIR") {
        None if files <= MAX_FILES_IN_MEMORY && tempfile::tempfile_in(memory).is_ok() => memory.to_owned(),
        _ => env::temp_dir(),
    }
}

fn create(path: &Path) -> Result<()> {
    File::create_new(path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(())
}
