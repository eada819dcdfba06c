//! `efs-autoscale count`: the regular files below a directory, of this machine or of an NFS server.

use std::{
    ffi::OsString,
    fmt::Write as _,
    io::{self, IsTerminal, Write as _},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{Arc, mpsc},
    thread,
    time::{Duration, Instant},
};

use clap::{
    ArgAction, Args,
    builder::{OsStringValueParser, TypedValueParser},
    value_parser,
};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use walk::{
    Cache, Counted, NotACache, Progress, UnreadableRoot, Walk,
    nfs::{BadLocation, Location},
};

use crate::grouped;

/// Exit status of a count that is not complete.
const INCOMPLETE: u8 = 1;
/// Exit status when nothing was counted.
const FAILED: u8 = 2;
/// So many of the errors are told to a person; `--json` has a hundred.
const MAX_PRINTED_ERRORS: usize = 10;
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// What `--help` says below the options.
pub const HELP: &str = "\
Counts regular files, by name: one with two names twice, hidden ones too. Symbolic links, fifos, sockets and devices
do not count, and no link to a directory is followed. A directory that vanishes meanwhile had no files. What cannot be
read makes the count incomplete: a lower bound.

nfs://HOST[:PORT]/PATH is a directory of a server of NFS 4.1 (port 2049 unless given), counted without a mount and
without being root: one call for each directory. It speaks no TLS, and asks in the name of whoever runs it, which the
server may believe or not. In a name, write %20 for a space, %25 for a %, and so on. DIR may be ./nfs:... too.

With --cache, a directory whose times have not changed since the last count is not read again. That goes by the times
that the file system keeps: every 12th count reads everything all the same (--full-every), and --full does so now.

Exit status: 0 when everything was counted, 1 when the count is not complete, 2 when nothing was counted.

Examples:
  efs-autoscale count /mnt/data
  efs-autoscale count /mnt/data --stop-above 100000 --json
  efs-autoscale count nfs://10.0.1.23/data --json
  efs-autoscale count /mnt/data --cache ~/.cache/data.count";

/// What to count, and how.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// The directory: one of this machine, or nfs://HOST[:PORT]/PATH
    #[arg(value_name = "DIR", value_parser = OsStringValueParser::new().try_map(Root::read))]
    directory: Root,
    /// One JSON object on stdout: files, directories, complete, errors, seconds, and more
    #[arg(long)]
    json: bool,
    /// At most so many threads; over NFS a walk waits, and more threads wait at once, for one call each
    #[arg(long, value_name = "NUMBER", default_value_t = walk::DEFAULT_THREADS as u16, value_parser = value_parser!(u16).range(1..=256))]
    threads: u16,
    /// End when more files than this are found: a lower bound, and exit status 1
    #[arg(long, value_name = "FILES")]
    stop_above: Option<u64>,
    /// Remember directories in this file, and do not read again what has not changed
    #[arg(long, value_name = "FILE", conflicts_with = "follow_file_symlinks")]
    cache: Option<PathBuf>,
    /// With --cache: read everything at every so many counts
    #[arg(long, value_name = "COUNTS", default_value = "12", requires = "cache", value_parser = value_parser!(u32).range(1..))]
    full_every: u32,
    /// With --cache: read everything now
    #[arg(long, requires = "cache")]
    full: bool,
    /// Stay on the directory's file system
    #[arg(long, value_name = "BOOL", default_value_t = true, default_missing_value = "true", num_args = 0..=1, require_equals = true, action = ArgAction::Set)]
    one_file_system: bool,
    /// Count symbolic links to regular files too, as Python's is_file() does
    #[arg(long)]
    follow_file_symlinks: bool,
}

#[derive(Clone, Debug)]
enum Root {
    Directory(PathBuf),
    Nfs(Location),
}

impl Root {
    fn read(text: OsString) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the name of a directory is not empty; the working directory is .".to_owned());
        }
        match text.to_str().filter(|text| Location::is_meant(text)) {
            Some(url) => url.parse().map(Self::Nfs).map_err(|err: BadLocation| err.to_string()),
            None => Ok(Self::Directory(text.into())),
        }
    }
}

