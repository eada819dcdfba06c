//! The client certificate that carries an access point and IAM authorization to Amazon EFS.
//!
//! NFS has no field for either. The client issues a self-signed certificate whose extensions name the access point and
//! contain the client's IAM identity, signed with its AWS credentials. The server verifies the Signature Version 4 in the
//! certificate and not its issuer.
//!
//! # Sources
//! The format is not documented. This module follows [efs-utils](https://github.com/aws/efs-utils) (MIT), versions up to
//! 3.3.3:
//!
//! | what | where |
//! |---|---|
//! | the common name is the host's name, at most 64 characters | `src/efs_utils_common/proxy.py` |
//! | SHA-256 with RSA, 3,072 bits, one key for all certificates of a host | `certificate_utils.py`, `metadata.py` |
//! | validity from 15 minutes before to 3 hours after issuing | `constants.py` |
//! | the subject key identifier, then .7.1 to .7.4 in this order, none of them critical | `certificate_utils.py` |
//! | .7.1 UTF8String, the access point; only if there is one | the same |
//! | .7.2 SEQUENCE; only with IAM: UTF8String, the access key ID; OCTET STRING, the signature; UTCTime, the time of signing; `[0] EXPLICIT` UTF8String, the session token, if there is one | the same |
//! | .7.3 UTF8String, the file system; always | the same |
//! | .7.4 SEQUENCE of two UTF8Strings, the client's source and version; always | the same, `platform_utils.py` |
//! | the octets of the signature are the 64 characters of its hexadecimal form, not the 32 bytes: OpenSSL's `ASN1_generate_nconf(3)` reads an OCTETSTRING as ASCII by default | the same |
//! | the request that is signed: a GET of `/`, the host is the file system's id, `Action=Connect`, 86,400 seconds, no empty line after the headers | the same, and `test/mount_common_test/test_create_self_signed_cert.py` |
//! | `PublicKeyHash`: SHA-1 of the public key as RFC 5280 hashes it for a key identifier (4.2.1.2), in hexadecimal | the same |
//! | the characters of an access key ID, a session token and a region | `constants.py`, `metadata.py` |
//! | a new certificate every 60 minutes | `dist/efs-utils.conf`, `src/watchdog/__init__.py` |
//! | the server's certificate is for the DNS name without a zone | `proxy.py` |
//! | the DNS names of partitions | `dist/efs-utils.conf`, and its copy in kubernetes-sigs/aws-efs-csi-driver |
//!
//! The patterns of the IDs are those of the EFS API (`AccessPointDescription`). The EC2 User Guide ("Retrieve security
//! credentials from instance metadata") says that an instance has new credentials five minutes before the old ones expire.
//! How EFS handles a certificate can be verified only with an AWS account.

mod certificates;
mod der;
#[cfg(feature = "settings")]
mod settings;
mod sigv4;

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{digest, rand};
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, DnType, PublicKeyData, SerialNumber};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::SigningKey,
};

pub use self::certificates::CertificateProvider;
#[cfg(feature = "settings")]
pub use self::settings::Settings;
use self::sigv4::Moment;
use crate::tls::BoxError;

/// How long before issuing a certificate becomes valid, for servers whose clock is slow.
const CLOCK_SKEW_MARGIN: Duration = Duration::from_secs(15 * 60);
/// How long after issuing a certificate stays valid.
const VALIDITY: Duration = Duration::from_secs(3 * 60 * 60);
/// Maximum length of a session token. A handshake message of rustls holds 64 KiB. AWS documents no limit; tokens have about
/// 1 KiB.
const MAX_TOKEN_CHARS: usize = 16 * 1024;
/// Maximum length of a common name (X.520).
const MAX_COMMON_NAME_CHARS: usize = 64;
/// Maximum length of a client's source and version, as efs-utils limits `source`.
const MAX_CLIENT_INFO_CHARS: usize = 100;

