//! What each host is asked by itself. Nothing is changed by it.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nfs41::{
    AttributeMask, Client, DirCursor, Error, Op, ServerIdentity,
    tls::{HandshakeReport, Roots, TlsError, rustls_error},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, lookup_host},
    time::{Instant, timeout},
};
use x509_parser::extensions::GeneralName;

use super::{
    Host, Setup,
    outcome::{
        Check, CheckResult, OperationTimeout, Outcome, excluded, no, not_asked, or_no, unknown, with_values, yes,
    },
};
use crate::grouped;

const ROUND_TRIP_SAMPLES: usize = 100;
/// Bytes of a page of the root.
const PAGE_BYTES: u32 = 8 << 10;
/// For a whole `put`, without the way to its directory.
const MAX_OPS_OF_PUT: u32 = 24;

/// In the order of the report: a later one may use what an earlier one has found.
pub const CHECKS: &[Check<Target>] = &[
    Check {
        key: "tcp",
        what: "TCP is reached",
        means: "Nothing works here. Look at the security group of the mount target (port 2049), at routes, and whether \
                the mount target is available.",
        needed: true,
        ask: |target| Box::pin(tcp(target)),
    },
    Check {
        key: "tls",
        what: "The TLS handshake succeeds",
        means: "The service cannot use NFS_TLS=efs here as it is configured.",
        needed: true,
        ask: |target| Box::pin(tls(target)),
    },
    Check {
        key: "tls_certificate",
        what: "The server's certificate is believed",
        means: "The name or the authority is another than expected: give NFS_TLS_ROOTS, or look who answers there.",
        needed: true,
        ask: |target| Box::pin(tls_certificate(target)),
    },
    Check {
        key: "tls_system_roots",
        what: "The system's roots suffice for it",
        means: "The service needs NFS_TLS_ROOTS with the authority's certificate, or an image with ca-certificates.",
        needed: false,
        ask: |target| Box::pin(tls_system_roots(target)),
    },
    Check {
        key: "tls_client_certificate",
        what: "The client's certificate is accepted",
        means: "The server does not take what the certificate says: the access point, the signature, the credentials, \
                or the policy of the file system.",
        needed: true,
        ask: |target| Box::pin(tls_client_certificate(target)),
    },
    Check {
        key: "exchange_id",
        what: "EXCHANGE_ID is answered",
        means: "There is no NFS 4.1 here, or not for this client: the service cannot use BACKEND=nfs.",
        needed: true,
        ask: |target| Box::pin(exchange_id(target)),
    },
    Check {
        key: "create_session",
        what: "CREATE_SESSION gives a session",
        means: "The service cannot use BACKEND=nfs here.",
        needed: true,
        ask: |target| Box::pin(create_session(target)),
    },
    Check {
        key: "accepted",
        what: "The first call in the session is done, from this port and with these credentials",
        means: "The server refuses this client before any file is named. It may want a port below 1024, which the service \
                does not use: export with `insecure` (Linux) or `PrivilegedPort = false` (NFS-Ganesha). It may want \
                Kerberos, which the service does not speak: allow `sec=sys`. Or it does not let this address or this \
                user in: look at the export's clients, and at the policy of the file system.",
        needed: true,
        ask: |target| Box::pin(accepted(target)),
    },
    Check {
        key: "lease",
        what: "The lease is known",
        means: "The client takes 90 seconds for granted.",
        needed: false,
        ask: |target| Box::pin(lease(target)),
    },
    Check {
        key: "io_size",
        what: "A call carries content of 1 MiB",
        means: "Large files take more calls. Nothing else changes.",
        needed: false,
        ask: |target| Box::pin(io_size(target)),
    },
    Check {
        key: "access",
        what: "ACCESS lets this client read the root, and it can be listed",
        means: "A policy without ClientMount, a root that is squashed, or permissions: the service would see nothing.",
        needed: true,
        ask: |target| Box::pin(access(target)),
    },
    Check {
        key: "round_trip",
        what: "Round trips of GETATTR are measured",
        means: "The connection is not good for a hundred calls.",
        needed: false,
        ask: |target| Box::pin(round_trip(target)),
    },
];

