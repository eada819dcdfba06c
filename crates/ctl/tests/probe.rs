//! `efs-autoscale probe` against a real NFS server behind relays that act as mount targets.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

mod schema;

use std::{
    fs,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::Arc,
};

use nfs_lab::{Action, BindReply, Direction, Ganesha, Relay, answer_partitions, eventually, lab_or_skip};
use serde_json::Value;

const HOST_CHECKS: [&str; 12] = [
    "tcp",
    "tls",
    "tls_certificate",
    "tls_system_roots",
    "tls_client_certificate",
    "exchange_id",
    "create_session",
    "accepted",
    "lease",
    "io_size",
    "access",
    "round_trip",
];
const COMMON_CHECKS: [&str; 27] = [
    "one_server",
    "shared_sessions",
    "directory",
    "access_agrees",
    "owner",
    "read_anonymous",
    "read_opened",
    "put_one_call",
    "put_fall_back",
    "pieces",
    "times",
    "create_guarded",
    "link",
    "put_conditional",
    "remove",
    "rename_over_open",
    "hold_replaced",
    "read_on_replaced",
    "lock",
    "append",
    "readdir",
    "change",
    "reply_cache",
    "session_survives",
    "idle",
    "visible_connections",
    "visible_hosts",
];

fn command(hosts: &[String], more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_efs-autoscale"));
    command.arg("probe").args(hosts).args(more).env_remove("AWS_REGION");
    // The faults of these tests must hit the checks, not the partition queries.
    if !more.contains(&"--connections") {
        command.args(["--connections", "0"]);
    }
    command
}

fn run(hosts: &[String], more: &[&str]) -> Output {
    command(hosts, more).output().unwrap()
}

/// The JSON report and the exit status.
fn json(hosts: &[String], more: &[&str]) -> (Value, i32) {
    let output = run(hosts, &[more, &["--json"]].concat());
    let object = serde_json::from_slice(&output.stdout).unwrap_or_else(|err| panic!("{err}: {output:?}"));
    schema::check("probe", &object);
    (object, output.status.code().unwrap())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// One for each number, of one server.
fn relays(server: &Ganesha, count: u8) -> (Vec<Relay>, Vec<String>) {
    let relays: Vec<_> = (2..2 + count).map(|number| Relay::target(number, server.address())).collect();
    let hosts = relays.iter().map(|relay| relay.address().to_string()).collect();
    (relays, hosts)
}

fn entries(directory: &Path) -> usize {
    fs::read_dir(directory).unwrap().count()
}

fn answer<'a>(facts: &'a Value, key: &str) -> &'a str {
    facts[key]["answer"].as_str().unwrap_or_else(|| panic!("{key}: {facts}"))
}

#[test]
fn a_good_server_has_all_that_is_needed_and_nothing_stays_behind() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let (_relays, hosts) = relays(&server, 1);
    let (object, code) = json(&hosts, &[]);
    let facts = &object["facts"];
    assert_eq!((code, &object["missing"]), (0, &serde_json::json!([])), "{object:#}");
    assert_eq!(object["hosts"].as_array().unwrap().len(), 1);
    let of_host = &object["hosts"][0]["facts"];
    for (facts, keys) in [(of_host, &HOST_CHECKS[..]), (facts, &COMMON_CHECKS[..])] {
        let mut found: Vec<_> = facts.as_object().unwrap().keys().map(String::as_str).collect();
        let mut keys = keys.to_vec();
        found.sort_unstable();
        keys.sort_unstable();
        assert_eq!(found, keys);
        for key in keys {
            let fact = &facts[key];
            assert!(fact["what"].is_string() && fact["found"].is_string() && fact["needed"].is_boolean(), "{fact}");
            assert!(fact["seconds"].is_number() && fact["values"].is_object(), "{fact}");
            assert_eq!(fact["means"].is_string(), fact["answer"] == "no", "{fact}");
        }
    }
    for key in ["tls", "tls_certificate", "tls_system_roots", "tls_client_certificate"] {
        assert_eq!(answer(of_host, key), "excluded", "{key}");
    }
    for key in ["one_server", "shared_sessions", "idle", "visible_hosts"] {
        assert_eq!(answer(facts, key), "excluded", "{key}");
    }
    let not_yes = COMMON_CHECKS.iter().filter(|key| answer(facts, key) != "yes");
    // The server may drop a replaced file.
    let may = ["one_server", "shared_sessions", "idle", "visible_hosts", "read_on_replaced", "hold_replaced"];
    assert_eq!(not_yes.filter(|key| !may.contains(key)).count(), 0, "{facts:#}");
    assert_eq!(of_host["round_trip"]["values"]["calls"], 100);
    assert_eq!(of_host["lease"]["values"]["seconds"], 60);
    assert_eq!(entries(server.directory()), 0);
    assert_eq!(object["left_behind"], Value::Null);
}

