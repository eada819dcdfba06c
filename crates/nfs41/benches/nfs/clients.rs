//! The clients that are compared. Each is a program that gets a task as arguments and prints its results.

use std::{ffi::OsString, net::SocketAddr, process::Command};

use anyhow::{Context, Result, bail, ensure};

use crate::kernel;

/// First arguments of this program when it runs as a client; also their names.
pub const OURS: &str = "ours";
pub const KERNEL: &str = "kernel";

pub struct Client {
    pub name: &'static str,
    /// The program and its first arguments.
    program: Vec<OsString>,
}

/// A client's task: see `drive::Job`.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    pub address: SocketAddr,
    pub connections: usize,
    pub in_flight: usize,
    pub length: Length,
    pub operation: &'static str,
    pub size: usize,
    pub directory: &'a str,
    pub files: u64,
}

#[derive(Clone, Copy)]
pub enum Length {
    Milliseconds(u64),
    Times(u64),
}

/// Results of a turn.
pub struct Turn {
    pub rate: f64,
    pub p50_us: f64,
    pub p99_us: f64,
    /// CPU time of the client alone.
    pub processors_us: f64,
}

/// This crate's client comes first.
pub fn all() -> Result<Vec<Client>> {
    let own = std::env::current_exe()?.into_os_string();
    let mut clients = vec![Client { name: OURS, program: vec![own.clone(), OURS.into()] }];
    for (name, program) in [("nfs-rs", "nfs-rs-peer"), ("libnfs", "libnfs-peer")] {
        // Without arguments each of them reports a usage error.
        match Command::new(program).output() {
            Ok(_) => clients.push(Client { name, program: vec![program.into()] }),
            Err(err) => println!("{program} ({err}): {name} is left out; see `make bench-nfs`"),
        }
    }
    match kernel::available() {
        // Its mounts are in a mount namespace of its own, which ends with the process.
        Ok(()) => {
            let program = vec!["unshare".into(), "--mount".into(), own, KERNEL.into()];
            clients.push(Client { name: KERNEL, program });
        }
        Err(err) => println!("{err}: it is left out; see `make bench-nfs-guest`"),
    }
    Ok(clients)
}

impl Client {
    pub fn is_ours(&self) -> bool {
        self.name == OURS
    }

    pub fn turn(&self, task: Task<'_>) -> Result<Turn> {
        match self.run(task)?[..] {
            [rate, p50_us, p99_us, processors_us] => Ok(Turn { rate, p50_us, p99_us, processors_us }),
            ref other => bail!("{}: {other:?}", self.name),
        }
    }

    /// Runs the program and returns the numbers that it prints.
    pub fn run(&self, task: Task<'_>) -> Result<Vec<f64>> {
        let length = match task.length {
            Length::Milliseconds(length) => format!("{length}ms"),
            Length::Times(times) => times.to_string(),
        };
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]).arg(task.address.to_string());
        command.args([task.connections.to_string(), task.in_flight.to_string(), length]);
        command.args([task.operation, &task.size.to_string(), task.directory, &task.files.to_string()]);
        // The error message without a backtrace.
        let output = command.env("RUST_BACKTRACE", "0").output().with_context(|| format!("{command:?}"))?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{}", said.lines().collect::<Vec<_>>().join(" ").trim());
        let text = String::from_utf8_lossy(&output.stdout);
        let numbers = text.lines().find_map(|line| line.strip_prefix("came to ")).context("it says nothing")?;
        numbers.split(' ').map(|number| Ok(number.parse()?)).collect()
    }
}
