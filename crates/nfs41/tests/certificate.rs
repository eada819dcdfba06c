//! The client certificate for Amazon EFS: compared with OpenSSL and with independent implementations of its format and
//! signature, and renewed in time.
#![cfg(feature = "efs")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Output, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use nfs41::{
    efs::{CertificateError, CertificateProvider, Credentials, CredentialsFuture, CredentialsProvider, Key, Subject},
    tls::BoxError,
};
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use rustls::sign::CertifiedKey;
use x509_parser::{
    asn1_rs::{Any, Class, FromDer, Tag},
    certificate::X509Certificate,
};

/// 2026-03-04T05:06:07Z.
const NOW: u64 = 1_772_600_767;
const MINUTE: u64 = 60;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// One key for the whole process, since generating a key takes long.
fn key() -> Key {
    static KEY: OnceLock<Key> = OnceLock::new();
    KEY.get_or_init(|| Key::generate().unwrap()).clone()
}

fn subject() -> Subject {
    Subject::new("fs-0123456789abcdef0", "eu-west-1").unwrap()
}

fn credentials(token: Option<&str>, expires: Option<u64>) -> Credentials {
    let token = token.map(ToOwned::to_owned);
    Credentials::new("ASIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG", token, expires.map(at)).unwrap()
}

async fn made(subject: Subject, credentials: Option<Credentials>, now: u64) -> Vec<u8> {
    let mut certificates = CertificateProvider::new(subject).with_key(key()).with_clock(move || at(now));
    if let Some(credentials) = credentials {
        certificates = certificates.with_credentials(Arc::new(credentials));
    }
    certificates.certificate().await.unwrap().end_entity_cert().unwrap().to_vec()
}

fn parsed(der: &[u8]) -> X509Certificate<'_> {
    let (rest, certificate) = X509Certificate::from_der(der).unwrap();
    assert!(rest.is_empty());
    certificate
}

/// The content of an ASN.1 value with this tag.
fn content(der: &[u8], class: Class, tag: Tag) -> (Vec<u8>, Vec<u8>) {
    let (rest, any) = Any::from_der(der).unwrap();
    assert_eq!((any.class(), any.tag()), (class, tag));
    (rest.to_vec(), any.data.to_vec())
}

fn only(der: &[u8], tag: Tag) -> Vec<u8> {
    let (rest, content) = content(der, Class::Universal, tag);
    assert!(rest.is_empty());
    content
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap()
}

#[derive(Debug, Eq, PartialEq)]
struct ClientAuth {
    access_key_id: String,
    signature: String,
    date: String,
    session_token: Option<String>,
}

/// The extensions in their order.
#[derive(Debug, Default, Eq, PartialEq)]
struct Read {
    oids: Vec<String>,
    access_point: Option<String>,
    client_auth: Option<ClientAuth>,
    file_system: Option<String>,
    client_info: Option<[String; 2]>,
}

fn read(certificate: &X509Certificate<'_>) -> Read {
    let mut all = Read::default();
    for extension in certificate.extensions() {
        assert!(!extension.critical);
        let oid = extension.oid.to_id_string();
        let value = extension.value;
        match oid.as_str() {
            "2.5.29.14" => assert_eq!(only(value, Tag::OctetString).len(), 20),
            "1.3.6.1.4.1.4843.7.1" => all.access_point = Some(text(only(value, Tag::Utf8String))),
            "1.3.6.1.4.1.4843.7.2" => {
                let rest = only(value, Tag::Sequence);
                let (rest, access_key_id) = content(&rest, Class::Universal, Tag::Utf8String);
                let (rest, signature) = content(&rest, Class::Universal, Tag::OctetString);
                let (rest, date) = content(&rest, Class::Universal, Tag::UtcTime);
                let session_token = (!rest.is_empty()).then(|| {
                    let (rest, tagged) = content(&rest, Class::ContextSpecific, Tag(0));
                    assert!(rest.is_empty());
                    text(only(&tagged, Tag::Utf8String))
                });
                let (access_key_id, signature, date) = (text(access_key_id), text(signature), text(date));
                all.client_auth = Some(ClientAuth { access_key_id, signature, date, session_token });
            }
            "1.3.6.1.4.1.4843.7.3" => all.file_system = Some(text(only(value, Tag::Utf8String))),
            "1.3.6.1.4.1.4843.7.4" => {
                let rest = only(value, Tag::Sequence);
                let (rest, source) = content(&rest, Class::Universal, Tag::Utf8String);
                all.client_info = Some([text(source), text(only(&rest, Tag::Utf8String))]);
            }
            other => panic!("{other}"),
        }
        all.oids.push(oid);
    }
    all
}

