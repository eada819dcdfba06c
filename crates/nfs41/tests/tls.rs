//! TLS handshakes over loopback, with rustls and, if it is installed, OpenSSL as the server.
#![cfg(feature = "tls")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nfs_lab::AnyClientCertificate;
use nfs41::tls::{BoxError, IdentityFuture, IdentityProvider, Roots, Tls, TlsError, rustls_error};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose, date_time_ymd};
use rustls::{
    AlertDescription, CertificateError, HandshakeKind, ServerConfig, SupportedProtocolVersion,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

const NAME: &str = "fs-0123456789abcdef0.efs.eu-west-1.amazonaws.com";

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut parameters = CertificateParams::new([]).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let pem = parameters.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(parameters, key) }
    }

    fn roots(&self) -> Roots {
        Roots::Pem(self.pem.clone().into_bytes())
    }

    /// A certificate for this name, valid until January 1 of this year.
    fn issue(&self, name: &str, until: i32) -> Issued {
        let mut parameters = CertificateParams::new([name.to_owned()]).unwrap();
        parameters.not_after = date_time_ymd(until, 1, 1);
        let key = KeyPair::generate().unwrap();
        Issued { certificate: parameters.signed_by(&key, &self.issuer).unwrap(), key }
    }
}

struct Issued {
    certificate: rcgen::Certificate,
    key: KeyPair,
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn server(issued: &Issued, version: &'static SupportedProtocolVersion, demands: bool) -> Arc<ServerConfig> {
    let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[version]).unwrap();
    let builder = match demands {
        true => {
            builder.with_client_cert_verifier(Arc::new(AnyClientCertificate { provider: provider(), accepts: true }))
        }
        false => builder.with_no_client_auth(),
    };
    let key = PrivateKeyDer::Pkcs8(issued.key.serialize_der().into());
    Arc::new(builder.with_single_cert(vec![issued.certificate.der().clone()], key).unwrap())
}

/// What the server saw of one connection.
struct Dirent {
    certificates: Vec<CertificateDer<'static>>,
    kind: Option<HandshakeKind>,
    name: Option<String>,
}

/// Accepts connections one at a time, and echoes four bytes over each.
async fn listen(config: Arc<ServerConfig>, connections: usize) -> (SocketAddr, JoinHandle<Vec<io::Result<Dirent>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(config);
    let task = tokio::spawn(async move {
        let mut all = Vec::new();
        for _ in 0..connections {
            let (stream, _) = listener.accept().await.unwrap();
            let seen = async {
                let mut stream = acceptor.accept(stream).await?;
                let session = stream.get_ref().1;
                let seen = Dirent {
                    certificates: session.peer_certificates().unwrap_or_default().to_vec(),
                    kind: session.handshake_kind(),
                    name: session.server_name().map(ToOwned::to_owned),
                };
                let mut bytes = [0; 4];
                stream.read_exact(&mut bytes).await?;
                stream.write_all(&bytes).await?;
                stream.shutdown().await?;
                Ok(seen)
            };
            all.push(seen.await);
        }
        all
    });
    (address, task)
}

/// Connects, and has four bytes echoed.
async fn talk(tls: &Tls, address: SocketAddr) -> Result<io::Result<[u8; 4]>, TlsError> {
    let mut stream = tls.connect(TcpStream::connect(address).await.unwrap()).await?;
    let talk = async {
        stream.write_all(b"ping").await?;
        stream.flush().await?;
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await?;
        Ok(bytes)
    };
    Ok(talk.await)
}

#[tokio::test]
async fn bytes_go_over_tls_1_2_and_1_3_and_the_server_is_named() {
    let authority = Authority::new("the one");
    let issued = authority.issue(NAME, 2040);
    for version in [&TLS12, &TLS13] {
        let (address, server) = listen(server(&issued, version, false), 1).await;
        let tls = Tls::new(NAME, authority.roots()).unwrap();
        assert_eq!(&talk(&tls, address).await.unwrap().unwrap(), b"ping");
        let seen = server.await.unwrap().remove(0).unwrap();
        assert_eq!(seen.name.as_deref(), Some(NAME));
        assert!(seen.certificates.is_empty());
    }
}

#[tokio::test]
async fn the_first_byte_is_already_of_the_handshake() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tls = Tls::new(NAME, Authority::new("any").roots()).unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (connected, first) = tokio::join!(tls.connect(stream), async {
        let (mut stream, _) = listener.accept().await.unwrap();
        let first = stream.read_u8().await.unwrap();
        // Unread data: the connection is reset.
        drop(stream);
        first
    });
    assert_eq!(first, 0x16);
    let Err(TlsError::Broken(_)) = connected else { panic!("a connection that is gone is not a rustls_error") };
}

