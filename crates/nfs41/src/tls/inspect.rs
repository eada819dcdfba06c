//! Inspects a server's TLS configuration, for diagnosis.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::{
        ResolvesClientCert, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    pki_types::{CertificateDer, ServerName, UnixTime},
    sign::CertifiedKey,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Roots, Tls, TlsError, aws_lc_rs};

/// What a handshake has shown about the server.
#[derive(Debug)]
pub struct HandshakeReport {
    /// Protocol version, such as `TLSv1_3`, if the handshake completed.
    pub version: Option<String>,
    /// Cipher suite, such as `TLS13_AES_128_GCM_SHA256`, if the handshake completed.
    pub cipher: Option<String>,
    /// The server's certificate chain in DER, the end-entity certificate first; also if it is not trusted.
    pub certificates: Vec<Vec<u8>>,
    /// The server requests a client certificate.
    pub requests_client_certificate: bool,
    /// The connection. Whether the server accepts the client certificate shows with the first read: see
    /// [`rustls_error`](super::rustls_error).
    pub stream: Result<TlsStream<TcpStream>, TlsError>,
}

/// Records the server's certificates, and delegates to another verifier.
#[derive(Debug)]
struct RecordingVerifier {
    inner: Arc<WebPkiServerVerifier>,
    certificates: Mutex<Vec<Vec<u8>>>,
}

impl ServerCertVerifier for RecordingVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let certificates = std::iter::once(end_entity).chain(intermediates).map(|certificate| certificate.to_vec());
        *self.certificates.lock().unwrap_or_else(PoisonError::into_inner) = certificates.collect();
        self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Records whether the server requested a client certificate, and delegates to another resolver.
#[derive(Debug)]
struct RecordingResolver {
    inner: Arc<dyn ResolvesClientCert>,
    asked: AtomicBool,
}

impl ResolvesClientCert for RecordingResolver {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.inner.resolve(hints, schemes)
    }

    fn has_certs(&self) -> bool {
        self.inner.has_certs()
    }
}

impl Tls {
    /// Performs the handshake as [`Tls::connect`] does, with these roots, and reports what it has shown.
    ///
    /// # Errors
    /// In each case nothing was sent: [`TlsError::NoCertificate`], [`TlsError::NoRoots`], [`TlsError::BadRoot`],
    /// [`TlsError::Setup`].
    #[doc(hidden)]
    pub async fn inspect(&self, stream: TcpStream, roots: Roots) -> Result<HandshakeReport, TlsError> {
        let mut config = (*self.config().await?).clone();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let inner = WebPkiServerVerifier::builder_with_provider(Arc::new(roots.store()?), provider).build();
        let inner = inner.map_err(|err| TlsError::Setup(rustls::Error::General(err.to_string())))?;
        let verifier = Arc::new(RecordingVerifier { inner, certificates: Mutex::default() });
        let resolver = Arc::new(RecordingResolver {
            inner: config.client_auth_cert_resolver.clone(),
            asked: AtomicBool::default(),
        });
        config.client_auth_cert_resolver = resolver.clone();
        config.dangerous().set_certificate_verifier(verifier.clone());
        let connected = TlsConnector::from(Arc::new(config)).connect(self.server.clone(), stream).await;
        let stream = connected.map_err(|err| match err.downcast::<rustls::Error>() {
            Ok(refused) => TlsError::Refused(refused),
            Err(broken) => TlsError::Broken(broken),
        });
        let session = stream.as_ref().ok().map(|stream| stream.get_ref().1);
        let (version, cipher) = (
            session.and_then(|session| session.protocol_version()).map(|version| format!("{version:?}")),
            session.and_then(|session| session.negotiated_cipher_suite()).map(|suite| format!("{:?}", suite.suite())),
        );
        let certificates = std::mem::take(&mut *verifier.certificates.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(HandshakeReport {
            version,
            cipher,
            certificates,
            requests_client_certificate: resolver.asked.load(Ordering::Relaxed),
            stream,
        })
    }
}
