//! TLS before an NFS server that speaks none, as Amazon EFS speaks it: a certificate for the file system's name, and
//! what comes within goes to the server as it is.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use anyhow::{Context, Result};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

const FILE_SYSTEM: &str = "fs-0123456789abcdef0";
const REGION: &str = "eu-west-1";
const NAME: &str = "fs-0123456789abcdef0.efs.eu-west-1.amazonaws.com";
const LARGEST_COPY: usize = 64 << 10;

pub struct Front {
    address: SocketAddr,
    roots: PathBuf,
}

impl Front {
    /// At the server's own address, on a port of its own. Ends with the program. `roots` is written.
    pub fn start(server: SocketAddr, roots: &Path) -> Result<Self> {
        let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
        let certificate = rcgen::CertificateParams::new([NAME.to_owned()])?.self_signed(&key)?;
        fs::write(roots, certificate.pem())?;
        let chain = vec![CertificateDer::from(certificate)];
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_no_client_auth()
            .with_single_cert(chain, PrivateKeyDer::Pkcs8(key.serialize_der().into()))?;
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind((server.ip(), 0)))?;
        let address = listener.local_addr()?;
        thread::Builder::new().name("front".to_owned()).spawn(move || {
            runtime.block_on(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(relay(acceptor.clone(), stream, server));
                }
            });
        })?;
        Ok(Self { address, roots: roots.to_owned() })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn name(&self) -> &'static str {
        NAME
    }

    pub fn roots(&self) -> &str {
        self.roots.to_str().unwrap_or_default()
    }

    /// What makes the service speak with it.
    pub fn variables(&self) -> [(&'static str, &str); 4] {
        [
            ("NFS_TLS", "efs"),
            ("EFS_FILE_SYSTEM_ID", FILE_SYSTEM),
            ("AWS_REGION", REGION),
            ("NFS_TLS_ROOTS", self.roots()),
        ]
    }
}

async fn relay(acceptor: TlsAcceptor, stream: TcpStream, server: SocketAddr) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut client = acceptor.accept(stream).await.context("a handshake")?;
    let mut server = TcpStream::connect(server).await?;
    server.set_nodelay(true)?;
    // It ends with either side.
    tokio::io::copy_bidirectional_with_sizes(&mut client, &mut server, LARGEST_COPY, LARGEST_COPY).await?;
    Ok(())
}