#[test]
fn people_read_a_line_for_each_fact_and_three_hosts_are_one_server() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let (relays, hosts) = relays(&server, 3);
    let output = run(&hosts, &["--no-tls"]);
    let report = text(&output.stdout);
    assert_eq!((output.status.code(), text(&output.stderr).as_str()), (Some(0), ""), "{report}");
    assert_eq!(report.matches("  ✓ A TCP connection is established: 127.0.0.").count(), 3, "{report}");
    assert!(report.contains("✓ All hosts are one server"), "{report}");
    assert!(report.contains("✓ The hosts see each other's writes at once: 20 writes"), "{report}");
    let told = "Everything that the service needs is supported, as far as it was checked. The arguments exclude: tls, \
                tls_certificate, tls_client_certificate.";
    assert!(report.contains(told), "{report}");
    assert_eq!(entries(server.directory()), 0);
    eventually("all connections are closed", || relays.iter().all(|relay| relay.counts().open == 0).then_some(()));
}

#[test]
fn a_current_stateid_that_is_refused_is_told_and_the_way_out_works() {
    const CURRENT: [u8; 16] = [0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const WRITE: [u8; 4] = [0, 0, 0, 38];
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let (relays, hosts) = relays(&server, 1);
    // The server sees a WRITE by another stateid, which it does not know.
    relays[0].on_record(|way, record| {
        let wanted = [&WRITE[..], &CURRENT].concat();
        if way == Direction::ToServer
            && let Some(at) = record.windows(wanted.len()).position(|window| window == wanted)
        {
            record[at + 4..at + 20].fill(7);
        }
        Action::Pass
    });
    let (object, code) = json(&hosts, &[]);
    let facts = &object["facts"];
    assert_eq!(code, 0, "{object:#}");
    assert_eq!(answer(facts, "put_one_call"), "no");
    let found = facts["put_one_call"]["found"].as_str().unwrap();
    // As Ganesha says of it; another server may say BAD_STATEID.
    assert_eq!(found, "WRITE: NFS4ERR_STALE_STATEID");
    assert!(facts["put_one_call"]["means"].as_str().unwrap().contains("four round trips"));
    for key in ["put_fall_back", "pieces", "times", "append", "visible_connections"] {
        assert_eq!(answer(facts, key), "yes", "{key}: {facts:#}");
    }
    assert_eq!(entries(server.directory()), 0);
}

#[test]
fn where_nothing_may_be_written_only_reading_is_asked() {
    // Of two `Access_Type` in a block the first one counts; a block of clients goes before both.
    let export = "CLIENT { Clients = *; Access_Type = RO; }".to_owned();
    let Some(server) = lab_or_skip(nfs_lab::Options { export, ..nfs_lab::Options::default() }) else { return };
    fs::write(server.directory().join("file"), "content").unwrap();
    let (_relays, hosts) = relays(&server, 1);
    let (object, code) = json(&hosts, &[]);
    assert_eq!((code, &object["missing"]), (1, &serde_json::json!(["directory"])), "{object:#}");
    assert!(object["facts"]["directory"]["found"].as_str().unwrap().contains("NFS4ERR_ROFS"), "{object:#}");
    assert_eq!(answer(&object["facts"], "lock"), "not_asked");

    let (object, code) = json(&hosts, &["--read-only"]);
    assert_eq!(code, 0, "{object:#}");
    assert_eq!(answer(&object["facts"], "read_anonymous"), "yes");
    assert_eq!(answer(&object["facts"], "read_opened"), "yes");
    assert_eq!(answer(&object["facts"], "directory"), "excluded");
    assert_eq!(entries(server.directory()), 1);
}

#[test]
fn a_host_that_refuses_or_hangs_is_told_and_the_others_are_asked() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let (relays, hosts) = relays(&server, 3);
    relays[1].refuse(true);
    relays[2].hang(true);
    let (object, code) = json(&hosts, &["--timeout", "2"]);
    assert_eq!(code, 1, "{object:#}");
    let of = |index: usize| &object["hosts"][index]["facts"];
    assert_eq!((answer(of(0), "tcp"), answer(of(0), "exchange_id")), ("yes", "yes"));
    assert_eq!((answer(of(1), "tcp"), answer(of(1), "exchange_id")), ("no", "not_asked"));
    assert_eq!((answer(of(2), "tcp"), answer(of(2), "exchange_id")), ("yes", "unknown"));
    assert_eq!(answer(&object["facts"], "lock"), "yes", "{object:#}");
    assert_eq!(answer(&object["facts"], "one_server"), "not_asked");
    assert_eq!(answer(&object["facts"], "visible_hosts"), "not_asked");
    assert_eq!(entries(server.directory()), 0);

    let (object, code) = json(&hosts[1..2], &["--timeout", "2"]);
    assert_eq!((code, &object["reached"]), (2, &Value::Bool(false)), "{object:#}");
}

