//! Where the questions are asked: a host, another one beside it, and a directory of the probe's own.

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
    outcome::{OperationTimeout, Outcome, excluded, not_asked, unknown},
    target::Target,
};

/// A host, the others behind it, and a directory of the probe's own that was made by way of it.
pub struct World {
    pub setup: Arc<Setup>,
    /// This host's first; the one after it is the other one of two.
    pub targets: Vec<Arc<Target>>,
    /// Whether it is the first of all.
    pub is_first: bool,
    pub name: String,
    /// Whether it may be there.
    pub begun: AtomicBool,
    pub made: AtomicBool,
    silent: AtomicBool,
    pub refused: OnceLock<bool>,
    first: OnceLock<Client>,
    second: OnceLock<Client>,
}

impl OperationTimeout for World {
    fn operation_timeout(&self) -> Duration {
        self.setup.dial.timeout
    }
}

impl World {
    /// One for each host.
    pub fn each(setup: &Arc<Setup>, targets: &[Arc<Target>]) -> Vec<Arc<Self>> {
        let of = |first: usize| {
            let mut targets = targets.to_vec();
            targets.rotate_left(first);
            Arc::new(Self::new(setup, targets, first == 0))
        };
        (0..targets.len()).map(of).collect()
    }

    fn new(setup: &Arc<Setup>, targets: Vec<Arc<Target>>, is_first: bool) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), (now, std::process::id()));
        Self {
            setup: Arc::clone(setup),
            targets,
            is_first,
            name: format!(".efs-autoscale-probe-{random:016x}"),
            begun: AtomicBool::default(),
            made: AtomicBool::default(),
            silent: AtomicBool::default(),
            refused: OnceLock::new(),
            first: OnceLock::new(),
            second: OnceLock::new(),
        }
    }

    /// The whole path of what it makes.
    pub fn directory(&self) -> String {
        format!("{}/{}", self.setup.options.server.root.trim_end_matches('/'), self.name)
    }

    /// As the report has it.
    pub fn title(&self) -> String {
        let place = match self.setup.options.read_only {
            true => format!("reading {}", self.setup.options.server.root),
            false => format!("in {}", self.directory()),
        };
        match self.hosts()[..] {
            [] => "No host has given a session".to_owned(),
            [only] => format!("At {only}, {place}"),
            [first, second] => format!("At {first} and {second}, {place}"),
            [first, .., last] => format!("At {first} to {last}, {place}"),
        }
    }

    /// Of its own host, as it was given.
    pub fn host_name(&self) -> String {
        self.targets.first().map(|target| target.host()).unwrap_or_default()
    }

    /// Something may have been made.
    pub fn is_begun(&self) -> bool {
        self.begun.load(Ordering::Relaxed)
    }

    /// Has its own host given a session?
    pub fn is_usable(&self) -> bool {
        self.targets.first().is_some_and(|target| target.usable().is_some())
    }

    /// Those with a session.
    pub fn hosts(&self) -> Vec<SocketAddr> {
        self.targets.iter().filter_map(|target| target.usable()).collect()
    }

    pub fn host(&self) -> Result<SocketAddr, Outcome> {
        self.hosts().first().copied().ok_or_else(|| not_asked("no host has given a session"))
    }

    /// A client of its own, with the probe's directory as its root.
    pub fn new_client(&self, address: SocketAddr) -> Result<Client, Outcome> {
        let options = self.setup.dial.client_options(address, self.directory().into_bytes());
        Client::new(options).map_err(|err| unknown(err.to_string()))
    }

    /// Nothing of its own can be read.
    pub fn only_reads(&self) -> bool {
        !self.made.load(Ordering::Relaxed)
    }

    pub fn root_client(&self, address: SocketAddr) -> Result<Client, Outcome> {
        let root = self.setup.options.server.root.clone().into_bytes();
        Client::new(self.setup.dial.client_options(address, root)).map_err(|err| unknown(err.to_string()))
    }

    /// If there is a directory to write to: a client that does.
    pub fn writer(&self) -> Result<Client, Outcome> {
        let host = self.host()?;
        match (self.setup.options.read_only, self.made.load(Ordering::Relaxed)) {
            (true, _) => Err(excluded("nothing shall be changed (--read-only)")),
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

    /// Another client; at another host, where there are several.
    pub fn second_client(&self) -> Result<Client, Outcome> {
        self.writer()?;
        if let Some(client) = self.second.get() {
            return Ok(client.clone());
        }
        let hosts = self.hosts();
        let host = hosts.get(1).or(hosts.first()).copied().ok_or_else(|| not_asked("there is no host any more"))?;
        let client = self.new_client(host)?;
        Ok(self.second.get_or_init(|| client).clone())
    }

    /// Another client at this host; and one at another, where there are several. With what to call the two.
    pub fn partners(&self) -> Result<Vec<(Client, &'static str)>, Outcome> {
        self.writer()?;
        let mut partners = vec![(self.new_client(self.host()?)?, "two clients at one host")];
        if self.hosts().len() > 1 {
            partners.push((self.second_client()?, "two clients at two hosts"));
        }
        Ok(partners)
    }

    /// Why what takes two hosts is not asked.
    pub fn too_few_hosts(&self) -> Outcome {
        match self.targets.len() {
            1 => excluded("it takes several HOSTs"),
            _ => not_asked("it takes several HOSTs that give a session"),
        }
    }

    /// It did not answer when it was looked at last.
    pub fn is_silent(&self) -> bool {
        self.silent.load(Ordering::Relaxed)
    }

    /// By a call that any server answers.
    pub async fn check_reachable(&self) {
        let answers = match self.host().and_then(|host| self.root_client(host)) {
            Ok(client) => {
                matches!(client.attributes(b"", AttributeMask::TYPE).await, Ok(_) | Err(Error::Status { .. }))
            }
            Err(_) => false,
        };
        self.silent.store(!answers, Ordering::Relaxed);
    }

    /// Removes what the probe has made. Done again, it finds nothing to do.
    ///
    /// # Errors
    /// Something stays, or is not known to be gone.
    pub async fn remove_leftovers(&self) -> Result<(), String> {
        // They may still be doing something.
        for client in [&self.first, &self.second].into_iter().filter_map(OnceLock::get) {
            client.close().await;
        }
        if !self.begun.load(Ordering::Relaxed) {
            return Ok(());
        }
        let tidied = async {
            let mut err = "there is no host any more".to_owned();
            for host in self.hosts() {
                match self.remove_leftovers_at(host).await {
                    Ok(()) => return Ok(()),
                    Err(found) => err = found,
                }
            }
            Err(err)
        };
        let operation_timeout = self.setup.dial.timeout * 2;
        let tidied = timeout(operation_timeout, tidied).await;
        tidied.unwrap_or_else(|_| Err(format!("no answer came within {operation_timeout:?}")))
    }

    async fn remove_leftovers_at(&self, host: SocketAddr) -> Result<(), String> {
        /// What was on its way when this began may come after the first look.
        const TRIES: usize = 20;
        let client = self.root_client(host).map_err(|outcome| outcome.found)?;
        let mut err = String::new();
        for _ in 0..TRIES {
            match self.remove_leftovers_once(&client).await {
                Ok(()) => {
                    client.close().await;
                    return Ok(());
                }
                Err(found) if matches!(found.status(), Some(Status::NOTEMPTY | Status::EXIST)) => {
                    err = found.to_string();
                    sleep(Duration::from_millis(50)).await;
                }
                Err(found) => return Err(found.to_string()),
            }
        }
        Err(err)
    }

    async fn remove_leftovers_once(&self, client: &Client) -> nfs41::Result<()> {
        let gone = |answer: nfs41::Result<()>| match answer {
            Err(Error::Status { status: Status::NOENT, .. }) => Ok(()),
            other => other,
        };
        loop {
            // From the beginning each time: what was listed is gone then.
            let page = match client.list(self.name.as_bytes(), DirCursor::default(), AttributeMask::NONE, 1 << 16).await
            {
                Ok(page) => page,
                Err(Error::Status { status: Status::NOENT, .. }) => return Ok(()),
                Err(err) => return Err(err),
            };
            for entry in &page.entries {
                gone(client.remove(&[self.name.as_bytes(), b"/", &entry.name].concat()).await)?;
            }
            if page.eof {
                break;
            }
        }
        gone(client.remove(self.name.as_bytes()).await)
    }
}
