//! wrk, which loads a server and tells what came of it.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result, ensure};

use crate::servers::Server;
use bench_kit::report::{Samples, Target, markdown, number};

pub const CONNECTIONS: u32 = 64;
const THREADS: u32 = 2;

/// Prints what wrk counted, for a program. Each thread has a number.
const AROUND: &str = r#"
local threads = 0
setup = function(thread)
  thread:set("number", threads)
  threads = threads + 1
end
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format("counted %d %d %d %d %d %d %d %.3f\n", summary.requests, summary.duration,
    e.connect, e.read, e.write, e.timeout, e.status, latency:percentile(99) / 1000))
end
"#;

/// What one turn came to.
pub struct Load {
    pub requests: f64,
    seconds: f64,
    p99_ms: f64,
}

/// Asks for what the script says, on all connections at once. Any error is one of the run.
fn wrk(server: &Server, script: &Path, seconds: u64) -> Result<Load> {
    let mut command = Command::new("wrk");
    command.args([format!("-t{THREADS}"), format!("-c{CONNECTIONS}"), format!("-d{seconds}s")]);
    command.args(["--timeout", "30s", "-s"]).arg(script).arg(format!("http://{}", server.address()));
    let output = command.output().context("wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let snapshot = text.lines().find_map(|line| line.strip_prefix("counted "));
    let snapshot: Vec<f64> = snapshot.unwrap_or_default().split(' ').filter_map(|word| word.parse().ok()).collect();
    let [requests, duration, errors @ .., p99_ms] = &snapshot[..] else {
        anyhow::bail!("{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    };
    ensure!(errors.iter().all(|count| *count == 0.0), "{command:?}: some requests failed:\n{text}");
    ensure!(*requests > 0.0, "{command:?}: nothing was answered:\n{text}");
    Ok(Load { requests: *requests, seconds: duration / 1e6, p99_ms: *p99_ms })
}

/// What of each round stands in a line of the table.
#[derive(Default)]
pub struct Measured {
    pub rate: Samples,
    pub p99_ms: Samples,
    /// The server's own, in microseconds a request.
    pub processors: Samples,
}

impl Measured {
    /// One turn.
    pub fn turn(&mut self, server: &Server, script: &Path, seconds: u64) -> Result<Load> {
        let before = server.processors()?;
        let load = wrk(server, script, seconds)?;
        self.processors.add((server.processors()? - before) * 1e6 / load.requests);
        self.rate.add(load.requests / load.seconds);
        self.p99_ms.add(load.p99_ms);
        Ok(load)
    }

    /// What of another round.
    pub fn append(&mut self, other: Self) {
        self.rate.append(other.rate);
        self.p99_ms.append(other.p99_ms);
        self.processors.append(other.processors);
    }

    pub fn line(&self, name: &str, nginx: &Self, target: Target) -> [String; 8] {
        let ratio = self.rate.ratio_to(&nginx.rate);
        let [target, outcome] = target.cells(ratio, 1);
        let tell = |samples: &Samples, digits| match samples.median() {
            unknown if unknown.is_nan() => String::new(),
            median => number(median, digits),
        };
        [
            name.to_owned(),
            number(self.rate.median(), 0),
            self.rate.range(0),
            format!("{ratio:.2}"),
            tell(&self.p99_ms, 2),
            tell(&self.processors, 1),
            target,
            outcome,
        ]
    }
}

pub fn table(lines: impl IntoIterator<Item = [String; 8]>) -> String {
    markdown(["", "requests/s", "from – to", "× nginx", "p99 ms", "CPU µs each", "target", ""], lines)
}

/// Writes a script for wrk: `requests` is Lua that sets `request`.
pub fn script(path: &Path, requests: &str) -> Result<()> {
    fs::write(path, format!("{AROUND}{requests}")).with_context(|| path.display().to_string())
}
