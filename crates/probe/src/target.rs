//! The checks of a single host. They change nothing.

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
        Check, CheckResult, Outcome, TimeLimits, excluded, format_time, no, not_asked, or_no, unknown, with_values, yes,
    },
};
use crate::grouped;

const ROUND_TRIP_SAMPLES: usize = 100;
/// Size of one READDIR page.
const PAGE_BYTES: u32 = 8 << 10;
/// Operations of a whole `put`, without those that look up its directory.
const PUT_OPERATIONS: u32 = 24;

/// In the order of the report. A check may use the results of earlier ones.
pub const CHECKS: &[Check<Target>] = &[
    Check {
        key: "tcp",
        what: "A TCP connection is established",
        means: "Nothing works. Check the security group of the mount target (port 2049), the routes, and whether the mount \
                target is available.",
        needed: true,
        run: |target| Box::pin(tcp(target)),
    },
    Check {
        key: "tls",
        what: "The TLS handshake succeeds",
        means: "The service cannot use NFS_TLS=efs with this configuration.",
        needed: true,
        run: |target| Box::pin(tls(target)),
    },
    Check {
        key: "tls_certificate",
        what: "The server certificate is trusted",
        means: "The name or the CA differs from the expected one: set NFS_TLS_ROOTS, or check which server this is.",
        needed: true,
        run: |target| Box::pin(tls_certificate(target)),
    },
    Check {
        key: "tls_system_roots",
        what: "The CA certificates of the system suffice",
        means: "The service needs NFS_TLS_ROOTS with the CA certificate, or an image with ca-certificates.",
        needed: false,
        run: |target| Box::pin(tls_system_roots(target)),
    },
    Check {
        key: "tls_client_certificate",
        what: "The client certificate is accepted",
        means: "The server rejects the client certificate: check the access point, the signature, the credentials, and the \
                policy of the file system.",
        needed: true,
        run: |target| Box::pin(tls_client_certificate(target)),
    },
    Check {
        key: "exchange_id",
        what: "EXCHANGE_ID succeeds",
        means: "The server does not speak NFSv4.1 with this client, so the service cannot use BACKEND=nfs.",
        needed: true,
        run: |target| Box::pin(exchange_id(target)),
    },
    Check {
        key: "create_session",
        what: "CREATE_SESSION succeeds",
        means: "The service cannot use BACKEND=nfs.",
        needed: true,
        run: |target| Box::pin(create_session(target)),
    },
    Check {
        key: "accepted",
        what: "The server accepts the first call of the session, from this port and with these credentials",
        means: "The server rejects this client before any file is accessed. It may require a port below 1024, which the \
                service does not use: export with `insecure` (Linux) or `PrivilegedPort = false` (NFS-Ganesha). It may \
                require Kerberos, which the service does not support: allow `sec=sys`. Or it rejects this address or \
                user: check the clients of the export, and the policy of the file system.",
        needed: true,
        run: |target| Box::pin(accepted(target)),
    },
    Check {
        key: "lease",
        what: "The server reports the lease time",
        means: "The client assumes 90 seconds.",
        needed: false,
        run: |target| Box::pin(lease(target)),
    },
    Check {
        key: "io_size",
        what: "A call carries 1 MiB of content",
        means: "Large files take more calls. Nothing else changes.",
        needed: false,
        run: |target| Box::pin(io_size(target)),
    },
    Check {
        key: "access",
        what: "ACCESS grants reading the root, and READDIR lists it",
        means: "The service can read nothing. Possible causes: a policy without ClientMount, root squashing, permissions.",
        needed: true,
        run: |target| Box::pin(access(target)),
    },
    Check {
        key: "round_trip",
        what: "The round-trip time of GETATTR is measured",
        means: "The connection does not survive 100 calls.",
        needed: false,
        run: |target| Box::pin(round_trip(target)),
    },
];

/// A host, and the results so far.
pub struct Target {
    host: Host,
    setup: Arc<Setup>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    address: Option<SocketAddr>,
    handshake: Option<HandshakeReport>,
    client: Option<Client>,
    server: Option<ServerIdentity>,
    access: Option<u32>,
    /// Why there is no session: the error of EXCHANGE_ID or of a later call.
    session_error: Option<Error>,
    /// A check failed without which there is no session.
    failed: bool,
}

impl TimeLimits for Target {
    fn operation_timeout(&self) -> Duration {
        self.setup.dial.timeout
    }
}

impl Target {
    pub fn new(host: &Host, setup: Arc<Setup>) -> Self {
        Self { host: host.clone(), setup, state: Mutex::default() }
    }

