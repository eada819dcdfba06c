//! The file service on the published list: writes files, reads them back, compares them, and reports the share of each
//! mount target before and after the first execution.
//!
//! The targets are a real NFS server behind one relay each, and one of them is cut off during the reads. Without a server
//! they are one directory under several names.

use std::{
    collections::BTreeMap,
    os::unix::{
        fs::{PermissionsExt, symlink},
        process::CommandExt,
    },
    path::Path,
    process::Stdio,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use axum::body::Body;
use bytes::Bytes;
use domain::published::PublishedList;
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use nfs_lab::{End, Ganesha, Relay};
use router::{
    select::{STRATEGIES, Strategy},
    table::{Routing, Table},
};
use serde::Serialize;
use serde_json::Value;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
    task::JoinSet,
};

use super::{
    emulator::{ACCOUNT, REGION, end_with_parent},
    files::place,
    tools::{FILE_SERVICE, Tools},
    world::World,
};
use ctl::screen::Screen;
use probe::grouped;

/// Files that go through the service.
const FILES: u64 = 3000;
const CLIENTS: u64 = 32;
const START_TIMEOUT: Duration = Duration::from_secs(30);
const BAR: usize = 30;
/// Timeout of each operation on a file.
const DEADLINE: Duration = Duration::from_secs(2);
/// Allowance for a busy machine.
const SCHEDULING_MARGIN: Duration = Duration::from_secs(3);
/// The user nobody: the service needs no privilege.
const NOBODY_UID: u32 = 65534;
/// Maximum deviation of a share: six standard deviations of 3,000 paths.
const TOLERANCE: f64 = 0.055;

/// Results of the service, for people and scripts.
#[derive(Debug, Serialize)]
pub struct Served {
    written: u64,
    /// Files read back with the same content.
    verified: u64,
    strategy: &'static str,
    seconds_to_ready: f64,
    /// `nfs`, or `mounted` where no NFS server can be run.
    backend: &'static str,
    /// Why it is not `nfs`.
    no_nfs: Option<String>,
    /// The one that was cut off.
    lost: Option<Lost>,
    targets: Vec<Share>,
    /// The part of the paths that the change of the list gives to another target, by strategy.
    moved: BTreeMap<&'static str, f64>,
}

#[derive(Debug, Serialize)]
struct Share {
    mount_target_id: String,
    availability_zone: String,
    before: f64,
    /// As the service said itself, file by file.
    after: f64,
}

/// Requests while a target was cut off.
#[derive(Debug, Default, Serialize)]
struct Lost {
    mount_target_id: String,
    /// Requests that got a retryable error or no response.
    refused: u64,
    /// Longest time from the first such error for a file to its content.
    longest_seconds: f64,
    deadline_seconds: f64,
}

/// Stand-ins for the mount targets.
enum Targets {
    /// One directory under several names, and the reason.
    Directory(String),
    /// A server, and a relay for each target that there may be. The relay of a target is the one at its position in
    /// `ids`.
    Server { _server: Box<Ganesha>, relays: Vec<Relay>, ids: Mutex<Vec<String>> },
}