/// What an export refuses before any file is named.
#[test]
fn a_server_that_gives_no_session_is_not_known_to_have_anything() {
    for export in [
        "PrivilegedPort = true;",
        "CLIENT { Clients = *; SecType = krb5; }",
        "CLIENT { Clients = *; Access_Type = NONE; }",
    ] {
        let Some(server) = lab_or_skip(nfs_lab::Options { export: export.to_owned(), ..nfs_lab::Options::default() })
        else {
            return;
        };
        let hosts = [server.address().to_string()];
        let (object, code) = json(&hosts, &["--timeout", "2"]);
        let facts = &object["hosts"][0]["facts"];
        assert_eq!((code, &object["reached"]), (1, &Value::Bool(true)), "{export} {object:#}");
        assert_eq!((answer(facts, "exchange_id"), answer(facts, "accepted")), ("yes", "no"), "{export} {facts:#}");
        let means = facts["accepted"]["means"].as_str().unwrap();
        assert!(means.contains("PrivilegedPort") && means.contains("sec=sys"), "{means}");
        assert_eq!(object["missing"], serde_json::json!(["accepted"]), "{export}");
        // All that is needed and has no yes.
        let not_asked: Vec<_> = object["not_asked"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        for key in ["access", "directory", "read_opened", "put_fall_back", "lock", "readdir", "visible_connections"] {
            assert!(not_asked.contains(&key), "{key}: {not_asked:?}");
        }
        let output = run(&hosts, &["--timeout", "2"]);
        let report = text(&output.stdout);
        assert_eq!(output.status.code(), Some(1), "{report}");
        assert!(!report.contains("Everything"), "{report}");
        assert!(report.contains("missing or unknown: accepted; not checked: access, "), "{report}");
        assert_eq!(entries(server.directory()), 0);
    }
}

/// Puts these bytes for those, wherever a client of this relay sends them.
fn rewriting(relay: &Relay, from: Vec<u8>, to: Vec<u8>) {
    relay.on_record(move |way, record| {
        if way == Direction::ToServer {
            while let Some(at) = record.windows(from.len()).position(|window| window == from) {
                record[at..at + to.len()].copy_from_slice(&to);
            }
        }
        Action::Pass
    });
}

#[test]
fn what_is_needed_is_needed_at_every_host() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let (relays, hosts) = relays(&server, 3);
    // The third one drops the nanoseconds of a time that is set.
    rewriting(&relays[2], 123_456_789_u32.to_be_bytes().to_vec(), vec![0; 4]);
    let (object, code) = json(&hosts, &[]);
    let times = &object["facts"]["times"];
    assert_eq!((code, &object["missing"]), (1, &serde_json::json!(["times"])), "{object:#}");
    assert_eq!(times["answer"], "no");
    let found = times["found"].as_str().unwrap();
    assert!(found.starts_with(&format!(
        "at {}: SETATTR set 1700000001.123456789, the server kept 1700000001.000000000",
        hosts[2]
    )));
    let by_host: Vec<_> = hosts.iter().map(|host| times["values"]["hosts"][host]["answer"].as_str().unwrap()).collect();
    assert_eq!(by_host, ["yes", "yes", "no"]);
    let lock = object["facts"]["lock"]["found"].as_str().unwrap();
    assert!(lock.contains("at one host, and two clients at two hosts") && lock.contains("each of 3 hosts"), "{lock}");
    assert_eq!(entries(server.directory()), 0);
}

