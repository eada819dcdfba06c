//! HTTPS, with the program in a process of its own: what plain HTTP does over TLS, who comes with something else, and
//! how it ends. And `file-service healthy`, in plain text and with TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test says what it takes for granted")]

mod common;

use std::{
    fs,
    io::{self, BufReader, ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Output, Stdio},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use common::{Answer, MEBIBYTE, Request, Server, World, answer, connect, content, eventually, temporaries};
use file_service::AcceptAnyCertificate;
use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P384_SHA384};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
    version::{TLS12, TLS13},
};

const MADE: (&str, &str) = ("LISTEN_TLS", "made");
/// Connections of an attack.
const MANY: usize = 100;
/// More than it takes on a machine that does much else, and less than waiting for somebody would.
const SOON: Duration = Duration::from_secs(20);

// ---------------------------------------------------------------------------------------------------------------
// A client

/// How a client speaks TLS; without `roots` it trusts everybody.
fn tls(version: &'static SupportedProtocolVersion, roots: Option<RootCertStore>) -> ClientConfig {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap();
    match roots {
        Some(roots) => builder.with_root_certificates(roots).with_no_client_auth(),
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AcceptAnyCertificate(Arc::new(aws_lc_rs::default_provider()))))
            .with_no_client_auth(),
    }
}

/// A connection over TLS that is kept.
struct Client(BufReader<StreamOwned<ClientConnection, TcpStream>>);

impl Client {
    /// Shakes hands over a connection.
    fn over(mut stream: TcpStream, config: ClientConfig) -> io::Result<Self> {
        let name = ServerName::try_from("localhost").unwrap();
        let mut connection = ClientConnection::new(Arc::new(config), name).unwrap();
        while connection.is_handshaking() {
            connection.complete_io(&mut stream)?;
        }
        Ok(Self(BufReader::new(StreamOwned::new(connection, stream))))
    }

    fn new(address: SocketAddr) -> Self {
        Self::over(connect(address), tls(&TLS13, None)).unwrap()
    }

    fn tls(&self) -> &ClientConnection {
        &self.0.get_ref().conn
    }

    fn try_send(&mut self, request: &Request) -> io::Result<Answer> {
        self.0.get_mut().write_all(&request.bytes())?;
        answer(&mut self.0, request.method == "HEAD")
    }

    fn send(&mut self, request: &Request) -> Answer {
        self.try_send(request).unwrap()
    }

    fn get(&mut self, target: &str) -> Answer {
        self.send(&Request::get(target))
    }
}

/// What is asked on one connection is done, and its answers are right.
fn files_are_served(client: &mut Client) {
    let (small, large) = (content(1, 1000), content(2, MEBIBYTE));
    for body in [&small, &large] {
        let put = client.send(&Request::put("/files/d/f", body.clone()));
        assert_eq!(put.status / 100, 2);
        let got = client.get("/files/d/f");
        assert!(got.status == 200 && got.body == *body && got.tag() == put.tag());
        let part = client.send(&Request::get("/files/d/f").header("range", "bytes=10-19"));
        assert!(part.status == 206 && part.body == body[10..20]);

        // Over that content, once.
        let over = Request::put("/files/d/f", content(3, 100)).header("if-match", put.tag());
        assert_eq!(client.send(&over).status, 204);
        assert_eq!(client.send(&over).api_error(), "412 PreconditionFailed");
        assert!(client.get("/files/d/f").body == content(3, 100));
    }
    let chunked = client.send(&Request::put("/files/d/f", large.clone()).chunked(70_000));
    assert_eq!(chunked.status, 204);
    assert!(client.get("/files/d/f").body == large);
    assert_eq!(client.send(&Request::new("DELETE", "/files/d/f")).status, 204);
    assert_eq!(client.get("/files/d/f").api_error(), "404 NotFound");
}

