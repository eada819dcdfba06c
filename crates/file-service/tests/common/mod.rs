//! A router in a process of its own over a directory of this machine, and a client that sends the bytes that it is
//! told to send: one that knows HTTP better would put the requests right that are to be wrong.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{
    fs,
    io::{self, BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const SMALL: usize = 256 << 10;
pub const MEBIBYTE: usize = 1 << 20;
/// What is sure to come has come by then, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(120);
/// More targets than any test publishes.
const DIRECTORIES: usize = 4;

/// Asks until it is so.
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes of which no two places near each other are mixed up.
pub fn content(seed: u8, length: usize) -> Vec<u8> {
    (0..length).map(|index| (index ^ index >> 8 ^ index >> 16) as u8 ^ seed).collect()
}

/// The names below a directory with what is in the files, the targets of links, and what else there is.
pub fn tree(root: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    fn walk(directory: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
        let Ok(entries) = fs::read_dir(directory) else { return };
        for entry in entries {
            let path = entry.unwrap().path();
            // A temporary file may go meanwhile.
            let Ok(kind) = path.symlink_metadata().map(|found| found.file_type()) else { continue };
            if kind.is_dir() {
                walk(&path, found);
                found.push((path, b"directory".to_vec()));
            } else if kind.is_symlink() {
                found.push((path.clone(), format!("link to {:?}", fs::read_link(&path)).into_bytes()));
            } else if kind.is_file() {
                let Ok(content) = fs::read(&path) else { continue };
                found.push((path, content));
            } else {
                found.push((path, format!("{kind:?}").into_bytes()));
            }
        }
    }
    let mut found = Vec::new();
    walk(root, &mut found);
    found.sort();
    found
}

/// The temporary files below a directory.
pub fn temporaries(root: &Path) -> Vec<PathBuf> {
    let is_temporary =
        |path: &PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b".efs-router."));
    tree(root).into_iter().map(|(path, _)| path).filter(is_temporary).collect()
}

/// `tests/nfs.rs` asks the same of targets that are reached without a mount; some others ask nothing else.
pub fn without_a_mount() -> bool {
    matches!(env!("CARGO_CRATE_NAME"), "nfs" | "throttled" | "undecided" | "given_up" | "memory" | "growth")
}

/// A server, and what stands for its mount targets: each at an address of its own, as [`list`] has them.
struct Lab {
    _server: nfs_lab::Ganesha,
    targets: Vec<nfs_lab::Relay>,
}

impl Lab {
    fn new(directory: PathBuf, options: nfs_lab::Options) -> Self {
        // What a test does to the directory behind the server's back is seen.
        let options = nfs_lab::Options { directory: Some(directory), cached: false, ..options };
        let Some(server) = nfs_lab::lab_or_skip(options) else { std::process::exit(0) };
        let first = nfs_lab::Relay::target(2, server.address());
        let others = (3..).map(|last| SocketAddr::from(([127, 0, 0, last], first.port()))).take(DIRECTORIES - 1);
        let others: Vec<_> = others.map(|address| nfs_lab::Relay::at(address, server.address())).collect();
        Self { _server: server, targets: std::iter::once(first).chain(others).collect() }
    }
}

/// A place with the directory that is served, `root`, under the name of every target.
pub struct World(TempDir, Option<Lab>);

impl World {
    pub fn new(targets: usize) -> Self {
        Self::with_server(targets, nfs_lab::Options::default())
    }

    /// Where the targets are a server's, with such a server.
    pub fn with_server(targets: usize, options: nfs_lab::Options) -> Self {
        let mut world = Self(tempfile::tempdir().unwrap(), None);
        fs::create_dir(world.root()).unwrap();
        world.1 = without_a_mount().then(|| Lab::new(world.root(), options));
        fs::create_dir(world.at("mnt")).unwrap();
        for index in 0..DIRECTORIES {
            symlink("../root", world.at(&format!("mnt/efs-{index}"))).unwrap();
        }
        world.publish(&list(targets));
        world
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What stands for this target.
    pub fn relay(&self, target: usize) -> &nfs_lab::Relay {
        &self.1.as_ref().unwrap().targets[target]
    }

    pub fn root(&self) -> PathBuf {
        self.at("root")
    }

    pub fn targets_file(&self) -> PathBuf {
        self.at("targets.json")
    }

    /// Puts a list in the place of the one that is there, at once.
    pub fn publish(&self, text: &str) {
        let beside = self.at("targets.json.new");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, self.targets_file()).unwrap();
    }