/// A time that SETATTR sets, and one that a content is put with, are two.
#[test]
fn a_put_that_loses_its_time_is_told() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let (relays, hosts) = relays(&server, 1);
    rewriting(&relays[0], 987_654_321_u32.to_be_bytes().to_vec(), vec![0; 4]);
    let (object, code) = json(&hosts, &[]);
    assert_eq!((code, &object["missing"]), (1, &serde_json::json!(["times"])), "{object:#}");
    assert!(object["facts"]["times"]["found"].as_str().unwrap().starts_with("a put set "), "{object:#}");
}

/// LINK under a name that another file has is done here under a third one.
#[test]
fn a_link_over_another_file_is_told() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let (relays, hosts) = relays(&server, 1);
    relays[0].on_record(|way, record| {
        let at = |name: &[u8]| record.windows(name.len()).position(|window| window == name);
        if let (Direction::ToServer, Some(_), Some(taken)) = (way, at(b"linked"), at(b"taken")) {
            record[taken] = b'T';
        }
        Action::Pass
    });
    let (object, code) = json(&hosts, &[]);
    assert_eq!((code, &object["missing"]), (1, &serde_json::json!(["link"])), "{object:#}");
    assert_eq!(object["facts"]["link"]["found"], "LINK over an existing name succeeded");
    assert_eq!(entries(server.directory()), 0);
}

/// Of a file that is read from within, and to behind its end.
#[test]
fn a_read_from_the_wrong_place_is_told() {
    const READ: [u8; 4] = [0, 0, 0, 25];
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let (relays, hosts) = relays(&server, 1);
    // READ, by any stateid, from 1,000 on: from 0 on.
    relays[0].on_record(|way, record| {
        if way == Direction::ToServer {
            let wanted = 1000_u64.to_be_bytes();
            let is_it = |at: &usize| record[*at..*at + 4] == READ && record[at + 20..at + 28] == wanted;
            let found = (0..(record.len() + 1).saturating_sub(32)).find(is_it);
            if let Some(at) = found {
                record[at + 20..at + 28].fill(0);
            }
        }
        Action::Pass
    });
    let (object, code) = json(&hosts, &[]);
    assert_eq!((code, &object["missing"]), (1, &serde_json::json!(["read_opened"])), "{object:#}");
    assert_eq!(answer(&object["facts"], "read_anonymous"), "no");
}

#[test]
fn a_server_that_falls_silent_half_way_is_not_asked_thirty_times() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let (relays, hosts) = relays(&server, 1);
    let relay = (*relays[0]).clone();
    // When the file of this question is named.
    relays[0].on_record(move |way, record| {
        if way == Direction::ToServer && record.windows(7).any(|window| window == b"guarded") {
            relay.hang(true);
        }
        Action::Pass
    });
    let output = run(&hosts, &["--timeout", "1"]);
    let report = text(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{report}");
    assert!(report.contains("– A GUARDED create creates a new file and rejects an existing one: unknown"), "{report}");
    assert!(report.contains("– LINK adds a name, and rejects an existing one: not checked"), "{report}");
    assert!(text(&output.stderr).contains("remove it by hand"), "{}", text(&output.stderr));
}

