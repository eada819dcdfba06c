//! The servers that are compared, each a process of its own on loopback, and the files that they serve.

use std::{
    collections::BTreeMap,
    fmt::Display,
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use router::PublishedList;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tempfile::TempDir;

/// Head and content in one segment: what nginx is fastest with.
pub const NOPUSH: &str = "tcp_nopush on;";
/// What each server may use.
const WORKERS: usize = 2;
/// Of one file system, by way of so many targets.
const TARGETS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(10);
/// What the kernel counts processors' time in, on every architecture that there is a choice of.
const TICKS_A_SECOND: f64 = 100.0;

/// A published list of targets that are nowhere.
pub fn list(targets: usize) -> Result<PublishedList> {
    Ok(PublishedList::parse(&text(targets))?)
}

fn text(targets: usize) -> String {
    let target = |index: usize| {
        json!({
            "mount_target_id": format!("fsmt-{index:08x}"),
            "ip_address": format!("10.0.{index}.1"),
            "availability_zone": "none",
            "subnet_id": "none",
        })
    };
    json!({ "mount_targets": (0..targets).map(target).collect::<Vec<_>>() }).to_string()
}

/// A published list of one target at this address.
pub fn nfs_list(address: std::net::IpAddr) -> String {
    let target = json!({
        "mount_target_id": "fsmt-00000000",
        "ip_address": address.to_string(),
        "availability_zone": "none",
        "subnet_id": "none",
    });
    json!({ "mount_targets": [target] }).to_string()
}

/// A command that may use so many processors.
pub fn on(processors: usize, program: impl AsRef<std::ffi::OsStr>) -> Command {
    let mut command = Command::new("taskset");
    command.arg("--cpu-list").arg(format!("0-{}", processors - 1)).arg(program);
    command
}

/// The processors' time that a process has taken so far, or a thread (`PID/task/TID`), in seconds.
pub fn processors_of(process: impl Display) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    // The name in parentheses may hold anything.
    let fields = stat.rsplit_once(')').map_or("", |(_, fields)| fields).split_whitespace();
    let ticks: Vec<f64> = fields.skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / TICKS_A_SECOND)
}

/// A directory for one run, gone afterwards.
pub fn place(parent: &Path) -> Result<TempDir> {
    let made = tempfile::Builder::new().prefix("bench-router-").tempdir_in(parent);
    made.with_context(|| parent.display().to_string())
}

/// A file system's files, as a server sees them.
pub struct Site(PathBuf);

impl Site {
    /// `files`, and `base` with links to it by way of which the targets are reached.
    pub fn new(place: &Path, name: &str) -> Result<Self> {
        Self::at(place.join(name))
    }

    /// In this directory.
    pub fn at(directory: PathBuf) -> Result<Self> {
        let site = Self(directory);
        fs::create_dir_all(site.files())?;
        fs::create_dir_all(site.base())?;
        for target in 0..TARGETS {
            let link = site.base().join(format!("efs-{target}"));
            if !link.is_symlink() {
                symlink(site.files(), link)?;
            }
        }
        fs::write(site.list(), text(TARGETS))?;
        Ok(site)
    }

    /// All files.
    pub fn files(&self) -> PathBuf {
        self.0.join("files")
    }

    /// Where `efs-0` and so on are.
    pub fn base(&self) -> PathBuf {
        self.0.join("base")
    }

    pub fn list(&self) -> PathBuf {
        self.0.join("targets.json")
    }

    /// nginx, which answers `/files/…` as the service does, with these directives besides.
    pub fn nginx(&self, directives: &str) -> Result<Server> {
        self.nginx_with(directives, WORKERS, Command::new("nginx"))
    }

    /// The same on so many processors, with as many workers.
    pub fn nginx_on(&self, directives: &str, processors: usize) -> Result<Server> {
        self.nginx_with(directives, processors, on(processors, "nginx"))
    }

