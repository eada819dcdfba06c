//! The environment of the checks: a host, the other hosts, and the probe's directory.

use std::{
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use nfs41::{AttributeMask, Client, DirCursor, Error, Status};
use tokio::time::{sleep, timeout};

use super::{
    Setup,
    checks::IDLE_KEY,
    outcome::{Outcome, TimeLimits, excluded, not_asked, unknown},
    target::Target,
};

/// A host, the other hosts, and a directory that the probe creates through it.
pub struct World {
    pub setup: Arc<Setup>,
    /// This host first. Checks with two hosts use the first two.
    pub targets: Vec<Arc<Target>>,
    /// Whether this is the first host of the command line.
    pub is_first: bool,
    /// Name of the probe's directory.
    pub name: String,
    /// The directory may exist: its creation was attempted.
    pub creation_attempted: AtomicBool,
    /// The directory exists.
    pub created: AtomicBool,
    unresponsive: AtomicBool,
    /// Whether the server refused to create the directory; unset without a reply.
    pub refused: OnceLock<bool>,
    first: OnceLock<Client>,
    second: OnceLock<Client>,
}

impl TimeLimits for World {
    fn operation_timeout(&self) -> Duration {
        self.setup.dial.timeout
    }

    fn pause(&self, key: &str) -> Duration {
        self.setup.options.idle.filter(|_| key == IDLE_KEY).map_or(Duration::ZERO, Duration::from_secs)
    }
}

impl World {
    /// Creates one per host.
    pub fn each(setup: &Arc<Setup>, targets: &[Arc<Target>]) -> Vec<Arc<Self>> {
        let for_host = |first: usize| {
            let mut targets = targets.to_vec();
            targets.rotate_left(first);
            Arc::new(Self::new(setup, targets, first == 0))
        };
        (0..targets.len()).map(for_host).collect()
    }

    fn new(setup: &Arc<Setup>, targets: Vec<Arc<Target>>, is_first: bool) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), (now, std::process::id()));
        Self {
            setup: Arc::clone(setup),
            targets,
            is_first,
            name: format!(".efs-autoscale-probe-{random:016x}"),
            creation_attempted: AtomicBool::default(),
            created: AtomicBool::default(),
            unresponsive: AtomicBool::default(),
            refused: OnceLock::new(),
            first: OnceLock::new(),
            second: OnceLock::new(),
        }
    }

    /// Path of the probe's directory.
    pub fn directory(&self) -> String {
        format!("{}/{}", self.setup.options.server.root.trim_end_matches('/'), self.name)
    }

    /// The heading in the report.
    pub fn title(&self) -> String {
        let location = match self.setup.options.read_only {
            true => format!("reading {}", self.setup.options.server.root),
            false => format!("in {}", self.directory()),
        };
        match self.hosts()[..] {
            [] => "No host granted a session".to_owned(),
            [only] => format!("At {only}, {location}"),
            [first, second] => format!("At {first} and {second}, {location}"),
            [first, .., last] => format!("At {first} to {last}, {location}"),
        }
    }

    /// This host, as given on the command line.
    pub fn host_name(&self) -> String {
        self.targets.first().map(|target| target.host()).unwrap_or_default()
    }

    /// The directory may exist.
    pub fn may_exist(&self) -> bool {
        self.creation_attempted.load(Ordering::Relaxed)
    }

    /// Whether this host granted a session.
    pub fn is_usable(&self) -> bool {
        self.targets.first().is_some_and(|target| target.usable().is_some())
    }

    /// The hosts that granted a session.
    pub fn hosts(&self) -> Vec<SocketAddr> {
        self.targets.iter().filter_map(|target| target.usable()).collect()
    }

    pub fn host(&self) -> Result<SocketAddr, Outcome> {
        self.hosts().first().copied().ok_or_else(|| not_asked("no host granted a session"))
    }

    /// Creates a client whose root is the probe's directory.
    pub fn new_client(&self, address: SocketAddr) -> Result<Client, Outcome> {
        let options = self.setup.dial.client_options(address, self.directory().into_bytes());
        Client::new(options).map_err(|err| unknown(err.to_string()))
    }

    /// There is no directory of the probe, so checks may only read existing files.
    pub fn only_reads(&self) -> bool {
        !self.created.load(Ordering::Relaxed)
    }

    /// Creates a client whose root is `--root`.
    pub fn root_client(&self, address: SocketAddr) -> Result<Client, Outcome> {
        let root = self.setup.options.server.root.clone().into_bytes();
        Client::new(self.setup.dial.client_options(address, root)).map_err(|err| unknown(err.to_string()))
    }

    /// The shared client for writing to the probe's directory, if it exists.
    pub fn writer(&self) -> Result<Client, Outcome> {
        let host = self.host()?;
        match (self.setup.options.read_only, self.created.load(Ordering::Relaxed)) {
            (true, _) => Err(excluded("--read-only is given")),
            (_, false) => Err(not_asked("there is no directory to write to")),
            _ => match self.first.get() {
                Some(client) => Ok(client.clone()),
                None => {
                    let client = self.new_client(host)?;
                    Ok(self.first.get_or_init(|| client).clone())
                }
            },
        }
    }

    /// The shared second client, at a second host if there is one.
    pub fn second_client(&self) -> Result<Client, Outcome> {
        self.writer()?;
        if let Some(client) = self.second.get() {
            return Ok(client.clone());
        }
        let hosts = self.hosts();
        let host = hosts.get(1).or(hosts.first()).copied().ok_or_else(|| not_asked("no host is left"))?;
        let client = self.new_client(host)?;
        Ok(self.second.get_or_init(|| client).clone())
    }

    /// Second clients for checks with two clients: one at this host, and one at another host if there is one. With a
    /// description of each pair.
    pub fn partners(&self) -> Result<Vec<(Client, &'static str)>, Outcome> {
        self.writer()?;
        let mut partners = vec![(self.new_client(self.host()?)?, "two clients at one host")];
        if self.hosts().len() > 1 {
            partners.push((self.second_client()?, "two clients at two hosts"));
        }
        Ok(partners)
    }

    /// The outcome of a check that needs two hosts.
    pub fn too_few_hosts(&self) -> Outcome {
        match self.targets.len() {
            1 => excluded("needs several HOSTs"),
            _ => not_asked("needs several HOSTs that grant a session"),
        }
    }

    /// The host did not respond to the last [`check_reachable`](Self::check_reachable).
    pub fn is_unresponsive(&self) -> bool {
        self.unresponsive.load(Ordering::Relaxed)
    }

    /// Sends a call that every server replies to.
    pub async fn check_reachable(&self) {
        let responds = match self.host().and_then(|host| self.root_client(host)) {
            Ok(client) => {
                matches!(client.attributes(b"", AttributeMask::TYPE).await, Ok(_) | Err(Error::Status { .. }))
            }
            Err(_) => false,
        };
        self.unresponsive.store(!responds, Ordering::Relaxed);
    }

    /// Removes the probe's directory. Idempotent.
    ///
    /// # Errors
    /// Something remains, or may remain.
    pub async fn remove_leftovers(&self) -> Result<(), String> {
        // Their calls may still be in flight.
        for client in [&self.first, &self.second].into_iter().filter_map(OnceLock::get) {
            client.close().await;
        }
        if !self.creation_attempted.load(Ordering::Relaxed) {
            return Ok(());
        }
        let removal = async {
            let mut err = "no host is left".to_owned();
            for host in self.hosts() {
                match self.remove_leftovers_at(host).await {
                    Ok(()) => return Ok(()),
                    Err(found) => err = found,
                }
            }
            Err(err)
        };
        let removal_timeout = self.setup.dial.timeout * 2;
        let removal = timeout(removal_timeout, removal).await;
        removal.unwrap_or_else(|_| Err(format!("no reply within {removal_timeout:?}")))
    }

    async fn remove_leftovers_at(&self, host: SocketAddr) -> Result<(), String> {
        /// Calls that were in flight at the start may still create files.
        const MAX_ATTEMPTS: usize = 20;
        const RETRY_INTERVAL: Duration = Duration::from_millis(50);
        let client = self.root_client(host).map_err(|outcome| outcome.found)?;
        let mut err = String::new();
        for _ in 0..MAX_ATTEMPTS {
            match self.remove_leftovers_once(&client).await {
                Ok(()) => {
                    client.close().await;
                    return Ok(());
                }
                Err(found) if matches!(found.status(), Some(Status::NOTEMPTY | Status::EXIST)) => {
                    err = found.to_string();
                    sleep(RETRY_INTERVAL).await;
                }
                Err(found) => return Err(found.to_string()),
            }
        }
        Err(err)
    }

    async fn remove_leftovers_once(&self, client: &Client) -> nfs41::Result<()> {
        let ignore_noent = |result: nfs41::Result<()>| match result {
            Err(Error::Status { status: Status::NOENT, .. }) => Ok(()),
            other => other,
        };
        loop {
            // List from the start each time: the entries of the last page are removed.
            let page = match client.list(self.name.as_bytes(), DirCursor::default(), AttributeMask::NONE, 1 << 16).await
            {
                Ok(page) => page,
                Err(Error::Status { status: Status::NOENT, .. }) => return Ok(()),
                Err(err) => return Err(err),
            };
            for entry in &page.entries {
                ignore_noent(client.remove(&[self.name.as_bytes(), b"/", &entry.name].concat()).await)?;
            }
            if page.eof {
                break;
            }
        }
        ignore_noent(client.remove(self.name.as_bytes()).await)
    }
}
