//! NFS-Ganesha on loopback: a real NFS 4.1 server in user space, whose files are all in a temporary directory.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    thread,
    time::{SystemTime, UNIX_EPOCH},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{eventually, record::is_answering};

/// Ports below the ephemeral range, so that nothing takes the port of a server that restarts.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// Options of a server.
#[derive(Clone, Debug)]
pub struct Options {
    /// The exported directory. Default: a temporary directory, in memory if possible. With `cached`, nothing else may
    /// change it: the server would not see the change, or return stale handles.
    pub directory: Option<PathBuf>,
    /// Size in bytes of a tmpfs on the exported directory, which only the server sees.
    pub size: Option<u64>,
    /// Lease time in seconds, at most 120.
    pub lease: u32,
    /// Grace period after a start in seconds, at most 180; `None` for none. It ends early when all earlier clients have
    /// sent RECLAIM_COMPLETE, so at once if there were none.
    pub grace: Option<u32>,
    /// Slots per session, at most 1024.
    pub slots: u32,
    /// Whether the server caches attributes and names for a minute.
    pub cached: bool,
    /// Path of the export in the server's pseudo file system.
    pub pseudo: String,
    /// More lines for the blocks `NFSV4` and `EXPORT`.
    pub nfs4: String,
    pub export: String,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            directory: None,
            size: None,
            lease: 60,
            grace: None,
            slots: 64,
            cached: true,
            pseudo: "/".to_owned(),
            nfs4: String::new(),
            export: String::new(),
        }
    }
}

impl Options {
    fn config(&self, port: u16, place: &Path, directory: &Path) -> String {
        let Self { lease, grace, slots, cached, pseudo, nfs4, export, .. } = self;
        let (graceless, grace) = (grace.is_none(), grace.unwrap_or(*lease));
        let expires = if *cached { 60 } else { 0 };
        let (place, directory) = (place.display(), directory.display());
        format!(
            r#"
            NFS_CORE_PARAM {{
                Protocols = 4; NFS_Port = {port}; Bind_addr = 127.0.0.1; fsid_device = true;
                Enable_NLM = false; Enable_RQUOTA = false; Enable_UDP = false;
                # Several on one machine, where there is a bus.
                Dbus_Name_Prefix = lab{port};
                RPC_Max_Connections = 10000; RPC_Idle_Timeout_S = 3600;
            }}
            NFSV4 {{
                Minor_Versions = 0, 1; Slot_Table_Size = {slots}; Delegations = false; pnfs_mds = false;
                Lease_Lifetime = {lease}; Graceless = {graceless}; Grace_Period = {grace};
                RecoveryBackend = fs; RecoveryRoot = "{place}/recovery"; Only_Numeric_Owners = true;
                {nfs4}
            }}
            NFS_KRB5 {{ Active_krb5 = false; CCacheDir = "{place}/credentials"; }}
            EXPORT {{
                Export_Id = 1; Path = "{directory}"; Pseudo = {pseudo}; Protocols = 4; Transports = TCP; SecType = sys;
                Access_Type = RW; Squash = No_Root_Squash; Attr_Expiration_Time = {expires};
                FSAL {{ Name = VFS; }}
                {export}
            }}
            "#
        )
    }
}

/// A server process. Dropping it kills the process and removes its files.
pub struct Ganesha {
    /// `None` while it does not run.
    child: Option<Child>,
    options: Options,
    port: u16,
    /// Epoch of the last start.
    epoch: u32,
    directory: PathBuf,
    /// Dropped last.
    place: TempDir,
}

impl Ganesha {
    /// Checks whether a server can run here.
    ///
    /// # Errors
    /// What is missing, and how to install it.
    pub fn available() -> Result<(), String> {
        if !rustix::process::geteuid().is_root() {
            return Err("NFS-Ganesha has to be run by root: it opens files by their handles".to_owned());
        }
        let found = |directories: &[PathBuf], name: &str| directories.iter().any(|path| path.join(name).is_file());
        let path = env::var_os("PATH").unwrap_or_default();
        if !found(&env::split_paths(&path).collect::<Vec<_>>(), "ganesha.nfsd") {
            return Err("there is no ganesha.nfsd: apt-get install nfs-ganesha nfs-ganesha-vfs".to_owned());
        }
        let libraries = ["lib", "lib64", &format!("lib/{}-linux-gnu", env::consts::ARCH)];
        if !found(&libraries.map(|path| Path::new("/usr").join(path).join("ganesha")), "libfsalvfs.so") {
            return Err("there is no libfsalvfs.so: apt-get install nfs-ganesha-vfs".to_owned());
        }
        Ok(())
    }