#[test]
fn a_host_that_falls_silent_half_way_does_not_keep_the_others_from_being_asked() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let (relays, hosts) = relays(&server, 2);
    let relay = (*relays[1]).clone();
    relays[1].on_record(move |way, record| {
        if way == Direction::ToServer && record.windows(11).any(|window| window == b"second name") {
            relay.hang(true);
        }
        Action::Pass
    });
    let (object, code) = json(&hosts, &["--timeout", "1"]);
    assert_eq!(code, 1, "{object:#}");
    let at = |key: &str| {
        hosts
            .iter()
            .map(|host| object["facts"][key]["values"]["hosts"][host]["answer"].as_str().unwrap())
            .collect::<Vec<_>>()
    };
    assert_eq!((at("times"), at("link")), (vec!["yes", "yes"], vec!["yes", "unknown"]), "{object:#}");
    assert_eq!(
        (at("put_conditional"), at("readdir")),
        (vec!["yes", "not_asked"], vec!["yes", "not_asked"]),
        "{object:#}"
    );
}

/// Kills the process when the test ends.
struct KillOnDrop(Child);

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_interrupted_probe_leaves_nothing_behind() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let (_relays, hosts) = relays(&server, 1);
    let made = |directory: &Path| {
        fs::read_dir(directory).unwrap().flatten().any(|found| found.path().join("idle").exists()).then_some(())
    };
    for kind in ["INT", "TERM"] {
        let mut command = command(&hosts, &["--idle", "600", "--json"]);
        let mut child = KillOnDrop(command.stdout(Stdio::piped()).spawn().unwrap());
        eventually("it stays silent", || made(server.directory()));
        let sent = Command::new("kill").arg(format!("-{kind}")).arg(child.0.id().to_string()).status().unwrap();
        assert!(sent.success());
        let mut printed = String::new();
        std::io::Read::read_to_string(&mut child.0.stdout.take().unwrap(), &mut printed).unwrap();
        assert_eq!(child.0.wait().unwrap().code(), Some(130));
        let object: Value = serde_json::from_str(&printed).unwrap();
        assert_eq!((&object["interrupted"], &object["left_behind"]), (&Value::Bool(true), &Value::Null), "{object:#}");
        assert_eq!(answer(&object["facts"], "lock"), "yes");
        assert_eq!(entries(server.directory()), 0);
    }
}

/// The limit of a check is twice the timeout, and the pause comes on top of it.
#[test]
fn a_pause_may_be_longer_than_the_timeout() {
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let (_relays, hosts) = relays(&server, 1);
    let (object, code) = json(&hosts, &["--idle", "4", "--timeout", "1"]);
    let found = object["facts"]["idle"]["found"].as_str().unwrap();
    assert!(found.contains("4 s") && found.contains("lease of 60 s"), "{found}");
    assert_eq!(code, 0, "{object:#}");
}

#[test]
fn what_is_asked_wrongly_is_said_and_nothing_is_reached() {
    let region = ["--region", "eu-west-1"];
    let id = ["--file-system", "fs-0123456789abcdef0"];
    for (host, more, part) in [
        ("127.0.0.1:0", vec![], "an address or a DNS name"),
        ("a b", vec![], "an address or a DNS name"),
        ("127.0.0.1", vec!["--tls"], "--file-system"),
        ("127.0.0.1", vec!["--iam"], "--file-system"),
        ("127.0.0.1", id.to_vec(), "--region"),
        ("127.0.0.1", [&id[..], &region, &["--no-tls", "--iam"]].concat(), "--no-tls"),
        ("127.0.0.1", [&["--file-system", "fs-no"], &region[..]].concat(), "is not a file system"),
        ("127.0.0.1", [&id[..], &region, &["--access-point", "ap-1"]].concat(), "is not an access point"),
        ("127.0.0.1", [&id[..], &region, &["--roots", "/nowhere/at/all"]].concat(), "--roots /nowhere/at/all"),
        ("127.0.0.1", vec!["--root", "/a/../b"], "--root /a/../b"),
        ("127.0.0.1", vec!["--read-only", "--idle", "5"], "--idle"),
        ("127.0.0.1", vec!["--timeout", "0"], "--timeout"),
    ] {
        let output = run(&[host.to_owned()], &more);
        assert_eq!(output.status.code(), Some(2), "{host} {more:?}");
        assert!(text(&output.stderr).contains(part), "{host} {more:?}: {}", text(&output.stderr));
        assert!(output.stdout.is_empty());
    }
    assert_eq!(run(&[], &[]).status.code(), Some(2));
}