/// A host, and what is known of it by now.
pub struct Target {
    host: Host,
    setup: Arc<Setup>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    address: Option<SocketAddr>,
    facts: Option<HandshakeReport>,
    client: Option<Client>,
    server: Option<ServerIdentity>,
    access: Option<u32>,
    /// Why there is no session, when EXCHANGE_ID was answered or the call itself refused.
    refused: Option<Error>,
    /// Of the one that there will not be a session without.
    fails: bool,
}

impl OperationTimeout for Target {
    fn operation_timeout(&self) -> Duration {
        self.setup.dial.timeout
    }
}

impl Target {
    pub fn new(host: &Host, setup: Arc<Setup>) -> Self {
        Self { host: host.clone(), setup, known: Mutex::default() }
    }

    pub fn host(&self) -> String {
        self.host.to_string()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it is, if it has given a session.
    pub fn usable(&self) -> Option<SocketAddr> {
        let known = self.known();
        known.address.filter(|_| known.client.is_some())
    }

    /// Who it says it is.
    pub fn server(&self) -> Option<ServerIdentity> {
        self.known().server.clone()
    }

    /// What ACCESS said of the root.
    pub fn access(&self) -> Option<u32> {
        self.known().access
    }

    pub async fn close(&self) {
        let client = self.known().client.take();
        if let Some(client) = client {
            client.close().await;
        }
    }

    /// If nothing has failed that it takes.
    fn address(&self) -> Result<SocketAddr, Outcome> {
        let known = self.known();
        known.address.filter(|_| !known.fails).ok_or_else(|| not_asked("what comes before has failed"))
    }

    fn client(&self) -> Result<Client, Outcome> {
        self.known().client.clone().ok_or_else(|| not_asked("there is no session"))
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let address = self.known().address.ok_or(io::ErrorKind::NotConnected)?;
        let stream = timeout(self.setup.dial.timeout, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn fails(&self) {
        self.known().fails = true;
    }
}

async fn tcp(target: &Target) -> CheckResult {
    let Host { name, port } = &target.host;
    let found = timeout(target.setup.dial.timeout, lookup_host((name.as_str(), *port))).await;
    let addresses: Vec<_> = match found {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(err)) => return Err(no(format!("{name} is not found: {err}"))),
        Err(_) => return Err(no(format!("{name} is not found in time"))),
    };
    let Some(address) = addresses.first().copied() else { return Err(no(format!("{name} has no address"))) };
    target.known().address = Some(address);
    match target.dial().await {
        Ok(_) => {
            let others = addresses.len() - 1;
            let more = if others > 0 { format!(", the first of {} addresses", others + 1) } else { String::new() };
            let all: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            Ok(yes(format!("{address}{more}")).with(json!({ "address": address.to_string(), "addresses": all })))
        }
        Err(err) => {
            target.fails();
            Err(no(format!("{address}: {err}")))
        }
    }
}

async fn tls(target: &Target) -> CheckResult {
    let Some(secure) = &target.setup.dial.secure else { return Err(excluded("no TLS is wanted")) };
    target.address()?;
    let stream = target.dial().await.map_err(|err| unknown(err.to_string()))?;
    let facts = match timeout(target.setup.dial.timeout, secure.tls.inspect(stream, secure.roots.clone())).await {
        Ok(Ok(facts)) => facts,
        Ok(Err(err)) => {
            target.fails();
            return Err(no(err.to_string()));
        }
        Err(_) => {
            target.fails();
            return Err(no(format!("the server does not shake hands within {:?}", target.setup.dial.timeout)));
        }
    };
    let (version, cipher) = (facts.version.clone(), facts.cipher.clone());
    let outcome = match &facts.stream {
        Ok(_) => {
            let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
            let found = format!("{}, {}", text(&version).replace('_', "."), text(&cipher));
            Ok(yes(found).with(json!({ "version": version, "cipher": cipher })))
        }
        Err(err) => {
            target.fails();
            Err(no(err.to_string()))
        }
    };
    target.known().facts = Some(facts);
    outcome
}

fn name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        other => other.to_string(),
    }
}

