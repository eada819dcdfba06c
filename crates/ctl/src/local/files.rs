//! A fresh directory with many files in it.

use std::{
    fs::{self, File},
    path::Path,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

const FILES_PER_DIRECTORY: u64 = 1000;

/// Makes a directory of `files` empty files, a thousand to a subdirectory. `go_on` is told how many there
/// are so far, and says whether more are wanted. The directory goes with the value that is given back.
///
/// # Errors
/// When the file system is full, or out of inodes.
pub fn make(files: u64, go_on: impl Fn(u64) -> bool) -> Result<TempDir> {
    let root = tempfile::Builder::new().prefix("efs-autoscale-files-").tempdir()?;
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

fn create(path: &Path) -> Result<()> {
    File::create_new(path).with_context(|| format!("cannot create {}", path.display()))?;
    Ok(())
}