#[tokio::test]
async fn a_server_with_another_name_or_authority_or_past_its_time_is_refused() {
    let authority = Authority::new("the one");
    let refused = |issued: Issued, roots: Roots| async move {
        let (address, server) = listen(server(&issued, &TLS13, false), 1).await;
        let error = talk(&Tls::new(NAME, roots).unwrap(), address).await.unwrap_err();
        assert!(server.await.unwrap().remove(0).is_err(), "the server is told");
        assert_eq!(error.code(), "TlsRefused");
        match error {
            TlsError::Refused(rustls::Error::InvalidCertificate(err)) => err,
            other => panic!("{other}"),
        }
    };
    let of_a_zone = format!("eu-west-1a.{NAME}");
    assert!(matches!(
        refused(authority.issue(&of_a_zone, 2040), authority.roots()).await,
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. }
    ));
    assert_eq!(
        refused(authority.issue(NAME, 2040), Authority::new("another").roots()).await,
        CertificateError::UnknownIssuer
    );
    assert!(matches!(
        refused(authority.issue(NAME, 2020), authority.roots()).await,
        CertificateError::Expired | CertificateError::ExpiredContext { .. }
    ));
}

#[test]
fn what_cannot_be_trusted_is_said_at_once() {
    let one = Authority::new("one").pem;
    let new = |name: &str, pem: &str| Tls::new(name, Roots::Pem(pem.as_bytes().to_vec()));

    let error = new("not a name", &one).unwrap_err();
    assert!(matches!(&error, TlsError::BadServerName(name) if name == "not a name"));
    assert!(new("", &one).is_err());

    for nothing in ["", "no certificate\n", &KeyPair::generate().unwrap().serialize_pem()] {
        let error = new(NAME, nothing).unwrap_err();
        assert_eq!(error.code(), "NoRoots");
        assert!(error.to_string().contains("in the given PEM;"), "{error}");
    }

    let two = Authority::new("two").pem;
    assert!(new(NAME, &format!("# a comment\n{one}\n{two}")).is_ok());
    let not_a_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let not_base64 = "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n";
    let cut_short = two.split("-----END").next().unwrap();
    for bad in [not_a_certificate, not_base64, cut_short] {
        let error = new(NAME, &format!("{one}{bad}")).unwrap_err();
        assert!(matches!(&error, TlsError::BadRoot { number: 2, .. }), "{error}");
    }
}

/// Runs this test again in a process of its own, because it depends on environment variables.
#[test]
fn the_system_trusts_what_the_environment_names() {
    const INNER: &str = "NFS41_TEST_EXPECTS";
    if let Ok(expected) = std::env::var(INNER) {
        let code = Tls::new(NAME, Roots::System).err().map_or("none", |error| error.code());
        assert_eq!(code, expected);
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name)
    };
    let good = Authority::new("one").pem;
    let not_a_certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let partly = write("partly", &format!("{not_a_certificate}{good}"));
    let cases = [
        (write("good", &good), "none"),
        (partly, "none"),
        (write("empty", ""), "NoRoots"),
        (write("bad", not_a_certificate), "NoRoots"),
        (folder.path().join("missing"), "NoRoots"),
    ];
    for (file, expected) in cases {
        let again = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "the_system_trusts_what_the_environment_names"])
            .env("SSL_CERT_FILE", &file)
            .env_remove("SSL_CERT_DIR")
            .env(INNER, expected)
            .output()
            .unwrap();
        assert!(again.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&again.stdout));
        assert!(String::from_utf8_lossy(&again.stdout).contains("1 passed"));
    }
}

#[tokio::test]
async fn with_several_authorities_each_is_trusted() {
    let (one, two) = (Authority::new("one"), Authority::new("two"));
    let tls = Tls::new(NAME, Roots::Pem(format!("{}{}", one.pem, two.pem).into_bytes())).unwrap();
    for authority in [&one, &two] {
        let (address, _server) = listen(server(&authority.issue(NAME, 2040), &TLS13, false), 1).await;
        assert!(talk(&tls, address).await.unwrap().is_ok());
    }
}

/// Returns one certificate after the other, and then an error.
struct Given {
    asked: AtomicUsize,
    all: Vec<Arc<CertifiedKey>>,
}

impl Given {
    fn new(count: usize) -> Self {
        let all = (0..count).map(|number| {
            let issued = Authority::new("the client's own").issue(&format!("client{number}"), 2040);
            let key = PrivateKeyDer::Pkcs8(issued.key.serialize_der().into());
            let chain = vec![issued.certificate.der().clone()];
            Arc::new(CertifiedKey::from_der(chain, key, &provider()).unwrap())
        });
        Self { asked: AtomicUsize::new(0), all: all.collect() }
    }
}