/// `None` if the program is not installed; the checks that need it are skipped.
fn run(program: &str, arguments: &[&str], input: &[u8], folder: &Path) -> Option<Output> {
    let started = Command::new(program)
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut started) = started else {
        eprintln!("not shown: {program} is not installed");
        return None;
    };
    let mut stdin = started.stdin.take().unwrap();
    let input = input.to_vec();
    let writes = std::thread::spawn(move || stdin.write_all(&input));
    let output = started.wait_with_output().unwrap();
    let _ = writes.join().unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(output)
}

#[tokio::test]
async fn a_certificate_says_what_one_of_efs_utils_says() {
    let whole = subject().with_access_point("fsap-0123456789abcdef0").unwrap();
    let whole = whole.with_common_name("a host").unwrap().with_client_info("a source", "1.2.3").unwrap();
    let der = made(whole, Some(credentials(Some("token+/=="), None)), NOW).await;
    let certificate = parsed(&der);

    assert_eq!(certificate.version().0, 2);
    assert_eq!(certificate.subject().to_string(), "CN=a host");
    assert_eq!(certificate.issuer(), certificate.subject());
    assert_eq!(certificate.validity().not_before.timestamp(), NOW as i64 - 15 * 60);
    assert_eq!(certificate.validity().not_after.timestamp(), NOW as i64 + 3 * 60 * 60);
    // sha256WithRSAEncryption, with a key of rsaEncryption.
    assert_eq!(certificate.signature_algorithm.algorithm.to_id_string(), "1.2.840.113549.1.1.11");
    assert_eq!(certificate.public_key().algorithm.algorithm.to_id_string(), "1.2.840.113549.1.1.1");
    assert_eq!(certificate.public_key().parsed().unwrap().key_size(), 3072);
    certificate.verify_signature(None).unwrap();

    let all = read(&certificate);
    let own = ["1.3.6.1.4.1.4843.7.1", "1.3.6.1.4.1.4843.7.2", "1.3.6.1.4.1.4843.7.3", "1.3.6.1.4.1.4843.7.4"];
    assert_eq!(all.oids, [&["2.5.29.14"], &own[..]].concat());
    assert_eq!(all.access_point.as_deref(), Some("fsap-0123456789abcdef0"));
    assert_eq!(all.file_system.as_deref(), Some("fs-0123456789abcdef0"));
    assert_eq!(all.client_info, Some(["a source".to_owned(), "1.2.3".to_owned()]));
    let auth = all.client_auth.unwrap();
    assert_eq!(auth.access_key_id, "ASIAIOSFODNN7EXAMPLE");
    assert_eq!(auth.date, "260304050607Z");
    assert_eq!(auth.session_token.as_deref(), Some("token+/=="));
    assert_eq!(auth.signature.len(), 64);
    assert!(auth.signature.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')));
}

#[tokio::test]
async fn what_is_not_wanted_is_left_out() {
    let der = made(subject(), None, NOW).await;
    let all = read(&parsed(&der));
    assert_eq!(all.oids, ["2.5.29.14", "1.3.6.1.4.1.4843.7.3", "1.3.6.1.4.1.4843.7.4"]);
    assert_eq!(all.client_info, Some(["unknown".to_owned(), env!("CARGO_PKG_VERSION").to_owned()]));
    assert_eq!(all.file_system.as_deref(), Some("fs-0123456789abcdef0"));

    let der = made(subject().with_access_point("fsap-01234567").unwrap(), None, NOW).await;
    let own = ["1.3.6.1.4.1.4843.7.1", "1.3.6.1.4.1.4843.7.3", "1.3.6.1.4.1.4843.7.4"];
    assert_eq!(read(&parsed(&der)).oids, [&["2.5.29.14"], &own[..]].concat());

    let der = made(subject(), Some(credentials(None, None)), NOW).await;
    assert_eq!(read(&parsed(&der)).client_auth.unwrap().session_token, None);
}

#[tokio::test]
async fn openssl_reads_it_and_finds_its_signature_right() {
    let whole = subject().with_access_point("fsap-0123456789abcdef0").unwrap();
    let der = made(whole, Some(credentials(Some("token"), None)), NOW).await;
    let folder = tempfile::tempdir().unwrap();
    let ssl = |arguments: &[&str]| run("openssl", arguments, &der, folder.path());

    let Some(output) = ssl(&["x509", "-inform", "DER", "-noout", "-text", "-nameopt", "RFC2253"]) else { return };
    let said = text(output.stdout);
    for part in ["Version: 3", "sha256WithRSAEncryption", "(3072 bit)", "1.3.6.1.4.1.4843.7.2:", "CN="] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(said.contains("fsap-0123456789abcdef0") && said.contains("Mar  4 04:51:07 2026 GMT"), "{said}");

    let pem = text(ssl(&["x509", "-inform", "DER"]).unwrap().stdout);
    std::fs::write(folder.path().join("own.pem"), pem).unwrap();
    let now = NOW.to_string();
    let verify = ["verify", "-check_ss_sig", "-attime", &now, "-CAfile", "own.pem", "own.pem"];
    assert_eq!(text(ssl(&verify).unwrap().stdout).trim(), "own.pem: OK");

    // The key identifier that OpenSSL computes.
    let key = ssl(&["x509", "-inform", "DER", "-noout", "-pubkey"]).unwrap().stdout;
    let key = run("openssl", &["rsa", "-pubin", "-RSAPublicKey_out", "-outform", "DER"], &key, folder.path()).unwrap();
    let digest = run("openssl", &["sha1", "-binary"], &key.stdout, folder.path()).unwrap().stdout;
    let certificate = parsed(&der);
    assert_eq!(only(certificate.extensions()[0].value, Tag::OctetString), digest);
}

/// The method of efs-utils: a configuration from which OpenSSL writes the extensions.
#[tokio::test]
async fn openssl_writes_the_same_extensions_byte_for_byte() {
    for token in [None, Some("t".repeat(60)), Some("IQoJb3JpZ2luX2VjE+/_-==".repeat(60))] {
        let whole = subject().with_access_point("fsap-0123456789abcdef0").unwrap();
        let whole = whole.with_client_info("unknown", "3.3.3").unwrap();
        let ours = made(whole, Some(credentials(token.as_deref(), None)), NOW).await;
        let ours = parsed(&ours);
        let signature = read(&ours).client_auth.unwrap().signature;
        let token = token.map(|token| format!("d = EXPLICIT:0,UTF8String:{token}\n")).unwrap_or_default();
        let configuration = format!(
            "[req]\nprompt = no\ndistinguished_name = name\n[name]\nCN = a host\n\
             [own]\nsubjectKeyIdentifier = hash\n\
             1.3.6.1.4.1.4843.7.1 = ASN1:UTF8String:fsap-0123456789abcdef0\n\
             1.3.6.1.4.1.4843.7.2 = ASN1:SEQUENCE:auth\n\
             1.3.6.1.4.1.4843.7.3 = ASN1:UTF8String:fs-0123456789abcdef0\n\
             1.3.6.1.4.1.4843.7.4 = ASN1:SEQUENCE:info\n\
             [auth]\na = UTF8String:ASIAIOSFODNN7EXAMPLE\nb = OCTETSTRING:{signature}\nc = UTCTIME:260304050607Z\n{token}\
             [info]\na = UTF8String:unknown\nb = UTF8String:3.3.3\n"
        );
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("own.cnf"), configuration).unwrap();
        let request = ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "key.pem", "-config", "own.cnf"];
        let arguments = [&request[..], &["-extensions", "own", "-days", "1", "-outform", "DER"]].concat();
        let Some(theirs) = run("openssl", &arguments, &[], folder.path()) else { return };
        let theirs = parsed(&theirs.stdout);
        let of_efs = |certificate: &X509Certificate<'_>| -> Vec<_> {
            let all = certificate.extensions().iter();
            let all = all.map(|extension| (extension.oid.to_id_string(), extension.critical, extension.value.to_vec()));
            all.filter(|(oid, ..)| oid.starts_with("1.3.6.1.4.1.4843.7.")).collect()
        };
        assert_eq!(of_efs(&ours).len(), 4);
        assert_eq!(of_efs(&ours), of_efs(&theirs));
    }
}