impl Targets {
    /// For the targets of a list, and for more up to `capacity`.
    fn new(directory: &TempDir, list: &PublishedList, capacity: usize) -> Result<Self> {
        let capacity = capacity.max(list.targets().len());
        let files = directory.path().join("files");
        std::fs::create_dir(&files)?;
        if let Err(err) = Ganesha::available() {
            for slot in 0..capacity {
                symlink("files", directory.path().join(format!("efs-{slot}")))?;
            }
            return Ok(Self::Directory(err));
        }
        for path in [directory.path(), &files] {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777))?;
        }
        let server = Ganesha::start(nfs_lab::Options { directory: Some(files), ..nfs_lab::Options::default() });
        let mut relays = vec![Relay::target(2, server.address())];
        for number in 3..capacity + 2 {
            let last = u8::try_from(number).context("more targets than addresses on this machine")?;
            let address = std::net::SocketAddr::from(([127, 0, 0, last], relays[0].port()));
            relays.push(Relay::at(address, server.address()));
        }
        let targets = Self::Server { _server: Box::new(server), relays, ids: Mutex::default() };
        targets.publish(directory, list)?;
        Ok(targets)
    }

    /// Writes the list for the service: each target as it is published but for its address, which is on this machine.
    /// A service on a directory reads the parameter itself.
    fn publish(&self, directory: &TempDir, list: &PublishedList) -> Result<()> {
        let Self::Server { relays, ids, .. } = self else { return Ok(()) };
        let mut ids = ids.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text: Value = serde_json::from_str(&list.to_json())?;
        for target in text["mount_targets"].as_array_mut().context("a list without targets")? {
            let id = target["mount_target_id"].as_str().unwrap_or_default().to_owned();
            let index = ids.iter().position(|known| *known == id).unwrap_or_else(|| {
                ids.push(id);
                ids.len() - 1
            });
            let relay = relays.get(index).context("more targets than addresses on this machine")?;
            target["ip_address"] = relay.ip().to_string().into();
        }
        let (new, path) = (directory.path().join("targets.json.new"), directory.path().join("targets.json"));
        std::fs::write(&new, text.to_string())?;
        Ok(std::fs::rename(new, path)?)
    }

    /// Cuts a target off, or connects it again; `slot` is its position in the published list.
    fn set_cut(&self, directory: &TempDir, id: &str, slot: usize, is_cut: bool) -> Result<()> {
        match self {
            Self::Directory(_) => {
                let path = directory.path().join(format!("efs-{slot}"));
                match is_cut {
                    true => std::fs::remove_file(path)?,
                    false => symlink("files", path)?,
                }
            }
            Self::Server { relays, ids, .. } => {
                let index = ids.lock().unwrap_or_else(PoisonError::into_inner).iter().position(|known| known == id);
                let relay = index.and_then(|index| relays.get(index)).context("there is no such target")?;
                relay.refuse(is_cut);
                if is_cut {
                    relay.cut(End::Reset);
                }
            }
        }
        Ok(())
    }

    /// The command of the service.
    fn command(&self, program: &Path, directory: &TempDir) -> Result<std::process::Command> {
        let Self::Server { relays, .. } = self else {
            let mut command = std::process::Command::new(program);
            command.env_clear().env("MOUNT_BASE", directory.path());
            return Ok(command);
        };
        // Where nobody may read it, and as nobody: it mounts nothing.
        let copy = directory.path().join("file-service");
        std::fs::copy(program, &copy)?;
        let mut command = std::process::Command::new(copy);
        command.env_clear().uid(NOBODY_UID).gid(NOBODY_UID);
        let seconds = DEADLINE.as_secs().to_string();
        command.envs([("BACKEND", "nfs"), ("PROBE_SECONDS", "0.2"), ("DEADLINE_SECONDS", &seconds)]);
        command.env("NFS_PORT", relays[0].port().to_string());
        command.env("TARGETS_FILE", directory.path().join("targets.json"));
        Ok(command)
    }
}

/// The process of the file service, and what stands for its targets.
pub(crate) struct Router {
    pub address: String,
    seconds_to_ready: f64,
    targets: Targets,
    _child: Child,
    directory: TempDir,
}

