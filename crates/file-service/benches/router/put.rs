//! Writing small files over HTTP: into the place of what is there, and under names that are new.

use std::{
    fs::{self, File},
    io::Write,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    Settings,
    load::{CONNECTIONS, Measured, script, table},
    servers::{NOPUSH, Server, Site, place},
};
use bench_kit::machine::file_system;
use bench_kit::report::{Report, Target, number, paragraph};

const SIZE: usize = 4 << 10;
const NAMES: usize = 1000;
const PATIENCE: Duration = Duration::from_secs(20);
/// What is on its way when wrk stops is done, or not.
const ON_THE_WAY: usize = CONNECTIONS as usize;

#[derive(Clone, Copy, PartialEq)]
enum Names {
    Known,
    New,
}

/// Who writes.
enum Writer {
    Server(Server),
    /// The same calls from as many threads as there are connections: no HTTP, no hash, nothing.
    Bare,
}

struct Peer {
    name: &'static str,
    site: Site,
    writer: Writer,
    target: Target,
}

pub fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    for memory in [true, false] {
        let place = place(if memory { Path::new("/dev/shm") } else { &settings.disk })?;
        let site = |name: &str| Site::new(place.path(), name);
        let (nginx, never, always, bare) = (site("nginx")?, site("never")?, site("always")?, site("bare")?);
        let few = site("few")?;
        let servers = [
            (nginx.nginx(NOPUSH)?, nginx, "nginx", Target::None),
            (never.router(&[("SYNC", "never")])?, never, "ours, SYNC=never", Target::AtLeast(1.0)),
            (always.router(&[("SYNC", "always")])?, always, "ours, SYNC=always", Target::None),
        ];
        let mut peers: Vec<_> = servers
            .into_iter()
            .map(|(server, site, name, target)| Peer { name, site, writer: Writer::Server(server), target })
            .collect();
        // Without fsync nothing waits, and threads of one directory are in each other's way.
        if !memory {
            let server = few.router(&[("SYNC", "never"), ("THREADS_PER_TARGET", "1")])?;
            let (name, writer) = ("ours, SYNC=never, THREADS_PER_TARGET=1", Writer::Server(server));
            peers.insert(2, Peer { name, site: few, writer, target: Target::AtLeast(1.0) });
        }
        // Next to SYNC=always: nothing is to be told where there is no stable storage.
        if !memory {
            let name = "the bare calls with fsync, 64 threads";
            peers.push(Peer { name, site: bare, writer: Writer::Bare, target: Target::None });
        }
        for names in [Names::Known, Names::New] {
            compare(settings, report, place.path(), &peers, names, memory)?;
        }
    }
    Ok(())
}

fn compare(
    settings: &Settings,
    report: &mut Report,
    place: &Path,
    peers: &[Peer],
    names: Names,
    memory: bool,
) -> Result<()> {
    // What is made on a disk stays until the end, and takes long to be removed.
    let (rounds, seconds) = match memory {
        true => (settings.rounds, settings.seconds),
        false => (settings.rounds.min(5), settings.seconds.min(2)),
    };
    let mut measured: Vec<_> = peers.iter().map(|_| Measured::default()).collect();
    // The first turn makes what the others replace, and is not counted.
    for round in 0..=rounds {
        let seconds = if round == 0 { 1 } else { seconds };
        for (number, (peer, measured)) in peers.iter().zip(&mut measured).enumerate() {
            let folder = match names {
                Names::Known => "known".to_owned(),
                Names::New => format!("new-{round}"),
            };
            let mut unused = Measured::default();
            let measured = if round == 0 { &mut unused } else { measured };
            let answered = match &peer.writer {
                Writer::Bare => bare(&peer.site.files().join(&folder), names, seconds, measured)?,
                Writer::Server(server) => {
                    let lua = place.join(format!("{number}-{folder}.lua"));
                    script(&lua, &requests(&folder, names))?;
                    measured.turn(server, &lua, seconds)?.requests as usize
                }
            };
            check(&peer.site.files().join(&folder), names, answered).context(peer.name)?;
            // On ext4 making files is slow where many have just been deleted; and a disk has room.
            if memory && names == Names::New {
                fs::remove_dir_all(peer.site.files().join(&folder))?;
            }
        }
    }
    let lines = peers.iter().zip(&measured).map(|(peer, own)| own.line(peer.name, &measured[0], peer.target));
    let note = match memory {
        true => "Here fsync does nothing, and what a server adds to the file system shows most.",
        false => {
            "nginx cannot fsync: with SYNC=always ours does for each request what it does not, fsync of the file and of \
             its directory, as the bare calls do. On ext4 without a journal nothing can be told: a replaced file is a \
             deleted inode, which it does not use again for minutes and looks past for each new file."
        }
    };
    let what = match names {
        Names::Known => format!("replacing {} files", number(NAMES as f64, 0)),
        Names::New => "always new names, 1,000 in a directory".to_owned(),
    };
    report.say(&format!(
        "\n## put: 4 KiB, {what}, on {}\n\n{}\n\n{}",
        file_system(place)?,
        paragraph(&format!(
            "{rounds} turns of {seconds} s by wrk, {CONNECTIONS} connections; nginx with 2 workers and its temporary files \
             on the same file system, ours with 2 workers and 3 targets. {note}"
        )),
        table(lines)
    ));
    Ok(())
}