const ACCESS_POINT: &[u64] = &[1, 3, 6, 1, 4, 1, 4843, 7, 1];
const CLIENT_AUTH: &[u64] = &[1, 3, 6, 1, 4, 1, 4843, 7, 2];
const FILE_SYSTEM: &[u64] = &[1, 3, 6, 1, 4, 1, 4843, 7, 3];
/// Default source and version of a client.
const CLIENT: [&str; 2] = ["unknown", env!("CARGO_PKG_VERSION")];
const CLIENT_INFO: &[u64] = &[1, 3, 6, 1, 4, 1, 4843, 7, 4];
const SUBJECT_KEY_IDENTIFIER: &[u64] = &[2, 5, 29, 14];

/// An invalid value for a certificate. Messages contain no secrets.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Malformed {
    /// Not a file system ID.
    #[error("{0:?} is not a file system; its id is fs- and 8 to 40 of 0-9 and a-f")]
    FileSystem(String),
    /// Not an access point ID.
    #[error("{0:?} is not an access point; its id is fsap- and 8 to 40 of 0-9 and a-f")]
    AccessPoint(String),
    /// Not a region.
    #[error("{0:?} is not a region; give its name, such as eu-west-1")]
    Region(String),
    /// Not a common name.
    #[error(
        "{0:?} is not a common name; it has 1 to {MAX_COMMON_NAME_CHARS} characters, none of them a control character"
    )]
    CommonName(String),
    /// Invalid source or version of a client.
    #[error("{0:?} does not describe a client; give 1 to {MAX_CLIENT_INFO_CHARS} characters, none a control character")]
    ClientInfo(String),
    /// Invalid access key ID.
    #[error("the id of the access key is malformed; it is 16 to 128 letters, digits or _")]
    AccessKeyId,
    /// Invalid secret access key.
    #[error("the secret access key is empty or has control characters in it; give it as AWS gave it")]
    SecretAccessKey,
    /// Invalid session token.
    #[error("the session token is malformed; it is base64 of at most {MAX_TOKEN_CHARS} characters")]
    SessionToken,
}

/// Why no certificate could be issued.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The credentials provider failed or timed out.
    #[error("there are no credentials to sign with: {0}")]
    NoCredentials(#[source] BoxError),
    /// The credentials have expired.
    #[error("the credentials to sign with have expired; check that their source renews them")]
    CredentialsEnded,
    /// The clock is wrong.
    #[error("the clock is before 2000 or after 2049; set it, since no signature would be valid")]
    BadClock,
    /// No key could be generated.
    #[error("cannot generate a key: {0}")]
    NoKey(#[source] BoxError),
    /// The certificate could not be signed.
    #[error("cannot issue the certificate: {0}")]
    NotMade(#[source] rcgen::Error),
    /// The task was cancelled or panicked.
    #[error("the task that issues the certificate ended early: {0}")]
    Interrupted(#[source] BoxError),
}

impl CertificateError {
    /// A stable code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoCredentials(_) => "NoCredentials",
            Self::CredentialsEnded => "CredentialsEnded",
            Self::BadClock => "BadClock",
            Self::NoKey(_) => "NoKey",
            Self::NotMade(_) => "CertificateNotMade",
            Self::Interrupted(_) => "CertificateInterrupted",
        }
    }
}

/// AWS credentials. Not `Debug`, since two fields are secret.
#[derive(Clone)]
pub struct Credentials {
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expires: Option<SystemTime>,
}

impl Credentials {
    /// Checks the credentials. An empty session token counts as none.
    ///
    /// # Errors
    /// A malformed value, which the server would reject later without a reason.
    pub fn new(
        access_key_id: impl Into<String>,
        secret_access_key: impl Into<String>,
        session_token: Option<String>,
        expires: Option<SystemTime>,
    ) -> Result<Self, Malformed> {
        let (access_key_id, secret_access_key) = (access_key_id.into(), secret_access_key.into());
        let session_token = session_token.filter(|token| !token.is_empty());
        let is_word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        if !(16..=128).contains(&access_key_id.len()) || !access_key_id.bytes().all(is_word) {
            return Err(Malformed::AccessKeyId);
        }
        if secret_access_key.is_empty() || secret_access_key.contains(char::is_control) {
            return Err(Malformed::SecretAccessKey);
        }
        let is_base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=_-".contains(&byte);
        if session_token.as_ref().is_some_and(|token| token.len() > MAX_TOKEN_CHARS || !token.bytes().all(is_base64)) {
            return Err(Malformed::SessionToken);
        }
        Ok(Self { access_key_id, secret_access_key, session_token, expires })
    }
}

/// The future of [`CredentialsProvider::credentials`].
pub type CredentialsFuture<'a> = Pin<Box<dyn Future<Output = Result<Credentials, BoxError>> + Send + 'a>>;

/// Provides AWS credentials. It is called for each renewal, since the credentials of a role expire after hours.
pub trait CredentialsProvider: Send + Sync {
    /// The credentials that are valid longest, cached or not. Connections wait for it. It runs in a separate task, so that a
    /// connection that times out does not cancel it.
    fn credentials(&self) -> CredentialsFuture<'_>;
}

/// Static credentials.
impl CredentialsProvider for Credentials {
    fn credentials(&self) -> CredentialsFuture<'_> {
        Box::pin(std::future::ready(Ok(self.clone())))
    }
}