/// The service is there for others.
fn goes_on(server: &Server) {
    let began = Instant::now();
    assert_eq!(Client::new(server.address).get("/healthz").status, 200);
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

/// Of the page for Prometheus, over TLS.
fn metric(server: &Server, name: &str) -> f64 {
    let page = String::from_utf8(Client::new(server.address).get("/metrics").body).unwrap();
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {page}"))
}

/// The one that asks is one.
fn nobody_is_left(server: &Server) {
    eventually("nobody else is counted", || (metric(server, "router_connections") == 1.0).then_some(()));
}

// ---------------------------------------------------------------------------------------------------------------
// Certificates

#[test]
fn a_made_certificate_serves_files_to_who_does_not_look_at_it() {
    let world = World::new(2);
    let server = world.serve(&[MADE, ("AUTH_TOKEN", "0123456789abcdef"), ("AUTH", "none")]);
    let mut shown = Vec::new();
    for version in [&TLS12, &TLS13] {
        let mut client = Client::over(connect(server.address), tls(version, None)).unwrap();
        assert_eq!(client.tls().protocol_version(), Some(version.version));
        shown.push(client.tls().peer_certificates().unwrap().to_vec());
        files_are_served(&mut client);
    }
    assert_eq!(shown[0], shown[1]);
    // Another process, another certificate; and neither is anywhere in the world's directory.
    let other = world.serve(&[MADE]);
    let [certificate] = &shown[0][..] else { panic!("{shown:?}") };
    assert_ne!(Client::new(other.address).tls().peer_certificates().unwrap(), &shown[0][..]);
    let prime256v1 = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
    assert!(certificate.windows(prime256v1.len()).any(|part| part == prime256v1), "a key on P-256");
    assert!(certificate.len() < 1000, "{}", certificate.len());
    // Who does look at it is not content.
    let strict = tls(&TLS13, Some(RootCertStore::empty()));
    assert!(Client::over(connect(server.address), strict).is_err());
    goes_on(&server);
}

/// A certificate for localhost, and its key, as files.
fn given(world: &World, name: &str) -> (String, String) {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
    let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    let files = [(format!("{name}.pem"), certificate.pem()), (format!("{name}.key"), key.serialize_pem())];
    let [certificate, key] = files.map(|(name, text)| {
        let path = world.at(&name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    });
    (certificate, key)
}

#[test]
fn a_given_certificate_is_shown_to_who_trusts_it() {
    let world = World::new(2);
    let (certificate, key) = given(&world, "own");
    let variables = [("LISTEN_TLS", "given"), ("LISTEN_TLS_CERTIFICATE", &*certificate), ("LISTEN_TLS_KEY", &*key)];
    let server = world.serve(&variables);
    // It is read once.
    fs::remove_file(&key).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&certificate).unwrap()).unwrap();
    for version in [&TLS12, &TLS13] {
        files_are_served(&mut Client::over(connect(server.address), tls(version, Some(roots.clone()))).unwrap());
    }
}