impl IdentityProvider for Given {
    fn identity(&self) -> IdentityFuture<'_> {
        let given = self.all.get(self.asked.fetch_add(1, Ordering::Relaxed)).cloned();
        Box::pin(async { given.ok_or_else(|| BoxError::from("no more of them")) })
    }
}

#[tokio::test]
async fn every_connection_asks_for_a_certificate_and_resumes_nothing() {
    let authority = Authority::new("the one");
    for version in [&TLS12, &TLS13] {
        let given = Arc::new(Given::new(2));
        let tls = Tls::new(NAME, authority.roots()).unwrap().with_identity_provider(given.clone());
        let (address, server) = listen(server(&authority.issue(NAME, 2040), version, true), 2).await;
        assert!(talk(&tls, address).await.unwrap().is_ok());
        assert!(talk(&tls.clone(), address).await.unwrap().is_ok());
        for (seen, given) in server.await.unwrap().into_iter().zip(&given.all) {
            let seen = seen.unwrap();
            assert_eq!(seen.certificates, given.cert);
            assert_ne!(seen.kind, Some(HandshakeKind::Resumed));
        }
    }
}

#[tokio::test]
async fn without_a_certificate_nothing_is_resumed_either() {
    let authority = Authority::new("the one");
    for version in [&TLS12, &TLS13] {
        let tls = Tls::new(NAME, authority.roots()).unwrap();
        let (address, server) = listen(server(&authority.issue(NAME, 2040), version, false), 2).await;
        for _ in 0..2 {
            assert!(talk(&tls, address).await.unwrap().is_ok());
        }
        assert!(server.await.unwrap().iter().flatten().all(|seen| seen.kind != Some(HandshakeKind::Resumed)));
    }
}

#[tokio::test]
async fn where_no_certificate_is_to_be_had_nothing_is_sent() {
    let tls = Tls::new(NAME, Authority::new("any").roots()).unwrap().with_identity_provider(Arc::new(Given::new(0)));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let error = tls.connect(stream).await.unwrap_err();
    assert!(matches!(&error, TlsError::NoCertificate(err) if err.to_string() == "no more of them"));
    assert_eq!(io::Error::from(error).kind(), io::ErrorKind::PermissionDenied);
    let mut sent = Vec::new();
    listener.accept().await.unwrap().0.read_to_end(&mut sent).await.unwrap();
    assert!(sent.is_empty());
}

#[tokio::test]
async fn a_server_that_misses_a_certificate_says_so_in_1_2_while_shaking_hands_and_in_1_3_after() {
    let authority = Authority::new("the one");
    let tls = Tls::new(NAME, authority.roots()).unwrap();

    let (address, _server) = listen(server(&authority.issue(NAME, 2040), &TLS12, true), 1).await;
    let error = talk(&tls, address).await.unwrap_err();
    assert!(matches!(error, TlsError::Refused(rustls::Error::AlertReceived(_))), "{error}");

    let (address, _server) = listen(server(&authority.issue(NAME, 2040), &TLS13, true), 1).await;
    let error = talk(&tls, address).await.unwrap().unwrap_err();
    let missed = rustls::Error::AlertReceived(AlertDescription::CertificateRequired);
    assert_eq!(rustls_error(&error), Some(&missed), "{error}");
    assert_eq!(rustls_error(&io::Error::from(io::ErrorKind::UnexpectedEof)), None);
}

#[cfg(feature = "efs")]
mod efs {
    use std::{
        io::{BufRead, BufReader},
        process::{Child, Command, Stdio},
    };

    use nfs41::{
        Client, Options,
        efs::{CertificateProvider, Credentials, Key, Subject},
    };
    use x509_parser::parse_x509_certificate;

    use super::*;

    fn certificates() -> Arc<CertificateProvider> {
        let subject = Subject::new("fs-0123456789abcdef0", "eu-west-1").unwrap();
        let subject = subject.with_access_point("fsap-0123456789abcdef0").unwrap();
        assert_eq!(subject.server_name(), NAME);
        let token = Some("token+/==".to_owned());
        let credentials = Credentials::new("AKIAIOSFODNN7EXAMPLE", "secret", token, None).unwrap();
        Arc::new(CertificateProvider::new(subject).with_credentials(Arc::new(credentials)))
    }

