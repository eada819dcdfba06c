//! `efs-autoscale count`: counts the regular files below a local directory, or below a directory of an NFS server.

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
use schemars::{JsonSchema, Schema, schema_for};
use serde::Serialize;
use walk::{
    Cache, Counted, NotACache, Progress, UnreadableRoot, Walk,
    nfs::{BadLocation, Location},
};

use crate::grouped;

/// Exit status when the count is incomplete.
const INCOMPLETE: u8 = 1;
/// Exit status when the count failed.
const FAILED: u8 = 2;
/// Maximum number of errors on stderr; `--json` has up to 100.
const MAX_PRINTED_ERRORS: usize = 10;
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// Text below the options in `--help`.
pub const HELP: &str = "\
Counts regular files by name, including hidden ones; a file with two hard links counts twice. Symbolic links, FIFOs, sockets
and devices do not count, and links to directories are not followed. A directory that is deleted during the count has no files.
Anything that cannot be read makes the count incomplete: a lower bound.

nfs://HOST[:PORT]/PATH is a directory of an NFSv4.1 server (default port 2049). It is counted without a mount and without root
privileges, with one call per directory, without TLS, and with the user ID of this process (AUTH_SYS). Percent-encode special
characters in PATH: %20 is a space, %25 a percent sign. For a local directory whose name starts with nfs:, write ./nfs:...

With --cache, directories whose timestamps have not changed since the last count are not read again. This relies on the
timestamps of the file system, so every 12th count reads everything (--full-every). --full reads everything now.

Exit status: 0 if everything was counted, 1 if the count is incomplete, 2 if nothing was counted.

Examples:
  efs-autoscale count /mnt/data
  efs-autoscale count /mnt/data --stop-above 100000 --json
  efs-autoscale count nfs://10.0.1.23/data --json
  efs-autoscale count /mnt/data --cache ~/.cache/data.count";

/// Options of `efs-autoscale count`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// A local directory, or nfs://HOST[:PORT]/PATH
    #[arg(value_name = "DIR", value_parser = OsStringValueParser::new().try_map(Root::parse))]
    directory: Root,
    /// Print one JSON object to stdout: files, directories, complete, errors, seconds, and more
    #[arg(long)]
    json: bool,
    /// Maximum number of threads; over NFS, the number of concurrent calls
    #[arg(long, value_name = "NUMBER", default_value_t = walk::DEFAULT_THREADS as u16, value_parser = value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Stop when more files than this are found: the result is a lower bound, and the exit status 1
    #[arg(long, value_name = "FILES")]
    stop_above: Option<u64>,
    /// Remember directories in this file, and read only those that have changed
    #[arg(long, value_name = "FILE", conflicts_with = "follow_file_symlinks")]
    cache: Option<PathBuf>,
    /// With --cache: read everything in every COUNTS-th count
    #[arg(long, value_name = "COUNTS", default_value = "12", requires = "cache", value_parser = value_parser!(u32).range(1..))]
    full_every: u32,
    /// With --cache: read everything now
    #[arg(long, requires = "cache")]
    full: bool,
    /// Do not enter other file systems
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
    fn parse(text: OsString) -> Result<Self, String> {
        if text.is_empty() {
            return Err("the name of the directory is empty; write . for the working directory".to_owned());
        }
        match text.to_str().filter(|text| Location::is_meant(text)) {
            Some(url) => url.parse().map(Self::Nfs).map_err(|err: BadLocation| err.to_string()),
            None => Ok(Self::Directory(text.into())),
        }
    }
}

/// Counts, prints the result, and returns the exit status.
pub fn run(options: &Options) -> ExitCode {
    match count(options) {
        Ok(counted) => {
            let text = if options.json { format!("{}\n", to_json(&counted)) } else { to_text(&counted, options) };
            if let Err(err) = io::stdout().write_all(text.as_bytes()) {
                eprintln!("efs-autoscale: cannot write the count: {err}");
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
    #[error("--cache {file}: the folder of the file does not exist", file = file.display())]
    MissingFolder { file: PathBuf },
    #[error("--cache {file}: {err}; delete the file, or choose another", file = file.display())]
    Cache { file: PathBuf, err: NotACache },
    #[error(
        "--follow-file-symlinks: not supported without a mount, since links cannot be resolved; omit it, or mount the directory"
    )]
    SymlinksOverNfs,
}

fn count(options: &Options) -> Result<Counted, Failure> {
    let walk = match &options.directory {
        Root::Directory(path) => Walk::new(path),
        Root::Nfs(_) if options.follow_file_symlinks => return Err(Failure::SymlinksOverNfs),
        Root::Nfs(root) => Walk::nfs(root.clone()),
    };
    let walk = walk
        .threads(options.threads.into())
        .one_file_system(options.one_file_system)
        .follow_file_symlinks(options.follow_file_symlinks)
        .stop_above(options.stop_above);
    let Some(file) = &options.cache else {
        return Ok(with_progress(walk, Walk::count)?);
    };
    let previous = load_cache(file, options)?;
    let mut counted = with_progress(walk, |walk| walk.count_changed(&previous))?;
    let warn = |what: &str| eprintln!("efs-autoscale: --cache {}: {what}", file.display());
    if counted.foreign_cache {
        warn("the cache belongs to another directory, or to another --one-file-system; everything was read");
    }
    match counted.cache.take() {
        Some(cache) => {
            if let Err(err) = cache.save(file) {
                warn(&format!("cannot write the cache: {}", io::Error::from(err.kind())));
            }
        }
        None if counted.truncated => {}
        None => warn("too many directories for a cache; the next count reads everything"),
    }
    Ok(counted)
}

fn load_cache(file: &Path, options: &Options) -> Result<Cache, Failure> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return Err(Failure::MissingFolder { file: file.to_owned() });
    }
    match Cache::load(file) {
        Ok(cache) if options.full || cache.age() + 1 >= options.full_every => Ok(Cache::default()),
        Ok(cache) => Ok(cache),
        Err(NotACache::Damaged) => {
            eprintln!(
                "efs-autoscale: --cache {}: the cache is damaged, or of another version; everything is read",
                file.display()
            );
            Ok(Cache::default())
        }
        // It may be a file of the user, so it is not overwritten.
        Err(err) => Err(Failure::Cache { file: file.to_owned(), err }),
    }
}

