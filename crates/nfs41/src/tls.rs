//! TLS from the first byte, as Amazon EFS speaks it on port 2049: nothing goes over the wire before the handshake,
//! and no protocol is negotiated within it.
//!
//! What a client shows of itself is renewed while it runs (see the module `efs`), and it is shown anew with every
//! connection. So no session is ever resumed: a resumed one goes on with the certificate of its first handshake,
//! which may have ended by then.

use std::{error::Error as StdError, fmt, future::Future, io, pin::Pin, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    client::Resumption,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

mod inspect;

pub use inspect::HandshakeReport;

/// Whatever went wrong behind one of this crate's traits.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why there is no connection over TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{0:?} is not the name of a server; give the DNS name that its certificate is for")]
    BadServerName(String),
    #[error("there is no certificate of an authority in {store}{details}; without one no server can be trusted")]
    NoRoots { store: &'static str, details: String },
    /// Counted from 1. One that cannot be read is likely the one that was meant.
    #[error("certificate {number} of the given authorities cannot be read: {source}; give certificates as PEM")]
    BadRoot { number: usize, source: BoxError },
    #[error("TLS cannot be set up: {0}")]
    Setup(#[source] rustls::Error),
    /// Nothing was sent.
    #[error("there is no client certificate to connect with: {0}")]
    NoCertificate(#[source] BoxError),
    /// One of the two sides does not want the other, or does not understand it. It helps no one to come again with
    /// the same.
    #[error("the TLS handshake was refused: {0}")]
    Refused(#[source] rustls::Error),
    #[error("the connection broke in the TLS handshake: {0}")]
    Broken(#[source] io::Error),
}

impl TlsError {
    /// Stable, for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadServerName(_) => "BadServerName",
            Self::NoRoots { .. } => "NoRoots",
            Self::BadRoot { .. } => "BadRoot",
            Self::Setup(_) => "TlsSetup",
            Self::NoCertificate(_) => "NoClientCertificate",
            Self::Refused(_) => "TlsRefused",
            Self::Broken(_) => "TlsBroken",
        }
    }
}

impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        let kind = match &error {
            TlsError::BadServerName(_) | TlsError::BadRoot { .. } | TlsError::Setup(_) => io::ErrorKind::InvalidInput,
            TlsError::NoRoots { .. } => io::ErrorKind::NotFound,
            TlsError::NoCertificate(_) | TlsError::Refused(_) => io::ErrorKind::PermissionDenied,
            TlsError::Broken(err) => err.kind(),
        };
        Self::new(kind, error)
    }
}

/// What TLS says in an error of a read or a write. In TLS 1.3 a client is done before the server has looked at its
/// certificate: a refusal of it comes not from [`Tls::connect`] but with the first read.
pub fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// The future of a client certificate.
pub type IdentityFuture<'a> = Pin<Box<dyn Future<Output = Result<Arc<CertifiedKey>, BoxError>> + Send + 'a>>;

/// IdentityFuture what the client shows of itself: a certificate and its key. Asked before each new connection.
pub trait IdentityProvider: Send + Sync {
    fn identity(&self) -> IdentityFuture<'_>;
}

/// Whom to trust.
#[derive(Clone)]
pub enum Roots {
    /// What the operating system trusts, or the files that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    System,
    /// One certificate or several, as PEM. What else is in it is passed over.
    Pem(Vec<u8>),
}

impl Roots {
    fn store(self) -> Result<RootCertStore, TlsError> {
        let mut store = RootCertStore::empty();
        match self {
            Self::System => {
                let found = rustls_native_certs::load_native_certs();
                // One bad file among a system's hundred must not keep anyone from the others.
                store.add_parsable_certificates(found.certs);
                if store.is_empty() {
                    let err = found.errors.iter().map(|err| format!(": {err}")).collect();
                    return Err(TlsError::NoRoots { store: "the system's store", details: err });
                }
            }
            Self::Pem(text) => {
                for (index, certificate) in CertificateDer::pem_slice_iter(&text).enumerate() {
                    let bad = |err: BoxError| TlsError::BadRoot { number: index + 1, source: err };
                    store.add(certificate.map_err(|err| bad(err.into()))?).map_err(|err| bad(err.into()))?;
                }
                if store.is_empty() {
                    return Err(TlsError::NoRoots { store: "the given PEM", details: String::new() });
                }
            }
        }
        Ok(store)
    }
}

/// How to speak TLS with one server, over any number of connections. Clones are cheap, and share the source of client
/// certificates.
#[derive(Clone)]
pub struct Tls {
    server: ServerName<'static>,
    config: Arc<ClientConfig>,
    identity_provider: Option<Arc<dyn IdentityProvider>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Tls {
    /// Of a server whose certificate is for `server_name`, whatever address it is reached at. [`Roots::System`] reads
    /// files, so call this when the process starts.
    ///
    /// # Errors
    /// [`TlsError::BadServerName`], [`TlsError::NoRoots`], [`TlsError::BadRoot`], [`TlsError::Setup`].
    pub fn new(server_name: &str, roots: Roots) -> Result<Self, TlsError> {
        let server = ServerName::try_from(server_name.to_owned())
            .map_err(|_| TlsError::BadServerName(server_name.to_owned()))?;
        // Named here: a provider installed for the whole process may be another, or none.
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(TlsError::Setup)?
            .with_root_certificates(roots.store()?)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self { server, config: Arc::new(config), identity_provider: None })
    }

    /// With a certificate for servers that ask for one.
    #[must_use]
    pub fn with_identity_provider(self, identity_provider: Arc<dyn IdentityProvider>) -> Self {
        Self { identity_provider: Some(identity_provider), ..self }
    }

    /// What to make the next connection with.
    ///
    /// # Errors
    /// [`TlsError::NoCertificate`].
    pub async fn config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let Some(identity_provider) = &self.identity_provider else { return Ok(self.config.clone()) };
        let identity = identity_provider.identity().await.map_err(TlsError::NoCertificate)?;
        let mut config = (*self.config).clone();
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(identity));
        Ok(Arc::new(config))
    }

    /// Shakes hands over a connection that nothing was sent over yet. Has no deadline of its own, and may be given up
    /// at any time; the connection is gone then.
    ///
    /// # Errors
    /// [`TlsError::NoCertificate`], [`TlsError::Refused`], [`TlsError::Broken`].
    pub async fn connect(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>, TlsError> {
        let connector = TlsConnector::from(self.config().await?);
        connector.connect(self.server.clone(), stream).await.map_err(|err| match err.downcast::<rustls::Error>() {
            Ok(refused) => TlsError::Refused(refused),
            Err(broken) => TlsError::Broken(broken),
        })
    }
}
