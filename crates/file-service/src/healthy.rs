//! `file-service healthy`: the health check of a container whose image has no shell and no other program.

use std::{
    io::{self, ErrorKind, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use domain::config::Variables;
use rustls::{ClientConfig, crypto::aws_lc_rs, pki_types::ServerName};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{
    any_certificate::AcceptAnyCertificate,
    config::{Http, ListenTls},
};

/// What `file-service healthy --help` says.
pub const HEALTHY: &str = "\
Asks /healthz of the address in LISTEN, by HTTPS when LISTEN_TLS is not none; 0.0.0.0 and [::] mean this machine. Its
variables are those of `file-service serve`, which it is to be run with. It takes 4 seconds at most.

Status 0: the service has started, and answers; also one that has all the connections that it may, and says so or closes
this one. Whether it reaches a target now is /readyz's to say: whoever replaces it for that would replace every task at once.
Status 1: it does not answer, and a line on stderr says why.

In a task definition of ECS:  \"healthCheck\": { \"command\": [\"CMD\", \"/file-service\", \"healthy\"] }";

/// Shorter than the timeout of ECS's health check, so that the reason of a failure is logged.
const HEALTH_CHECK_TIMEOUT: Duration = Duration::from_secs(4);
/// Only the first line of the response is read, because another process on that port may send anything.
const MAX_LINE_BYTES: u64 = 1024;

/// Exit status 0 when the service configured by these variables responds, else 1 and a line on stderr.
pub fn healthy(variables: &impl Variables) -> ExitCode {
    match ask(variables) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            let _ = writeln!(io::stderr(), "not healthy: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn ask(variables: &impl Variables) -> anyhow::Result<()> {
    let http = Http::read(variables)?;
    let address = within(http.listen);
    let asked = async {
        let stream = TcpStream::connect(address).await?;
        match http.tls {
            ListenTls::None => first_line(stream, address).await,
            ListenTls::Made | ListenTls::Given { .. } => {
                let stream = connector()?.connect(ServerName::from(address.ip()), stream).await?;
                first_line(stream, address).await
            }
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let said = runtime.block_on(async { tokio::time::timeout(HEALTH_CHECK_TIMEOUT, asked).await });
    let Ok(said) = said else { bail!("{address} has not answered within {HEALTH_CHECK_TIMEOUT:?}") };
    match said {
        // 503 means that the connection limit is reached. Replacing the task would move its load to the others.
        Ok(said) if said.starts_with("HTTP/1.1 200 ") || said.starts_with("HTTP/1.1 503 ") => Ok(()),
        Ok(said) if !said.is_empty() => bail!("{address} said {said:?} of /healthz"),
        // The same, without a response.
        Ok(_) => Ok(()),
        Err(err) if matches!(err.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => Ok(()),
        Err(err) => Err(err).with_context(|| format!("{address} cannot be asked")),
    }
}

/// The address for a local client of a service that listens there.
fn within(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

async fn first_line(mut stream: impl AsyncRead + AsyncWrite + Unpin, host: SocketAddr) -> io::Result<String> {
    let request = format!("GET /healthz HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut line = Vec::new();
    BufReader::new(stream.take(MAX_LINE_BYTES)).read_until(b'\n', &mut line).await?;
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

fn connector() -> io::Result<TlsConnector> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(provider)))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}