    pub fn host(&self) -> String {
        self.host.to_string()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The address, if the host granted a session.
    pub fn usable(&self) -> Option<SocketAddr> {
        let state = self.state();
        state.address.filter(|_| state.client.is_some())
    }

    /// The identity that the server reports.
    pub fn server(&self) -> Option<ServerIdentity> {
        self.state().server.clone()
    }

    /// The permissions that ACCESS grants at the root.
    pub fn access(&self) -> Option<u32> {
        self.state().access
    }

    pub async fn close(&self) {
        let client = self.state().client.take();
        if let Some(client) = client {
            client.close().await;
        }
    }

    /// If nothing has failed that it takes.
    fn address(&self) -> Result<SocketAddr, Outcome> {
        let state = self.state();
        state.address.filter(|_| !state.failed).ok_or_else(|| not_asked("an earlier check failed"))
    }

    fn client(&self) -> Result<Client, Outcome> {
        self.state().client.clone().ok_or_else(|| not_asked("there is no session"))
    }

    async fn dial(&self) -> io::Result<TcpStream> {
        let address = self.state().address.ok_or(io::ErrorKind::NotConnected)?;
        let stream = timeout(self.setup.dial.timeout, TcpStream::connect(address)).await??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    fn set_failed(&self) {
        self.state().failed = true;
    }
}

async fn tcp(target: &Target) -> CheckResult {
    let Host { name, port } = &target.host;
    let found = timeout(target.setup.dial.timeout, lookup_host((name.as_str(), *port))).await;
    let addresses: Vec<_> = match found {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(err)) => return Err(no(format!("{name} does not resolve: {err}"))),
        Err(_) => return Err(no(format!("resolving {name} timed out"))),
    };
    let Some(address) = addresses.first().copied() else { return Err(no(format!("{name} has no address"))) };
    target.state().address = Some(address);
    match target.dial().await {
        Ok(_) => {
            let others = addresses.len() - 1;
            let more = if others > 0 { format!(", the first of {} addresses", others + 1) } else { String::new() };
            let all: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            Ok(yes(format!("{address}{more}")).with(json!({ "address": address.to_string(), "addresses": all })))
        }
        Err(err) => {
            target.set_failed();
            Err(no(format!("{address}: {err}")))
        }
    }
}

async fn tls(target: &Target) -> CheckResult {
    let Some(tls) = &target.setup.dial.tls else { return Err(excluded("TLS is not used")) };
    target.address()?;
    let stream = target.dial().await.map_err(|err| unknown(err.to_string()))?;
    let handshake = match timeout(target.setup.dial.timeout, tls.tls.inspect(stream, tls.roots.clone())).await {
        Ok(Ok(handshake)) => handshake,
        Ok(Err(err)) => {
            target.set_failed();
            return Err(no(err.to_string()));
        }
        Err(_) => {
            target.set_failed();
            return Err(no(format!("no handshake within {:?}", target.setup.dial.timeout)));
        }
    };
    let (version, cipher) = (handshake.version.clone(), handshake.cipher.clone());
    let outcome = match &handshake.stream {
        Ok(_) => {
            let text = |text: &Option<String>| text.clone().unwrap_or_else(|| "?".to_owned());
            let found = format!("{}, {}", text(&version).replace('_', "."), text(&cipher));
            Ok(yes(found).with(json!({ "version": version, "cipher": cipher })))
        }
        Err(err) => {
            target.set_failed();
            Err(no(err.to_string()))
        }
    };
    target.state().handshake = Some(handshake);
    outcome
}

fn name(name: &GeneralName<'_>) -> String {
    match name {
        GeneralName::DNSName(name) => (*name).to_owned(),
        other => other.to_string(),
    }
}

async fn tls_certificate(target: &Target) -> CheckResult {
    let Some(tls) = &target.setup.dial.tls else { return Err(excluded("TLS is not used")) };
    let state = target.state();
    let Some(handshake) = &state.handshake else { return Err(not_asked("there was no TLS handshake")) };
    let Some(first) = handshake.certificates.first() else { return Err(unknown("the server sent no certificate")) };
    let expected = &tls.server_name;
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(first) else {
        return Err(no(format!("expected {expected}; the certificate cannot be parsed")));
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
        "until": until, "certificates": handshake.certificates.len(),
    });
    let description = format!("for {}, issued by {issuer}, valid until {until}", names.join(" "));
    match &handshake.stream {
        Ok(_) => Ok(yes(description).with(values)),
        Err(TlsError::Refused(rustls::Error::InvalidCertificate(err))) => {
            Err(no(format!("{err}; expected {expected}; the certificate is {description}")).with(values))
        }
        Err(_) => {
            Err(unknown(format!("the handshake failed for another reason; the certificate is {description}"))
                .with(values))
        }
    }
}

