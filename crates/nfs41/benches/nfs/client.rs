//! This crate's client under load, in a process of its own like the other clients.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use nfs41::{AttributeMask, Client, DirCursor, Options, Precondition, PutOptions};

use bench_kit::allocations;

use crate::drive::{self, ENTRIES, Job, Operation};

/// Bytes of a page of directory entries.
const PAGE: u32 = 1 << 20;
/// Bytes of one READ, as the service reads, and of one [`nfs41::Upload::write`].
const READ_BYTES: u32 = 128 << 10;
const WRITE_BYTES: usize = 8 << 20;

pub fn run(arguments: impl Iterator<Item = String>) -> Result<()> {
    let job = Job::from_arguments(arguments)?;
    if let Operation::Idle | Operation::StreamIn | Operation::StreamOut = job.operation {
        allocations::count_bytes();
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(drive(&job))
}

async fn drive(job: &Job) -> Result<()> {
    match job.operation {
        Operation::Idle => return idle(job).await,
        Operation::StreamIn | Operation::StreamOut => return stream(job).await,
        _ => {}
    }
    let client = Client::new(Options { connections: job.connections, ..Options::new(job.address) })?;
    client.server_identities().await?;
    let (own, content) = (client.clone(), Bytes::from(vec![7; job.size]));
    let its = Arc::new(job.clone());
    drive::drive(job, move |_, index| {
        let (client, job, content) = (own.clone(), Arc::clone(&its), content.clone());
        async move { one(&client, &job, content, index).await }
    })
    .await?;
    client.close().await;
    Ok(())
}

async fn one(client: &Client, job: &Job, content: Bytes, index: u64) -> Result<()> {
    let path = format!("{}/{}", job.directory, job.name(index));
    match job.operation {
        Operation::Stat => {
            let found = client.attributes(path.as_bytes(), AttributeMask::STAT).await?;
            ensure!(found.size == Some(job.size as u64), "another size");
        }
        Operation::Read => {
            ensure!(read(client, path.as_bytes(), job.size).await? == job.size, "another size");
        }
        Operation::Write => {
            let options = PutOptions { precondition: Precondition::Absent, ..PutOptions::default() };
            client.put(path.as_bytes(), content, options).await?;
        }
        Operation::Remove => client.remove(path.as_bytes()).await?,
        Operation::Names => list(client, job, AttributeMask::NONE).await?,
        Operation::Entries => list(client, job, AttributeMask::STAT).await?,
        Operation::Idle | Operation::StreamIn | Operation::StreamOut => bail!("not an operation by itself"),
    }
    Ok(())
}

/// Reads a file as the service does: the first piece by its path, the rest from the open file. Returns the number of
/// bytes.
async fn read(client: &Client, path: &[u8], size: usize) -> Result<usize> {
    let first = client.read(path, 0, READ_BYTES.min(u32::try_from(size)?)).await?;
    let mut length = first.data.len();
    if length == size {
        return Ok(length);
    }
    let file = client.open_by_handle(&first.handle).await?;
    drop(first);
    while length < size {
        let (data, eof) = file.read(length as u64, READ_BYTES).await?;
        length += data.len();
        if eof {
            break;
        }
    }
    file.close().await?;
    Ok(length)
}

async fn list(client: &Client, job: &Job, wanted: AttributeMask) -> Result<()> {
    let (mut place, mut found) = (DirCursor::default(), 0);
    loop {
        let page = client.list(job.directory.as_bytes(), place, wanted, PAGE).await?;
        let is_known = |entry: &nfs41::Entry| wanted == AttributeMask::NONE || entry.attributes.size == Some(0);
        ensure!(page.entries.iter().all(is_known), "no attributes");
        found += page.entries.len();
        place = page.cursor;
        if page.eof {
            break;
        }
    }
    ensure!(found == ENTRIES, "{found} entries");
    Ok(())
}

/// Memory per connection that has been used and is idle.
async fn idle(job: &Job) -> Result<()> {
    let few = job.connections / 11;
    let mut clients = vec![];
    let mut before = [0.0; 2];
    for count in 0..job.connections {
        if count == few {
            before = [drive::resident_kib()?, allocations::current_bytes() as f64 / 1024.0];
        }
        let client = Client::new(Options::new(job.address))?;
        one(&client, &Job { operation: Operation::Read, ..job.clone() }, Bytes::new(), count as u64).await?;
        clients.push(client);
    }
    let after = [drive::resident_kib()?, allocations::current_bytes() as f64 / 1024.0];
    let more = (job.connections - few) as f64;
    println!("came to {:.2} {:.2}", (after[0] - before[0]) / more, (after[1] - before[1]) / more);
    Ok(())
}

/// Peak memory of streaming a long file in or out.
async fn stream(job: &Job) -> Result<()> {
    let client = Client::new(Options::new(job.address))?;
    client.server_identities().await?;
    let before = allocations::current_bytes();
    allocations::peak_bytes();
    if job.operation == Operation::StreamIn {
        let path = format!("{}/0", job.directory);
        ensure!(read(&client, path.as_bytes(), job.size).await? == job.size, "another size");
    } else {
        let mut staged = client.begin_upload(b"streamed", PutOptions::default()).await?;
        for _ in 0..job.size / WRITE_BYTES {
            staged.write(vec![7; WRITE_BYTES].into()).await?;
        }
        let made = staged.commit().await?;
        ensure!(made.size == Some(job.size as u64), "another size");
        client.remove(b"streamed").await?;
    }
    println!("came to {:.2}", (allocations::peak_bytes() - before) as f64 / f64::from(1 << 20));
    Ok(())
}