async fn tls_certificate(target: &Target) -> CheckResult {
    let Some(secure) = &target.setup.dial.secure else { return Err(excluded("no TLS is wanted")) };
    let known = target.known();
    let Some(facts) = &known.facts else { return Err(not_asked("there was no handshake")) };
    let Some(first) = facts.certificates.first() else { return Err(unknown("the server has shown none")) };
    let expected = &secure.server_name;
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(first) else {
        return Err(no(format!("{expected} is expected; what was shown cannot be read")));
    };
    let names: Vec<_> = certificate
        .subject_alternative_name()
        .ok()
        .flatten()
        .map(|names| names.value.general_names.iter().map(name).collect())
        .unwrap_or_default();
    let (issuer, until) = (certificate.issuer().to_string(), certificate.validity().not_after.to_string());
    let values = json!({
        "expected": expected, "names": names, "subject": certificate.subject().to_string(), "issuer": issuer,
        "until": until, "certificates": facts.certificates.len(),
    });
    let shown = format!("for {}, issued by {issuer}, until {until}", names.join(" "));
    match &facts.stream {
        Ok(_) => Ok(yes(shown).with(values)),
        Err(TlsError::Refused(rustls::Error::InvalidCertificate(err))) => {
            Err(no(format!("{err}; {expected} is expected; it is {shown}")).with(values))
        }
        Err(_) => Err(unknown(format!("the handshake has failed for another reason; it is {shown}")).with(values)),
    }
}

async fn tls_system_roots(target: &Target) -> CheckResult {
    let Some(secure) = &target.setup.dial.secure else { return Err(excluded("no TLS is wanted")) };
    if target.known().facts.is_none() {
        return Err(not_asked("there was no handshake"));
    }
    let stream = target.dial().await.map_err(|err| unknown(err.to_string()))?;
    let looked = timeout(target.setup.dial.timeout, secure.tls.inspect(stream, Roots::System)).await;
    match looked.map_err(|_| unknown("no answer came in time"))? {
        Ok(HandshakeReport { stream: Ok(_), .. }) => Ok(yes("they vouch for it")),
        Ok(HandshakeReport { stream: Err(TlsError::Refused(err @ rustls::Error::InvalidCertificate(_))), .. }) => {
            Err(no(err.to_string()))
        }
        Err(err @ TlsError::NoRoots { .. }) => Err(no(err.to_string())),
        Ok(HandshakeReport { stream: Err(err), .. }) | Err(err) => Err(unknown(err.to_string())),
    }
}

