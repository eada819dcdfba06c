//! Mounting a target, by the programs that know how: `mount -t nfs4`, or `mount -t efs` of amazon-efs-utils.

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

/// What EFS advises for its mounts.
pub const NFS_OPTIONS: &str = "nfsvers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport";
/// What is given to efs-utils, which adds the others.
pub const EFS_OPTIONS: &str = "tls";
/// `mount` goes on for two minutes by itself.
const PATIENCE: Duration = Duration::from_secs(15);

/// Who mounts the targets.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Mount {
    /// Somebody else: the directories are there.
    None,
    /// The kernel's NFS client, with these options.
    Kernel { options: String },
    /// efs-utils, with these options.
    EfsUtils { options: String, file_system: FileSystemId },
}

/// Mounts one target at one directory.
#[derive(Debug)]
pub struct Mounter {
    arguments: Vec<String>,
    directory: PathBuf,
    /// Of the kernel's own mounts: what mountinfo calls it.
    source: Option<String>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// By this process, or found as it would have been.
    is_mounted: bool,
    /// It shall not be mounted again.
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

    /// Mounts it if it is not mounted. Blocks. Looked at each time: without its mount the directory is one of this
    /// machine's own.
    ///
    /// # Errors
    /// What the program says; or that something else is mounted there.
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
                // One that this process has mounted is taken for what it is: a folded one has the name of that which it
                // was folded into.
                Some(there) if there.is_nfs && (state.is_mounted || self.source.as_ref() == Some(&there.source)) => {
                    break;
                }
                // Another target's, of an earlier life of this process.
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

    /// Takes it out of the tree, for good; who still uses it can go on.
    pub(super) fn unmount(&self) {
        // Not while it is being mounted.
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

    /// What is mounted at the directory: the last of it, which is what is seen.
    fn there(&self) -> Result<Option<MountLine>> {
        let table = std::fs::read_to_string("/proc/self/mountinfo")?;
        Ok(mounts(&table).rev().find(|mount| mount.directory == self.directory))
    }
}

/// What mount.nfs is asked for: nfs(5) has an IPv6 address in brackets.
fn source(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("{address}:/"),
        IpAddr::V6(address) => format!("[{address}]:/"),
    }
}

/// As this program asks for a mount, and people seldom do.
fn is_an_address(source: &str) -> bool {
    let Some(address) = source.strip_suffix(":/") else { return false };
    let bracketed = address.strip_prefix('[').and_then(|address| address.strip_suffix(']'));
    bracketed.map_or_else(|| address.parse::<Ipv4Addr>().is_ok(), |address| address.parse::<Ipv6Addr>().is_ok())
}

fn detach(directory: &Path) -> io::Result<()> {
    Ok(rustix::mount::unmount(directory, rustix::mount::UnmountFlags::DETACH)?)
}

/// Runs a program, and ends it when it takes too long.
fn run(command: &mut Command) -> std::result::Result<(), String> {
    let shown = format!("{command:?}");
    // Its words go where nobody has to read them meanwhile for it to go on.
    let mut words = tempfile().map_err(|err| format!("{shown}: {err}"))?;
    let stderr = words.try_clone().map_err(|err| format!("{shown}: {err}"))?;
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn();
    let mut child = spawned.map_err(|err| format!("{shown} cannot be started: {err}"))?;
    let until = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < until => thread::sleep(Duration::from_millis(20)),
            _ => {
                let _ = child.kill();
                // It may be in a call that cannot be interrupted: nobody waits for it here.
                thread::spawn(move || child.wait());
                return Err(format!("{shown} did not end within {} s", PATIENCE.as_secs()));
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

/// A file without a name.
fn tempfile() -> io::Result<std::fs::File> {
    let memory = rustix::fs::memfd_create("mount", rustix::fs::MemfdFlags::CLOEXEC)?;
    Ok(memory.into())
}
