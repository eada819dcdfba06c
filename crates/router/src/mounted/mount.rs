//! Mounting a target, by the programs that know how: `mount -t nfs4`, or `mount -t efs` of amazon-efs-utils.

use std::{
    io,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use domain::{model::FileSystemId, published::PublishedTarget};

use super::separate::{MountLine, mounts};
use crate::error::{Error, Result};

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
    mounted: AtomicBool,
}

impl Mounter {
    pub(super) fn new(mount: &Mount, target: &PublishedTarget, directory: &Path) -> Option<Self> {
        let address = target.ip_address;
        let arguments = match mount {
            Mount::None => return None,
            Mount::Kernel { options } => ["-t", "nfs4", "-o", options, &format!("{address}:/")].map(str::to_owned),
            Mount::EfsUtils { options, file_system } => {
                let options = format!("{options},mounttargetip={address}");
                ["-t", "efs", "-o", &options, &format!("{file_system}:/")].map(str::to_owned)
            }
        };
        Some(Self {
            arguments: arguments.to_vec(),
            directory: directory.to_owned(),
            source: matches!(mount, Mount::Kernel { .. }).then(|| format!("{address}:/")),
            mounted: AtomicBool::new(false),
        })
    }

    /// Mounts it if it is not mounted. Blocks. Looked at each time: without its mount the directory is one of this
    /// machine's own.
    ///
    /// # Errors
    /// What the program says; or that something else is mounted there.
    pub(super) fn mount(&self) -> Result<()> {
        let shown = self.directory.display();
        let failed = |why: String| Error::Failed(io::Error::other(why));
        std::fs::create_dir_all(&self.directory).map_err(|why| failed(format!("{shown} cannot be made: {why}")))?;
        let table = std::fs::read_to_string("/proc/self/mountinfo").map_err(|why| failed(why.to_string()))?;
        let directory = self.directory.canonicalize()?;
        match mounts(&table).rev().find(|mount| mount.directory == directory) {
            Some(there) if self.is_ours(&there) => {}
            // Another target's: of an earlier life of this process, or about to be unmounted.
            Some(there) if there.is_nfs && is_an_address(&there.source) => {
                detach(&directory);
                return Err(failed(format!("{} was mounted at {shown}, and is not any more", there.source)));
            }
            Some(_) => {
                return Err(failed(format!("something else is mounted at {shown}: unmount it, or set MOUNT_BASE")));
            }
            None => run(Command::new("mount").args(&self.arguments).arg(&directory)).map_err(failed)?,
        }
        self.mounted.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Takes it out of the tree; who still uses it can go on.
    pub(super) fn unmount(&self) {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let there = mounts(&table).rev().find(|mount| mount.directory == self.directory);
        if self.mounted.swap(false, Ordering::Relaxed) && there.is_some_and(|there| self.is_ours(&there)) {
            detach(&self.directory);
        }
    }

    /// Was this mounted for this target? Told by what was asked for, which also a folded mount keeps; efs-utils asks
    /// for a program of its own.
    fn is_ours(&self, mount: &MountLine) -> bool {
        mount.is_nfs && (self.source.is_none() || self.source.as_ref() == Some(&mount.source))
    }
}

/// As this program asks for a mount, and people seldom do.
fn is_an_address(source: &str) -> bool {
    source.strip_suffix(":/").is_some_and(|address| address.parse::<Ipv4Addr>().is_ok())
}

fn detach(directory: &Path) {
    if let Err(why) = rustix::mount::unmount(directory, rustix::mount::UnmountFlags::DETACH) {
        tracing::warn!(directory = %directory.display(), error = %why, "a target could not be unmounted");
    }
}

/// Runs a program, and ends it when it takes too long.
fn run(command: &mut Command) -> std::result::Result<(), String> {
    let shown = format!("{command:?}");
    // Its words go where nobody has to read them meanwhile for it to go on.
    let mut words = tempfile().map_err(|why| format!("{shown}: {why}"))?;
    let stderr = words.try_clone().map_err(|why| format!("{shown}: {why}"))?;
    let spawned = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn();
    let mut child = spawned.map_err(|why| format!("{shown} cannot be started: {why}"))?;
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