/// A TLS endpoint in front of the server, like a mount target. It requests a client certificate, and accepts all or
/// none.
mod tls {
    use std::net::SocketAddr;

    use nfs_lab::AnyClientCertificate;
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
    use rustls::{ServerConfig, crypto::aws_lc_rs, pki_types::PrivateKeyDer};
    use tokio::{
        io::copy_bidirectional,
        net::{TcpListener, TcpStream},
        runtime::Runtime,
    };
    use tokio_rustls::TlsAcceptor;

    use super::*;

    const NAME: &str = "fs-0123456789abcdef0.efs.eu-west-1.amazonaws.com";

    /// A mount target, and the CA that signed its certificate.
    struct TlsTarget {
        address: SocketAddr,
        authority: tempfile::NamedTempFile,
        _runtime: Runtime,
    }

    fn target(to: SocketAddr, name: &str, accepts: bool) -> TlsTarget {
        let mut parameters = CertificateParams::new([]).unwrap();
        parameters.distinguished_name.push(rcgen::DnType::CommonName, "an authority");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let authority = tempfile::NamedTempFile::new().unwrap();
        fs::write(authority.path(), parameters.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(parameters, key);
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(Arc::new(AnyClientCertificate { provider, accepts }))
            .with_single_cert(vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let runtime = Runtime::new().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let mut client = acceptor.accept(client).await?;
                    let mut server = TcpStream::connect(to).await?;
                    copy_bidirectional(&mut client, &mut server).await
                });
            }
        });
        TlsTarget { address, authority, _runtime: runtime }
    }

    fn ask(target: &TlsTarget, more: &[&str]) -> (Value, i32) {
        let own = ["--file-system", "fs-0123456789abcdef0", "--region", "eu-west-1"];
        json(&[target.address.to_string()], &[&own, more].concat())
    }

    #[test]
    fn what_a_handshake_shows_is_told() {
        let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
        let good = target(server.address(), NAME, true);
        let roots = ["--roots", good.authority.path().to_str().unwrap()];
        let (object, code) = ask(&good, &roots);
        let facts = &object["hosts"][0]["facts"];
        assert_eq!(code, 0, "{object:#}");
        assert_eq!(facts["tls"]["values"]["version"], "TLSv1_3");
        assert!(facts["tls_certificate"]["values"]["names"][0].as_str().unwrap().contains(NAME), "{facts:#}");
        assert!(facts["tls_certificate"]["values"]["issuer"].as_str().unwrap().contains("an authority"));
        assert_eq!((answer(facts, "tls_system_roots"), answer(facts, "tls_client_certificate")), ("no", "yes"));
        assert_eq!(facts["tls_client_certificate"]["values"]["asked_for"], true);
        // Over TLS too.
        assert_eq!(answer(&object["facts"], "session_survives"), "yes", "{object:#}");
        assert_eq!(entries(server.directory()), 0);

        // The system does not know that authority.
        let (object, code) = ask(&good, &[]);
        let facts = &object["hosts"][0]["facts"];
        assert_eq!(code, 1, "{object:#}");
        assert_eq!((answer(facts, "tls"), answer(facts, "tls_certificate")), ("no", "no"));
        assert!(facts["tls_certificate"]["found"].as_str().unwrap().contains("an authority"), "{facts:#}");
        assert_eq!(answer(facts, "exchange_id"), "not_asked");

        let other = target(server.address(), "another.example", true);
        let (object, _) = ask(&other, &["--roots", other.authority.path().to_str().unwrap()]);
        assert!(object["hosts"][0]["facts"]["tls_certificate"]["found"].as_str().unwrap().contains("another.example"));
    }

    #[test]
    fn a_client_certificate_that_is_refused_with_the_first_read_is_told() {
        let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
        let strict = target(server.address(), NAME, false);
        let (object, code) = ask(&strict, &["--roots", strict.authority.path().to_str().unwrap()]);
        let facts = &object["hosts"][0]["facts"];
        assert_eq!(code, 1, "{object:#}");
        assert_eq!((answer(facts, "tls"), answer(facts, "tls_client_certificate")), ("yes", "no"));
        assert!(facts["tls_client_certificate"]["found"].as_str().unwrap().starts_with("rejected at the first read"));
        assert_eq!(object["missing"], serde_json::json!(["tls_client_certificate"]));
    }
}

