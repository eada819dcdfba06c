//! Mounts targets with `mount -t nfs4`, or with `mount -t efs` of amazon-efs-utils.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use domain::{model::FileSystemId, published::PublishedTarget};

use super::separate::{MountLine, mounts};
use files::{Error, Result};

/// The mount options that the EFS user guide recommends.
pub const NFS_OPTIONS: &str = "nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport";
/// The options for efs-utils, which adds the others itself.
pub const EFS_OPTIONS: &str = "tls";
/// `mount` retries for two minutes by default.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(15);

/// What mounts the targets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mount {
    /// Nothing: the directories exist already.
    None,
    /// `mount -t nfs4` with these options.
    Kernel { options: String },
    /// `mount -t efs` with these options.
    EfsUtils { options: String, file_system: FileSystemId },
}

/// Mounts one target at one directory.
#[derive(Debug)]
pub struct Mounter {
    arguments: Vec<String>,
    directory: PathBuf,
    /// The source of a kernel mount as mountinfo shows it.
    source: Option<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// This process mounted it, or found it mounted the same way.
    is_mounted: bool,
    /// Closed: it must not be mounted again.
    is_over: bool,
}

impl Mounter {
    pub(super) fn new(mount: &Mount, target: &PublishedTarget, directory: &Path) -> Option<Self> {
        let source = source(target.ip_address);
        let arguments = match mount {
            Mount::None => return None,
            Mount::Kernel { options } => ["-t", "nfs4", "-o", options, &source].map(str::to_owned),
            Mount::EfsUtils { options, file_system } => {
                let options = format!("{options},mounttargetip={}", target.ip_address);
                ["-t", "efs", "-o", &options, &format!("{file_system}:/")].map(str::to_owned)
            }
        };
        Some(Self {
            arguments: arguments.to_vec(),
            directory: directory.to_owned(),
            source: matches!(mount, Mount::Kernel { .. }).then_some(source),
            state: Mutex::default(),
        })
    }

    /// Mounts the target if it is not mounted. Blocks. Checks at each call, because without the mount the directory is a local
    /// one.
    ///
    /// # Errors
    /// The message of the program, or another file system is mounted there.
    pub(super) fn mount(&self) -> Result<()> {
        let shown = self.directory.display();
        let failed = |err: String| Error::Failed(io::Error::other(err));
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_over {
            return Err(failed(format!("{shown} is not mounted any more")));
        }
        std::fs::create_dir_all(&self.directory).map_err(|err| failed(format!("{shown} cannot be made: {err}")))?;
        loop {
            match self.there()? {
                // Accept what this process mounted under any name: the kernel shows a shared mount with the name of the first.
                Some(there) if there.is_nfs && (state.is_mounted || self.source.as_ref() == Some(&there.source)) => {
                    break;
                }
                // The mount of another target, from an earlier run of this process.
                Some(there) if there.is_nfs && is_an_address(&there.source) => {
                    detach(&self.directory).map_err(|err| failed(format!("{shown} cannot be unmounted: {err}")))?;
                }
                Some(_) => {
                    return Err(failed(format!("something else is mounted at {shown}: unmount it, or set MOUNT_BASE")));
                }
                None => {
                    run(Command::new("mount").args(&self.arguments).arg(&self.directory)).map_err(failed)?;
                    break;
                }
            }
        }
        state.is_mounted = true;
        Ok(())
    }

    /// Detaches the mount for good (lazy unmount); open files stay usable.
    pub(super) fn unmount(&self) {
        // Wait until a mount in progress has ended.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_over = true;
        let is_there = self.there().is_ok_and(|there| there.is_some_and(|there| there.is_nfs));
        if std::mem::take(&mut state.is_mounted)
            && is_there
            && let Err(err) = detach(&self.directory)
        {
            tracing::warn!(directory = %self.directory.display(), error = %err, "a target could not be unmounted");
        }
    }

    /// The visible mount at the directory: the last one in mountinfo.
    fn there(&self) -> Result<Option<MountLine>> {
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        Ok(mounts(&table).rev().find(|mount| mount.directory == self.directory))
    }
}

/// The source argument of mount.nfs; nfs(5) puts an IPv6 address in brackets.
fn source(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{address}:/"),
        IpAddr::V6(address) => format!("[{address}]:/"),
    }
}

/// Whether the mount looks like one that this program makes.
fn is_an_address(source: &str) -> bool {
    let Some(address) = source.strip_suffix(":/") else { return false };
    let bracketed = address.strip_prefix('[').and_then(|address| address.strip_suffix(']'));
    bracketed.map_or_else(|| address.parse::<Ipv4Addr>().is_ok(), |address| address.parse::<Ipv6Addr>().is_ok())
}

fn detach(directory: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(directory, rustix::mount::UnmountFlags::DETACH)?)
}

/// Runs a program and kills it after a timeout.
fn run(command: &mut Command) -> std::result::Result<(), String> {
    let shown = format!("{command:?}");
    // Its output goes to a file, so that it never blocks on a full pipe.
    let mut words = tempfile().map_err(|err| format!("{shown}: {err}"))?;
    let stderr = words.try_clone().map_err(|err| format!("{shown}: {err}"))?;
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn();
    let mut child = spawned.map_err(|err| format!("{shown} cannot be started: {err}"))?;
    let until = Instant::now() + MOUNT_TIMEOUT;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(20)),
            _ => {
                let _ = child.kill();
                // It may be in an uninterruptible call: do not wait for it.
                thread::spawn(move || child.wait());
                return Err(format!("{shown} did not end within {} s", MOUNT_TIMEOUT.as_secs()));
            }
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut said = String::new();
    let _ = io::Seek::rewind(&mut words).and_then(|()| io::Read::read_to_string(&mut words, &mut said));
    Err(format!("{shown} ended with {status}: {}", said.trim()))
}

/// An anonymous temporary file.
fn tempfile() -> io::Result<std::fs::File> {
    let memory = rustix::fs::memfd_create("mount", rustix::fs::MemfdFlags::CLOEXEC)?;
    Ok(memory.into())
}
