//! Several tasks of the service and one NFS server. Each task has its own relays as mount targets, so that a fault can
//! affect the path from one task to one target.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nfs_lab::{Ganesha, Options, Relay};
use serde_json::json;
use tempfile::TempDir;

use super::common::Server;

/// `DEADLINE_SECONDS` of every task.
pub const DEADLINE: Duration = Duration::from_secs(2);
/// A killed task keeps its locks for this long.
const LEASE_SECONDS: u32 = 8;

pub struct Cluster {
    pub tasks: Vec<Task>,
    pub server: Ganesha,
    _place: TempDir,
}

/// A process of the service that can be killed and started again.
pub struct Task {
    pub relays: Vec<Relay>,
    number: u8,
    targets_file: PathBuf,
    variables: Vec<(String, String)>,
    server: Mutex<Option<Server>>,
}

impl Cluster {
    /// Starts the server and the tasks, with additional variables. `None` if no server can run here.
    pub fn new(tasks: usize, targets: usize, variables: &[(&str, &str)]) -> Option<Self> {
        let server = nfs_lab::lab_or_skip(Options { lease: LEASE_SECONDS, ..Options::default() })?;
        let place = tempfile::tempdir().unwrap();
        let task = |number: usize| {
            let task = Task::new(number as u8 + 1, targets, server.address(), &place, variables);
            task.start();
            task
        };
        Some(Self { tasks: (0..tasks).map(task).collect(), server, _place: place })
    }
}

impl Task {
    fn new(number: u8, targets: usize, server: SocketAddr, place: &TempDir, variables: &[(&str, &str)]) -> Self {
        let address = |target: u8, port| SocketAddr::from(([127, 0, number, target + 1], port));
        let first = Relay::at(address(1, 0), server);
        let others = (2..=targets as u8).map(|target| Relay::at(address(target, first.port()), server));
        let others: Vec<_> = others.collect();
        let targets_file = place.path().join(format!("targets-{number}.json"));
        let own = [
            ("TARGETS_FILE", targets_file.display().to_string()),
            ("LISTEN", "127.0.0.1:0".to_owned()),
            ("BACKEND", "nfs".to_owned()),
            ("NFS_PORT", first.port().to_string()),
            ("DEADLINE_SECONDS", DEADLINE.as_secs_f64().to_string()),
            ("PROBE_SECONDS", "0.2".to_owned()),
            ("REFRESH_SECONDS", "0.2".to_owned()),
            ("WORKERS", "2".to_owned()),
        ];
        let own = own.map(|(name, value)| (name.to_owned(), value));
        let given = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let variables = own.into_iter().chain(given).collect();
        let relays: Vec<_> = std::iter::once(first).chain(others).collect();
        let task = Self { relays, number, targets_file, variables, server: Mutex::default() };
        task.publish(|_| true);
        task
    }

    /// Publishes a list of targets to this task.
    pub fn publish(&self, is_in: impl Fn(usize) -> bool) {
        let target = |target: usize| {
            json!({
                "mount_target_id": format!("fsmt-{target:08}"),
                "ip_address": format!("127.0.{}.{}", self.number, target + 2),
                "availability_zone": format!("ap-northeast-1{}", char::from(b'a' + target as u8)),
                "subnet_id": format!("subnet-{target:08}"),
            })
        };
        let targets: Vec<_> = (0..self.relays.len()).filter(|target| is_in(*target)).map(target).collect();
        let beside = self.targets_file.with_extension("new");
        fs::write(&beside, json!({ "mount_targets": targets }).to_string()).unwrap();
        fs::rename(beside, &self.targets_file).unwrap();
    }

    fn server(&self) -> MutexGuard<'_, Option<Server>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address of the service; `None` while the task does not run.
    pub fn address(&self) -> Option<SocketAddr> {
        self.server().as_ref().map(|server| server.address)
    }

    /// Starts the process and waits until it is ready.
    pub fn start(&self) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_file-service"));
        command.arg("serve").env_clear().envs(self.variables.iter().map(|(name, value)| (name, value)));
        let server = Server::start(command);
        *self.server() = Some(server);
    }

    /// Ends the process with SIGKILL.
    pub fn kill(&self) {
        let server = self.server().take();
        if let Some(server) = server {
            server.kill();
        }
    }
}
