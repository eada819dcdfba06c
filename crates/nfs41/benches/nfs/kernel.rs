//! The kernel's own client under load, where this kernel has one: a mount for each turn, so that it begins knowing
//! nothing, with the options that EFS advises. It is asked for what it would else remember: attributes as the server has
//! them now, contents past its cache. A listing it answers from memory the second time: `make bench-count-nfs` mounts anew
//! for each.

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

/// This process has its mounts to itself: see `clients`.
const AT: &str = "/mnt";

/// Whether there is one, and who runs this may mount it.
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
    // Each operation holds its thread until it is done.
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
