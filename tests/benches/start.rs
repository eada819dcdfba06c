//! How long a shipped function takes from its start to its first request for work, and what its first
//! call over TLS adds to one without. `make bench-start` builds the binaries and runs this.
//!
//! The runtime API and EFS are stand-ins on loopback. The trust store is the machine's, and one
//! certificate more, since reading it is part of the first call.

use std::{
    io::Write,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use axum::{Json, Router, serve::Listener};
use local_world::tools::FUNCTIONS;
use serde_json::json;
use tests::{project, runtime::Runtime};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, pki_types::PrivateKeyDer},
    server::TlsStream,
};

const STARTS: usize = 30;
const CALLS: usize = 20;
const START_LIMIT: Duration = Duration::from_millis(15);
const TLS_LIMIT: Duration = Duration::from_millis(5);
/// Where a Debian system keeps what it trusts.
const TRUSTED: &str = "/etc/ssl/certs/ca-certificates.crt";

#[tokio::main]
async fn main() -> Result<()> {
    let mut within = true;
    println!("from start to the first request for work, {STARTS} starts each");
    println!("  {:<16}{:>10}{:>10}{:>10}", "function", "p50", "fastest", "slowest");
    let mut times = vec![vec![]; FUNCTIONS.len()];
    for _ in 0..STARTS {
        for (times, function) in times.iter_mut().zip(FUNCTIONS) {
            times.push(start(function).await?);
        }
    }
    for (times, function) in times.iter_mut().zip(FUNCTIONS) {
        within &= row(function, times) <= START_LIMIT;
    }

    println!("the first request, with one call to EFS, {CALLS} processes each in turn");
    println!("  {:<16}{:>10}{:>10}{:>10}", "poll-available", "p50", "fastest", "slowest");
    let (plain, secure, store) = (efs().await?, efs_over_tls().await?, tempfile::NamedTempFile::new()?);
    let (secure, certificate) = secure;
    store.as_file().write_all(&[std::fs::read(TRUSTED)?, certificate.into_bytes()].concat())?;
    let (mut without, mut with) = (vec![], vec![]);
    for _ in 0..CALLS {
        without.push(first_call(&format!("http://localhost:{}", plain.port()), &store).await?);
        with.push(first_call(&format!("https://localhost:{}", secure.port()), &store).await?);
    }
    let added = row("over TLS", &mut with).saturating_sub(row("without", &mut without));
    println!("  TLS adds {:.1} ms to the median", milliseconds(added));
    within &= added <= TLS_LIMIT;
    println!(
        "limits: {:.0} ms to the first request, {:.0} ms for TLS: {}",
        milliseconds(START_LIMIT),
        milliseconds(TLS_LIMIT),
        if within { "kept" } else { "NOT KEPT" }
    );
    Ok(())
}

fn binary(function: &str) -> Result<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| project().join("target"), PathBuf::from);
    let binary = project().join(target).join("lambda").join(function).join("bootstrap");
    binary.canonicalize().with_context(|| format!("{}: `make build-lambda` builds it", binary.display()))
}

/// All that any of the functions asks for at init.
fn command(runtime: &Runtime, function: &str) -> Result<tokio::process::Command> {
    let mut command = runtime.command(&binary(function)?);
    command.stdout(std::process::Stdio::null()).envs([
        ("EFS_FILE_SYSTEM_ID", "fs-0123456789abcdef0"),
        ("VPC_ID", "vpc-0123456789abcdef0"),
        ("SECURITY_GROUP_IDS", "sg-0123456789abcdef0"),
        ("ECS_CLUSTER_NAME", "cluster"),
        ("ECS_SERVICE_NAME", "service"),
        ("TARGET_DIRECTORY", "/usr"),
    ]);
    Ok(command)
}

async fn start(function: &str) -> Result<Duration> {
    let runtime = Runtime::start().await?;
    let mut command = command(&runtime, function)?;
    let began = Instant::now();
    let mut child = command.spawn()?;
    let time = runtime.asked().await? - began;
    child.kill().await?;
    Ok(time)
}

/// From the event to the answer, in a process that has made no call before.
async fn first_call(endpoint: &str, store: &tempfile::NamedTempFile) -> Result<Duration> {
    let runtime = Runtime::start().await?;
    let mut command = command(&runtime, "poll-available")?;
    let mut child = command.env("AWS_ENDPOINT_URL", endpoint).env("SSL_CERT_FILE", store.path()).spawn()?;
    runtime.asked().await?;
    let sent = runtime.send(json!({"mount_target_id": "fsmt-1"}));
    let told = runtime.told(1).await?;
    child.kill().await?;
    let (at, told) = told.into_iter().next().context("no answer")?;
    anyhow::ensure!(matches!(told, tests::runtime::Told::Response(_)), "{told:?}");
    Ok(at - sent)
}

fn row(name: &str, times: &mut [Duration]) -> Duration {
    times.sort();
    let (median, first, last) = (times[times.len() / 2], times[0], times[times.len() - 1]);
    let [p50, fastest, slowest] = [median, first, last].map(|time| format!("{:.1} ms", milliseconds(time)));
    println!("  {name:<16}{p50:>10}{fastest:>10}{slowest:>10}");
    median
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// An EFS that knows one target.
fn app() -> Router {
    Router::new().fallback(|| async {
        Json(json!({"MountTargets": [{
            "MountTargetId": "fsmt-1", "FileSystemId": "fs-0123456789abcdef0", "SubnetId": "subnet-1",
            "LifeCycleState": "available", "IpAddress": "10.0.0.4",
            "AvailabilityZoneId": "use1-az1", "AvailabilityZoneName": "us-east-1a",
        }]}))
    })
}

async fn efs() -> Result<SocketAddr> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { axum::serve(listener, app()).await });
    Ok(address)
}

/// The address, and the certificate that must be trusted, as PEM.
async fn efs_over_tls() -> Result<(SocketAddr, String)> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let key = PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key)?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let listener = Tls { listener, acceptor: TlsAcceptor::from(Arc::new(config)) };
    tokio::spawn(async move { axum::serve(listener, app()).await });
    Ok((address, made.cert.pem()))
}

struct Tls {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl Listener for Tls {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        loop {
            if let Ok((stream, address)) = self.listener.accept().await
                && let Ok(stream) = self.acceptor.accept(stream).await
            {
                return (stream, address);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