    /// `file-service serve` with these variables and no others. A directory of a test needs no `fsync`; and a machine
    /// that does much else is not a target that fails.
    pub fn command(&self, variables: &[(&str, &str)]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_file-service"));
        command.arg("serve").env_clear();
        command.env("TARGETS_FILE", self.targets_file()).env("MOUNT_BASE", self.at("mnt"));
        command.envs([("LISTEN", "127.0.0.1:0"), ("SYNC", "never"), ("DEADLINE_SECONDS", "120")]);
        if let Some(lab) = &self.1 {
            command.env("BACKEND", "nfs").env("NFS_PORT", lab.targets[0].port().to_string());
        }
        command.envs(variables.iter().copied());
        command
    }

    pub fn serve(&self, variables: &[(&str, &str)]) -> Server {
        Server::start(self.command(variables))
    }
}

/// A list of so many targets, as it is published.
pub fn list(targets: usize) -> String {
    let target = |index: usize| {
        json!({
            "mount_target_id": format!("fsmt-{index:08}"),
            "ip_address": format!("127.0.0.{}", index + 2),
            "availability_zone": format!("ap-northeast-1{}", char::from(b'a' + index as u8)),
            "subnet_id": format!("subnet-{index:08}"),
        })
    };
    json!({ "mount_targets": (0..targets).map(target).collect::<Vec<_>>() }).to_string()
}

/// What a process has written to its log.
#[derive(Default)]
struct Log {
    lines: Mutex<(Vec<Value>, bool)>,
    more: Condvar,
}

impl Log {
    /// Takes the lines as they come: a process whose pipe is full would wait for this one.
    fn drain(self: &Arc<Self>, from: impl Read + Send + 'static) {
        let log = Arc::clone(self);
        thread::spawn(move || {
            for line in BufReader::new(from).lines() {
                let Ok(line) = line else { break };
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                log.lines.lock().unwrap().0.push(line);
                log.more.notify_all();
            }
            log.lines.lock().unwrap().1 = true;
            log.more.notify_all();
        });
    }

    fn lines(&self) -> Vec<Value> {
        self.lines.lock().unwrap().0.clone()
    }

    /// The first line that is wanted, once it is there.
    fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + PATIENCE;
        let mut lines = self.lines.lock().unwrap();
        loop {
            if let Some(line) = lines.0.iter().find(|line| wanted(line)) {
                return line.clone();
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!lines.1 && !left.is_zero(), "no line {what} in {:#?}", lines.0);
            lines = self.more.wait_timeout(lines, left).unwrap().0;
        }
    }
}

/// A process that serves; ended when it is dropped.
pub struct Server {
    child: Child,
    log: Arc<Log>,
    pub address: SocketAddr,
}

impl Server {
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let log = Arc::<Log>::default();
        log.drain(child.stdout.take().unwrap());
        // Made first, so that it is ended if it never becomes ready.
        let mut server = Self { child, log, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let ready = server.log.wait("ready", |line| line["message"] == "ready");
        server.address = ready["address"].as_str().unwrap().parse().unwrap();
        assert!(server.address.ip().is_loopback());
        server
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn lines(&self) -> Vec<Value> {
        self.log.lines()
    }

    pub fn wait_for(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.log.wait(what, wanted)
    }

    pub fn client(&self) -> Client {
        Client::new(self.address)
    }

    /// On a connection of its own.
    pub fn send(&self, request: &Request) -> Answer {
        self.client().send(request)
    }

    pub fn get(&self, target: &str) -> Answer {
        self.send(&Request::get(target))
    }

    pub fn put(&self, target: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.send(&Request::put(target, body))
    }

    /// The sum over all targets.
    pub fn metric(&self, name: &str) -> f64 {
        let page = String::from_utf8(self.get("/metrics").body).unwrap();
        let values = page.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let (series, value) = line.rsplit_once(' ')?;
            (series.split('{').next() == Some(name)).then(|| value.parse::<f64>().unwrap())
        });
        let values: Vec<_> = values.collect();
        assert!(!values.is_empty(), "no {name} in {page}");
        values.iter().sum()
    }

    pub fn terminate(&self) {
        kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
    }

    /// As the kernel ends it: nothing is finished.
    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Its status, when it has ended by itself.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("the process ends", || self.child.try_wait().unwrap())
    }

    /// Bytes of memory that it has now.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() << 10
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One request, which may be wrong in every way that bytes can be.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Option<Vec<u8>>,
    /// Sent in chunks of so many bytes, without a length beforehand.
    pub chunk: Option<usize>,
}

impl Request {
    pub fn new(method: &str, target: &str) -> Self {
        Self { method: method.to_owned(), target: target.to_owned(), headers: Vec::new(), body: None, chunk: None }
    }

    pub fn get(target: &str) -> Self {
        Self::new("GET", target)
    }

    pub fn put(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("PUT", target).body(body)
    }