/// Counts, and shows the progress on a terminal.
fn with_progress(
    walk: Walk,
    count: impl FnOnce(Walk) -> Result<Counted, UnreadableRoot>,
) -> Result<Counted, UnreadableRoot> {
    if !io::stderr().is_terminal() {
        return count(walk);
    }
    let progress = walk.progress();
    let (running, stopped) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || show_progress(&progress, &stopped));
        let counted = count(walk);
        // Ends show_progress.
        drop(running);
        counted
    })
}

fn show_progress(progress: &Arc<Progress>, stopped: &mpsc::Receiver<()>) {
    let line = ProgressBar::new_spinner();
    line.set_style(
        ProgressStyle::with_template("{spinner} {msg}").unwrap_or_else(|_| ProgressStyle::default_spinner()),
    );
    let started = Instant::now();
    while stopped.recv_timeout(PROGRESS_INTERVAL) == Err(mpsc::RecvTimeoutError::Timeout) {
        let errors = match progress.errors() {
            0 => String::new(),
            errors => format!(", {}", with_unit(errors, "error", "errors")),
        };
        line.tick();
        line.set_message(format!(
            "{} in {}, {}{errors}",
            with_unit(progress.files(), "file", "files"),
            with_unit(progress.directories(), "directory", "directories"),
            rate(progress.files(), started.elapsed())
        ));
    }
    line.finish_and_clear();
}

/// What `--json` prints.
#[derive(Serialize, JsonSchema)]
struct Report<'a> {
    /// A lower bound unless `complete`.
    files: u64,
    directories: u64,
    complete: bool,
    /// Directories that could not be read.
    errors: u64,
    /// The first of them: `path: why`.
    first_errors: &'a [String],
    /// Directories that were deleted during the count.
    vanished: u64,
    /// Directories on other file systems, which are not entered.
    other_file_systems: u64,
    /// Directories that were not read, because they are unchanged since the last count.
    unchanged: u64,
    /// It ended at `--stop-above`.
    stopped: bool,
    seconds: f64,
}

/// The schema of `--json`.
pub fn schema() -> Schema {
    schema_for!(Report<'_>)
}

fn to_json(counted: &Counted) -> String {
    let report = Report {
        files: counted.files,
        directories: counted.directories,
        complete: counted.complete(),
        errors: counted.errors,
        first_errors: &counted.first_errors,
        vanished: counted.vanished,
        other_file_systems: counted.other_file_systems,
        unchanged: counted.unchanged,
        stopped: counted.truncated,
        seconds: counted.time.as_secs_f64(),
    };
    // Numbers and strings in a struct: there is nothing here that serde_json can refuse.
    serde_json::to_string(&report).unwrap_or_default()
}

fn to_text(counted: &Counted, options: &Options) -> String {
    let mut text = format!(
        "{}{} in {} ({:.2} s, {})\n",
        if counted.complete() { "" } else { "at least " },
        with_unit(counted.files, "file", "files"),
        with_unit(counted.directories, "directory", "directories"),
        counted.time.as_secs_f64(),
        rate(counted.files, counted.time)
    );
    if let Some(limit) = options.stop_above.filter(|_| counted.truncated) {
        let _ = writeln!(text, "stopped above {}; there may be more", grouped(limit));
    }
    for (number, singular, plural, what) in [
        (counted.unchanged, "directory", "directories", "unchanged since the last count, not read"),
        (counted.vanished, "directory", "directories", "deleted during the count"),
        (counted.other_file_systems, "directory", "directories", "on other file systems, not entered"),
    ] {
        if number > 0 {
            let _ = writeln!(text, "{} {what}", with_unit(number, singular, plural));
        }
    }
    text
}

fn with_unit(number: u64, singular: &str, plural: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { singular } else { plural })
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
