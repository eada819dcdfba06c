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
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::config::{Http, ListenTls};

/// What `file-service healthy --help` says.
pub const HEALTHY: &str = "\
Asks /healthz of the address in LISTEN, by HTTPS when LISTEN_TLS is not none; 0.0.0.0 and [::] mean this machine. Its
variables are those of `file-service serve`, which it is to be run with. It takes 4 seconds at most.

Status 0: the service has started, and answers; also one that has all the connections that it may, and says so or closes
this one. Whether it reaches a target now is /readyz's to say: whoever replaces it for that would replace every task at once.
Status 1: it does not answer, and a line on stderr says why.

In a task definition of ECS:  \"healthCheck\": { \"command\": [\"CMD\", \"/router\", \"healthy\"] }";

/// Less than what ECS waits for a health check, so that it can say why it has failed.
const DEADLINE: Duration = Duration::from_secs(4);
/// Of an answer only its first line is read; whoever else listens there may send anything.
const MAX_LINE_BYTES: u64 = 1024;

/// Status 0 when the service of these variables answers, else 1, and a line on stderr.
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
    let said = runtime.block_on(async { tokio::time::timeout(DEADLINE, asked).await });
    let Ok(said) = said else { bail!("{address} has not answered within {DEADLINE:?}") };
    match said {
        // The second: it has all the connections that it may. To replace it would give its load to the others.
        Ok(said) if said.starts_with("HTTP/1.1 200 ") || said.starts_with("HTTP/1.1 503 ") => Ok(()),
        Ok(said) if !said.is_empty() => bail!("{address} said {said:?} of /healthz"),
        // The same without a word.
        Ok(_) => Ok(()),
        Err(err) if matches!(err.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => Ok(()),
        Err(err) => Err(err).with_context(|| format!("{address} cannot be asked")),
    }
}

/// Where to reach, from within, a service that listens there.
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
        .with_custom_certificate_verifier(Arc::new(Anyone(provider)))
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes every certificate: one that is made is known to its process alone, and one that is given is for the name by
/// which clients know the service. What answers here is this container's own process, on its own loopback, and it is
/// told nothing that is secret.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