/// Whether `text` is `prefix` and 8 to 40 hexadecimal digits.
fn is_id(text: &str, prefix: &str) -> bool {
    text.strip_prefix(prefix).is_some_and(|digits| {
        (8..=40).contains(&digits.len()) && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

fn is_text(text: &str, max_chars: usize) -> bool {
    !text.is_empty() && text.chars().count() <= max_chars && !text.contains(char::is_control)
}

/// What a certificate states besides the credentials.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Subject {
    file_system: String,
    region: String,
    access_point: Option<String>,
    common_name: String,
    client: [String; 2],
}

impl Subject {
    /// A client of this file system, in the file system's region. The common name is the host name.
    ///
    /// # Errors
    /// [`Malformed::FileSystem`], [`Malformed::Region`].
    pub fn new(file_system: &str, region: &str) -> Result<Self, Malformed> {
        if !is_id(file_system, "fs-") {
            return Err(Malformed::FileSystem(file_system.to_owned()));
        }
        let is_region_byte = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'z' | b'-');
        let ends_well = !region.starts_with('-') && !region.ends_with('-');
        if !(1..=32).contains(&region.len()) || !ends_well || !region.bytes().all(is_region_byte) {
            return Err(Malformed::Region(region.to_owned()));
        }
        let host: String =
            rustix::system::uname().nodename().to_string_lossy().chars().take(MAX_COMMON_NAME_CHARS).collect();
        let common_name = if is_text(&host, MAX_COMMON_NAME_CHARS) { host } else { "localhost".to_owned() };
        let (file_system, region) = (file_system.to_owned(), region.to_owned());
        Ok(Self { file_system, region, access_point: None, common_name, client: CLIENT.map(str::to_owned) })
    }

    /// Connects through this access point. Its root directory and user replace the client's.
    ///
    /// # Errors
    /// [`Malformed::AccessPoint`].
    pub fn with_access_point(self, id: &str) -> Result<Self, Malformed> {
        if !is_id(id, "fsap-") {
            return Err(Malformed::AccessPoint(id.to_owned()));
        }
        Ok(Self { access_point: Some(id.to_owned()), ..self })
    }

    /// Sets the common name.
    ///
    /// # Errors
    /// [`Malformed::CommonName`].
    pub fn with_common_name(self, name: &str) -> Result<Self, Malformed> {
        if !is_text(name, MAX_COMMON_NAME_CHARS) {
            return Err(Malformed::CommonName(name.to_owned()));
        }
        Ok(Self { common_name: name.to_owned(), ..self })
    }

    /// Sets the client's source and version. The defaults are `unknown`, as in efs-utils, and the version of this crate. How
    /// the server uses them is not documented.
    ///
    /// # Errors
    /// [`Malformed::ClientInfo`].
    pub fn with_client_info(self, source: &str, version: &str) -> Result<Self, Malformed> {
        for text in [source, version] {
            if !is_text(text, MAX_CLIENT_INFO_CHARS) {
                return Err(Malformed::ClientInfo(text.to_owned()));
            }
        }
        Ok(Self { client: [source, version].map(str::to_owned), ..self })
    }

    /// The access point ID.
    pub fn access_point(&self) -> Option<&str> {
        self.access_point.as_deref()
    }

    /// The DNS name of the server's certificate, in every Availability Zone. Pass it to [`Tls::new`](crate::tls::Tls::new), also
    /// for connections to a mount target's IP address.
    pub fn server_name(&self) -> String {
        let suffixes = [
            ("cn-", "amazonaws.com.cn"),
            ("eu-isoe-", "cloud.adc-e.uk"),
            ("eusc-", "amazonaws.eu"),
            ("us-iso-", "c2s.ic.gov"),
            ("us-isob-", "sc2s.sgov.gov"),
            ("us-isof-", "csp.hci.ic.gov"),
        ];
        let suffix = suffixes.iter().find(|(prefix, _)| self.region.starts_with(prefix));
        let suffix = suffix.map_or("amazonaws.com", |(_, suffix)| suffix);
        format!("{}.efs.{}.{suffix}", self.file_system, self.region)
    }

    fn extensions(&self, key_hash: &[u8], signed: Option<(&Credentials, Moment)>) -> Vec<CustomExtension> {
        let mut all = vec![(SUBJECT_KEY_IDENTIFIER, der::octets(key_hash))];
        if let Some(id) = &self.access_point {
            all.push((ACCESS_POINT, der::utf8(id)));
        }
        if let Some((credentials, moment)) = signed {
            let signature = sigv4::signature(&sigv4::hex(key_hash), moment, credentials, self);
            let mut parts = vec![
                der::utf8(&credentials.access_key_id),
                der::octets(signature.as_bytes()),
                der::utc_time(&moment.short()),
            ];
            parts.extend(credentials.session_token.as_ref().map(|token| der::explicit_0(&der::utf8(token))));
            all.push((CLIENT_AUTH, der::sequence(&parts)));
        }
        all.push((FILE_SYSTEM, der::utf8(&self.file_system)));
        let [source, version] = &self.client;
        all.push((CLIENT_INFO, der::sequence(&[der::utf8(source), der::utf8(version)])));
        all.into_iter().map(|(oid, content)| CustomExtension::from_oid_content(oid, content)).collect()
    }
}

/// The client's key pair. One is enough for all certificates of a process. Not `Debug`, and the private key cannot be read.
#[derive(Clone)]
pub struct Key(Arc<Pair>);

struct Pair {
    signs_certificates: rcgen::KeyPair,
    signs_handshakes: Arc<dyn SigningKey>,
}

impl Key {
    /// Generates a key. It takes about a second of CPU time, so call it on a blocking thread.
    ///
    /// # Errors
    /// [`CertificateError::NoKey`].
    pub fn generate() -> Result<Self, CertificateError> {
        let pair = rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_3072)
            .map_err(|err| CertificateError::NoKey(err.into()))?;
        let private = PrivateKeyDer::Pkcs8(pair.serialize_der().into());
        let signs = any_supported_type(&private).map_err(|err| CertificateError::NoKey(err.into()))?;
        Ok(Self(Arc::new(Pair { signs_certificates: pair, signs_handshakes: signs })))
    }

    fn certificate(
        &self,
        subject: &Subject,
        moment: Moment,
        credentials: Option<&Credentials>,
    ) -> Result<CertificateDer<'static>, CertificateError> {
        let key = &self.0.signs_certificates;
        // The key's bits without the algorithm identifier.
        let key_hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, key.der_bytes());
        let mut serial = [0; 16];
        rand::fill(&mut serial).map_err(|_| CertificateError::NotMade(rcgen::Error::RingUnspecified))?;
        // Positive, and always of the same length.
        serial[0] = serial[0] & 0x3f | 0x40;
        let mut parameters = CertificateParams::default();
        parameters.serial_number = Some(SerialNumber::from_slice(&serial));
        parameters.distinguished_name = DistinguishedName::new();
        parameters.distinguished_name.push(DnType::CommonName, subject.common_name.as_str());
        parameters.not_before = moment.date_time() - CLOCK_SKEW_MARGIN;
        parameters.not_after = moment.date_time() + VALIDITY;
        let signed = credentials.map(|credentials| (credentials, moment));
        parameters.custom_extensions = subject.extensions(key_hash.as_ref(), signed);
        parameters.self_signed(key).map(CertificateDer::from).map_err(CertificateError::NotMade)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_server_is_named_without_a_zone_and_in_its_partition() {
        let name = |region| Subject::new("fs-0123456789abcdef0", region).unwrap().server_name();
        assert_eq!(name("eu-west-1"), "fs-0123456789abcdef0.efs.eu-west-1.amazonaws.com");
        assert_eq!(name("us-gov-west-1"), "fs-0123456789abcdef0.efs.us-gov-west-1.amazonaws.com");
        assert_eq!(name("cn-north-1"), "fs-0123456789abcdef0.efs.cn-north-1.amazonaws.com.cn");
        assert_eq!(name("us-iso-east-1"), "fs-0123456789abcdef0.efs.us-iso-east-1.c2s.ic.gov");
        assert_eq!(name("us-isob-east-1"), "fs-0123456789abcdef0.efs.us-isob-east-1.sc2s.sgov.gov");
    }

    #[test]
    fn what_is_malformed_is_refused_and_secrets_are_not_repeated() {
        for id in ["", "fs-", "fs-1234567", "fs-DEADBEEF", "fs-deadbeef\n", "fsap-deadbeef", "fs-deadbeeg"] {
            assert_eq!(Subject::new(id, "eu-west-1"), Err(Malformed::FileSystem(id.to_owned())));
        }
        for region in ["", "-", "eu-west-1-", "eu west", "eu\nwest", "EU-WEST-1", &"a".repeat(33)] {
            assert_eq!(Subject::new("fs-deadbeef", region), Err(Malformed::Region(region.to_owned())));
        }
        let subject = || Subject::new("fs-deadbeef", "eu-west-1").unwrap();
        for id in ["", "fs-deadbeef", "fsap-1234567", "fsap-0123456789abcdef0\n"] {
            assert_eq!(subject().with_access_point(id), Err(Malformed::AccessPoint(id.to_owned())));
        }
        for name in ["", "a\0b", &"n".repeat(65)] {
            assert_eq!(subject().with_common_name(name), Err(Malformed::CommonName(name.to_owned())));
        }
        assert_eq!(subject().with_client_info("me", ""), Err(Malformed::ClientInfo(String::new())));

        let (id, secret) = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI");
        for bad in ["", "SHORT", "AKIA-IOSF-ODNN-7EXAMPLE", "AKIAIOSFODNN7EXAMPLE\n", &"A".repeat(129)] {
            let err = Credentials::new(bad, secret, None, None).err().unwrap();
            assert_eq!(err, Malformed::AccessKeyId);
            assert!(bad.is_empty() || !err.to_string().contains(bad));
        }
        for bad in ["", "wJalr\nXUtn"] {
            assert_eq!(Credentials::new(id, bad, None, None).err(), Some(Malformed::SecretAccessKey));
        }
        for bad in ["to ken", "token\n", "t\u{f6}ken", &"t".repeat(MAX_TOKEN_CHARS + 1)] {
            let credentials = Credentials::new(id, secret, Some(bad.to_owned()), None);
            assert_eq!(credentials.err(), Some(Malformed::SessionToken));
        }
        assert!(Credentials::new(id, secret, Some(String::new()), None).unwrap().session_token.is_none());
        assert!(Credentials::new(id, secret, Some("t".repeat(MAX_TOKEN_CHARS)), None).is_ok());
    }

    proptest! {
        #[test]
        fn nothing_that_a_caller_gives_panics(a in any::<String>(), b in any::<String>(), c in any::<String>()) {
            let _ = Subject::new(&a, &b);
            let _ = Credentials::new(a.as_str(), b.as_str(), Some(c.clone()), None);
            let subject = Subject::new("fs-deadbeef", "eu-west-1").unwrap();
            let _ = subject.clone().with_access_point(&a);
            let _ = subject.clone().with_client_info(&a, &b);
            if let Ok(subject) = subject.with_common_name(&c) {
                prop_assert!((1..=64).contains(&subject.common_name.chars().count()));
            }
        }
    }
}
