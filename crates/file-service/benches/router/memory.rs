//! How much memory a thousand connections take that each read a large file.

use std::{
    fs::File,
    io::{Read, Write},
    net::SocketAddr,
    os::fd::AsRawFd,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};

use crate::{
    Settings,
    servers::{NOPUSH, Server, Site, content, place},
};
use bench_kit::report::{Report, Samples, Target, markdown, number, paragraph};

const CONNECTIONS: usize = 1000;
const FILE: u64 = 1 << 30;
const MOST_MB: f64 = 128.0;
/// What a client takes at once.
const PIECE: usize = 64 << 10;
/// What its kernel may hold for it.
const KERNEL: u32 = 64 << 10;
/// As on Ethernet. With loopback's segments of 64 KiB a server's kernel takes megabytes for each connection, and a
/// thousand of them have all that TCP may have on a machine.
static SEGMENT: libc::c_int = 1460;
const PAUSE: Duration = Duration::from_millis(500);
const SAMPLE_EVERY: Duration = Duration::from_millis(200);

/// What came of one server.
struct Streamed {
    rss: Samples,
    peak: u64,
    megabytes_a_second: f64,
}

pub fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    let place = place(&settings.disk)?;
    let site = Site::new(place.path(), "site")?;
    let mut file = File::create(site.files().join("large"))?;
    let piece = content(0, 1 << 20);
    for _ in 0..FILE >> 20 {
        file.write_all(&piece)?;
    }
    // Once, so that it is in memory.
    std::io::copy(&mut File::open(site.files().join("large"))?.take(FILE), &mut std::io::sink())?;
    let seconds = if settings.quick { 3 } else { 20 };
    let mut lines = vec![];
    for (name, pause, at_once, target) in [
        ("nginx, slow clients", Some(PAUSE), None, Target::None),
        ("ours, slow clients", Some(PAUSE), Some("auto"), Target::AtMost(MOST_MB)),
        ("ours, READ_AT_ONCE=never, slow clients", Some(PAUSE), Some("never"), Target::AtMost(MOST_MB)),
        ("ours, clients as fast as they can", None, Some("auto"), Target::AtMost(MOST_MB)),
        ("ours, READ_AT_ONCE=never, as fast as they can", None, Some("never"), Target::AtMost(MOST_MB)),
    ] {
        let server = match at_once {
            None => site.nginx(NOPUSH)?,
            Some(at_once) => site.router(&[("READ_AT_ONCE", at_once)])?,
        };
        let idle = server.memory("VmRSS")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let streamed = runtime.block_on(stream(&server, pause, Duration::from_secs(seconds)))?;
        let peak = streamed.peak as f64 / 1e6;
        let [target, outcome] = target.cells(peak, 0);
        lines.push([
            name.to_owned(),
            number(streamed.rss.median(), 1),
            streamed.rss.range(1),
            number(peak, 1),
            number(idle as f64 / 1e6, 1),
            number(streamed.megabytes_a_second, 0),
            target,
            outcome,
        ]);
    }
    let head = ["", "MB", "from – to", "peak", "idle", "MB/s", "target", ""];
    report.say(&format!(
        "\n## memory: {CONNECTIONS} connections, each reading a file of 1 GiB\n\n{}\n\n{}",
        paragraph(&format!(
            "`VmRSS` every {} ms for {seconds} s from when all were connected, the peak as `VmHWM`, of all processes of a \
             server. Slow clients take {} KiB every {} ms. The file is one, of real data, in the page cache. The kernel's \
             buffers for the connections are not in it, for anybody; segments are {SEGMENT} bytes, as on Ethernet. \
             nginx has no target: it sends from the page cache by sendfile.",
            SAMPLE_EVERY.as_millis(),
            PIECE >> 10,
            PAUSE.as_millis(),
        )),
        markdown(head, lines)
    ));
    Ok(())
}

async fn stream(server: &Server, pause: Option<Duration>, time: Duration) -> Result<Streamed> {
    let (address, received) = (server.address(), Arc::new(AtomicU64::new(0)));
    let mut clients = JoinSet::new();
    let mut connected = vec![];
    for _ in 0..CONNECTIONS {
        connected.push(connect(address).await?);
    }
    for (number, client) in connected.into_iter().enumerate() {
        // Not all at the same moment.
        let offset = pause.map(|pause| pause * number as u32 / CONNECTIONS as u32);
        clients.spawn(read(client, offset.unwrap_or_default(), pause, Arc::clone(&received)));
    }
    let (began, before) = (Instant::now(), received.load(Ordering::Relaxed));
    let mut rss = Samples::default();
    while began.elapsed() < time {
        tokio::time::sleep(SAMPLE_EVERY).await;
        rss.add(server.memory("VmRSS")? as f64 / 1e6);
    }
    let moved = (received.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64() / 1e6;
    // Nobody has come to the end, or been turned away.
    if let Some(ended) = clients.try_join_next() {
        ended??;
        anyhow::bail!("a file came to its end");
    }
    ensure!(moved > 0.0, "nothing was sent");
    Ok(Streamed { rss, peak: server.memory("VmHWM")?, megabytes_a_second: moved })
}

async fn connect(address: SocketAddr) -> Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(KERNEL)?;
    set_segment(&socket)?;
    let mut stream = socket.connect(address).await?;
    stream.write_all(format!("GET /files/large HTTP/1.1\r\nHost: {address}\r\n\r\n").as_bytes()).await?;
    Ok(stream)
}

#[expect(unsafe_code, reason = "neither the standard library nor tokio sets it")]
fn set_segment(socket: &TcpSocket) -> Result<()> {
    let (level, option, size) = (libc::IPPROTO_TCP, libc::TCP_MAXSEG, size_of_val(&SEGMENT) as libc::socklen_t);
    // SAFETY: the socket is open, and the value is read during the call, in its size.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const SEGMENT).cast(), size) };
    ensure!(set == 0, "TCP_MAXSEG: {}", std::io::Error::last_os_error());
    Ok(())
}

/// Ends with an error, or never.
async fn read(
    mut stream: TcpStream,
    offset: Duration,
    pause: Option<Duration>,
    received: Arc<AtomicU64>,
) -> Result<()> {
    let mut buffer = vec![0; PIECE];
    let first = stream.read(&mut buffer).await?;
    ensure!(buffer[..first].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&buffer[..first.min(200)]));
    tokio::time::sleep(offset).await;
    let mut all = first as u64;
    while all + PIECE as u64 <= FILE {
        if let Some(pause) = pause {
            tokio::time::sleep(pause).await;
        }
        let length = stream.read_exact(&mut buffer).await.with_context(|| format!("after {all} bytes"))?;
        all += length as u64;
        received.fetch_add(length as u64, Ordering::Relaxed);
    }
    Ok(())
}
