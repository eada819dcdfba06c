//! Reading files of which all is in memory, over HTTP.

use std::fs;

use anyhow::{Result, ensure};

use crate::{
    Settings,
    load::{CONNECTIONS, Measured, script, table},
    servers::{NOPUSH, Server, Site, content, place},
};
use bench_kit::report::{Report, Target, number, paragraph};

struct Kind {
    title: &'static str,
    files: usize,
    size: usize,
    /// Of both of ours, to nginx.
    at_once: Target,
    by_threads: Target,
}

const IN_DIRECTORY: usize = 100;

pub fn small(settings: &Settings, report: &mut Report) -> Result<()> {
    let kind = Kind {
        title: "get: files of 4 KiB",
        files: 1000,
        size: 4 << 10,
        at_once: Target::AtLeast(0.9),
        by_threads: Target::AtLeast(0.6),
    };
    run(&kind, settings, report)
}

pub fn large(settings: &Settings, report: &mut Report) -> Result<()> {
    let target = Target::AtLeast(0.9);
    let kind =
        Kind { title: "get-large: files of 1 MiB", files: 100, size: 1 << 20, at_once: target, by_threads: target };
    run(&kind, settings, report)
}

fn path(number: usize) -> String {
    format!("{:02}/{:02}", number / IN_DIRECTORY, number % IN_DIRECTORY)
}

struct Peer {
    name: &'static str,
    server: Server,
    target: Target,
    measured: Measured,
}

fn run(kind: &Kind, settings: &Settings, report: &mut Report) -> Result<()> {
    let place = place(&settings.disk)?;
    let site = Site::new(place.path(), "site")?;
    for number in 0..kind.files {
        let file = site.files().join(path(number));
        fs::create_dir_all(file.parent().unwrap_or(&file))?;
        fs::write(file, content(number, kind.size))?;
    }
    let cycle = place.path().join("get.lua");
    script(
        &cycle,
        &format!(
            "local requests, n = {{}}, 0\n\
             init = function(args)\n  for i = 0, {files} - 1 do\n    \
             requests[i] = wrk.format('GET', string.format('/files/%02d/%02d', math.floor(i / {IN_DIRECTORY}), i % {IN_DIRECTORY}))\n  \
             end\n  n = math.floor({files} / 2) * number\nend\n\
             request = function()\n  n = (n + 1) % {files}\n  return requests[n]\nend\n",
            files = kind.files
        ),
    )?;

    let ours = |at_once: &str| site.router(&[("READ_AT_ONCE", at_once)]);
    let mut peers = [
        ("nginx", site.nginx(NOPUSH)?, Target::None),
        ("nginx without tcp_nopush", site.nginx("")?, Target::None),
        ("ours", ours("auto")?, kind.at_once),
        ("ours, READ_AT_ONCE=never", ours("never")?, kind.by_threads),
    ]
    .map(|(name, server, target)| Peer { name, server, target, measured: Measured::default() });
    for Peer { name, server, .. } in &peers {
        for number in [0, kind.files / 2, kind.files - 1] {
            let (status, body) = server.get(&format!("/files/{}", path(number)))?;
            ensure!(status == 200, "{name}: status {status}");
            ensure!(body == content(number, kind.size), "{name}: {} bytes that are not the file's", body.len());
        }
        Measured::default().turn(server, &cycle, 1)?;
    }
    for _ in 0..settings.rounds {
        for peer in &mut peers {
            peer.measured.turn(&peer.server, &cycle, settings.seconds)?;
        }
    }
    let [nginx, ..] = &peers;
    let lines = peers.iter().map(|peer| peer.measured.line(peer.name, &nginx.measured, peer.target));
    report.say(&format!(
        "\n## {}, {} of them, all in the page cache\n\n{}\n\n{}",
        kind.title,
        number(kind.files as f64, 0),
        paragraph(&format!(
            "{} turns of {} s by wrk, {CONNECTIONS} connections; nginx with 2 workers, sendfile and no open_file_cache, \
             ours with 2 workers and 3 targets. `never` takes every file by way of the threads that keep a target that \
             hangs from the others, as over NFS.",
            settings.rounds, settings.seconds
        )),
        table(lines)
    ));
    Ok(())
}