/// Lua that asks for them.
fn requests(folder: &str, names: Names) -> String {
    let body = format!("local body, n = string.rep('x', {SIZE}), 0\n");
    body + &match names {
        Names::Known => format!(
            "local requests = {{}}\n\
             init = function(args)\n  for i = 0, {NAMES} - 1 do\n    \
             requests[i] = wrk.format('PUT', string.format('/files/{folder}/%d', i), nil, body)\n  end\n  \
             n = math.floor({NAMES} / 2) * number\nend\n\
             request = function()\n  n = (n + 1) % {NAMES}\n  return requests[n]\nend\n"
        ),
        Names::New => format!(
            "request = function()\n  n = n + 1\n  \
             return wrk.format('PUT', string.format('/files/{folder}/%d-%d/%d', number, math.floor(n / 1000), n), nil, body)\nend\n"
        ),
    }
}

/// As many files as were answered for, and nothing else; the first of them whole.
fn check(folder: &Path, names: Names, answered: usize) -> Result<()> {
    let until = Instant::now() + PATIENCE;
    let (mut files, mut temporary);
    // What was on its way when wrk stopped comes to its end, too.
    loop {
        thread::sleep(Duration::from_millis(200));
        let directories = match names {
            Names::Known => vec![folder.to_owned()],
            Names::New => entries(folder)?,
        };
        let all: Vec<_> = directories.iter().map(|directory| entries(directory)).collect::<Result<_>>()?;
        let is_temporary = |file: &PathBuf| file.file_name().is_some_and(|name| name.as_bytes().starts_with(b"."));
        (temporary, files) = all.into_iter().flatten().partition::<Vec<_>, _>(is_temporary);
        if temporary.is_empty() {
            break;
        }
        ensure!(Instant::now() < until, "{} temporary files stay", temporary.len());
    }
    let expected = match names {
        Names::Known => answered.min(NAMES)..=NAMES,
        Names::New => answered..=answered + ON_THE_WAY,
    };
    ensure!(expected.contains(&files.len()), "{} files, and {answered} requests were answered", files.len());
    let first = fs::read(files.first().context("no file at all")?)?;
    ensure!(first == [b'x'; SIZE], "a file has {} bytes that nobody has sent", first.len());
    Ok(())
}

fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(directory).with_context(|| directory.display().to_string())?;
    Ok(entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?)
}

/// How many files it wrote.
fn bare(folder: &Path, names: Names, seconds: u64, measured: &mut Measured) -> Result<usize> {
    fs::create_dir_all(folder)?;
    let (next, began) = (AtomicUsize::new(0), Instant::now());
    let until = began + Duration::from_secs(seconds);
    let work = |thread: usize| -> std::io::Result<()> {
        let (content, mut written) = ([b'x'; SIZE], 0_usize);
        while Instant::now() < until {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let (directory, name) = match names {
                Names::Known => (folder.to_owned(), (number % NAMES).to_string()),
                Names::New => (folder.join(format!("{thread}-{}", written / 1000)), number.to_string()),
            };
            if names == Names::New && written.is_multiple_of(1000) {
                fs::create_dir(&directory)?;
            }
            let temporary = directory.join(format!(".{number}"));
            let mut file = File::create_new(&temporary)?;
            file.write_all(&content)?;
            file.sync_all()?;
            fs::rename(&temporary, directory.join(name))?;
            File::open(&directory)?.sync_all()?;
            written += 1;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..CONNECTIONS as usize).map(|thread| scope.spawn(move || work(thread))).collect();
        threads.into_iter().try_for_each(|thread| match thread.join() {
            Ok(done) => done,
            Err(_) => Err(std::io::Error::other("a thread panicked")),
        })
    })?;
    let written = next.into_inner();
    measured.rate.add(written as f64 / began.elapsed().as_secs_f64());
    Ok(written)
}
