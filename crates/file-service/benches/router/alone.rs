//! The NFS client by itself, in a process of its own: what a request costs besides is the service's.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nfs41::{
    Client, Options, PutOptions,
    tls::{Roots, Tls},
};
use tokio::task::JoinSet;

use crate::{
    front::Front,
    load::{CONNECTIONS, Measured},
    nfs::{DIRECTORY, KINDS, Kind},
    servers::{on, processors_of},
};

/// The first argument of this program where it is the client.
pub const ALONE: &str = "alone";

pub struct Alone<'a> {
    pub address: SocketAddr,
    pub tls: Option<&'a Front>,
    pub processors: usize,
}

impl Alone<'_> {
    /// How many were done.
    pub fn turn(&self, kind: &Kind, time: Duration, measured: &mut Measured) -> Result<f64> {
        let mut command = on(self.processors, std::env::current_exe()?);
        command.arg(ALONE).arg(self.address.to_string()).arg(self.processors.to_string());
        command.arg(kind.directory()).arg(time.as_millis().to_string());
        if let Some(front) = self.tls {
            command.args([front.name(), front.roots()]);
        }
        let output = command.output().with_context(|| format!("{command:?}"))?;
        ensure!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8_lossy(&output.stdout);
        let came = text.lines().find_map(|line| line.strip_prefix("came to ")).context("it says nothing")?;
        let came: Vec<f64> = came.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [done, rate, p99_ms, processors] = came[..] else { bail!("{text}") };
        measured.rate.add(rate);
        measured.p99_ms.add(p99_ms);
        measured.processors.add(processors);
        Ok(done)
    }
}

/// Does what `Alone` says, and says what came of it.
pub fn run(mut arguments: impl Iterator<Item = String>) -> Result<()> {
    let mut next = |what: &'static str| arguments.next().context(what);
    let mut options = Options::new(next("an address")?.parse()?);
    let (processors, directory) = (next("processors")?.parse()?, next("a directory")?);
    let time = Duration::from_millis(next("a time")?.parse()?);
    if let Ok(name) = next("a name") {
        options.tls = Some(Tls::new(&name, Roots::Pem(std::fs::read(next("a file")?)?))?);
    }
    options.root = format!("/{DIRECTORY}").into_bytes();
    let kind = KINDS.iter().find(|kind| kind.directory() == directory).context("which files?")?;
    let mut runtime = match processors {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    runtime.worker_threads(processors).enable_all().build()?.block_on(drive(options, kind, time))
}

async fn drive(options: Options, kind: &'static Kind, time: Duration) -> Result<()> {
    let client = Client::new(options)?;
    client.server_identities().await?;
    let (next, own) = (Arc::new(AtomicU64::new(0)), std::process::id());
    let (began, before) = (Instant::now(), processors_of(own)?);
    let mut tasks = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (client, next) = (client.clone(), Arc::clone(&next));
        tasks.spawn(async move {
            let mut took = vec![];
            while began.elapsed() < time {
                let number = next.fetch_add(1, Ordering::Relaxed) % kind.files as u64;
                let started = Instant::now();
                one(&client, kind, number).await?;
                took.push(started.elapsed());
            }
            anyhow::Ok(took)
        });
    }
    let mut took = vec![];
    while let Some(some) = tasks.join_next().await {
        took.extend(some??);
    }
    let (done, seconds) = (took.len() as f64, began.elapsed().as_secs_f64());
    let each = (processors_of(own)? - before) * 1e6 / done;
    took.sort_unstable();
    let p99 = took.get((done * 0.99) as usize).context("nothing was done")?.as_secs_f64() * 1e3;
    println!("came to {done} {:.3} {p99:.3} {each:.3}", done / seconds);
    client.close().await;
    Ok(())
}

async fn one(client: &Client, kind: &Kind, number: u64) -> Result<()> {
    let path = format!("{}/{number}", kind.directory()).into_bytes();
    match kind.method {
        "PUT" => drop(client.put(&path, vec![b'x'; kind.size].into(), PutOptions::default()).await?),
        _ => {
            let length = read(client, &path, kind.size).await?;
            ensure!(length == kind.size, "{length} bytes");
        }
    }
    Ok(())
}

/// Reads a file as the service does: the first piece by its path, the rest from the file, which stays open meanwhile.
async fn read(client: &Client, path: &[u8], size: usize) -> Result<usize> {
    const READ_BYTES: u32 = 128 << 10;
    let first = client.read(path, 0, READ_BYTES.min(u32::try_from(size)?)).await?;
    let mut length = first.data.len();
    if length == size {
        return Ok(length);
    }
    let file = client.open_by_handle(&first.handle).await?;
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
