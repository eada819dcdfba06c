//! HTTPS: the certificate and the TLS configuration.

use std::{error::Error as StdError, path::Path, sync::Arc};

use rustls::{
    Error, InconsistentKeys, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio_rustls::TlsAcceptor;

use super::{Failure, config::ListenTls};

/// The acceptor for `LISTEN_TLS`; `None` for plain HTTP. Reads files.
pub(super) fn acceptor(listen: &ListenTls) -> Result<Option<TlsAcceptor>, Failure> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let identity = match listen {
        ListenTls::None => return Ok(None),
        ListenTls::Made => made(&provider).map_err(Failure::Tls)?,
        ListenTls::Given { certificate, key } => given(&provider, certificate, key)?,
    };
    // The provider is explicit, because the process may have installed another one, or none.
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|err| Failure::Tls(err.into()))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(identity)));
    // A client that offers only other protocols (ALPN) is refused, not answered in a protocol that it does not speak.
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

/// A self-signed certificate whose key never leaves this process. It protects the token from eavesdroppers; it does not
/// authenticate the service.
fn made(provider: &CryptoProvider) -> Result<CertifiedKey, Box<dyn StdError + Send + Sync>> {
    // ECDSA over P-256: every load balancer supports it, and generation is fast.
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let certificate = rcgen::CertificateParams::new(["localhost".to_owned()])?.self_signed(&key)?;
    let key = provider.key_provider.load_private_key(PrivateKeyDer::Pkcs8(key.serialize_der().into()))?;
    Ok(CertifiedKey::new(vec![certificate.into()], key))
}

fn given(provider: &CryptoProvider, certificate: &Path, key: &Path) -> Result<CertifiedKey, Failure> {
    fn bad<E: Into<Box<dyn StdError + Send + Sync>>>(name: &'static str, file: &Path) -> impl Fn(E) -> Failure {
        move |err| Failure::BadFile { name, file: file.to_owned(), err: err.into() }
    }
    let chain: Vec<_> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .map_err(bad(ListenTls::CERTIFICATE, certificate))?;
    if chain.is_empty() {
        return Err(bad(ListenTls::CERTIFICATE, certificate)("there is no certificate in it"));
    }
    let private = PrivateKeyDer::from_pem_file(key).map_err(bad(ListenTls::KEY, key))?;
    let private = provider.key_provider.load_private_key(private).map_err(bad(ListenTls::KEY, key))?;
    let identity = CertifiedKey::new(chain, private);
    match identity.keys_match() {
        // A mismatch of a key without a public half shows at the first handshake.
        Ok(()) | Err(Error::InconsistentKeys(InconsistentKeys::Unknown)) => Ok(identity),
        Err(Error::InconsistentKeys(_)) => {
            Err(bad(ListenTls::KEY, key)("it is not the key of the certificate in LISTEN_TLS_CERTIFICATE"))
        }
        Err(err) => Err(bad(ListenTls::CERTIFICATE, certificate)(err)),
    }
}