/// What the report says first, of relays that answer as EFS does.
fn partitions(server: &Ganesha, answers: &[Vec<BindReply>]) -> Value {
    let (relays, hosts) = relays(server, u8::try_from(answers.len()).unwrap());
    for (relay, answers) in relays.iter().zip(answers) {
        answer_partitions(relay, answers.clone());
    }
    let (object, _) = json(&hosts, &["--connections", "6", "--read-only"]);
    let plain = run(&hosts, &["--connections", "6", "--read-only"]);
    let (plain, found) = (text(&plain.stdout), object["partitions"].clone());
    let lines: Vec<_> = plain.lines().collect();
    assert_eq!(lines[1], "Partitions, over 6 connections to each host", "it comes first: {plain}");
    assert!(plain.contains(found["means"].as_str().unwrap()), "{plain}");
    found
}

#[test]
fn the_partitions_that_connections_reach_come_first_and_say_what_they_mean() {
    use BindReply::{Closed, Error, Garbage, Preferred, Ready, RetryLater, Unknown};
    let Some(server) = lab_or_skip(nfs_lab::Options::default()) else { return };
    let means = |found: &Value| found["means"].as_str().unwrap().to_owned();
    let numbers = |found: &Value| (found["partitions"].as_u64().unwrap(), found["shared"].as_u64().unwrap());

    let same = partitions(&server, &[vec![Ready(1), Preferred(2)], vec![Ready(2), Ready(1), Ready(1)]]);
    assert_eq!(numbers(&same), (2, 2));
    assert!(means(&same).contains("reach the same 2 partitions"), "{}", means(&same));
    assert_eq!(same["hosts"][0]["reached"][0]["connections"], 3);
    assert_eq!(same["hosts"][0]["reached"][0]["partition"], "01".repeat(64));
    assert_eq!(same["scale_up"]["max_connections"], 5);
    assert_eq!(same["scale_up"]["bytes_per_second"], 300 << 20);

    let apart = partitions(&server, &[vec![Ready(1), Ready(2)], vec![Ready(3)]]);
    assert_eq!(numbers(&apart), (3, 0));
    assert!(means(&apart).contains("partitions that no connection to the others does"), "{}", means(&apart));

    let some = partitions(&server, &[vec![Ready(1), Ready(2)], vec![Ready(2), Ready(3)]]);
    assert_eq!(numbers(&some), (3, 1));
    assert!(means(&some).contains("1 of them through several targets"), "{}", means(&some));

    let one = partitions(&server, &[vec![Ready(7)]]);
    assert!(means(&one).contains("reach one partition. Probe two mount targets"), "{}", means(&one));

    // What every other server says; and what is no answer.
    let unknown = partitions(&server, &[vec![Unknown]]);
    assert_eq!((numbers(&unknown), &unknown["hosts"][0]["not_supported"]), ((0, 0), &serde_json::json!(6)));
    assert!(means(&unknown).starts_with("The server does not report partitions"), "{}", means(&unknown));
    let refused = vec![RetryLater("soon"), Error("broken"), Garbage, Closed, Ready(4), Unknown];
    let mixed = partitions(&server, &[refused]);
    let errors = mixed["hosts"][0]["errors"].as_array().unwrap();
    let said: Vec<_> = errors.iter().map(|one| one["error"].as_str().unwrap()).collect();
    assert_eq!(said.len(), 4, "{said:?}");
    assert!(said.contains(&"retry later: soon") && said.contains(&"error: broken"), "{said:?}");
    assert_eq!((numbers(&mixed).0, &mixed["hosts"][0]["not_supported"]), (1, &serde_json::json!(1)));
    // Without a relay in between: the server itself.
    let (_relays, hosts) = relays(&server, 1);
    let (object, _) = json(&hosts, &["--connections", "2", "--read-only"]);
    assert_eq!(object["partitions"]["hosts"][0]["not_supported"], 2, "{object:#}");
}