impl Router {
    /// `refresh`: how often the service looks for another list, if it does.
    pub async fn start(
        tools: &Tools,
        world: &World,
        list: &PublishedList,
        capacity: usize,
        refresh: Option<Duration>,
    ) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("efs-autoscale-service-").tempdir_in(place(FILES))?;
        let targets = Targets::new(&directory, list, capacity)?;
        let began = Instant::now();
        let mut command = targets.command(&tools.binary(FILE_SERVICE)?, &directory)?;
        command
            .arg("serve")
            // Nothing of the caller's leads to a real account.
            .env("AWS_ENDPOINT_URL", world.endpoint())
            .env("AWS_ACCESS_KEY_ID", ACCOUNT)
            .env("AWS_SECRET_ACCESS_KEY", "local")
            .env("AWS_REGION", REGION)
            .env("EFS_FILE_SYSTEM_ID", &world.file_system)
            .env("LISTEN", "127.0.0.1:0")
            .env("REFRESH_SECONDS", refresh.map_or(0, |every| every.as_secs()).to_string())
            // What an interrupt leaves is found by this.
            .envs(std::env::vars_os().filter(|(name, _)| name == "TMPDIR"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        end_with_parent(&mut command);
        let mut child = Command::from(command).kill_on_drop(true).spawn().context("cannot start the router")?;
        let mut log = BufReader::new(child.stdout.take().context("the router has no stdout")?).lines();
        let ready = async {
            let mut said = Vec::new();
            while let Some(line) = log.next_line().await? {
                let event: Value = serde_json::from_str(&line).unwrap_or_default();
                if event["message"] == "ready" {
                    return Ok(event["address"].as_str().unwrap_or_default().to_owned());
                }
                said.push(line);
            }
            bail!("the router ended before it was ready:\n{}", said.join("\n"))
        };
        let address = tokio::time::timeout(START_TIMEOUT, ready).await.context("the router does not get ready")??;
        let seconds_to_ready = began.elapsed().as_secs_f64();
        // Read to the end: a full pipe would keep its log.
        tokio::spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
        Ok(Self { address, seconds_to_ready, targets, _child: child, directory })
    }

    /// Gives the service another list.
    pub fn publish(&self, list: &PublishedList) -> Result<()> {
        self.targets.publish(&self.directory, list)
    }

    /// Cuts a target off, or connects it again.
    pub fn set_cut(&self, list: &PublishedList, id: &str, is_cut: bool) -> Result<()> {
        let slot = list.targets().iter().position(|target| target.mount_target_id.as_str() == id);
        self.targets.set_cut(&self.directory, id, slot.context("it is not published")?, is_cut)
    }
}

/// Starts the service on the list that is published now, and sends files through it.
///
/// # Errors
/// When it cannot be started, or refuses a file.
pub async fn serve(tools: &Tools, world: &World, before: Option<&str>, screen: &Screen) -> Result<Served> {
    screen.doing("starting the file service on the published list");
    let (text, _) = world.published().await?.context("there is no published list")?;
    let after = PublishedList::parse(&text)?;
    let before = before.map_or_else(|| Ok(after.clone()), PublishedList::parse)?;
    let router = Router::start(tools, world, &after, 0, None).await?;

    let client = Client::builder(TokioExecutor::new()).build_http();
    let doing = Arc::new(AtomicU64::new(0));
    let (mut written, mut verified) = (BTreeMap::new(), 0);
    let mut lost = None;
    for reading in [false, true] {
        doing.store(0, Ordering::Relaxed);
        let mut clients = JoinSet::new();
        for first in 0..CLIENTS {
            clients.spawn(exchange(client.clone(), router.address.clone(), first, reading, Arc::clone(&doing)));
        }
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        loop {
            tokio::select! {
                done = clients.join_next() => match done {
                    None => break,
                    Some(done) => {
                        let done = done??;
                        match &mut lost {
                            Some(lost) => done.add_to(lost),
                            None => ensure!(done.refused == 0, "{} requests were refused, and nothing was wrong", done.refused),
                        }
                        match reading {
                            true => verified += done.targets.len() as u64,
                            false => written.extend(done.targets),
                        }
                    }
                },
                _ = ticks.tick() => {
                    let done = doing.load(Ordering::Relaxed);
                    if let Targets::Server { relays, .. } = &router.targets
                        && reading && lost.is_none() && done > FILES / 4
                    {
                        let mount_target_id = after.targets()[0].mount_target_id.to_string();
                        lost = Some(Lost { mount_target_id, deadline_seconds: DEADLINE.as_secs_f64(), ..Lost::default() });
                        relays[0].refuse(true);
                        relays[0].cut(End::Reset);
                    }
                    let what = match (reading, &lost) {
                        (false, _) => "writing files through the service",
                        (true, None) => "reading them back",
                        (true, Some(_)) => "reading them back, with one target cut off",
                    };
                    screen.detail(format!("{what}: {done} of {FILES}"));
                }
            }
        }
    }

    let chosen = |strategy, list: &PublishedList| -> Result<BTreeMap<String, String>> {
        let table = Table::new(list.clone(), Routing { strategy, local: None })?;
        let target = |path: &String| table.targets().get(table.first(path.as_bytes(), &|_| true)?);
        let ids = written.keys().filter_map(|path| Some((path.clone(), target(path)?.mount_target_id.to_string())));
        Ok(ids.collect())
    };
    let share = |targets: &BTreeMap<String, String>, id: &str| {
        targets.values().filter(|target| *target == id).count() as f64 / targets.len().max(1) as f64
    };
    let used: &'static dyn Strategy = STRATEGIES[0];
    let earlier = chosen(used, &before)?;
    let targets = after.targets().iter().map(|target| Share {
        mount_target_id: target.mount_target_id.to_string(),
        availability_zone: target.availability_zone.to_string(),
        before: share(&earlier, target.mount_target_id.as_str()),
        after: share(&written, target.mount_target_id.as_str()),
    });
    let targets = targets.collect();
    let mut moved = BTreeMap::new();
    for strategy in STRATEGIES {
        let (earlier, later) = (chosen(strategy, &before)?, chosen(strategy, &after)?);
        let others = earlier.iter().filter(|(path, target)| later.get(*path) != Some(target)).count();
        moved.insert(strategy.name(), others as f64 / earlier.len().max(1) as f64);
    }
    let (backend, no_nfs) = match &router.targets {
        Targets::Directory(err) => ("mounted", Some(err.clone())),
        Targets::Server { .. } => ("nfs", None),
    };
    Ok(Served {
        written: written.len() as u64,
        verified,
        strategy: used.name(),
        seconds_to_ready: router.seconds_to_ready,
        backend,
        no_nfs,
        lost,
        targets,
        moved,
    })
}

/// The result of one client.
#[derive(Default)]
struct Done {
    /// Of each file, the target that it went by.
    targets: BTreeMap<String, String>,
    refused: u64,
    longest: Duration,
}

impl Done {
    fn add_to(&self, lost: &mut Lost) {
        lost.refused += self.refused;
        lost.longest_seconds = lost.longest_seconds.max(self.longest.as_secs_f64());
    }
}

fn path(number: u64) -> String {
    format!("user/{:03}/document-{number}.pdf", number % 100)
}

/// The content of a file, different in length and bytes for each.
fn content(number: u64) -> Bytes {
    format!("This is document {number}. ").repeat(1 + (number % 200) as usize).into()
}

/// What one client does of the files: writes them, or reads them back and compares. It comes again when it is told to.
async fn exchange(
    client: Client<HttpConnector, Body>,
    address: String,
    first: u64,
    reading: bool,
    doing: Arc<AtomicU64>,
) -> Result<Done> {
    const RETRY_PAUSE: Duration = Duration::from_millis(20);
    let mut done = Done::default();
    for number in (first..FILES).step_by(CLIENTS as usize) {
        let path = path(number);
        let mut refused: Option<Instant> = None;
        let (head, body) = loop {
            let request = http::Request::builder().uri(format!("http://{address}/files/{path}"));
            let request = match reading {
                true => request.body(Body::empty())?,
                false => request.method("PUT").body(Body::from(content(number)))?,
            };
            let (head, body) = client.request(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            let later = matches!(head.status.as_u16(), 503 | 504);
            let since = refused.get_or_insert_with(Instant::now).elapsed();
            if !later || since > 2 * (DEADLINE + SCHEDULING_MARGIN) {
                if done.refused > 0 {
                    done.longest = done.longest.max(since);
                }
                break (head, body);
            }
            done.refused += 1;
            tokio::time::sleep(RETRY_PAUSE).await;
        };
        ensure!(head.status.is_success(), "{path}: {}: {}", head.status, String::from_utf8_lossy(&body));
        ensure!(!reading || body == content(number), "{path} is not what was written");
        let target = head.headers.get("x-mount-target").and_then(|target| target.to_str().ok());
        done.targets.insert(path, target.unwrap_or_default().to_owned());
        doing.fetch_add(1, Ordering::Relaxed);
    }
    Ok(done)
}

impl Served {
    /// What a person reads.
    pub fn lines(&self) -> Vec<String> {
        let row = |name: &str, text: String| format!("  {name:<14}{text}");
        let bar =
            |share: f64| format!("{:<BAR$} {:5.1} %", "█".repeat((share * BAR as f64).round() as usize), share * 100.0);
        let mut lines = vec![
            row(
                "files",
                format!("{} written, {} read back and the same", grouped(self.written), grouped(self.verified)),
            ),
            row("ready", format!("in {:.2} s", self.seconds_to_ready)),
            row(
                "targets",
                match &self.no_nfs {
                    None => "a real NFS server behind an address for each; no mount, no privilege".to_owned(),
                    Some(err) => format!("one directory under several names, since {err}"),
                },
            ),
            row("shares", format!("{:<BAR$}            {}", "before", "after")),
        ];
        let shown = |target: &Share| {
            row("", format!("{}   {}", bar(target.before), bar(target.after)))
                + &format!("  {}  {}", target.availability_zone, target.mount_target_id)
        };
        lines.extend(self.targets.iter().map(shown));
        let moved = self.moved.iter().map(|(strategy, part)| {
            let used = if *strategy == self.strategy { " (in use)" } else { "" };
            format!("{:.1} % with {strategy}{used}", part * 100.0)
        });
        if let Some(lost) = &self.lost {
            let told = match lost.refused {
                0 => "nobody was refused".to_owned(),
                refused => format!("{refused} requests came again, the longest for {:.2} s", lost.longest_seconds),
            };
            lines.push(row("cut off", format!("{} while files were read; {told}", lost.mount_target_id)));
        }
        lines.push(row("paths moved", moved.collect::<Vec<_>>().join(", ")));
        lines
    }

    /// Deviations, by arithmetic alone.
    pub fn surprises(&self) -> Vec<String> {
        let mut surprises = Vec::new();
        if self.verified != self.written {
            surprises.push(format!("the service: {} files written, {} read back", self.written, self.verified));
        }
        let allowed = DEADLINE + SCHEDULING_MARGIN;
        if let Some(lost) = self.lost.as_ref().filter(|lost| lost.longest_seconds > allowed.as_secs_f64()) {
            surprises.push(format!(
                "a file could not be read for {:.1} s while a target was cut off; expected at most {allowed:?}",
                lost.longest_seconds
            ));
        }
        let even = 1.0 / self.targets.len().max(1) as f64;
        for target in &self.targets {
            if (target.after - even).abs() > TOLERANCE {
                surprises.push(format!(
                    "the share of {}: expected about {even:.2}, found {:.2}",
                    target.mount_target_id, target.after
                ));
            }
        }
        let new = self.targets.iter().filter(|target| target.before == 0.0).count();
        let moved = self.moved.get(self.strategy).copied().unwrap_or_default();
        if (moved - new as f64 * even).abs() > TOLERANCE {
            surprises.push(format!("paths moved: expected about {:.2}, found {moved:.2}", new as f64 * even));
        }
        surprises
    }
}
