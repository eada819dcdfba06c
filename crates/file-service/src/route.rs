//! `file-service route`: which target a path belongs to, without any file.

use std::{
    ffi::OsString,
    io::{self, BufRead, BufWriter, Write},
    os::unix::ffi::OsStrExt,
    path::PathBuf,
    process::ExitCode,
};

use anyhow::{Context, Result, ensure};
use clap::{Args, value_parser};
use router::{
    PublishedList,
    select::{MAX_TARGETS, STRATEGIES, Strategy, named},
    table::{Routing, Table},
};
use serde_json::json;

/// Exit status of what could not be done.
const FAILED: u8 = 2;
const MAX_LINE_BYTES: u64 = 1 << 20;

pub const HELP: &str = "\
Prints a line for each path: the target's index, its id, the path. With --json an object a line, with `path`, `index`
and `mount_target_id`. Any name is routed, also one that the service would refuse.

Exit status: 0, or 2 when the targets or the paths cannot be read.

Examples:
  file-service route --targets 3 user/12345/document.pdf
  find . -type f -printf '%P\\n' | file-service route --strategy sha256-modulo --targets-file targets.json --json";

#[derive(Args)]
pub struct Options {
    /// rendezvous, or sha256-modulo as in the original design
    #[arg(long, value_name = "STRATEGY", default_value = STRATEGIES[0].name(), value_parser = strategy)]
    strategy: &'static dyn Strategy,
    /// So many targets, with ids made up
    #[arg(long, value_name = "NUMBER", value_parser = value_parser!(u8).range(1..=MAX_TARGETS as i64), conflicts_with = "targets_file", required_unless_present = "targets_file")]
    targets: Option<u8>,
    /// A file with the published list
    #[arg(long, value_name = "FILE")]
    targets_file: Option<PathBuf>,
    /// One object a line
    #[arg(long)]
    json: bool,
    /// Paths as the service gets them; none: standard input has one a line
    #[arg(value_name = "PATH")]
    paths: Vec<OsString>,
}

fn strategy(name: &str) -> Result<&'static dyn Strategy, String> {
    named(name).ok_or_else(|| format!("it is one of {}", STRATEGIES.map(Strategy::name).join(", ")))
}

pub fn run(options: Options) -> ExitCode {
    match all(&options) {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads has had enough.
        Err(err) if err.downcast_ref::<io::Error>().is_some_and(|err| err.kind() == io::ErrorKind::BrokenPipe) => {
            ExitCode::SUCCESS
        }
        Err(err) => {
            eprintln!("file-service: {err:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn all(options: &Options) -> Result<()> {
    let list = match (&options.targets_file, options.targets) {
        (Some(file), _) => {
            let text = std::fs::read_to_string(file).with_context(|| format!("--targets-file {}", file.display()))?;
            PublishedList::parse(&text).with_context(|| format!("--targets-file {}", file.display()))?
        }
        (None, count) => placeholder_list(count.unwrap_or(1))?,
    };
    let table = Table::new(list, Routing { strategy: options.strategy, local: None })?;
    let mut out = BufWriter::new(io::stdout().lock());
    for path in &options.paths {
        one(&table, path.as_bytes(), options.json, &mut out)?;
    }
    if options.paths.is_empty() {
        let mut input = io::stdin().lock();
        let mut line = Vec::new();
        while io::Read::take(&mut input, MAX_LINE_BYTES).read_until(b'\n', &mut line).context("standard input")? > 0 {
            ensure!(
                line.ends_with(b"\n") || (line.len() as u64) < MAX_LINE_BYTES,
                "a line is longer than {MAX_LINE_BYTES} bytes"
            );
            one(&table, line.strip_suffix(b"\n").unwrap_or(&line), options.json, &mut out)?;
            line.clear();
        }
    }
    Ok(out.flush()?)
}

fn one(table: &Table, path: &[u8], as_json: bool, out: &mut impl Write) -> Result<()> {
    let index = table.first(path, &|_| true).context("there is no target")?;
    let id = &table.targets()[index].mount_target_id;
    if as_json {
        let path = String::from_utf8_lossy(path);
        writeln!(out, "{}", json!({ "path": path, "index": index, "mount_target_id": id }))?;
    } else {
        write!(out, "{index}\t{id}\t")?;
        out.write_all(path)?;
        out.write_all(b"\n")?;
    }
    Ok(())
}

/// Targets that are nowhere.
fn placeholder_list(count: u8) -> Result<PublishedList> {
    let target = |index: u8| {
        json!({
            "mount_target_id": format!("fsmt-{index:08x}"),
            "ip_address": format!("10.0.{index}.1"),
            "availability_zone": "none",
            "subnet_id": "none",
        })
    };
    let targets: Vec<_> = (0..count).map(target).collect();
    Ok(PublishedList::parse(&json!({ "mount_targets": targets }).to_string())?)
}