#[test]
fn http_1_1_is_all_that_is_spoken() {
    let world = World::new(1);
    let server = world.serve(&[MADE]);
    let with = |protocols: &[&str]| {
        let mut config = tls(&TLS13, None);
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        Client::over(connect(server.address), config)
    };
    for protocols in [&["h2", "http/1.1"][..], &["http/1.1"]] {
        let mut client = with(protocols).unwrap();
        assert_eq!(client.tls().alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(client.get("/healthz").status, 200);
    }
    assert_eq!(with(&[]).unwrap().tls().alpn_protocol(), None);
    assert!(with(&["h2"]).is_err());
    goes_on(&server);
}

/// The line with which a service that cannot start ends.
fn failure(mut command: Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let log = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{log}");
    let last: serde_json::Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    assert_eq!((&last["level"], &last["code"]), (&"ERROR".into(), &"InvalidConfiguration".into()), "{log}");
    last["error"].as_str().unwrap().to_owned()
}

#[test]
fn a_bad_file_ends_the_start_and_its_variable_is_named() {
    let world = World::new(1);
    let (certificate, key) = given(&world, "own");
    let (another, other_key) = given(&world, "another");
    let file = |name: &str, text: &str| {
        fs::write(world.at(name), text).unwrap();
        world.at(name).to_str().unwrap().to_owned()
    };
    let nowhere = world.at("nowhere").to_str().unwrap().to_owned();
    let empty = file("empty", "");
    let text = file("text", "no PEM at all\n");
    let broken = file("broken", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let half = file("half", &fs::read_to_string(&certificate).unwrap().replace("-----END", ""));
    let no_key = file("no-key", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n");
    let root = world.root().to_str().unwrap().to_owned();
    let (of_certificate, of_key) = ("LISTEN_TLS_CERTIFICATE", "LISTEN_TLS_KEY");
    for (given_certificate, given_key, named) in [
        (&nowhere, &key, of_certificate),
        (&empty, &key, of_certificate),
        (&text, &key, of_certificate),
        (&broken, &key, of_certificate),
        (&half, &key, of_certificate),
        (&root, &key, of_certificate),
        // They are mixed up.
        (&key, &certificate, of_certificate),
        (&certificate, &nowhere, of_key),
        (&certificate, &empty, of_key),
        (&certificate, &no_key, of_key),
        (&certificate, &certificate, of_key),
        (&certificate, &other_key, of_key),
        (&another, &key, of_key),
    ] {
        let variables = [("LISTEN_TLS", "given"), (of_certificate, &**given_certificate), (of_key, &**given_key)];
        let err = failure(world.command(&variables));
        let bad = if named == of_key { given_key } else { given_certificate };
        let (beginning, reason) = err.split_once(": ").unwrap();
        assert_eq!(beginning, format!("{named} is {bad:?}"), "{err}");
        assert!(reason.len() > 5 && !err.contains("BEGIN"), "{err}");
        println!("{err}");
    }
    for (variables, named) in [
        (&[("LISTEN_TLS", "yes")][..], "LISTEN_TLS is "),
        (&[("LISTEN_TLS", "given")], "LISTEN_TLS_CERTIFICATE is missing"),
        (&[("LISTEN_TLS", "given"), (of_certificate, &*certificate)], "LISTEN_TLS_KEY is missing"),
        (&[("LISTEN_TLS", "made"), (of_key, &*key)], "LISTEN_TLS_KEY is "),
        (&[(of_certificate, &*certificate)], "LISTEN_TLS_CERTIFICATE is "),
    ] {
        let err = failure(world.command(variables));
        assert!(err.starts_with(named), "{err}");
    }
}

// ---------------------------------------------------------------------------------------------------------------
// Who comes with something else

#[test]
fn what_is_no_tls_loses_its_connection_and_nothing_more() {
    let world = World::new(1);
    let server = world.serve(&[MADE, ("LOG_LEVEL", "debug")]);
    // The first bytes of a TLS record that says it is long, and does not go on.
    let long = [&[0x16, 3, 1, 0x3f, 0xff][..], &[1; 0x3fff]].concat();
    let all: [&[u8]; 5] =
        [b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n", &[0; 1000], &[0xff; 100_000], &long, b"SSH-2.0-x\r\n\r\n\r\n"];
    for bytes in all {
        let mut stream = connect(server.address);
        // It may be closed in the middle of it.
        let _ = stream.write_all(bytes);
        let mut said = Vec::new();
        let _ = stream.read_to_end(&mut said);
        // An alert at most.
        assert!(said.len() <= 7 && said.first().is_none_or(|first| *first == 0x15), "{}", said.escape_ascii());
        goes_on(&server);
    }
    // It has nothing to say at all.
    drop(connect(server.address));
    nobody_is_left(&server);
    let lines = server.lines();
    let ended = lines.iter().filter(|line| line["message"] == "a connection ended in its handshake");
    assert!(ended.clone().count() >= all.len(), "{lines:#?}");
    assert!(ended.clone().all(|line| line["level"] == "DEBUG"));
    assert!(lines.iter().all(|line| line["level"] != "WARN" && line["level"] != "ERROR"), "{lines:#?}");
}

#[test]
fn a_slow_handshake_is_cut_and_holds_nobody_up() {
    let world = World::new(2);
    let server = world.serve(&[MADE, ("IDLE_SECONDS", "1"), ("WORKERS", "1")]);
    let mut hello = Vec::new();
    let name = ServerName::try_from("localhost").unwrap();
    ClientConnection::new(Arc::new(tls(&TLS13, None)), name).unwrap().write_tls(&mut hello).unwrap();
    let began = Instant::now();
    let mut open: Vec<_> = (0..MANY).map(|_| connect(server.address)).collect();
    for (number, stream) in open.iter_mut().enumerate() {
        stream.set_nonblocking(true).unwrap();
        // Nothing, a part, or all of a client's first words; its second ones do not come.
        let part = [0, 1, 5, hello.len() / 2, hello.len() - 1, hello.len()][number % 6];
        stream.write_all(&hello[..part]).unwrap();
    }
    let mut bytes = [0; 4096];
    let mut index = 0;
    eventually("all are closed", || {
        goes_on(&server);
        // Some go on byte by byte: that is no reason to wait longer.
        for stream in open.iter_mut().skip(1).step_by(6) {
            let _ = stream.write_all(&hello[1..][index..=index]);
        }
        index += 1;
        let is_closed = |stream: &mut TcpStream| loop {
            match stream.read(&mut bytes) {
                Ok(0) => return true,
                Ok(_) => {}
                Err(err) => return err.kind() != ErrorKind::WouldBlock,
            }
        };
        let closed = open.iter_mut().map(is_closed).filter(|closed| *closed).count();
        (closed == MANY).then_some(())
    });
    assert!(began.elapsed() > Duration::from_millis(900) && began.elapsed() < SOON, "{:?}", began.elapsed());
    nobody_is_left(&server);
}

#[test]
fn who_asks_over_tls_and_does_not_read_is_not_waited_for() {
    let world = World::new(2);
    let server = world.serve(&[MADE, ("IDLE_SECONDS", "1")]);
    // TLS keeps 64 KiB of what it cannot send. In steps of less some end within that, wherever the kernel's own
    // buffers end.
    let step = 48 << 10;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let open: Vec<_> = (1..=MANY)
        .map(|number| {
            fs::write(world.root().join(number.to_string()), vec![7; number * step]).unwrap();
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            let stream = runtime.block_on(socket.connect(server.address)).unwrap().into_std().unwrap();
            stream.set_nonblocking(false).unwrap();
            let mut client = Client::over(stream, tls(&TLS13, None)).unwrap();
            client.0.get_mut().write_all(&Request::get(&format!("/files/{number}")).bytes()).unwrap();
            client
        })
        .collect();
    nobody_is_left(&server);
    goes_on(&server);
    drop(open);
}

#[test]
fn a_body_that_stalls_over_tls_is_told_so() {
    let world = World::new(2);
    let server = world.serve(&[MADE, ("IDLE_SECONDS", "1")]);
    let mut client = Client::new(server.address);
    client.0.get_mut().write_all(b"PUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nnew").unwrap();
    assert_eq!(answer(&mut client.0, false).unwrap().api_error(), "408 IncompleteBody");
    eventually("no temporary file stays", || temporaries(&world.root()).is_empty().then_some(()));
    // And one whose connection ends without a word of TLS has not sent the whole, either.
    let mut client = Client::new(server.address);
    client.0.get_mut().write_all(b"PUT /files/f HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nnew").unwrap();
    drop(client);
    nobody_is_left(&server);
    assert_eq!(Client::new(server.address).get("/files/f").status, 404);
}

/// Over TLS a client that writes into a closed connection reads no more of what has come before.
#[test]
fn who_still_sends_over_tls_sees_an_early_refusal() {
    let world = World::new(1);
    let server = world.serve(&[MADE, ("MAX_BODY_BYTES", "1000")]);
    for version in [&TLS12, &TLS13] {
        for _ in 0..3 {
            let mut client = Client::over(connect(server.address), tls(version, None)).unwrap();
            let answer = client.send(&Request::put("/files/f", vec![0; 16 * MEBIBYTE]));
            assert_eq!((&*answer.api_error(), answer.header("connection")), ("413 TooLarge", Some("close")));
        }
    }
}

#[test]
fn one_connection_too_many_is_closed_without_a_word() {
    let world = World::new(1);
    let server = world.serve(&[MADE, ("MAX_CONNECTIONS", "3")]);
    let mut clients: Vec<_> = (0..2).map(|_| Client::new(server.address)).collect();
    // One in its handshake is one, too.
    let third = connect(server.address);
    let refused = |server: &Server| {
        let mut said = Vec::new();
        let _ = connect(server.address).read_to_end(&mut said);
        said
    };
    eventually("three are there", || {
        let page = String::from_utf8(clients[0].get("/metrics").body).unwrap();
        page.contains("\nrouter_connections 3\n").then_some(())
    });
    assert_eq!(refused(&server), b"");
    for client in &mut clients {
        assert_eq!(client.send(&Request::put("/files/f", "x")).status / 100, 2);
    }
    let page = String::from_utf8(clients[0].get("/metrics").body).unwrap();
    assert!(page.contains("\nrouter_refused_connections_total 1\n"), "{page}");
    drop(third);
    let with_room = || Client::over(connect(server.address), tls(&TLS13, None));
    eventually("there is room again", || {
        let mut client = with_room().ok()?;
        client.try_send(&Request::get("/healthz")).ok().filter(|answer| answer.status == 200)
    });
}

// ---------------------------------------------------------------------------------------------------------------
// The end

#[test]
fn at_the_end_what_is_idle_is_closed_at_once_and_what_runs_is_finished() {
    let world = World::new(2);
    let body = content(4, 3 * MEBIBYTE);
    let mut server = world.serve(&[MADE, ("IDLE_SECONDS", "3600"), ("SHUTDOWN_SECONDS", "100")]);
    let mut idle = Client::new(server.address);
    assert_eq!(idle.get("/readyz").status, 200);
    // Hands are shaken, and nothing is asked yet; and not even that.
    let mut shaken = Client::new(server.address);
    let mut silent = connect(server.address);
    let mut writer = Client::new(server.address);
    let head = format!("PUT /files/new HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n", body.len());
    writer.0.get_mut().write_all(head.as_bytes()).unwrap();
    writer.0.get_mut().write_all(&body[..MEBIBYTE]).unwrap();
    eventually("the content is begun", || (!temporaries(&world.root()).is_empty()).then_some(()));

    let began = Instant::now();
    server.terminate();
    server.wait_for("ending", |line| line["message"] == "ending");
    let mut said = Vec::new();
    for client in [&mut idle, &mut shaken] {
        // With a word of TLS: what ends without one may have been cut.
        assert_eq!(client.0.read_to_end(&mut said).unwrap(), 0);
    }
    assert_eq!(silent.read_to_end(&mut said).unwrap(), 0);
    writer.0.get_mut().write_all(&body[MEBIBYTE..]).unwrap();
    assert_eq!(answer(&mut writer.0, false).unwrap().status, 201);
    assert!(fs::read(world.root().join("new")).unwrap() == body);
    assert_eq!(server.wait().code(), Some(0));
    assert!(began.elapsed() < SOON, "{:?}", began.elapsed());
}

// ---------------------------------------------------------------------------------------------------------------
// `file-service healthy`

fn healthy(variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_file-service"));
    command.arg("healthy").env_clear().envs(variables.iter().copied()).stdin(Stdio::null());
    command.output().unwrap()
}

fn is_healthy(variables: &[(&str, &str)]) {
    let output = healthy(variables);
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
}

/// Why not, in one line.
fn why_not(variables: &[(&str, &str)]) -> String {
    let output = healthy(variables);
    let err = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && output.stdout.is_empty(), "{err}");
    assert!(err.ends_with('\n') && err.lines().count() == 1, "{err:?}");
    let err = err.trim_end().strip_prefix("not healthy: ").unwrap();
    println!("{err}");
    err.to_owned()
}

#[test]
fn a_service_that_answers_is_healthy_without_a_target_and_without_a_connection_left_and_at_its_end_is_not() {
    for kind in ["none", "made", "given"] {
        let world = World::new(1);
        let (certificate, key) = given(&world, "own");
        let files: &[_] = match kind {
            "given" => &[("LISTEN_TLS_CERTIFICATE", &*certificate), ("LISTEN_TLS_KEY", &*key)],
            _ => &[],
        };
        let own = [&[("LISTEN_TLS", kind), ("AUTH_TOKEN", "0123456789abcdef")], files].concat();
        let mut server = world.serve(&[&own[..], &[("PROBE_SECONDS", "0.1"), ("SHUTDOWN_SECONDS", "100")]].concat());
        let port = server.address.port();
        // As it is told in a container.
        let (address, everywhere) = (format!("127.0.0.1:{port}"), format!("0.0.0.0:{port}"));
        let at = |address| [&own[..], &[("LISTEN", address)]].concat();
        is_healthy(&at(&address));
        is_healthy(&at(&everywhere));

        let most = [&own[..], &[("MAX_CONNECTIONS", "1")]].concat();
        let full = world.serve(&most);
        let _held = connect(full.address);
        thread::sleep(Duration::from_millis(100));
        is_healthy(&[&most[..], &[("LISTEN", &full.address.to_string())]].concat());

        // A request that is not finished yet keeps it there.
        let head = b"PUT /files/f HTTP/1.1\r\nhost: a\r\nauthorization: Bearer 0123456789abcdef\r\ncontent-length: 1000000\r\n\r\n";
        let begun: Box<dyn Write> = match kind {
            "none" => {
                let mut stream = connect(server.address);
                stream.write_all(head).unwrap();
                Box::new(stream)
            }
            _ => {
                let mut client = Client::new(server.address);
                client.0.get_mut().write_all(head).unwrap();
                Box::new(client.0.into_inner())
            }
        };
        eventually("the content is begun", || (!temporaries(&world.root()).is_empty()).then_some(()));
        server.terminate();
        server.wait_for("ending", |line| line["message"] == "ending");
        assert!(why_not(&at(&address)).contains("refused"));
        drop(begun);
        assert_eq!(server.wait().code(), Some(0));
        assert!(why_not(&at(&address)).contains("refused"));

        // It stays, so that it is there when the target is again.
        let alone = world.serve(&[&own[..], &[("PROBE_SECONDS", "0.1")]].concat());
        fs::rename(world.root(), world.at("aside")).unwrap();
        alone.wait_for("a target that is left out", |line| line["message"] == "target is down");
        is_healthy(&[&own[..], &[("LISTEN", &alone.address.to_string())]].concat());
    }
}

#[test]
fn it_is_told_in_time_by_whom_it_was_not_answered() {
    let world = World::new(1);
    let (plain, over_tls) = (world.serve(&[]), world.serve(&[MADE]));
    let (plain, over_tls) = (plain.address.to_string(), over_tls.address.to_string());
    // With the variables of another service.
    assert!(why_not(&[("LISTEN", &plain), MADE]).starts_with(&format!("{plain} cannot be asked: ")));
    assert!(why_not(&[("LISTEN", &over_tls)]).contains(&over_tls));
    // Takes the connection, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    for tls in [MADE, ("LISTEN_TLS", "none")] {
        let began = Instant::now();
        assert_eq!(why_not(&[("LISTEN", &address), tls]), format!("{address} has not answered within 4s"));
        assert!(began.elapsed() >= Duration::from_secs(4), "{:?}", began.elapsed());
    }
    // Says more than anybody would read, and no line.
    let endless = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = endless.local_addr().unwrap().to_string();
    thread::spawn(move || while endless.accept().unwrap().0.write_all(&[b'x'; 1 << 20]).is_ok() {});
    let err = why_not(&[("LISTEN", &address)]);
    assert!(err.starts_with(&format!("{address} said \"xxx")) && err.len() < 1200, "{err}");
}

#[test]
fn its_variables_are_those_of_the_service() {
    for (variables, err) in [
        (&[("LISTEN", "8080")][..], "LISTEN is \"8080\": expected "),
        (&[("LISTEN", "127.0.0.1:1"), ("LISTEN_TLS", "yes")], "LISTEN_TLS is \"yes\": expected "),
        (&[("LISTEN", "127.0.0.1:1"), ("LISTEN_TLS", "given")], "LISTEN_TLS_CERTIFICATE is missing: expected "),
        (&[("LISTEN", "0.0.0.0:1")], "AUTH_TOKEN is missing: expected "),
        (&[("LISTEN", "0.0.0.0:1"), ("AUTH", "none")], "127.0.0.1:1 cannot be asked: "),
        (&[("LISTEN", "[::]:1"), ("AUTH", "none")], "[::1]:1 cannot be asked: "),
    ] {
        let said = why_not(variables);
        assert!(said.starts_with(err), "{said}");
    }
    let help = Command::new(env!("CARGO_BIN_EXE_file-service")).args(["healthy", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("/healthz") && help.contains("Status 1") && help.contains("LISTEN_TLS"), "{help}");
}