async fn tls_system_roots(target: &Target) -> CheckResult {
    let Some(tls) = &target.setup.dial.tls else { return Err(excluded("TLS is not used")) };
    if target.state().handshake.is_none() {
        return Err(not_asked("there was no TLS handshake"));
    }
    let stream = target.dial().await.map_err(|err| unknown(err.to_string()))?;
    let result = timeout(target.setup.dial.timeout, tls.tls.inspect(stream, Roots::System)).await;
    match result.map_err(|_| unknown("no reply in time"))? {
        Ok(HandshakeReport { stream: Ok(_), .. }) => Ok(yes("the certificate verifies against them")),
        Ok(HandshakeReport { stream: Err(TlsError::Refused(err @ rustls::Error::InvalidCertificate(_))), .. }) => {
            Err(no(err.to_string()))
        }
        Err(err @ TlsError::NoRoots { .. }) => Err(no(err.to_string())),
        Ok(HandshakeReport { stream: Err(err), .. }) | Err(err) => Err(unknown(err.to_string())),
    }
}

/// Calls procedure NULL: in TLS 1.3, a rejection of the client certificate arrives only with the first read.
async fn tls_client_certificate(target: &Target) -> CheckResult {
    if target.setup.dial.tls.is_none() {
        return Err(excluded("TLS is not used"));
    }
    let handshake = target.state().handshake.take();
    let Some(HandshakeReport { stream: Ok(mut stream), requests_client_certificate, .. }) = handshake else {
        return Err(not_asked("there was no TLS handshake"));
    };
    let (record, call, rpc, nfs, version) = (1 << 31 | 40, 0, 2, 100_003, 4);
    let null = [record, 1, call, rpc, nfs, version, 0, 0, 0, 0, 0].map(u32::to_be_bytes).concat();
    let exchange = async {
        stream.write_all(&null).await?;
        stream.flush().await?;
        let mut reply = [0; 4];
        stream.read_exact(&mut reply).await?;
        io::Result::Ok(())
    };
    let values = json!({ "asked_for": requests_client_certificate });
    let result = timeout(target.setup.dial.timeout, exchange).await;
    let outcome = match (result, requests_client_certificate) {
        (Ok(Ok(())), true) => Ok(yes("the server requested it, and replies to a call")),
        (Ok(Ok(())), false)
            if target.setup.options.server.iam || target.setup.options.server.access_point.is_some() =>
        {
            Err(no("the server does not request it, so neither IAM nor an access point takes effect"))
        }
        (Ok(Ok(())), false) => Ok(yes("the server does not request it, and replies to a call without it")),
        (Ok(Err(err)), _) => {
            target.set_failed();
            match rustls_error(&err) {
                Some(alert) => Err(no(format!("rejected at the first read: {alert}"))),
                None => Err(no(format!("the server closes the connection without an alert: {err}"))),
            }
        }
        (Err(_), _) => Err(unknown("the server neither rejects it nor replies to a call (procedure NULL)")),
    };
    with_values(outcome, values)
}

/// Quoted text if the bytes are printable, else hexadecimal.
fn text_or_hex(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) if !text.is_empty() && text.chars().all(|c| !c.is_control()) => format!("\"{text}\""),
        _ => hex(bytes),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The server's error inside the error of a connection that could not be set up.
fn root_cause(err: &Error) -> &Error {
    let inner = match err {
        Error::Unreachable { source, .. } => source.get_ref().and_then(|err| err.downcast_ref()),
        _ => None,
    };
    inner.map_or(err, root_cause)
}

async fn exchange_id(target: &Target) -> CheckResult {
    let address = target.address()?;
    let client = Client::new(target.setup.dial.client_options(address, Vec::new()));
    let client = client.map_err(|err| unknown(err.to_string()))?;
    let servers = client.server_identities().await;
    match servers.map(|mut servers| servers.pop()) {
        Ok(Some(server)) => {
            let program = server.implementation.as_deref().unwrap_or("not reported");
            let (owner, scope) = (text_or_hex(&server.owner_major), text_or_hex(&server.scope));
            let found = format!("owner {owner}, minor {}, scope {scope}, implementation {program}", server.owner_minor);
            let values = json!({
                "owner": hex(&server.owner_major), "owner_minor": server.owner_minor, "scope": hex(&server.scope),
                "program": server.implementation,
            });
            let mut state = target.state();
            (state.client, state.server) = (Some(client), Some(server));
            Ok(yes(found).with(values))
        }
        Ok(None) => Err(unknown("there is no connection")),
        Err(err) => {
            drop(client);
            let err = root_cause(&err).clone();
            let text = err.to_string();
            let outcome = match &err {
                Error::Status { op: Op::EXCHANGE_ID, .. } => return Err(no(text)),
                Error::Status { .. } => Ok(yes(format!("EXCHANGE_ID succeeds, but a later call fails: {text}"))),
                // RPC-level rejection: which call caused it is unknown.
                Error::Refused(_) => Err(no(text)),
                _ => return Err(unknown(text)),
            };
            target.state().session_error = Some(err);
            outcome
        }
    }
}