    fn nginx_with(&self, directives: &str, workers: usize, mut command: Command) -> Result<Server> {
        let port = free_port()?;
        let place = self.0.join(format!("nginx-{port}"));
        fs::create_dir_all(&place)?;
        let (root, place_shown) = (self.0.display(), place.display());
        let kinds = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
        let temporary = kinds.map(|kind| format!("{kind}_temp_path {place_shown}/{kind};")).join(" ");
        let configuration = format!(
            "daemon off; user root; worker_processes {workers}; pid {place_shown}/pid; error_log {place_shown}/error.log;\n\
             events {{ worker_connections 4096; }}\n\
             http {{\n  access_log off; sendfile on; {directives} keepalive_requests 1000000000; client_max_body_size 0;\n  {temporary}\n  \
             default_type application/octet-stream;\n  server {{\n    listen 127.0.0.1:{port} reuseport backlog=4096;\n    \
             root {root};\n    location / {{ dav_methods PUT; create_full_put_path on; }}\n  }}\n}}\n"
        );
        let file = place.join("nginx.conf");
        fs::write(&file, configuration)?;
        command.arg("-c").arg(&file).arg("-e").arg(place.join("error.log"));
        let server = Server::start(command, port)?;
        let until = Instant::now() + PATIENCE;
        // Its processes too: they are what is measured.
        while server.connect().is_err() || server.processes()?.len() <= workers {
            ensure!(Instant::now() < until, "nginx does not answer: see {place_shown}/error.log");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(server)
    }

    /// The service, with these variables besides those that it needs.
    pub fn router(&self, variables: &[(&str, &str)]) -> Result<Server> {
        let server = self.router_unready(variables)?;
        server.wait_until_ready()?;
        Ok(server)
    }

    pub fn router_unready(&self, variables: &[(&str, &str)]) -> Result<Server> {
        self.router_with(variables, Command::new(env!("CARGO_BIN_EXE_file-service")))
    }

    /// The same on so many processors.
    pub fn router_on(&self, variables: &[(&str, &str)], processors: usize) -> Result<Server> {
        self.router_with(variables, on(processors, env!("CARGO_BIN_EXE_file-service")))
    }

    fn router_with(&self, variables: &[(&str, &str)], mut command: Command) -> Result<Server> {
        let port = free_port()?;
        command.arg("serve").env_clear().env("LISTEN", format!("127.0.0.1:{port}"));
        command.env("TARGETS_FILE", self.list()).env("MOUNT_BASE", self.base());
        command.env("WORKERS", WORKERS.to_string()).env("SWEEP_SECONDS", "0").env("LOG_LEVEL", "warn");
        command.envs(variables.iter().copied());
        Server::start(command, port)
    }
}

/// One that nobody has now.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// A server that runs, until it is dropped.
pub struct Server {
    child: Child,
    port: u16,
}

impl Server {
    fn start(mut command: Command, port: u16) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Ok(Self { child: command.spawn().with_context(|| format!("{command:?}"))?, port })
    }

    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    fn connect(&self) -> Result<TcpStream> {
        let stream = TcpStream::connect(self.address())?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Asks as often as it can until the answer is 200.
    pub fn wait_until_ready(&self) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.get("/readyz") {
                Ok((200, _)) => return Ok(()),
                other if Instant::now() > until => bail!("the service is not ready: {other:?}"),
                _ => thread::sleep(Duration::from_micros(100)),
            }
        }
    }

    /// Status and body.
    pub fn get(&self, path: &str) -> Result<(u16, Vec<u8>)> {
        let mut stream = self.connect()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.address())?;
        let mut answer = vec![];
        stream.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("an answer without a head")?;
        let body = answer.split_off(end + 4);
        let status = answer.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        Ok((status.context("an answer without a status")?, body))
    }

    /// Its own, and those that it has started.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let own = self.child.id();
        let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children"))?;
        Ok([Ok(own)].into_iter().chain(children.split_whitespace().map(str::parse)).collect::<Result<_, _>>()?)
    }

    /// The processors' time that all of it has taken so far, in seconds.
    pub fn processors(&self) -> Result<f64> {
        self.processes()?.into_iter().map(processors_of).sum()
    }

    /// The same of each thread.
    pub fn threads(&self) -> Result<BTreeMap<String, f64>> {
        let mut threads = BTreeMap::new();
        for process in self.processes()? {
            for thread in fs::read_dir(format!("/proc/{process}/task"))? {
                let thread = format!("{process}/task/{}", thread?.file_name().to_string_lossy());
                // One may end meanwhile.
                if let Ok(used) = processors_of(&thread) {
                    threads.insert(thread, used);
                }
            }
        }
        Ok(threads)
    }

    /// A line of `/proc/…/status`, such as `VmRSS`, of all its processes together, in bytes.
    pub fn memory(&self, line: &str) -> Result<u64> {
        let mut bytes = 0;
        for process in self.processes()? {
            let status = fs::read_to_string(format!("/proc/{process}/status"))?;
            let found = status.lines().find_map(|found| found.strip_prefix(line)?.strip_prefix(':'));
            let kilobytes = found.and_then(|found| found.split_whitespace().next()?.parse::<u64>().ok());
            bytes += kilobytes.with_context(|| format!("no {line}"))? << 10;
        }
        Ok(bytes)
    }
}

impl Drop for Server {
    /// nginx's workers end with it when it is asked to end, and not when it is killed.
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(5)),
                _ => return,
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Always the same bytes, and others for each number.
pub fn content(number: usize, size: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // The lower bits are not random.
        (state >> 56) as u8
    };
    (0..size).map(|_| next()).collect()
}
