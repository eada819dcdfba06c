//! What a handshake shows of the server: for people who look, not for connections that are used.

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

/// What one handshake has shown.
#[derive(Debug)]
pub struct Facts {
    /// Such as `TLSv1_3` and `TLS13_AES_128_GCM_SHA256`; where the handshake came to its end.
    pub version: Option<String>,
    pub cipher: Option<String>,
    /// The server's, in DER, its own first; also those that are not believed.
    pub certificates: Vec<Vec<u8>>,
    /// The server wants to see a certificate of the client.
    pub asks_for_certificate: bool,
    /// To speak over. What the server makes of the client's certificate comes with the first read: see
    /// [`refusal`](super::refusal).
    pub stream: Result<TlsStream<TcpStream>, TlsError>,
}

/// Remembers what it is shown, and judges as another does.
#[derive(Debug)]
struct Witness {
    judge: Arc<WebPkiServerVerifier>,
    shown: Mutex<Vec<Vec<u8>>>,
}

impl ServerCertVerifier for Witness {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let shown = std::iter::once(end_entity).chain(intermediates).map(|certificate| certificate.to_vec());
        *self.shown.lock().unwrap_or_else(PoisonError::into_inner) = shown.collect();
        self.judge.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.judge.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.judge.supported_verify_schemes()
    }
}

/// Remembers that it was asked.
#[derive(Debug)]
struct Asked {
    by: Arc<dyn ResolvesClientCert>,
    was: AtomicBool,
}

impl ResolvesClientCert for Asked {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.was.store(true, Ordering::Relaxed);
        self.by.resolve(hints, schemes)
    }

    fn has_certs(&self) -> bool {
        self.by.has_certs()
    }
}

impl Tls {
    /// Shakes hands as [`Tls::connect`] does, trusting these roots, and tells what was seen on the way.
    ///
    /// # Errors
    /// Nothing was sent: [`TlsError::NoCertificate`], [`TlsError::NoRoots`], [`TlsError::BadRoot`],
    /// [`TlsError::Setup`].
    #[doc(hidden)]
    pub async fn look(&self, stream: TcpStream, roots: Roots) -> Result<Facts, TlsError> {
        let mut config = (*self.config().await?).clone();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let judge = WebPkiServerVerifier::builder_with_provider(Arc::new(roots.store()?), provider).build();
        let judge = judge.map_err(|why| TlsError::Setup(rustls::Error::General(why.to_string())))?;
        let witness = Arc::new(Witness { judge, shown: Mutex::default() });
        let asked = Arc::new(Asked { by: config.client_auth_cert_resolver.clone(), was: AtomicBool::default() });
        config.client_auth_cert_resolver = asked.clone();
        config.dangerous().set_certificate_verifier(witness.clone());
        let connected = TlsConnector::from(Arc::new(config)).connect(self.server.clone(), stream).await;
        let stream = connected.map_err(|why| match why.downcast::<rustls::Error>() {
            Ok(refused) => TlsError::Refused(refused),
            Err(broken) => TlsError::Broken(broken),
        });
        let session = stream.as_ref().ok().map(|stream| stream.get_ref().1);
        let (version, cipher) = (
            session.and_then(|session| session.protocol_version()).map(|version| format!("{version:?}")),
            session.and_then(|session| session.negotiated_cipher_suite()).map(|suite| format!("{:?}", suite.suite())),
        );
        let certificates = std::mem::take(&mut *witness.shown.lock().unwrap_or_else(PoisonError::into_inner));
        Ok(Facts { version, cipher, certificates, asks_for_certificate: asked.was.load(Ordering::Relaxed), stream })
    }
}
