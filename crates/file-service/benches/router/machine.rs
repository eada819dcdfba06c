//! What the numbers depend on.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

/// Processor, kernel and the versions of what is compared with, in a few lines.
pub fn facts() -> Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    let processors = std::thread::available_parallelism()?;
    let uname = rustix::system::uname();
    Ok(format!(
        "{}, {processors} processors, Linux {} on {};\n{}, {}, {}.",
        model.map_or("a processor without a name", |(_, model)| model),
        uname.release().to_string_lossy(),
        uname.machine().to_string_lossy(),
        said("nginx", "-v", "nginx/")?,
        said("wrk", "-v", "wrk ")?,
        said("python3", "--version", "Python ")?
    ))
}

/// The file system of a directory, by its kind, and by what makes a difference for its speed.
pub fn file_system(directory: &Path) -> Result<String> {
    let directory = directory.canonicalize()?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    // Of those below which the directory is, the innermost; of several at one place, the last.
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?, Path::new(words.next()?), words.next()?))
    });
    let found = mounts.filter(|(_, place, _)| directory.starts_with(place));
    let (device, _, kind) = found.max_by_key(|(_, place, _)| place.components().count()).context("it is nowhere")?;
    let device = Path::new(device).file_name().unwrap_or_default().to_string_lossy();
    let journal = |entry: std::io::Result<fs::DirEntry>| {
        entry.is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with(&format!("{device}-")))
    };
    let has_journal = fs::read_dir("/proc/fs/jbd2").is_ok_and(|mut entries| entries.any(journal));
    Ok(match kind {
        "ext4" if !has_journal => "ext4 without a journal".to_owned(),
        other => other.to_owned(),
    })
}

/// The word after `mark` in what a program says of itself.
fn said(program: &str, flag: &str, mark: &str) -> Result<String> {
    let output = Command::new(program).arg(flag).output().with_context(|| format!("{program} is needed"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let after = text.split_once(mark).map_or("", |(_, after)| after);
    Ok(format!("{program} {}", after.split_whitespace().next().unwrap_or("of an unknown version")))
}
