//! The program as a process of its own, on loopback, and a client for it.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test says what it takes for granted; no test needs all of it"
)]

use std::{
    collections::BTreeMap,
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

use router::{
    PublishedList,
    table::{Routing, Table},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// For what takes no time at all, on a machine that is busy.
pub const SOON: Duration = Duration::from_secs(20);

/// Three targets in three zones. Each directory is a link to one that has the files: one file system.
pub struct Place {
    directory: TempDir,
}

pub const TARGETS: usize = 3;

pub fn id(target: usize) -> String {
    format!("fsmt-{target}0123456789abcdef")
}

pub fn address(target: usize) -> String {
    format!("10.0.{target}.1")
}

pub fn zone(target: usize) -> String {
    format!("ap-northeast-1{}", ["a", "c", "d"][target])
}

/// The published list.
pub fn list() -> String {
    let target = |target: usize| {
        json!({
            "mount_target_id": id(target),
            "ip_address": address(target),
            "availability_zone": zone(target),
            "subnet_id": format!("subnet-{target}"),
        })
    };
    json!({ "mount_targets": (0..TARGETS).map(target).collect::<Vec<_>>() }).to_string()
}

/// The targets of a path as the library orders them.
pub fn order(path: &str) -> Vec<usize> {
    let table = Table::new(PublishedList::parse(&list()).unwrap(), Routing::default()).unwrap();
    table.order(path.as_bytes()).iter().collect()
}

/// So many paths that a target has as its own.
pub fn paths_of(target: usize, count: usize) -> Vec<String> {
    let paths = (0..).map(|number| format!("of/{target}/{number}"));
    paths.filter(|path| order(path)[0] == target).take(count).collect()
}

pub fn some_paths(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("user/{number}/document.pdf")).collect()
}

impl Place {
    /// With these targets present.
    pub fn with(present: &[usize]) -> Self {
        Self::within(std::env::temp_dir(), present)
    }

    pub fn within(directory: impl AsRef<Path>, present: &[usize]) -> Self {
        let place = Self { directory: TempDir::new_in(directory).unwrap() };
        fs::create_dir(place.files()).unwrap();
        fs::write(place.path("targets.json"), list()).unwrap();
        for target in present {
            place.add(*target);
        }
        place
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Where the files are.
    pub fn files(&self) -> PathBuf {
        self.path("files")
    }

    /// The directory of a target.
    pub fn target(&self, target: usize) -> PathBuf {
        self.path(&format!("efs-{target}"))
    }

    pub fn add(&self, target: usize) {
        symlink(self.files(), self.target(target)).unwrap();
    }

    pub fn remove(&self, target: usize) {
        fs::remove_file(self.target(target)).unwrap();
    }

    /// What every service here has; the test's own variables come on top.
    pub fn variables(&self) -> BTreeMap<String, String> {
        let text = |path: PathBuf| path.to_str().unwrap().to_owned();
        let variables = [
            ("TARGETS_FILE", text(self.path("targets.json"))),
            ("MOUNT_BASE", text(self.path(""))),
            ("LISTEN", "127.0.0.1:0".to_owned()),
            ("PROBE_SECONDS", "0.1".to_owned()),
            ("WORKERS", "2".to_owned()),
        ];
        variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// Begins a service that may not come to be ready. A variable without a value is not set.
    pub fn begin(&self, variables: &[(&str, &str)]) -> Service {
        let mut all = self.variables();
        for (name, value) in variables {
            match value.is_empty() {
                true => all.remove(*name),
                false => all.insert((*name).to_owned(), (*value).to_owned()),
            };
        }
        Service::spawn(&all)
    }

    /// A service that is ready.
    pub fn serve(&self, variables: &[(&str, &str)]) -> Service {
        let mut service = self.begin(variables);
        service.wait_until_ready();
        service
    }
}

/// What the program has said, a JSON object a line.
#[derive(Default)]
struct Log {
    said: Mutex<(Vec<Value>, bool)>,
    more: Condvar,
}

/// Ended when it is dropped.
pub struct Service {
    child: Child,
    log: Arc<Log>,
    address: Option<SocketAddr>,
}

impl Service {
    fn spawn(variables: &BTreeMap<String, String>) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_file-service"));
        command.arg("serve").env_clear().envs(variables).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let log = Arc::new(Log::default());
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let writer = Arc::clone(&log);
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                println!("{line}");
                let value = serde_json::from_str(&line).unwrap_or_else(|_| json!({ "not_json": line }));
                writer.said.lock().unwrap().0.push(value);
                writer.more.notify_all();
            }
            writer.said.lock().unwrap().1 = true;
            writer.more.notify_all();
        });
        Self { child, log, address: None }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its threads, as the kernel counts them.
    pub fn threads(&self) -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        status.lines().find_map(|line| line.strip_prefix("Threads:")?.trim().parse().ok()).unwrap()
    }

    /// The number of lines so far, to wait for later ones.
    pub fn said(&self) -> usize {
        self.log.said.lock().unwrap().0.len()
    }

    pub fn lines(&self) -> Vec<Value> {
        self.log.said.lock().unwrap().0.clone()
    }

    /// The first line from this number on that is as wanted.
    pub fn wait_for(&self, from: usize, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let until = Instant::now() + SOON;
        let mut said = self.log.said.lock().unwrap();
        loop {
            if let Some(line) = said.0.iter().skip(from).find(|line| wanted(line)) {
                return line.clone();
            }
            let left = until.saturating_duration_since(Instant::now());
            assert!(!said.1 && !left.is_zero(), "{what} was not said: {:#?}", said.0);
            said = self.log.more.wait_timeout(said, left).unwrap().0;
        }
    }

    pub fn wait_for_message(&self, from: usize, message: &str) -> Value {
        self.wait_for(from, message, |line| line["message"] == message)
    }

    /// Waits until a target is used, or left out.
    pub fn wait_for_target(&self, from: usize, target: usize, works: bool) -> Value {
        let message = if works { "target is up" } else { "target is down" };
        self.wait_for(from, message, |line| line["message"] == message && line["target_id"] == id(target))
    }

    pub fn wait_until_ready(&mut self) {
        let ready = self.wait_for_message(0, "ready");
        self.address = Some(ready["address"].as_str().unwrap().parse().unwrap());
    }

    /// Its status and the last line with an error, after it has ended by itself.
    pub fn wait_for_end(&mut self, patience: Duration) -> ExitStatus {
        let until = Instant::now() + patience;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < until, "it goes on: {:#?}", self.lines());
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// It ends with status 1; the line that says why.
    pub fn wait_for_failure(&mut self) -> Value {
        let status = self.wait_for_end(SOON);
        let failure = self.wait_for_message(0, "the service cannot run");
        assert_eq!((status.code(), &failure["level"]), (Some(1), &json!("ERROR")));
        failure
    }

    pub fn terminate(&self) {
        kill_process(Pid::from_raw(i32::try_from(self.id()).unwrap()).unwrap(), Signal::TERM).unwrap();
    }

    pub fn client(&self) -> Client {
        Client { address: self.address.unwrap(), stream: None }
    }

    /// One request on a connection of its own.
    pub fn send(&self, method: &str, address: &str, body: &[u8]) -> Answer {
        self.client().send(method, address, body)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", &format!("/files/{path}"), b"")
    }

    pub fn put(&self, path: &str, body: &[u8]) -> Answer {
        self.send("PUT", &format!("/files/{path}"), body)
    }

    /// What `/route` says of a path.
    pub fn route(&self, path: &str) -> Value {
        self.send("GET", &format!("/route/{path}"), b"").json()
    }

    /// What `/targets` says of a target.
    pub fn target(&self, target: usize) -> Value {
        let all = self.send("GET", "/targets", b"").json();
        let targets = all["targets"].as_array().unwrap();
        targets.iter().find(|each| each["mount_target_id"] == id(target)).unwrap().clone()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        // A thread in a file system that hangs may keep it from ending: whoever makes the file system go on comes later.
        let until = Instant::now() + Duration::from_secs(3);
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < until {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A connection that is kept, and made anew when it has ended.
pub struct Client {
    address: SocketAddr,
    stream: Option<BufReader<TcpStream>>,
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
    pub took: Duration,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{self:?}"))
    }

    /// Of an answer that says no: its code.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Which target has answered.
    pub fn target(&self) -> usize {
        let told = self.header("x-mount-target").unwrap_or_else(|| panic!("{self:?}"));
        (0..TARGETS).find(|target| id(*target) == told).unwrap()
    }

    pub fn is_done(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

impl Client {
    pub fn connect(&mut self) -> &mut BufReader<TcpStream> {
        let address = self.address;
        self.stream.get_or_insert_with(|| {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            // No answer here takes so long: a test that would wait for ever fails instead.
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            BufReader::new(stream)
        })
    }

    pub fn send(&mut self, method: &str, address: &str, body: &[u8]) -> Answer {
        self.try_send(method, address, body).unwrap()
    }

    /// # Errors
    /// The connection has ended before the answer was whole.
    pub fn try_send(&mut self, method: &str, address: &str, body: &[u8]) -> io::Result<Answer> {
        let began = Instant::now();
        let sent = self.begin(method, address, body.len(), body);
        // Who refuses a large body does not read it, but answers.
        let answer = self.answer(began);
        if sent.is_err() || answer.is_err() {
            self.stream = None;
        }
        answer
    }

    /// Sends the head of a request and as much of its body as is given.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn begin(&mut self, method: &str, address: &str, length: usize, body: &[u8]) -> io::Result<()> {
        let mut request = format!("{method} {address} HTTP/1.1\r\nhost: test\r\n").into_bytes();
        if length > 0 || method != "GET" {
            write!(request, "content-length: {length}\r\n").unwrap();
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
        self.more(&request)
    }

    /// More of the body.
    ///
    /// # Errors
    /// The connection has ended.
    pub fn more(&mut self, body: &[u8]) -> io::Result<()> {
        self.connect().get_mut().write_all(body)
    }

    /// # Errors
    /// The connection has ended before the answer was whole.
    pub fn answer(&mut self, began: Instant) -> io::Result<Answer> {
        let stream = self.connect();
        let mut line = || {
            let mut line = String::new();
            match stream.read_line(&mut line)? {
                0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
                _ => Ok(line.trim_end().to_owned()),
            }
        };
        let status = line()?;
        let status = status.split(' ').nth(1).unwrap_or_else(|| panic!("no answer: {status:?}")).parse().unwrap();
        let mut headers = BTreeMap::new();
        while let Some((name, value)) = line()?.split_once(": ") {
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        if headers.get("connection").is_some_and(|value| value == "close") {
            self.stream = None;
        }
        Ok(Answer { status, headers, body, took: began.elapsed() })
    }
}
