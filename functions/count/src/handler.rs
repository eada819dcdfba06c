//! Counts the regular files below a directory.
//!
//! By name, so that a file with two names counts twice; hidden ones too; names of any bytes. Symbolic
//! links, fifos, sockets and devices do not count, and no link is followed. A directory that vanishes
//! meanwhile had no files; one that cannot be read makes the count incomplete.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Instant,
};

use domain::{
    error::CountError,
    messages::{CountInput, CountOutput, Start},
};

/// This many errors are told in full.
const TOLD_ERRORS: usize = 100;
/// A path in an error is cut after this many bytes, so that the output fits the state's payload.
const TOLD_BYTES: usize = 200;

/// Checks the execution's input, which is the first thing that happens to it, and counts.
///
/// # Errors
/// [`CountError::InvalidInput`]; [`CountError::TargetDirectoryUnreadable`] when there is nothing to count.
pub fn handle(root: &Path, input: &CountInput) -> Result<CountOutput, CountError> {
    Start::parse(&input.start).map_err(CountError::InvalidInput)?;
    let started = Instant::now();
    let tally =
        count(root).map_err(|source| CountError::TargetDirectoryUnreadable { path: root.to_owned(), source })?;
    Ok(CountOutput {
        files: tally.files,
        directories: tally.directories,
        complete: tally.errors == 0,
        errors: tally.errors,
        first_errors: tally.first_errors,
        seconds: started.elapsed().as_secs_f64(),
    })
}

#[derive(Debug, Default)]
struct Tally {
    files: u64,
    directories: u64,
    errors: u64,
    first_errors: Vec<String>,
}

impl Tally {
    fn error(&mut self, path: &Path, why: &io::Error) {
        // What was there when its parent was read and is not any more: not a file, not an error.
        if vanished(why) {
            return;
        }
        self.errors += 1;
        if self.first_errors.len() < TOLD_ERRORS {
            let bytes = path.as_os_str().as_encoded_bytes();
            let path = bytes[..bytes.len().min(TOLD_BYTES)].escape_ascii();
            self.first_errors.push(format!("{path}: {why}"));
        }
    }
}

/// Deleted meanwhile. NFS says so of a directory that was open by calling its handle stale.
fn vanished(why: &io::Error) -> bool {
    matches!(why.kind(), io::ErrorKind::NotFound | io::ErrorKind::StaleNetworkFileHandle)
}

/// # Errors
/// When the root itself cannot be opened as a directory, or vanishes.
fn count(root: &Path) -> io::Result<Tally> {
    let mut tally = Tally::default();
    let mut subdirectories = Vec::new();
    if let Err(why) = tally.read(root, fs::read_dir(root)?, &mut subdirectories) {
        if vanished(&why) {
            return Err(why);
        }
        tally.error(root, &why);
    }
    while let Some(directory) = subdirectories.pop() {
        let read = fs::read_dir(&directory).and_then(|entries| tally.read(&directory, entries, &mut subdirectories));
        if let Err(why) = read {
            tally.error(&directory, &why);
        }
    }
    Ok(tally)
}

impl Tally {
    /// # Errors
    /// When the directory cannot be read to its end: asking again may never end.
    fn read(&mut self, directory: &Path, entries: fs::ReadDir, subdirectories: &mut Vec<PathBuf>) -> io::Result<()> {
        self.directories += 1;
        for entry in entries {
            let entry = entry?;
            match entry.file_type() {
                Ok(kind) if kind.is_file() => self.files += 1,
                Ok(kind) if kind.is_dir() => subdirectories.push(directory.join(entry.file_name())),
                Ok(_) => {}
                Err(why) => self.error(&entry.path(), &why),
            }
        }
        Ok(())
    }
}