/// By a call of the procedure that does nothing: in TLS 1.3 a rustls_error comes when something is read.
async fn tls_client_certificate(target: &Target) -> CheckResult {
    if target.setup.dial.secure.is_none() {
        return Err(excluded("no TLS is wanted"));
    }
    let facts = target.known().facts.take();
    let Some(HandshakeReport { stream: Ok(mut stream), requests_client_certificate, .. }) = facts else {
        return Err(not_asked("there was no handshake"));
    };
    let (record, call, rpc, nfs, version) = (1 << 31 | 40, 0, 2, 100_003, 4);
    let null = [record, 1, call, rpc, nfs, version, 0, 0, 0, 0, 0].map(u32::to_be_bytes).concat();
    let spoken = async {
        stream.write_all(&null).await?;
        stream.flush().await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await?;
        io::Result::Ok(())
    };
    let values = json!({ "asked_for": requests_client_certificate });
    let spoken = timeout(target.setup.dial.timeout, spoken).await;
    let outcome = match (spoken, requests_client_certificate) {
        (Ok(Ok(())), true) => Ok(yes("the server asked for it, and answers a call after it")),
        (Ok(Ok(())), false)
            if target.setup.options.server.iam || target.setup.options.server.access_point.is_some() =>
        {
            Err(no("the server does not ask for it, so that neither IAM nor an access point is known to it"))
        }
        (Ok(Ok(())), false) => Ok(yes("the server does not ask for it, and answers a call without")),
        (Ok(Err(err)), _) => {
            target.fails();
            match rustls_error(&err) {
                Some(alert) => Err(no(format!("refused with the first read: {alert}"))),
                None => Err(no(format!("the server ends the connection without a word: {err}"))),
            }
        }
        (Err(_), _) => Err(unknown("the server neither refuses it nor answers a call (procedure NULL)")),
    };
    with_values(outcome, values)
}

/// As text where it is text.
fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && text.chars().all(|c| !c.is_control()) => format!("\"{text}\""),
        _ => hex(bytes),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What the server said on the way to a session.
fn said(err: &Error) -> &Error {
    let inner = match err {
        Error::Unreachable { source, .. } => source.get_ref().and_then(|err| err.downcast_ref()),
        _ => None,
    };
    inner.map_or(err, said)
}

async fn exchange_id(target: &Target) -> CheckResult {
    let address = target.address()?;
    let client = Client::new(target.setup.dial.client_options(address, Vec::new()));
    let client = client.map_err(|err| unknown(err.to_string()))?;
    let servers = client.server_identities().await;
    match servers.map(|mut servers| servers.pop()) {
        Ok(Some(server)) => {
            let program = server.implementation.as_deref().unwrap_or("not said");
            let (owner, scope) = (shown(&server.owner_major), shown(&server.scope));
            let found = format!("owner {owner}, minor {}, scope {scope}, program {program}", server.owner_minor);
            let values = json!({
                "owner": hex(&server.owner_major), "owner_minor": server.owner_minor, "scope": hex(&server.scope),
                "program": server.implementation,
            });
            let mut known = target.known();
            (known.client, known.server) = (Some(client), Some(server));
            Ok(yes(found).with(values))
        }
        Ok(None) => Err(unknown("there is no connection")),
        Err(err) => {
            drop(client);
            let err = said(&err).clone();
            let text = err.to_string();
            let outcome = match &err {
                Error::Status { op: Op::EXCHANGE_ID, .. } => return Err(no(text)),
                Error::Status { .. } => Ok(yes(format!("it is, but what follows is not: {text}"))),
                // Of which call is not known.
                Error::Refused(_) => Err(no(text)),
                _ => return Err(unknown(text)),
            };
            target.known().refused = Some(err);
            outcome
        }
    }
}

async fn create_session(target: &Target) -> CheckResult {
    match target.known().refused.clone() {
        Some(err @ Error::Status { op: Op::CREATE_SESSION, .. }) => return Err(no(err.to_string())),
        Some(err @ Error::Status { .. }) => {
            return Ok(yes(format!("it does, but the first call in it is refused: {err}")));
        }
        _ => {}
    }
    let found = or_no(target.client()?.limits().await)?;
    let one_call = found.max_operations >= MAX_OPS_OF_PUT;
    let text = format!(
        "{} calls at once (256 asked for), a call of {} bytes, an answer of {}, {} bytes of an answer are kept, {} \
         operations in a call{}",
        found.max_requests,
        grouped(found.max_request_bytes as u64),
        grouped(found.max_response_bytes as u64),
        grouped(found.max_cached_response_bytes.into()),
        found.max_operations,
        if one_call { "" } else { " (a whole put needs 24, and takes more round trips here)" },
    );
    Ok(yes(text).with(json!({
        "slots": found.max_requests, "largest_call": found.max_request_bytes, "largest_answer": found.max_response_bytes,
        "kept_answer": found.max_cached_response_bytes, "operations": found.max_operations,
    })))
}