    /// Starts a server, and waits until it answers.
    pub fn start(options: Options) -> Self {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory.to_owned() } else { env::temp_dir() };
        let place = tempfile::Builder::new().prefix("nfs-lab.").tempdir_in(parent).unwrap();
        let directory = options.directory.clone().unwrap_or_else(|| {
            let directory = place.path().join("exported");
            fs::create_dir(&directory).unwrap();
            fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
            directory
        });
        let mut server = Self { child: None, options, port: 0, epoch: 0, directory, place };
        // Another process can take the port first.
        for _ in 0..10 {
            server.port = free_port();
            if server.launch() {
                return server;
            }
        }
        panic!("no port stays free: {}", server.log());
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Process ID, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// The exported directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Kills the server. What it has written to the directory stays.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    /// Stops the server with SIGTERM.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        if let Some(child) = &mut self.child {
            eventually("the server ends", || child.try_wait().unwrap());
        }
        self.child = None;
    }

    /// Restarts the server on the same port and directory, with its recovery state, and waits until it answers.
    pub fn start_again(&mut self) {
        self.kill();
        assert!(self.launch(), "somebody has taken port {}", self.port);
    }

    /// Suspends the server with SIGSTOP. It keeps its connections. Returns when all threads have stopped.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
        let threads = format!("/proc/{}/task", self.child.as_ref().expect("a server that runs").id());
        eventually("all threads stop", || {
            let mut threads = fs::read_dir(&threads).unwrap();
            let stopped = |thread: PathBuf| {
                let stat = fs::read_to_string(thread.join("stat")).unwrap_or_default();
                stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('T'))
            };
            threads.all(|thread| stopped(thread.unwrap().path())).then_some(())
        });
    }

    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// The last lines of its log.
    pub fn log(&self) -> String {
        let log = String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned();
        let lines: Vec<_> = log.lines().rev().take(30).collect();
        lines.into_iter().rev().collect::<Vec<_>>().join("\n")
    }

    fn log_file(&self) -> PathBuf {
        self.place.path().join("log")
    }

    fn signal(&self, signal: Signal) {
        if let Some(child) = &self.child {
            kill_process(Pid::from_child(child), signal).unwrap();
        }
    }

    /// Returns false if another process has the port.
    fn launch(&mut self) -> bool {
        let at = |name: &str| self.place.path().join(name);
        let (config, recovery, log) = (at("config"), at("recovery"), self.log_file());
        fs::write(&config, self.options.config(self.port, self.place.path(), &self.directory)).unwrap();
        fs::create_dir_all(&recovery).unwrap();
        // The server appends to its log.
        let _ = fs::rename(&log, at("log.before"));
        // The epoch distinguishes client IDs of this start from earlier ones. The server's default is the time in
        // seconds, so two starts within one second would use the same client IDs.
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() as u32;
        self.epoch = now.max(self.epoch + 1);
        let mut command = match self.options.size {
            None => Command::new("ganesha.nfsd"),
            // The mount ends with the process. `unshare` and the shell exec the server, so they have its process ID.
            Some(size) => {
                let mount = r#"mount -t tmpfs -o size="$0" none "$1" && shift && exec ganesha.nfsd "$@""#;
                let mut command = Command::new("unshare");
                command.args(["-m", "--propagation", "private", "sh", "-c", mount]);
                command.arg(size.to_string()).arg(&self.directory);
                command
            }
        };
        command.arg("-E").arg(self.epoch.to_string());
        command.args(["-F", "-N", "EVENT"]).arg("-f").arg(&config).arg("-L").arg(&log).arg("-p").arg(at("pid"));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // Stored before anything can panic, so that it is killed.
        let child = self.child.insert(command.spawn().unwrap());
        let logged = || fs::read_to_string(&log).unwrap_or_default();
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let ready = eventually("the server answers", || {
            if let Some(status) = child.try_wait().unwrap() {
                let taken = logged().contains("Address already in use");
                assert!(taken, "ganesha has ended ({status}):\n{}", logged());
                return Some(false);
            }
            // The log is checked, too, because another server on the port could answer.
            (logged().contains("NFS SERVER INITIALIZED") && is_answering(address)).then_some(true)
        });
        if !ready {
            self.child = None;
        }
        ready
    }
}

impl Drop for Ganesha {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the log of the server at port {}:\n{}", self.port, self.log());
        }
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A free port, different for every process and call.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    // A prime, so that consecutive processes do not use adjacent ports.
    let first = process::id().wrapping_mul(7919) as u16;
    let free = |_| {
        let port = PORTS.start + first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % count;
        TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok().then_some(port)
    };
    (0..count).find_map(free).expect("a free port")
}