async fn create_session(target: &Target) -> CheckResult {
    match target.state().session_error.clone() {
        Some(err @ Error::Status { op: Op::CREATE_SESSION, .. }) => return Err(no(err.to_string())),
        Some(err @ Error::Status { .. }) => {
            return Ok(yes(format!("CREATE_SESSION succeeds, but the first call is rejected: {err}")));
        }
        _ => {}
    }
    let found = or_no(target.client()?.limits().await)?;
    let fits_put = found.max_operations >= PUT_OPERATIONS;
    let text = format!(
        "{} slots (256 requested), requests of up to {} bytes, replies of up to {}, cached replies of up to {}, {} \
         operations per request{}",
        found.max_requests,
        grouped(found.max_request_bytes as u64),
        grouped(found.max_response_bytes as u64),
        grouped(found.max_cached_response_bytes.into()),
        found.max_operations,
        if fits_put { "" } else { " (a put needs 24, so it takes more round trips)" },
    );
    Ok(yes(text).with(json!({
        "slots": found.max_requests, "largest_call": found.max_request_bytes, "largest_answer": found.max_response_bytes,
        "kept_answer": found.max_cached_response_bytes, "operations": found.max_operations,
    })))
}

/// Setting up a session accesses the root; this check does so again.
async fn accepted(target: &Target) -> CheckResult {
    match target.state().session_error.clone() {
        Some(Error::Status { op: Op::CREATE_SESSION, .. }) | None => {}
        Some(err) => return Err(no(err.to_string())),
    }
    let found = or_no(target.client()?.attributes(b"", AttributeMask::TYPE).await)?;
    let own = nfs41::Credentials::default();
    let who = format!("as user {} of group {} (AUTH_SYS), from an unprivileged port", own.user, own.group);
    match found.file_type {
        Some(nfs41::FileType::Directory) => Ok(yes(who)),
        other => Err(no(format!("{who}; but the root of the server is not a directory: {other:?}"))),
    }
}

async fn lease(target: &Target) -> CheckResult {
    // Read the attribute: the client replaces a missing value by its default.
    let lease = or_no(target.client()?.attributes(b"", AttributeMask::LEASE_TIME).await)?.lease_seconds();
    match lease {
        Some(seconds) => Ok(yes(format!("{seconds} s")).with(json!({ "seconds": seconds }))),
        None => Err(no("the server does not report it")),
    }
}

async fn io_size(target: &Target) -> CheckResult {
    let found = or_no(target.client()?.limits().await)?;
    let (read, write) = (found.max_read_bytes, found.max_write_bytes);
    let text = format!("reads of up to {} bytes, writes of up to {}", grouped(read.into()), grouped(write.into()));
    let values = json!({ "max_read_bytes": read, "max_write_bytes": write });
    let outcome = if read.min(write) >= 1 << 20 { yes(text) } else { no(text) };
    Ok(outcome.with(values))
}

/// Names of the permission bits of ACCESS.
pub fn permissions(bits: u32) -> Vec<&'static str> {
    let names = [(1, "read"), (2, "look up"), (4, "change"), (8, "add"), (16, "delete"), (32, "execute")];
    names.iter().filter(|(bit, _)| bits & bit != 0).map(|(_, name)| *name).collect()
}

async fn access(target: &Target) -> CheckResult {
    let root = target.setup.options.server.root.as_bytes();
    let client = target.client()?;
    let bits = or_no(client.access(root, 0x3F).await)?;
    target.state().access = Some(bits);
    // ACCESS may grant more than READDIR allows.
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
    let deadline = Instant::now() + target.setup.dial.timeout;
    while times.len() < ROUND_TRIP_SAMPLES && Instant::now() < deadline {
        let began = Instant::now();
        or_no(client.attributes(b"", AttributeMask::SIZE).await)?;
        times.push(began.elapsed());
    }
    times.sort_unstable();
    let percentile =
        |percent: usize| times.get((times.len() * percent / 100).min(times.len().saturating_sub(1))).copied();
    let (Some(p50), Some(p99), Some(min)) = (percentile(50), percentile(99), times.first().copied()) else {
        return Err(unknown("the timeout passed before the first call"));
    };
    let found = format!(
        "{} calls: median {}, 99th percentile {}, minimum {}",
        times.len(),
        format_time(p50),
        format_time(p99),
        format_time(min)
    );
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Ok(yes(found).with(json!({ "calls": times.len(), "p50_ms": ms(p50), "p99_ms": ms(p99), "least_ms": ms(min) })))
}
