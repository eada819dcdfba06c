//! The server, its files, and the network path to it.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, anyhow};
use nfs_lab::{Ganesha, Relay};
use nfs41::{AttributeMask, Client, DirCursor, Options};
use tokio::{runtime::Runtime, task::JoinSet};

use crate::{clients::Task, drive::ENTRIES};

pub const SMALL: usize = 4 << 10;
pub const LARGE: usize = 1 << 20;
pub const HUGE: usize = 256 << 20;
/// Number of files of each of the first two sizes.
pub const SMALL_FILES: u64 = 1000;
pub const LARGE_FILES: u64 = 16;

pub struct Lab {
    pub server: Ganesha,
    pub relay: Relay,
    runtime: Runtime,
    /// A client for setup and cleanup.
    own: Client,
    count: u64,
}

impl Lab {
    pub fn start() -> Result<Self> {
        Ganesha::available().map_err(|err| anyhow!(err))?;
        // The longest lease that it supports, since libnfs does not renew it.
        let server = Ganesha::start(nfs_lab::Options { lease: 120, ..nfs_lab::Options::default() });
        let root = server.directory();
        fill(&root.join("small"), SMALL_FILES, SMALL)?;
        fill(&root.join("large"), LARGE_FILES, LARGE)?;
        fill(&root.join("huge"), 1, HUGE)?;
        fill(&root.join("many"), ENTRIES as u64, 0)?;
        let relay = Relay::target(2, server.address());
        let runtime = Runtime::new()?;
        let own = runtime.block_on(async { Client::new(Options::new(server.address())) })?;
        Ok(Self { server, relay, runtime, own, count: 0 })
    }

    /// The address of the server, or of the relay that adds a delay.
    pub fn address(&self, delay: Duration) -> std::net::SocketAddr {
        self.relay.delay_round_trip(delay);
        if delay.is_zero() { self.server.address() } else { self.relay.address() }
    }

    /// Runs a task in a directory of its own if it writes or removes files. The directory is removed over NFS, because
    /// the server keeps handles of files that are removed locally.
    pub fn within<T>(&mut self, task: Task<'_>, run: impl FnOnce(Task<'_>) -> Result<T>) -> Result<T> {
        if !["write", "remove"].contains(&task.operation) {
            return run(task);
        }
        self.count += 1;
        let directory = format!("new-{}", self.count);
        if task.operation == "remove" {
            fill(&self.server.directory().join(&directory), task.files, task.size)?;
        } else {
            self.runtime.block_on(self.own.create_dir(directory.as_bytes(), 0o755))?;
        }
        let came = run(Task { directory: &directory, ..task });
        self.runtime.block_on(remove(&self.own, directory))?;
        came
    }
}

fn fill(directory: &Path, files: u64, size: usize) -> Result<()> {
    fs::create_dir(directory).with_context(|| directory.display().to_string())?;
    let content = vec![7; size];
    for file in 0..files {
        fs::write(directory.join(file.to_string()), &content)?;
    }
    Ok(())
}

async fn remove(client: &Client, directory: String) -> Result<()> {
    let (mut place, mut names) = (DirCursor::default(), vec![]);
    loop {
        let page = client.list(directory.as_bytes(), place, AttributeMask::NONE, 1 << 20).await?;
        names.extend(page.entries.iter().map(|entry| [directory.as_bytes(), b"/", &entry.name].concat()));
        place = page.cursor;
        if page.eof {
            break;
        }
    }
    let mut tasks = JoinSet::new();
    for some in names.chunks(names.len() / 64 + 1) {
        let (client, some) = (client.clone(), some.to_vec());
        tasks.spawn(async move {
            for name in some {
                client.remove(&name).await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    client.remove(directory.as_bytes()).await?;
    Ok(())
}
