//! The kernel's NFS client under load, if the kernel has one. Each turn mounts anew, with the options that EFS
//! recommends, so that caches are empty. Caches are also bypassed: attributes are read from the server, and data with
//! O_DIRECT. A second listing comes from memory; `make bench-count-nfs` mounts anew for each.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::{FileExt, OpenOptionsExt},
    path::Path,
    process::Command,
    sync::Arc,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{AtFlags, CWD, OFlags, StatxFlags, statx};

use crate::drive::{self, Job, Operation};

/// This process has a mount namespace of its own: see `clients`.
const AT: &str = "/mnt";

/// Whether the kernel has a client, and this user may mount it.
pub fn available() -> Result<()> {
    ensure!(fs::read_to_string("/proc/filesystems")?.contains("\tnfs4\n"), "this kernel has no NFS client");
    ensure!(rustix::process::geteuid().is_root(), "only root mounts");
    Ok(())
}

pub fn run(arguments: impl Iterator<Item = String>) -> Result<()> {
    let job = Job::from_arguments(arguments)?;
    if let Operation::Names | Operation::Entries = job.operation {
        bail!("it answers from memory; see `make bench-count-nfs`");
    }
    mount(&job)?;
    let (its, root) = (Arc::new(job.clone()), Path::new(AT).join(&job.directory));
    // Each operation blocks its thread.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(job.in_flight + 2).enable_all().build()?;
    runtime.block_on(drive::drive(&job, move |_, index| {
        let (job, path) = (Arc::clone(&its), root.join(its.name(index).to_string()));
        async move { one(&job, &path) }
    }))?;
    ran(Command::new("umount").arg(AT))
}

fn one(job: &Job, path: &Path) -> Result<()> {
    match job.operation {
        Operation::Stat => {
            let found = statx(CWD, path, AtFlags::STATX_FORCE_SYNC, StatxFlags::BASIC_STATS)?;
            ensure!(found.stx_size == job.size as u64, "another size");
        }
        Operation::Read => {
            let file = OpenOptions::new().read(true).custom_flags(OFlags::DIRECT.bits().cast_signed()).open(path)?;
            file.read_exact_at(&mut vec![0; job.size], 0)?;
        }
        Operation::Write => {
            let mut file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
            file.write_all(&vec![7; job.size])?;
            file.sync_data()?;
        }
        Operation::Remove => fs::remove_file(path)?,
        _ => bail!("not for a mount"),
    }
    Ok(())
}

fn mount(job: &Job) -> Result<()> {
    let (address, port, connections) = (job.address.ip(), job.address.port(), job.connections);
    let options = format!(
        "vers=4.1,rsize=1048576,wsize=1048576,hard,timeo=600,retrans=2,noresvport,\
         addr={address},clientaddr={address},port={port},nconnect={connections}"
    );
    ran(Command::new("mount").args(["-i", "-t", "nfs4", "-o", &options, &format!("{address}:/"), AT]))
}

fn ran(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}
