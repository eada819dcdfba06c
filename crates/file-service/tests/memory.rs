//! A task of 512 MiB while one of its targets hangs and comes back: it sheds load instead of growing, and loses no
//! write that it has acknowledged. In a cgroup of that size where this process may make one.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    io::{BufReader, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use common::{Server, World, answer, connect, eventually};

/// Of the task, in bytes: half of the smallest one that the stack makes.
const LIMIT: u64 = 512 << 20;
const CLIENTS: usize = 900;
const TARGETS: usize = 3;
const SMALL: usize = 200 << 10;
const LARGE: usize = 2 << 20;
const DEADLINE: Duration = Duration::from_secs(4);

/// A cgroup with a limit of memory. Removed when it is dropped.
struct Cgroup {
    directory: PathBuf,
    peak: &'static str,
}

impl Cgroup {
    /// `None` where this process may not make one.
    fn new() -> Option<Self> {
        let name = format!("router-memory-{}", std::process::id());
        let versions = [
            ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
            ("/sys/fs/cgroup", "memory.max", "memory.peak"),
        ];
        versions.into_iter().find_map(|(root, limit, peak)| {
            let directory = Path::new(root).join(&name);
            fs::create_dir(&directory).ok()?;
            let made = Self { directory, peak };
            fs::write(made.directory.join(limit), LIMIT.to_string()).ok().map(|()| made)
        })
    }

    fn within(&self, command: &Command) -> Command {
        let mut within = Command::new("/bin/sh");
        within.args(["-c", "echo $$ >\"$1\" && exec \"$2\" serve", "sh"]).arg(self.directory.join("cgroup.procs"));
        within.arg(command.get_program()).env_clear();
        within.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        within
    }

    fn peak(&self) -> u64 {
        let peak = fs::read_to_string(self.directory.join(self.peak)).unwrap_or_default();
        peak.trim().parse().unwrap_or_default()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // Its process has ended, and the kernel may need a moment to see that.
        for _ in 0..50 {
            if fs::remove_dir(&self.directory).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A content that tells its path and its version, and is checked by whoever reads it.
fn content(path: &str, version: usize, length: usize) -> Vec<u8> {
    let line = format!("{path} {version}\n");
    line.bytes().cycle().take(length).collect()
}

/// What one client did to its path.
#[derive(Default)]
struct Done {
    path: String,
    length: usize,
    /// The last version that was acknowledged.
    acknowledged: Option<usize>,
    /// Later ones of which it is not known.
    unknown: Vec<usize>,
    told: BTreeMap<String, usize>,
}

/// One request on a connection of its own, or what became of it.
fn ask(server: &Server, head: &str, body: &[u8]) -> std::io::Result<common::Answer> {
    let mut stream = connect(server.address);
    stream.write_all(head.as_bytes())?;
    // Whoever is refused may be so before it has sent everything.
    let _ = stream.write_all(body);
    answer(&mut BufReader::new(stream), false)
}

fn client(server: &Server, number: usize, end: &AtomicBool) -> Done {
    let length = if number.is_multiple_of(3) { SMALL } else { LARGE };
    let path = format!("/files/client/{number}");
    let mut done = Done { path: path.clone(), length, ..Done::default() };
    for version in 0.. {
        let is_read = number % 3 == 2;
        let asked = match is_read {
            true => ask(server, &format!("GET /files/large/{} HTTP/1.1\r\nhost: a\r\n\r\n", number % 16), b""),
            false => {
                let head = format!("PUT {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {length}\r\n\r\n");
                ask(server, &head, &content(&path, version, length))
            }
        };
        let said = match &asked {
            Ok(answer) if answer.status < 400 => answer.status.to_string(),
            Ok(answer) => {
                assert!(answer.status != 503 || answer.header("retry-after").is_some(), "{answer:?}");
                answer.api_error()
            }
            Err(err) => format!("{:?}", err.kind()),
        };
        match &asked {
            _ if is_read => {}
            Ok(answer) if answer.status < 400 => {
                (done.acknowledged, done.unknown) = (Some(version), Vec::new());
            }
            Ok(answer) if answer.status == 503 => {}
            _ => done.unknown.push(version),
        }
        if !said.starts_with('2') {
            // As Retry-After says.
            thread::sleep(Duration::from_millis(500));
        }
        *done.told.entry(said).or_insert(0) += 1;
        if end.load(Ordering::Relaxed) {
            break;
        }
    }
    done
}

#[test]
fn a_task_of_512_mib_sheds_load_while_a_target_hangs() {
    let world = World::new(TARGETS);
    let cgroup = Cgroup::new();
    let mut command = world.command(&[
        ("DEADLINE_SECONDS", &DEADLINE.as_secs().to_string()),
        ("PROBE_SECONDS", "0.5"),
        ("WORKERS", "2"),
        // As the stack has it.
        ("CONNECTIONS_PER_TARGET", "auto"),
        ("IDLE_SECONDS", "20"),
    ]);
    match &cgroup {
        Some(cgroup) => command = cgroup.within(&command),
        None => println!("no cgroup can be made here: only the memory of the process is watched"),
    }
    let server = Server::start(command);
    for number in 0..16 {
        assert_eq!(server.put(&format!("/files/large/{number}"), vec![7; 8 << 20]).status, 201);
    }
    let before = server.resident();
    let (end, mut most) = (AtomicBool::new(false), 0);
    let done: Vec<_> = thread::scope(|scope| {
        let (server, end) = (&server, &end);
        let clients: Vec<_> = (0..CLIENTS).map(|number| scope.spawn(move || client(server, number, end))).collect();
        let mut watch = |what: &str, time: Duration| {
            let until = Instant::now() + time;
            while Instant::now() < until {
                most = most.max(server.resident());
                thread::sleep(Duration::from_millis(100));
            }
            println!("{what}: {} MiB now, {} at most", server.resident() >> 20, most >> 20);
        };
        watch("all targets work", Duration::from_secs(4));
        world.relay(0).hang(true);
        watch("one hangs", 2 * DEADLINE);
        world.relay(0).hang(false);
        watch("it is back", Duration::from_secs(4));
        // All of them: nobody can be sent elsewhere.
        (0..TARGETS).for_each(|target| world.relay(target).hang(true));
        watch("all hang", 2 * DEADLINE);
        (0..TARGETS).for_each(|target| world.relay(target).hang(false));
        watch("all are back", Duration::from_secs(4));
        end.store(true, Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).collect()
    });
    let mut told = BTreeMap::new();
    done.iter().flat_map(|done| &done.told).for_each(|(said, count)| *told.entry(said).or_insert(0) += count);
    println!("{told:?}; {} MiB before, {} at most, of {}", before >> 20, most >> 20, LIMIT >> 20);
    if let Some(cgroup) = &cgroup {
        println!("{} MiB at most by the cgroup", cgroup.peak() >> 20);
    }
    assert!(most < LIMIT, "{} MiB", most >> 20);
    // What was acknowledged is there, or what came after it and was not.
    eventually("the service answers", || (server.get("/files/large/0").status == 200).then_some(()));
    let mut client = server.client();
    for Done { path, length, acknowledged, unknown, .. } in done {
        let Some(acknowledged) = acknowledged else { continue };
        let found = client.get(&path);
        assert_eq!(found.status, 200, "{path}");
        let mut may_be = unknown.iter().chain([&acknowledged]);
        assert!(may_be.any(|version| found.body == content(&path, *version, length)), "{path}: {acknowledged}");
    }
}
