//! The machine on which the numbers were measured.

use std::{fs, path::Path, process::Command, time::Duration};

use anyhow::{Context, Result};

/// Processor, number of processors, and kernel.
///
/// # Errors
/// `/proc/cpuinfo` is not readable.
pub fn facts() -> Result<String> {
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let model = cpuinfo.lines().find(|line| line.starts_with("model name")).and_then(|line| line.split_once(": "));
    let processors = std::thread::available_parallelism()?;
    let uname = rustix::system::uname();
    Ok(format!(
        "{}, {processors} processors, Linux {} on {}",
        model.map_or("unknown processor", |(_, model)| model),
        uname.release().to_string_lossy(),
        uname.machine().to_string_lossy()
    ))
}

/// Load average of the last minute. With more load than the benchmark itself causes, the numbers are of little use.
///
/// # Errors
/// `/proc/loadavg` is not readable.
pub fn load() -> Result<String> {
    let load = fs::read_to_string("/proc/loadavg")?;
    Ok(load.split(' ').next().unwrap_or_default().to_owned())
}

/// CPU time of a process, user and system.
///
/// # Errors
/// There is no such process.
pub fn cpu_time(process: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let ticks = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
    // USER_HZ is 100 on all Linux systems.
    Ok(Duration::from_millis(ticks.flat_map(str::parse::<u64>).sum::<u64>() * 10))
}

/// Kind of the file system that has a directory; for ext4, whether it has a journal, because that decides its speed.
///
/// # Errors
/// The directory does not exist, or `/proc` is not readable.
pub fn file_system(directory: &Path) -> Result<String> {
    let directory = directory.canonicalize()?;
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    let mounts = mounts.lines().filter_map(|line| {
        let mut words = line.split(' ');
        Some((words.next()?, Path::new(words.next()?), words.next()?))
    });
    let found = mounts.filter(|(_, mount_point, _)| directory.starts_with(mount_point));
    // The innermost mount has the directory; of several at one mount point, the last.
    let innermost = found.max_by_key(|(_, mount_point, _)| mount_point.components().count());
    let (device, _, kind) = innermost.context("no mount has the directory")?;
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

/// The word after `mark` in what a program prints, on either stream: its version.
///
/// # Errors
/// The program does not exist.
pub fn version(program: &str, arguments: &[&str], mark: &str) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("{program} is needed"))?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let after = text.split_once(mark).map_or("", |(_, after)| after);
    Ok(after.split_whitespace().next().unwrap_or("of an unknown version").to_owned())
}