/// Counts, and says what was found.
pub fn run(options: &Options) -> ExitCode {
    match count(options) {
        Ok(counted) => {
            let text = if options.json { format!("{}\n", object(&counted)) } else { text(&counted, options) };
            if let Err(err) = io::stdout().write_all(text.as_bytes()) {
                eprintln!("efs-autoscale: the count cannot be written: {err}");
                return ExitCode::from(FAILED);
            }
            if !options.json {
                print_errors(&counted);
            }
            ExitCode::from(if counted.complete() { 0 } else { INCOMPLETE })
        }
        Err(err) => {
            eprintln!("efs-autoscale: {err}");
            ExitCode::from(FAILED)
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Unreadable(#[from] UnreadableRoot),
    #[error("--cache {file}: there is no such folder to write it to", file = file.display())]
    NoFolder { file: PathBuf },
    #[error("--cache {file}: {err}; delete the file, or name another", file = file.display())]
    Cache { file: PathBuf, err: NotACache },
    #[error(
        "--follow-file-symlinks: where links lead is not known without a mount; leave it out, or mount the directory"
    )]
    Links,
}

fn count(options: &Options) -> Result<Counted, Failure> {
    let walk = match &options.directory {
        Root::Directory(path) => Walk::new(path),
        Root::Nfs(_) if options.follow_file_symlinks => return Err(Failure::Links),
        Root::Nfs(root) => Walk::nfs(root.clone()),
    };
    let walk = walk
        .threads(options.threads.into())
        .one_file_system(options.one_file_system)
        .follow_file_symlinks(options.follow_file_symlinks)
        .stop_above(options.stop_above);
    let Some(file) = &options.cache else {
        return Ok(watched(walk, Walk::count)?);
    };
    let old = known(file, options)?;
    let mut counted = watched(walk, |walk| walk.count_changed(&old))?;
    let warn = |what: &str| eprintln!("efs-autoscale: --cache {}: {what}", file.display());
    if counted.foreign_cache {
        warn("it was of another directory, or with another --one-file-system; everything was counted");
    }
    match counted.cache.take() {
        Some(cache) => {
            if let Err(err) = cache.save(file) {
                warn(&format!("it cannot be written: {}", io::Error::from(err.kind())));
            }
        }
        None if counted.truncated => {}
        None => warn("there are more directories than are remembered; the next count reads all of them again"),
    }
    Ok(counted)
}

fn known(file: &Path, options: &Options) -> Result<Cache, Failure> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(Failure::NoFolder { file: file.to_owned() });
    }
    match Cache::load(file) {
        Ok(known) if options.full || known.age() + 1 >= options.full_every => Ok(Cache::default()),
        Ok(known) => Ok(known),
        Err(NotACache::Damaged) => {
            eprintln!(
                "efs-autoscale: --cache {}: it is damaged, or of another version; everything is counted",
                file.display()
            );
            Ok(Cache::default())
        }
        // Whatever it is, it is somebody's.
        Err(err) => Err(Failure::Cache { file: file.to_owned(), err }),
    }
}

/// Walks, and shows on a terminal how far it has come.
fn watched(walk: Walk, count: impl FnOnce(Walk) -> Result<Counted, UnreadableRoot>) -> Result<Counted, UnreadableRoot> {
    if !io::stderr().is_terminal() {
        return count(walk);
    }
    let progress = walk.progress();
    let (done, wait) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || show(&progress, &wait));
        let counted = count(walk);
        // Whoever waits sees that this is gone.
        drop(done);
        counted
    })
}

fn show(progress: &Arc<Progress>, done: &mpsc::Receiver<()>) {
    let line = ProgressBar::new_spinner();
    line.set_style(
        ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    let started = Instant::now();
    while done.recv_timeout(POLL_INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
        let errors = match progress.errors() {
            0 => String::new(),
            errors => format!(", {}", number(errors, "error", "errors")),
        };
        line.tick();
        line.set_message(format!(
            "{} in {}, {}{errors}",
            number(progress.files(), "file", "files"),
            number(progress.directories(), "directory", "directories"),
            rate(progress.files(), started.elapsed())
        ));
    }
    line.finish_and_clear();
}

fn object(counted: &Counted) -> serde_json::Value {
    json!({
        "files": counted.files,
        "directories": counted.directories,
        "complete": counted.complete(),
        "errors": counted.errors,
        "first_errors": counted.first_errors,
        "vanished": counted.vanished,
        "other_file_systems": counted.other_file_systems,
        "unchanged": counted.unchanged,
        "stopped": counted.truncated,
        "seconds": counted.time.as_secs_f64(),
    })
}

fn text(counted: &Counted, options: &Options) -> String {
    let mut text = format!(
        "{}{} in {} ({:.2} s, {})\n",
        if counted.complete() { "" } else { "at least " },
        number(counted.files, "file", "files"),
        number(counted.directories, "directory", "directories"),
        counted.time.as_secs_f64(),
        rate(counted.files, counted.time)
    );
    if let Some(most) = options.stop_above.filter(|_| counted.truncated) {
        let _ = writeln!(text, "stopped above {}; there may be more", grouped(most));
    }
    for (many, one, more, what) in [
        (counted.unchanged, "directory", "directories", "unchanged since the last count, and not read"),
        (counted.vanished, "directory", "directories", "gone when it was their turn"),
        (counted.other_file_systems, "directory", "directories", "on other file systems, and not entered"),
    ] {
        if many > 0 {
            let _ = writeln!(text, "{} {what}", number(many, one, more));
        }
    }
    text
}

fn number(number: u64, one: &str, more: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { more })
}

fn print_errors(counted: &Counted) {
    if counted.errors > 0 {
        eprintln!("{} could not be read:", grouped(counted.errors));
        for error in counted.first_errors.iter().take(MAX_PRINTED_ERRORS) {
            eprintln!("  {error}");
        }
        if counted.errors > MAX_PRINTED_ERRORS as u64 {
            eprintln!("  …");
        }
    }
}

fn rate(files: u64, time: Duration) -> String {
    format!("{} files/s", grouped((files as f64 / time.as_secs_f64().max(1e-6)) as u64))
}
