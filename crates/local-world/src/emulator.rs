//! The emulator's process, on a free loopback port. It always ends with this process.

use std::{
    io::Read,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// Not a real account.
pub const ACCOUNT: &str = "123456789012";
pub const REGION: &str = "us-east-1";

const START_TIMEOUT: Duration = Duration::from_secs(60);
const END_TIMEOUT: Duration = Duration::from_secs(5);
/// Number of ports to try: another process may take one between the check and its use.
const MAX_START_TRIES: usize = 3;

/// A running emulator. Dropping it ends it and all its functions.
pub struct Emulator {
    child: Child,
    endpoint: String,
    /// State, code of the functions, log; removed on drop.
    directory: TempDir,
}

impl Emulator {
    /// `wait_scale` is what the state machine's seconds are multiplied by: 1, but for tests.
    ///
    /// # Errors
    /// The program cannot be started or does not respond; with the end of its log.
    pub async fn start(ministack: &Path, wait_scale: f64) -> Result<Self> {
        let mut last = None;
        for _ in 0..MAX_START_TRIES {
            match Self::try_start(ministack, wait_scale).await {
                Ok(emulator) => return Ok(emulator),
                Err(err) => last = Some(err),
            }
        }
        Err(last.context("no try was made")?)
    }

    async fn try_start(ministack: &Path, wait_scale: f64) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("efs-autoscale-").tempdir()?;
        let port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        let log = std::fs::File::create(directory.path().join("log"))?;
        // Node would use the nearest package.json above a function's code.
        std::fs::write(directory.path().join("package.json"), "{}")?;
        let mut command = Command::new(ministack);
        command
            // The functions inherit the emulator's environment, so the caller's is cleared.
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "HOME"))
            .env("AWS_CONFIG_FILE", "/dev/null")
            .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
            .env("BIND_HOST", "127.0.0.1")
            .env("IOT_MTLS_ENABLED", "0")
            .env("GATEWAY_PORT", port.to_string())
            .env("MINISTACK_ACCOUNT_ID", ACCOUNT)
            .env("LAMBDA_EXECUTOR", "local")
            .env("SFN_WAIT_SCALE", wait_scale.to_string())
            .env("LOG_LEVEL", "WARNING")
            .env("STATE_DIR", directory.path().join("state"))
            .env("TMPDIR", directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // Its own process group, which the functions inherit: one signal ends all, and Ctrl-C in the terminal does not
            // end it early.
            .process_group(0);
        end_with_parent(&mut command);
        let child = command.spawn().with_context(|| format!("cannot start {}", ministack.display()))?;
        let mut emulator = Self { child, endpoint: format!("http://127.0.0.1:{port}"), directory };
        emulator.wait_until_ready(port).await?;
        Ok(emulator)
    }

    async fn wait_until_ready(&mut self, port: u16) -> Result<()> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the emulator ended with {status}:\n{}", self.end_of_log());
            }
            // It binds its port when it is ready. If another process has taken the port, our emulator ends.
            if listens(self.child.id(), port) && TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
                return Ok(());
            }
            if started.elapsed() > START_TIMEOUT {
                bail!("the emulator does not answer after {START_TIMEOUT:?}:\n{}", self.end_of_log());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// A plain ASCII path to this directory, because the deployer splits variables at commas and accepts only UTF-8. If
    /// necessary, a link in the emulator's folder.
    ///
    /// # Errors
    /// When the link cannot be made.
    pub fn plain_path(&self, directory: &Path) -> Result<String> {
        let is_plain = |path: &str| path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
        if let Some(path) = directory.to_str().filter(|path| is_plain(path)) {
            return Ok(path.to_owned());
        }
        let link = self.directory.path().join("directory");
        std::os::unix::fs::symlink(directory, &link)?;
        let link = link.to_str().filter(|path| is_plain(path)).map(str::to_owned);
        link.context("TMPDIR: the name of the folder for temporary files is not plain ASCII")
    }

    fn end_of_log(&self) -> String {
        let mut text = String::new();
        if let Ok(mut log) = std::fs::File::open(self.directory.path().join("log")) {
            // Best effort, for the message of an error that is reported anyway.
            let _ = log.read_to_string(&mut text);
        }
        let lines: Vec<_> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        signal_group(&self.child, libc::SIGKILL);
        // Waits until all have ended, so that no process or port of ours remains.
        let deadline = Instant::now() + END_TIMEOUT;
        while signal_group(&self.child, 0) && Instant::now() < deadline {
            // A child leaves its group only after it was waited for.
            let _ = self.child.try_wait();
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Whether this process listens on this loopback port, according to /proc.
fn listens(process: u32, port: u16) -> bool {
    const LISTEN: &str = "0A";
    let local = format!("0100007F:{port:04X}");
    let sockets = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let inode = sockets.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        (fields.get(1) == Some(&local.as_str()) && fields.get(3) == Some(&LISTEN)).then(|| fields.get(9).copied())?
    });
    let Some(inode) = inode else { return false };
    let open = std::fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
    let wanted = std::ffi::OsString::from(format!("socket:[{inode}]"));
    open.filter_map(|entry| std::fs::read_link(entry.path()).ok()).any(|link| link.as_os_str() == wanted)
}

/// Signals the group that a child was started as the leader of; `false` when nobody is left in it.
#[expect(unsafe_code, reason = "the standard library cannot signal a process group")]
fn signal_group(child: &Child, signal: libc::c_int) -> bool {
    // SAFETY: no memory is involved. While one process of the group lives, the kernel gives its id to no
    // other; when none does, this is asked for no more.
    unsafe { libc::kill(-(child.id() as libc::pid_t), signal) == 0 }
}

/// Makes the kernel end the child when this process ends for any reason.
#[expect(unsafe_code, reason = "the standard library cannot ask for the parent's death signal")]
pub(crate) fn end_with_parent(command: &mut Command) {
    // SAFETY: prctl is async-signal-safe and touches no memory of ours between fork and exec.
    unsafe {
        command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
            0 => Ok(()),
            _ => Err(std::io::Error::last_os_error()),
        });
    }
}
