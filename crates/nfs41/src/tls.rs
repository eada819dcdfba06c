//! TLS as Amazon EFS expects it on port 2049: the connection starts with the TLS handshake, without ALPN.
//!
//! Client certificates are renewed while a client runs (see the module `efs`), and every connection presents the current
//! one. TLS sessions are not resumed: a resumed session continues with the certificate of its first handshake, which may
//! have expired.

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

/// The error of an implementation of one of this crate's traits.
pub type BoxError = Box<dyn StdError + Send + Sync>;

/// Why a TLS connection could not be established.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Invalid server name.
    #[error("{0:?} is not a server name; give the DNS name that the server's certificate is for")]
    BadServerName(String),
    /// There is no trusted root certificate.
    #[error("there is no root certificate in {store}{details}; without one no server can be trusted")]
    NoRoots {
        /// Where root certificates were looked for.
        store: &'static str,
        /// The errors of reading them; can be empty.
        details: String,
    },
    /// A given root certificate is invalid. It is likely the one that matters, so the others are not used without it.
    #[error("root certificate {number} is invalid: {source}; give certificates as PEM")]
    BadRoot {
        /// Its position in the PEM, from 1.
        number: usize,
        /// Why it is invalid.
        source: BoxError,
    },
    /// Invalid configuration.
    #[error("TLS cannot be set up: {0}")]
    Setup(#[source] rustls::Error),
    /// There is no client certificate. Nothing was sent.
    #[error("there is no client certificate: {0}")]
    NoCertificate(#[source] BoxError),
    /// The handshake failed at the TLS level. Retrying with the same configuration does not help.
    #[error("the TLS handshake failed: {0}")]
    Refused(#[source] rustls::Error),
    /// The connection failed during the handshake.
    #[error("the connection failed during the TLS handshake: {0}")]
    Broken(#[source] io::Error),
}

impl TlsError {
    /// A stable code for programs.
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

/// The TLS error in an error of a read or a write. In TLS 1.3 the client's handshake ends before the server has verified the
/// client certificate, so a rejection comes with the first read and not from [`Tls::connect`].
pub fn rustls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// The future of [`IdentityProvider::identity`].
pub type IdentityFuture<'a> = Pin<Box<dyn Future<Output = Result<Arc<CertifiedKey>, BoxError>> + Send + 'a>>;

/// Provides the client certificate and its key for each new connection.
pub trait IdentityProvider: Send + Sync {
    /// The certificate for the next connection.
    fn identity(&self) -> IdentityFuture<'_>;
}

/// The trusted root certificates.
#[derive(Clone)]
pub enum Roots {
    /// Those of the operating system, or of the files that `SSL_CERT_FILE` and `SSL_CERT_DIR` name.
    System,
    /// One or more certificates in PEM. Other PEM sections are ignored.
    Pem(Vec<u8>),
}

impl Roots {
    fn store(self) -> Result<RootCertStore, TlsError> {
        let mut store = RootCertStore::empty();
        match self {
            Self::System => {
                let found = rustls_native_certs::load_native_certs();
                // Ignore invalid certificates of the system; the others remain usable.
                store.add_parsable_certificates(found.certs);
                if store.is_empty() {
                    let details = found.errors.iter().map(|err| format!(": {err}")).collect();
                    return Err(TlsError::NoRoots { store: "the system's store", details });
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

/// TLS configuration for connections to one server. Clones share the identity provider.
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
    /// Configuration for a server whose certificate is for `server_name`, at whatever address. [`Roots::System`] reads files
    /// synchronously, so call this at startup.
    ///
    /// # Errors
    /// [`TlsError::BadServerName`], [`TlsError::NoRoots`], [`TlsError::BadRoot`], [`TlsError::Setup`].
    pub fn new(server_name: &str, roots: Roots) -> Result<Self, TlsError> {
        let server = ServerName::try_from(server_name.to_owned())
            .map_err(|_| TlsError::BadServerName(server_name.to_owned()))?;
        // Explicit: the process may have no default provider, or another one.
        let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
            .map_err(TlsError::Setup)?
            .with_root_certificates(roots.store()?)
            .with_no_client_auth();
        config.resumption = Resumption::disabled();
        Ok(Self { server, config: Arc::new(config), identity_provider: None })
    }

    /// Presents client certificates of this provider to servers that request one.
    #[must_use]
    pub fn with_identity_provider(self, identity_provider: Arc<dyn IdentityProvider>) -> Self {
        Self { identity_provider: Some(identity_provider), ..self }
    }

    /// The rustls configuration of the next connection.
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

    /// Performs the handshake over a new TCP connection. Has no timeout of its own; dropping the future closes the connection.
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