/// An independent implementation of Signature Version 4. Reads lines, and writes the key hash and the signature of
/// each.
const ORACLE: &str = r#"
import hashlib, hmac, sys, urllib.parse

def sign(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()

for line in sys.stdin.buffer.read().decode().split("\n")[:-1]:
    identity, secret, token, region, file_system, date, key = line.split("\t")
    key = hashlib.sha1(bytes.fromhex(key)).hexdigest()
    scope = "/".join([date[:8], region, "elasticfilesystem", "aws4_request"])
    query = {
        "X-Amz-Expires": "86400", "X-Amz-Date": date, "Action": "Connect", "PublicKeyHash": key,
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256", "X-Amz-SignedHeaders": "host",
        "X-Amz-Credential": identity + "/" + scope,
    }
    if token:
        query["X-Amz-Security-Token"] = token
    query = urllib.parse.urlencode(sorted(query.items()), quote_via=urllib.parse.quote, safe="")
    request = "\n".join(["GET", "/", query, "host:" + file_system, "host", hashlib.sha256(b"").hexdigest()])
    text = "\n".join(["AWS4-HMAC-SHA256", date, scope, hashlib.sha256(request.encode()).hexdigest()])
    signing = ("AWS4" + secret).encode()
    for part in scope.split("/"):
        signing = sign(signing, part)
    print(key, sign(signing, text).hex())
"#;

#[derive(Clone, Debug)]
struct Case {
    file_system: String,
    region: String,
    access_point: Option<String>,
    common_name: String,
    client: Option<(String, String)>,
    access_key_id: String,
    secret: String,
    token: Option<String>,
    now: u64,
}

/// All that a certificate may contain.
fn cases() -> impl Strategy<Value = Case> {
    let first = (
        "fs-[0-9a-f]{8,40}",
        "[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?",
        proptest::option::of("fsap-[0-9a-f]{8,40}"),
        "\\PC{1,64}",
        proptest::option::of(("\\PC{1,100}", "\\PC{1,100}")),
    );
    // The maximum lengths, and the lengths at which DER changes its encoding of lengths.
    let token = prop_oneof!["[A-Za-z0-9+/=_-]{1,300}", "[A-Za-z0-9+/=_-]{16384}"];
    let second = ("[A-Za-z0-9_]{16,128}", "\\PC{1,60}", proptest::option::of(token), 946_700_000..2_524_000_000_u64);
    (first, second).prop_map(|((file_system, region, access_point, common_name, client), second)| {
        let (access_key_id, secret, token, now) = second;
        Case { file_system, region, access_point, common_name, client, access_key_id, secret, token, now }
    })
}

impl Case {
    fn subject(&self) -> Subject {
        let mut subject = Subject::new(&self.file_system, &self.region).unwrap();
        subject = subject.with_common_name(&self.common_name).unwrap();
        if let Some(id) = &self.access_point {
            subject = subject.with_access_point(id).unwrap();
        }
        if let Some((source, version)) = &self.client {
            subject = subject.with_client_info(source, version).unwrap();
        }
        subject
    }

    fn made(&self) -> Vec<u8> {
        let credentials =
            Credentials::new(self.access_key_id.as_str(), self.secret.as_str(), self.token.clone(), None).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(made(self.subject(), Some(credentials), self.now))
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whatever_may_be_said_reads_back(case in cases()) {
        let der = case.made();
        let certificate = parsed(&der);
        prop_assert!(certificate.verify_signature(None).is_ok());
        prop_assert_eq!(certificate.subject().iter_common_name().next().unwrap().as_str().unwrap(), &case.common_name);
        prop_assert_eq!(certificate.validity().not_before.timestamp(), case.now as i64 - 900);
        let all = read(&certificate);
        prop_assert_eq!(all.file_system, Some(case.file_system));
        prop_assert_eq!(all.access_point, case.access_point);
        let unsaid = || ["unknown".to_owned(), env!("CARGO_PKG_VERSION").to_owned()];
        let client = case.client.map_or_else(unsaid, |(source, version)| [source, version]);
        prop_assert_eq!(all.client_info, Some(client));
        let auth = all.client_auth.unwrap();
        prop_assert_eq!(auth.access_key_id, case.access_key_id);
        prop_assert_eq!(auth.session_token, case.token);
        // rustls accepts it.
        let end_entity = certificate.as_ref();
        prop_assert!(rustls::server::ParsedCertificate::try_from(&end_entity.to_vec().into()).is_ok());
    }
}

#[test]
fn another_program_signs_the_same() {
    let mut runner = TestRunner::deterministic();
    let cases: Vec<Case> = (0..64).map(|_| cases().new_tree(&mut runner).unwrap().current()).collect();
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let (mut input, mut ours) = (String::new(), Vec::new());
    for case in &cases {
        let der = case.made();
        let certificate = parsed(&der);
        let key = certificate.public_key().subject_public_key.data.to_vec();
        let hash = only(certificate.extensions()[0].value, Tag::OctetString);
        let auth = read(&certificate).client_auth.unwrap();
        ours.push(format!("{} {}", hex(&hash), auth.signature));
        let time = certificate.validity().not_before.timestamp() + 900;
        assert_eq!(time, case.now as i64);
        let date = auth.date.trim_end_matches('Z');
        let date = format!("20{}T{}Z", &date[..6], &date[6..]);
        let token = case.token.as_deref().unwrap_or_default();
        let parts = [&case.access_key_id, &case.secret, token, &case.region, &case.file_system, &date, &hex(&key)];
        input.push_str(&parts.join("\t"));
        input.push('\n');
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(output) = run("python3", &["-c", ORACLE], input.as_bytes(), folder.path()) else { return };
    let theirs = text(output.stdout);
    assert_eq!(theirs.lines().collect::<Vec<_>>(), ours);
}

/// Returns predefined credentials, and counts the calls.
struct Source<F> {
    asked: AtomicUsize,
    gives: F,
}

impl<F: Fn(usize) -> Result<Credentials, BoxError> + Send + Sync> Source<F> {
    fn new(gives: F) -> Arc<Self> {
        Arc::new(Self { asked: AtomicUsize::new(0), gives })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

impl<F: Fn(usize) -> Result<Credentials, BoxError> + Send + Sync> CredentialsProvider for Source<F> {
    fn credentials(&self) -> CredentialsFuture<'_> {
        Box::pin(async {
            let number = self.asked.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(30)).await;
            (self.gives)(number)
        })
    }
}

/// A certificate provider with IAM, and its clock.
fn kept(source: Arc<dyn CredentialsProvider>) -> (Arc<CertificateProvider>, Arc<AtomicU64>) {
    let clock = Arc::new(AtomicU64::new(NOW));
    let tells = clock.clone();
    let certificates = CertificateProvider::new(subject()).with_key(key()).with_credentials(source);
    (Arc::new(certificates.with_clock(move || at(tells.load(Ordering::SeqCst)))), clock)
}

async fn date(certificates: &CertificateProvider) -> String {
    let identity = certificates.certificate().await.unwrap();
    read(&parsed(identity.end_entity_cert().unwrap())).client_auth.unwrap().date
}

#[tokio::test]
async fn it_is_renewed_after_an_hour_with_a_new_signature_and_serial_number_and_the_same_key() {
    let source = Source::new(|_| Ok(credentials(Some("token"), None)));
    let (certificates, clock) = kept(source.clone());
    let first = certificates.certificate().await.unwrap();
    clock.store(NOW + 60 * MINUTE - 1, Ordering::SeqCst);
    assert!(Arc::ptr_eq(&first, &certificates.certificate().await.unwrap()));
    assert_eq!(source.asked(), 1);
    clock.store(NOW + 60 * MINUTE, Ordering::SeqCst);
    assert_eq!(date(&certificates).await, "260304060607Z");
    assert_eq!(source.asked(), 2);
    let second = certificates.certificate().await.unwrap();
    let (first, second) = (parsed(first.end_entity_cert().unwrap()), parsed(second.end_entity_cert().unwrap()));
    assert_ne!(first.raw_serial(), second.raw_serial());
    assert_eq!(first.public_key().raw, second.public_key().raw);
    assert_ne!(read(&first).client_auth.unwrap().signature, read(&second).client_auth.unwrap().signature);
}

#[tokio::test]
async fn it_is_renewed_five_minutes_before_the_credentials_end() {
    let source = Source::new(|number| {
        let ends = [20, 80].map(|minutes| NOW + minutes * MINUTE);
        Ok(credentials(Some(["one", "two"][number]), Some(ends[number])))
    });
    let (certificates, clock) = kept(source.clone());
    let token = async || {
        let identity = certificates.certificate().await.unwrap();
        read(&parsed(identity.end_entity_cert().unwrap())).client_auth.unwrap().session_token.unwrap()
    };
    assert_eq!(token().await, "one");
    clock.store(NOW + 15 * MINUTE - 1, Ordering::SeqCst);
    assert_eq!(token().await, "one");
    clock.store(NOW + 15 * MINUTE, Ordering::SeqCst);
    assert_eq!(token().await, "two");
    clock.store(NOW + 75 * MINUTE - 1, Ordering::SeqCst);
    assert_eq!(token().await, "two");
    assert_eq!(source.asked(), 2);
}

#[tokio::test]
async fn a_source_that_has_nothing_better_is_not_asked_for_every_connection() {
    let source = Source::new(|_| Ok(credentials(None, Some(NOW + 2 * MINUTE))));
    let (certificates, clock) = kept(source.clone());
    for seconds in [0, 1, 29] {
        clock.store(NOW + seconds, Ordering::SeqCst);
        certificates.certificate().await.unwrap();
    }
    assert_eq!(source.asked(), 1);
    clock.store(NOW + 30, Ordering::SeqCst);
    certificates.certificate().await.unwrap();
    assert_eq!(source.asked(), 2);
    clock.store(NOW + 2 * MINUTE, Ordering::SeqCst);
    let error = certificates.certificate().await.unwrap_err();
    assert!(matches!(error, CertificateError::CredentialsEnded), "{error}");
}

#[tokio::test]
async fn while_the_source_fails_the_old_certificate_serves_as_long_as_it_works() {
    let source = Source::new(|number| match number {
        0 | 4 => Ok(credentials(None, Some(NOW + 60 * MINUTE))),
        _ => Err("out of reach".into()),
    });
    let (certificates, clock) = kept(source.clone());
    let first = certificates.certificate().await.unwrap();
    let same = async |seconds: u64, asked: usize| {
        clock.store(NOW + seconds, Ordering::SeqCst);
        assert!(Arc::ptr_eq(&first, &certificates.certificate().await.unwrap()));
        assert_eq!(source.asked(), asked);
    };
    same(55 * MINUTE, 2).await;
    same(55 * MINUTE + 29, 2).await;
    same(55 * MINUTE + 30, 3).await;
    clock.store(NOW + 60 * MINUTE, Ordering::SeqCst);
    let error = certificates.certificate().await.unwrap_err();
    assert!(matches!(&error, CertificateError::NoCredentials(err) if err.to_string() == "out of reach"));
    assert_eq!(error.code(), "NoCredentials");
    assert_eq!(source.asked(), 4);
    // The credentials that the provider then returns have expired.
    assert_eq!(certificates.certificate().await.unwrap_err().code(), "CredentialsEnded");
}

#[tokio::test]
async fn without_iam_it_is_renewed_after_an_hour_too() {
    let clock = Arc::new(AtomicU64::new(NOW));
    let tells = clock.clone();
    let certificates = CertificateProvider::new(subject()).with_key(key());
    let certificates = certificates.with_clock(move || at(tells.load(Ordering::SeqCst)));
    let first = certificates.certificate().await.unwrap();
    clock.store(NOW + 59 * MINUTE, Ordering::SeqCst);
    assert!(Arc::ptr_eq(&first, &certificates.certificate().await.unwrap()));
    clock.store(NOW + 60 * MINUTE, Ordering::SeqCst);
    assert!(!Arc::ptr_eq(&first, &certificates.certificate().await.unwrap()));
}

#[tokio::test]
async fn a_clock_that_is_set_back_or_wrong_is_noticed() {
    let (certificates, clock) = kept(Source::new(|_| Ok(credentials(None, None))));
    let first = certificates.certificate().await.unwrap();
    clock.store(NOW - 15 * MINUTE, Ordering::SeqCst);
    assert!(Arc::ptr_eq(&first, &certificates.certificate().await.unwrap()));
    clock.store(NOW - 16 * MINUTE, Ordering::SeqCst);
    assert_eq!(date(&certificates).await, "260304045007Z");
    for wrong in [0, 946_684_799, 2_524_608_000] {
        let (certificates, clock) = kept(Source::new(|_| Ok(credentials(None, None))));
        clock.store(wrong, Ordering::SeqCst);
        assert_eq!(certificates.certificate().await.unwrap_err().code(), "BadClock");
    }
}

#[tokio::test]
async fn while_one_renews_it_the_others_get_the_old_one_at_once_if_it_works() {
    let source = Source::new(|_| Ok(credentials(None, None)));
    let (certificates, clock) = kept(source.clone());
    let old = certificates.certificate().await.unwrap();
    clock.store(NOW + 60 * MINUTE, Ordering::SeqCst);
    let renews = tokio::spawn({
        let certificates = certificates.clone();
        async move { certificates.certificate().await.unwrap() }
    });
    while source.asked() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(Arc::ptr_eq(&old, &certificates.certificate().await.unwrap()));
    assert!(!renews.is_finished());
    // After it has expired, callers wait for the new one.
    clock.store(NOW + 180 * MINUTE, Ordering::SeqCst);
    let (waited, renewed) = tokio::join!(certificates.certificate(), renews);
    let (waited, renewed) = (waited.unwrap(), renewed.unwrap());
    assert!(Arc::ptr_eq(&waited, &renewed) && !Arc::ptr_eq(&waited, &old));
    assert_eq!(source.asked(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn whoever_comes_at_once_waits_for_one_certificate() {
    let source = Source::new(|_| Ok(credentials(None, None)));
    let (certificates, clock) = kept(source.clone());
    for round in 1..=3 {
        let all: Vec<_> = (0..32)
            .map(|_| {
                let certificates = certificates.clone();
                tokio::spawn(async move { certificates.certificate().await.unwrap() })
            })
            .collect();
        let mut given = Vec::new();
        for one in all {
            given.push(one.await.unwrap());
        }
        assert!(given.iter().all(|one| Arc::ptr_eq(one, &given[0])));
        assert_eq!(source.asked(), round);
        clock.fetch_add(180 * MINUTE, Ordering::SeqCst);
    }
}

/// Asks with a timeout until there is a certificate. Returns how many attempts it took.
async fn impatiently(certificates: &CertificateProvider, give_up_after: Duration) -> (usize, Arc<CertifiedKey>) {
    let until = std::time::Instant::now() + Duration::from_secs(30);
    for tries in 0.. {
        assert!(std::time::Instant::now() < until, "{tries} tries, and no certificate");
        if let Ok(made) = tokio::time::timeout(give_up_after, certificates.certificate()).await {
            return (tries, made.unwrap());
        }
    }
    unreachable!()
}

#[tokio::test]
async fn one_who_gives_up_cancels_nothing() {
    let source = Source::new(|_| Ok(credentials(None, None)));
    let (certificates, _clock) = kept(source.clone());
    let (given_up, made) = impatiently(&certificates, Duration::from_millis(5)).await;
    assert!(given_up > 0, "nobody has given up");
    assert!(Arc::ptr_eq(&made, &certificates.certificate().await.unwrap()));
    assert_eq!(source.asked(), 1);
}

#[tokio::test]
async fn one_who_gives_up_a_renewal_cancels_nothing_and_the_others_get_the_old_certificate() {
    let source = Source::new(|_| Ok(credentials(None, None)));
    let (certificates, clock) = kept(source.clone());
    let old = certificates.certificate().await.unwrap();
    clock.store(NOW + 60 * MINUTE, Ordering::SeqCst);
    tokio::time::timeout(Duration::from_millis(5), certificates.certificate()).await.unwrap_err();
    assert!(Arc::ptr_eq(&old, &certificates.certificate().await.unwrap()));
    // The renewal takes 30 ms.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!Arc::ptr_eq(&old, &certificates.certificate().await.unwrap()));
    assert_eq!(source.asked(), 2);
}

#[tokio::test]
async fn a_source_that_never_answers_does_not_keep_a_later_attempt_from_asking_it_again() {
    struct Silent(AtomicUsize);
    impl CredentialsProvider for Silent {
        fn credentials(&self) -> CredentialsFuture<'_> {
            self.0.fetch_add(1, Ordering::SeqCst);
            Box::pin(std::future::pending())
        }
    }
    let source = Arc::new(Silent(AtomicUsize::new(0)));
    let certificates = CertificateProvider::new(subject()).with_key(key()).with_credentials(source.clone());
    let certificates = certificates.with_credentials_timeout(Duration::from_millis(50));
    for asked in 1..=2 {
        let err = certificates.certificate().await.unwrap_err();
        assert_eq!(err.code(), "NoCredentials");
        assert!(err.to_string().ends_with("their source has not answered within 50ms"), "{err}");
        assert_eq!(source.0.load(Ordering::SeqCst), asked);
    }
}

/// A slow processor: every attempt to connect times out long before the key is generated.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_generated_once_however_many_give_up_while_they_wait_for_it() {
    let (begun, running, most) = <(Arc<AtomicUsize>, Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    let certificates = CertificateProvider::new(subject()).with_key_generator({
        let (begun, running, most) = (begun.clone(), running.clone(), most.clone());
        move || {
            begun.fetch_add(1, Ordering::SeqCst);
            most.fetch_max(running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(500));
            running.fetch_sub(1, Ordering::SeqCst);
            Ok(key())
        }
    });
    // Generated beforehand, so that the generator takes exactly 500 ms.
    key();
    let waiting: Vec<_> = (0..8)
        .map(|_| {
            let certificates = certificates.clone();
            tokio::spawn(async move { impatiently(&certificates, Duration::from_millis(20)).await })
        })
        .collect();
    let mut made = Vec::new();
    for one in waiting {
        let (given_up, one) = one.await.unwrap();
        assert!(given_up > 0, "nobody has given up");
        made.push(one);
    }
    assert!(made.iter().all(|one| Arc::ptr_eq(one, &made[0])));
    assert_eq!((begun.load(Ordering::SeqCst), most.load(Ordering::SeqCst)), (1, 1));
    // No attempt that timed out left a task behind that starts later.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(Arc::ptr_eq(&made[0], &certificates.certificate().await.unwrap()));
    assert_eq!((begun.load(Ordering::SeqCst), running.load(Ordering::SeqCst)), (1, 0));
}

#[tokio::test]
async fn a_key_is_made_when_there_is_none_and_kept() {
    let certificates = CertificateProvider::new(subject()).with_clock({
        let times = AtomicU64::new(NOW);
        move || at(times.fetch_add(90 * MINUTE, Ordering::SeqCst))
    });
    let (first, second) = (certificates.certificate().await.unwrap(), certificates.certificate().await.unwrap());
    first.keys_match().unwrap();
    let (first, second) = (parsed(first.end_entity_cert().unwrap()), parsed(second.end_entity_cert().unwrap()));
    assert_ne!(first.raw_serial(), second.raw_serial());
    assert_eq!(first.public_key().raw, second.public_key().raw);
}
