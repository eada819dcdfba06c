//! The crate nfs-rs, in the fewest round trips that its public functions allow: what is in a directory is asked for by
//! the directory's handle, and what is written is committed as its `write_all` does it.

#[path = "../../../drive.rs"]
mod drive;

use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use drive::{ENTRIES, Job, Operation};
use futures::{TryStreamExt, future::try_join_all};
use nfs_rs::{Mount, parse_url_and_mount, write_all};

#[tokio::main]
async fn main() -> Result<()> {
    let job = Job::from_arguments(std::env::args().skip(1))?;
    if job.operation == Operation::Idle {
        return idle(&job).await;
    }
    let (mut mounts, mut directories) = (vec![], vec![]);
    for _ in 0..job.connections {
        let mount = mount(&job).await?;
        directories.push(mount.lookup_path(&job.directory).await?.fh);
        mounts.push(mount);
    }
    let (all, content) = (mounts.clone(), Bytes::from(vec![7; job.size]));
    let its = job.clone();
    drive::drive(&job, move |worker, index| {
        let (mount, directory) = (mounts[worker % mounts.len()].clone(), directories[worker % mounts.len()].clone());
        let (job, content) = (its.clone(), content.clone());
        async move { one(&*mount, directory, &job, content, index).await }
    })
    .await?;
    for mount in all {
        mount.umount().await?;
    }
    Ok(())
}

async fn mount(job: &Job) -> Result<Arc<dyn Mount>> {
    let (ip, port) = (job.address.ip(), job.address.port());
    Ok(Arc::from(parse_url_and_mount(&format!("nfs://{ip}/?version=4.1&nfsport={port}&noresvport=true")).await?))
}

async fn one(mount: &dyn Mount, directory: Bytes, job: &Job, content: Bytes, index: u64) -> Result<()> {
    let name = job.name(index).to_string();
    match job.operation {
        Operation::Stat => {
            let found = mount.lookup(directory, &name).await?;
            ensure!(found.attr.is_some_and(|found| found.filesize == job.size as u64), "another size");
        }
        Operation::Read => {
            let found = mount.lookup(directory, &name).await?;
            let most = mount.get_max_read_size() as usize;
            let pieces = (0..job.size).step_by(most).map(|at| {
                let length = most.min(job.size - at);
                mount.read(found.fh.clone(), at as u64, length as u32)
            });
            let read = try_join_all(pieces).await?;
            ensure!(read.iter().map(Bytes::len).sum::<usize>() == job.size, "another size");
        }
        Operation::Write => {
            let made = mount.create(directory, &name, Some(0o644)).await?;
            write_all(mount, made.fh.clone(), 0, content).await?;
            mount.close(made.fh).await?;
        }
        Operation::Remove => mount.remove(directory, &name).await?,
        Operation::Names => {
            let found: Vec<_> = mount.readdir(directory).await.try_collect().await?;
            ensure!((ENTRIES..=ENTRIES + 2).contains(&found.len()), "{} entries", found.len());
        }
        Operation::Entries => {
            let found: Vec<_> = mount.readdirplus(directory).await.try_collect().await?;
            ensure!((ENTRIES..=ENTRIES + 2).contains(&found.len()), "{} entries", found.len());
            ensure!(found.iter().all(|entry| entry.attr.is_some()), "no attributes");
        }
        Operation::Idle | Operation::StreamIn | Operation::StreamOut => bail!("not by this one"),
    }
    Ok(())
}

async fn idle(job: &Job) -> Result<()> {
    let mut mounts = vec![];
    let mut before = 0.0;
    for count in 0..job.connections {
        if count == job.connections / 11 {
            before = drive::resident_kib()?;
        }
        let mount = mount(job).await?;
        let directory = mount.lookup_path(&job.directory).await?.fh;
        let read = Job { operation: Operation::Read, ..job.clone() };
        one(&*mount, directory, &read, Bytes::new(), count as u64).await?;
        mounts.push(mount);
    }
    println!("came to {:.2}", (drive::resident_kib()? - before) / (job.connections - job.connections / 11) as f64);
    Ok(())
}