/// Setting a session up asks something of the root; and so does this, once there is one.
async fn accepted(target: &Target) -> CheckResult {
    match target.known().refused.clone() {
        Some(Error::Status { op: Op::CREATE_SESSION, .. }) | None => {}
        Some(err) => return Err(no(err.to_string())),
    }
    let found = or_no(target.client()?.attributes(b"", AttributeMask::TYPE).await)?;
    let own = nfs41::Credentials::default();
    let who = format!("as user {} of group {} (AUTH_SYS), from a port that anybody may use", own.user, own.group);
    match found.file_type {
        Some(nfs41::FileType::Directory) => Ok(yes(who)),
        other => Err(no(format!("{who}; but the server's root is no directory: {other:?}"))),
    }
}

async fn lease(target: &Target) -> CheckResult {
    // The client has a number where the server has none.
    let told = or_no(target.client()?.attributes(b"", AttributeMask::LEASE_TIME).await)?.lease_seconds();
    match told {
        Some(seconds) => Ok(yes(format!("{seconds} s")).with(json!({ "seconds": seconds }))),
        None => Err(no("the server does not say")),
    }
}

async fn io_size(target: &Target) -> CheckResult {
    let found = or_no(target.client()?.limits().await)?;
    let (read, write) = (found.max_read_bytes, found.max_write_bytes);
    let text = format!("{} bytes read, {} written", grouped(read.into()), grouped(write.into()));
    let values = json!({ "max_read_bytes": read, "max_write_bytes": write });
    let outcome = if read.min(write) >= 1 << 20 { yes(text) } else { no(text) };
    Ok(outcome.with(values))
}

/// The permissions in an answer of ACCESS.
pub fn permissions(bits: u32) -> Vec<&'static str> {
    let names = [(1, "read"), (2, "look up"), (4, "change"), (8, "add"), (16, "delete"), (32, "execute")];
    names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect()
}

async fn access(target: &Target) -> CheckResult {
    let root = target.setup.options.server.root.as_bytes();
    let client = target.client()?;
    let bits = or_no(client.access(root, 0x3F).await)?;
    target.known().access = Some(bits);
    // What it says is not what it does.
    or_no(client.list(root, DirCursor::default(), AttributeMask::TYPE, PAGE_BYTES).await)?;
    let found = permissions(bits);
    let text = format!(
        "{} of {}",
        if bits == 0 { "nothing".to_owned() } else { found.join(", ") },
        target.setup.options.server.root
    );
    let outcome = if bits & 3 == 3 { yes(text) } else { no(text) };
    Ok(outcome.with(json!({ "permissions": found })))
}

async fn round_trip(target: &Target) -> CheckResult {
    let client = target.client()?;
    let mut times = Vec::with_capacity(ROUND_TRIP_SAMPLES);
    let until = Instant::now() + target.setup.dial.timeout;
    while times.len() < ROUND_TRIP_SAMPLES && Instant::now() < until {
        let began = Instant::now();
        or_no(client.attributes(b"", AttributeMask::SIZE).await)?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let at = |part: usize| times.get((times.len() * part / 100).min(times.len().saturating_sub(1))).copied();
    let (Some(half), Some(most), Some(least)) = (at(50), at(99), times.first().copied()) else {
        return Err(unknown("there was no time for one"));
    };
    let told = super::outcome::time;
    let found = format!(
        "half of {} within {}, 99 of 100 within {}, the shortest {}",
        times.len(),
        told(half),
        told(most),
        told(least)
    );
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(yes(found).with(json!({ "calls": times.len(), "p50_ms": ms(half), "p99_ms": ms(most), "least_ms": ms(least) })))
}