    pub fn append(target: &str, body: impl Into<Vec<u8>>) -> Self {
        Self::new("POST", &format!("{target}?append")).body(body)
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    pub fn chunked(mut self, chunk: usize) -> Self {
        self.chunk = Some(chunk);
        self
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\nhost: router\r\n", self.method, self.target).into_bytes();
        for (name, value) in &self.headers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        match (&self.body, self.chunk) {
            (None, _) => bytes.extend_from_slice(b"\r\n"),
            (Some(body), None) => {
                bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
                bytes.extend_from_slice(body);
            }
            (Some(body), Some(size)) => {
                bytes.extend_from_slice(b"transfer-encoding: chunked\r\n\r\n");
                for chunk in body.chunks(size) {
                    bytes.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    bytes.extend_from_slice(chunk);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
        }
        bytes
    }
}

#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The file's tag with its quotes.
    pub fn tag(&self) -> &str {
        self.header("etag").unwrap_or_else(|| panic!("no tag in {self:?}"))
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON in {self:?}"))
    }

    /// The code of a refusal.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_else(|| panic!("no code in {self:?}")).to_owned()
    }

    /// The status and the code of a refusal, in one text.
    pub fn api_error(&self) -> String {
        format!("{} {}", self.status, self.code())
    }
}

/// Reads one answer; `empty` when its request was one whose answer has no body.
pub fn answer(from: &mut impl BufRead, empty: bool) -> io::Result<Answer> {
    let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let line = |from: &mut dyn BufRead| {
        let mut line = Vec::new();
        from.read_until(b'\n', &mut line)?;
        if !line.ends_with(b"\r\n") {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed"));
        }
        Ok(String::from_utf8_lossy(&line[..line.len() - 2]).into_owned())
    };
    loop {
        let first = line(from)?;
        let status = first.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status: u16 = status.ok_or_else(|| bad(first))?;
        let mut headers = Vec::new();
        loop {
            let line = line(from)?;
            let Some((name, value)) = line.split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut answer = Answer { status, headers, body: Vec::new() };
        if status < 200 {
            continue;
        }
        if empty || matches!(status, 204 | 304) {
            return Ok(answer);
        }
        if answer.header("transfer-encoding").is_some() {
            loop {
                let size = line(from)?;
                let size = usize::from_str_radix(&size, 16).map_err(|_| bad(size))?;
                let at = answer.body.len();
                answer.body.resize(at + size, 0);
                from.read_exact(&mut answer.body[at..])?;
                line(from)?;
                if size == 0 {
                    return Ok(answer);
                }
            }
        }
        let length = answer.header("content-length").map(str::parse::<usize>);
        match length {
            Some(length) => {
                answer.body = vec![0; length.map_err(|err| bad(err.to_string()))?];
                from.read_exact(&mut answer.body)?;
            }
            None => {
                from.read_to_end(&mut answer.body)?;
            }
        }
        return Ok(answer);
    }
}

/// A connection that is kept as long as the service keeps it.
pub struct Client {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

/// A connection on which nothing hangs for ever.
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Has the program read all that `client` has sent to it? By Linux's table of sockets: what it has not read is in a queue.
pub fn is_read(client: &TcpStream) -> bool {
    let hex = |port: u16| format!(":{port:04X}");
    let (here, there) = (client.local_addr().unwrap().port(), client.peer_addr().unwrap().port());
    let sockets = fs::read_to_string("/proc/net/tcp").unwrap();
    sockets.lines().any(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        // Address, the peer's address, state, and the lengths of the two queues.
        fields.len() > 4
            && fields[1].ends_with(&hex(there))
            && fields[2].ends_with(&hex(here))
            && fields[4].ends_with(":00000000")
    })
}

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self { address, stream: None }
    }

    pub fn get(&mut self, target: &str) -> Answer {
        self.send(&Request::get(target))
    }

    pub fn put(&mut self, target: &str, body: impl Into<Vec<u8>>) -> Answer {
        self.send(&Request::put(target, body))
    }

    pub fn send(&mut self, request: &Request) -> Answer {
        let bytes = request.bytes();
        self.send_bytes(&bytes, request.method == "HEAD")
            .unwrap_or_else(|err| panic!("{} {}: {err}", request.method, request.target))
    }

    /// Sends what may not even be a request.
    pub fn send_bytes(&mut self, bytes: &[u8], empty: bool) -> io::Result<Answer> {
        let mut stream = self.stream.take().unwrap_or_else(|| BufReader::new(connect(self.address)));
        // Who refuses a body may close before it has come; what it says is there all the same.
        let sent = stream.get_mut().write_all(bytes);
        let answer = answer(&mut stream, empty)?;
        let closed = answer.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        // Whether the rest of a refused body is read or the connection closed is the service's affair.
        if sent.is_ok() && !closed && answer.status < 400 {
            self.stream = Some(stream);
        }
        Ok(answer)
    }
}