    #[tokio::test]
    async fn a_server_sees_the_certificate_with_its_extensions() {
        let authority = Authority::new("the one");
        let certificates = certificates();
        let tls = Tls::new(NAME, authority.roots()).unwrap().with_identity_provider(certificates.clone());
        for version in [&TLS12, &TLS13] {
            let (address, server) = listen(server(&authority.issue(NAME, 2040), version, true), 1).await;
            assert_eq!(&talk(&tls, address).await.unwrap().unwrap(), b"ping");
            let seen = server.await.unwrap().remove(0).unwrap();
            assert_eq!(seen.certificates, certificates.certificate().await.unwrap().cert);
            let (_, certificate) = parse_x509_certificate(&seen.certificates[0]).unwrap();
            let oids: Vec<_> = certificate.extensions().iter().map(|extension| extension.oid.to_id_string()).collect();
            let own = ["1.3.6.1.4.1.4843.7.1", "1.3.6.1.4.1.4843.7.2", "1.3.6.1.4.1.4843.7.3", "1.3.6.1.4.1.4843.7.4"];
            assert_eq!(oids[1..], own);
        }
    }

    /// Generating a key takes longer than an attempt to connect may. All clients share the key, as the clients of a
    /// service's mount targets do.
    #[tokio::test]
    async fn a_connect_deadline_shorter_than_the_key_generation_only_delays_the_first_client_hello() {
        const CLIENTS: usize = 3;
        let authority = Authority::new("the one");
        let generated = Arc::new(AtomicUsize::new(0));
        let subject = Subject::new("fs-0123456789abcdef0", "eu-west-1").unwrap();
        let certificates = Arc::new(CertificateProvider::new(subject).with_key_generator({
            let generated = generated.clone();
            move || {
                generated.fetch_add(1, Ordering::SeqCst);
                std::thread::sleep(Duration::from_secs(1));
                Key::generate()
            }
        }));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, acceptor) =
            (listener.local_addr().unwrap(), TlsAcceptor::from(server(&authority.issue(NAME, 2040), &TLS13, true)));
        let tls = Tls::new(NAME, authority.roots()).unwrap().with_identity_provider(certificates.clone());
        let options =
            || Options { tls: Some(tls.clone()), connect_timeout: Duration::from_millis(100), ..Options::new(address) };
        let clients: Vec<_> = (0..CLIENTS).map(|_| Client::new(options()).unwrap()).collect();
        // Records the certificates of completed handshakes. The connections stay open without an NFS reply.
        let (shown, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let accepts = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, shown) = (acceptor.clone(), shown.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let certificates = stream.get_ref().1.peer_certificates().unwrap_or_default().to_vec();
                    let _ = shown.send(certificates);
                    std::future::pending::<()>().await;
                    drop(stream);
                });
            }
        });
        for _ in 0..CLIENTS {
            let seen = tokio::time::timeout(Duration::from_secs(30), seen.recv()).await.unwrap().unwrap();
            assert_eq!(seen, certificates.certificate().await.unwrap().cert);
        }
        assert_eq!(generated.load(Ordering::SeqCst), 1);
        drop(clients);
        accepts.abort();
    }

    /// Killed at the end of the test.
    struct Ends(Child);

    impl Drop for Ends {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[tokio::test]
    async fn openssl_shakes_hands_and_sees_the_certificate() {
        let authority = Authority::new("the one");
        let issued = authority.issue(NAME, 2040);
        let folder = tempfile::tempdir().unwrap();
        let (certificate, key) = (folder.path().join("certificate.pem"), folder.path().join("key.pem"));
        std::fs::write(&certificate, issued.certificate.pem()).unwrap();
        std::fs::write(&key, issued.key.serialize_pem()).unwrap();
        for version in ["-tls1_2", "-tls1_3"] {
            // It echoes each line reversed.
            let started = Command::new("openssl")
                .args(["s_server", "-rev", "-Verify", "1", "-accept", "127.0.0.1:0", version, "-naccept", "1"])
                .args(["-cert".as_ref(), certificate.as_os_str(), "-key".as_ref(), key.as_os_str()])
                .stdin(Stdio::null())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn();
            let Ok(started) = started else {
                eprintln!("not shown: openssl is not installed");
                return;
            };
            let mut started = Ends(started);
            let mut said = BufReader::new(started.0.stdout.take().unwrap()).lines().map_while(Result::ok);
            let address = said.find_map(|line| line.strip_prefix("ACCEPT ").map(ToOwned::to_owned)).unwrap();
            let tls = Tls::new(NAME, authority.roots()).unwrap().with_identity_provider(certificates());
            let mut stream = tls.connect(TcpStream::connect(&address).await.unwrap()).await.unwrap();
            stream.write_all(b"ping\n").await.unwrap();
            stream.flush().await.unwrap();
            let mut answer = [0; 5];
            stream.read_exact(&mut answer).await.unwrap();
            assert_eq!(&answer, b"gnip\n");
            stream.shutdown().await.unwrap();
            drop(stream);
            let of_errors = BufReader::new(started.0.stderr.take().unwrap()).lines().map_while(Result::ok);
            let text: String = said.chain(of_errors).collect();
            assert!(text.contains("self-signed certificate") || text.contains("self signed certificate"), "{text}");
        }
    }
}
