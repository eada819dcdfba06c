//! The whole path over NFS: HTTP, the choice of a target, the NFS client, and a server; on one processor and on two.
//! Beside it what the client alone does in front of the same server, and nginx on a mount of the kernel, where this
//! machine's kernel has a client (`make bench-router-guest`).

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, anyhow, ensure};
use nfs_lab::Ganesha;

use crate::{
    Settings,
    alone::Alone,
    front::Front,
    load::{CONNECTIONS, Measured, script},
    mount::Mount,
    servers::{NOPUSH, Server, Site, content, nfs_list, place, processors_of},
};
use bench_kit::report::{Report, Samples, markdown, number, paragraph};

/// Below the root of the server, and of all paths.
pub const DIRECTORY: &str = "files";
const PROCESSORS: [usize; 2] = [1, 2];
/// Eight tables of five lines: what is enough for a median.
const MAX_ROUNDS: usize = 5;
const MOUNTED: &str = "nginx on the kernel's mount";
/// Of a service, until it is given up.
const STARTS: usize = 3;

pub struct Kind {
    pub method: &'static str,
    title: &'static str,
    pub size: usize,
    pub files: usize,
}

pub const KINDS: [Kind; 4] = [
    Kind { method: "GET", title: "GET of 4 KiB", size: 4 << 10, files: 1000 },
    Kind { method: "GET", title: "GET of 1 MiB", size: 1 << 20, files: 16 },
    Kind { method: "PUT", title: "PUT of 4 KiB", size: 4 << 10, files: 1000 },
    Kind { method: "PUT", title: "PUT of 1 MiB", size: 1 << 20, files: 16 },
];

impl Kind {
    /// Where its files are. What is written is in a directory of its own.
    pub fn directory(&self) -> String {
        format!("{}-{}", self.method.to_lowercase(), self.size)
    }

    fn requests(&self) -> String {
        let body = if self.method == "PUT" { format!("string.rep('x', {})", self.size) } else { "nil".to_owned() };
        format!(
            "local requests, n, body = {{}}, 0, {body}\n\
             init = function(args)\n  for i = 0, {files} - 1 do\n    \
             requests[i] = wrk.format('{}', '/files/{}/' .. i, nil, body)\n  end\n  \
             n = math.floor({files} / 2) * number\nend\n\
             request = function()\n  n = (n + 1) % {files}\n  return requests[n]\nend\n",
            self.method,
            self.directory(),
            files = self.files
        )
    }
}

/// Who answers.
enum Answers<'a> {
    Client(Alone<'a>),
    Server(Server),
}

struct Peer<'a> {
    name: &'static str,
    processors: usize,
    answers: Answers<'a>,
    measured: Measured,
    /// The NFS server's time of the processors for each, in microseconds.
    server: Samples,
    /// That of the one of its threads which took most: as many processors as there are do not help it.
    busiest: Samples,
}

pub fn run(settings: &Settings, report: &mut Report) -> Result<()> {
    Ganesha::available().map_err(|err| anyhow!(err))?;
    let ganesha = Ganesha::start(nfs_lab::Options::default());
    let place = place(&settings.disk)?;
    let files = ganesha.directory().join(DIRECTORY);
    for kind in &KINDS {
        let directory = files.join(kind.directory());
        fs::create_dir_all(&directory)?;
        for file in 0..kind.files {
            fs::write(directory.join(file.to_string()), content(file, kind.size))?;
        }
    }
    let front = Front::start(ganesha.address(), &place.path().join("roots.pem"))?;
    // A list of the one target, at either port.
    let site = Site::new(place.path(), "site")?;
    fs::write(site.list(), nfs_list(ganesha.address().ip()))?;
    let mount = Mount::of(ganesha.address(), &place.path().join("mount"))?;
    // In a guest, which is slow, what has the kernel's mount beside it is enough.
    let ways = if mount.is_some() { vec![None] } else { vec![None, Some(&front)] };
    for tls in ways {
        for kind in &KINDS {
            let mut peers = vec![];
            for processors in PROCESSORS {
                let client = Alone { address: tls.map_or(ganesha.address(), Front::address), tls, processors };
                peers.push(peer("the NFS client alone", processors, Answers::Client(client)));
                let ours = |workers| serve(&site, ganesha.address().port(), tls, processors, workers);
                peers.push(peer("ours", processors, Answers::Server(ours(processors)?)));
                // Not for its speed here: how the work is spread is what more processors would make use of.
                if processors > 1 {
                    peers.push(peer("ours with 8 workers", processors, Answers::Server(ours(8)?)));
                }
                // The kernel speaks no TLS to NFS here.
                if let (Some(mount), None) = (&mount, tls) {
                    let nginx = mount.site()?.nginx_on(NOPUSH, processors)?;
                    peers.push(peer(MOUNTED, processors, Answers::Server(nginx)));
                }
            }
            compare(settings, report, place.path(), &ganesha, kind, tls.is_some(), &mut peers)?;
        }
    }
    Ok(())
}

fn peer<'a>(name: &'static str, processors: usize, answers: Answers<'a>) -> Peer<'a> {
    Peer {
        name,
        processors,
        answers,
        measured: Measured::default(),
        server: Samples::default(),
        busiest: Samples::default(),
    }
}

fn serve(site: &Site, port: u16, tls: Option<&Front>, processors: usize, workers: usize) -> Result<Server> {
    let (port, workers) = (tls.map_or(port, |front| front.address().port()).to_string(), workers.to_string());
    let root = format!("/{DIRECTORY}");
    let mut variables = vec![("BACKEND", "nfs"), ("NFS_PORT", &*port), ("NFS_ROOT", &*root), ("WORKERS", &*workers)];
    variables.extend(tls.into_iter().flat_map(Front::variables));
    let start = || {
        let server = site.router_on(&variables, processors)?;
        server.wait_until_ready().map(|()| server)
    };
    // Somebody else may have taken its port meanwhile, and where the machine is busy a first probe may be late.
    (1..STARTS).find_map(|_| start().ok()).map_or_else(start, Ok)
}

fn compare(
    settings: &Settings,
    report: &mut Report,
    place: &Path,
    ganesha: &Ganesha,
    kind: &Kind,
    tls: bool,
    peers: &mut [Peer<'_>],
) -> Result<()> {
    let lua = place.join(format!("{}.lua", kind.directory()));
    script(&lua, &kind.requests())?;
    let server = ganesha.id().context("the NFS server has ended")?;
    let (rounds, seconds) = (settings.rounds.min(MAX_ROUNDS), settings.seconds);
    // The first turn is not counted: what it makes, the others replace.
    for round in 0..=rounds {
        for peer in &mut *peers {
            let mut measured = Measured::default();
            let before = processors_of(server)?;
            let mut busiest = None;
            let done = match &peer.answers {
                Answers::Server(server) => {
                    let before = server.threads()?;
                    let done = measured.turn(server, &lua, seconds).with_context(|| peer.name)?.requests;
                    let used = |(thread, used)| used - before.get(&thread).copied().unwrap_or_default();
                    busiest = Some(server.threads()?.into_iter().map(used).fold(0.0, f64::max) * 1e6 / done);
                    done
                }
                Answers::Client(client) => client.turn(kind, Duration::from_secs(seconds), &mut measured)?,
            };
            let each = (processors_of(server)? - before) * 1e6 / done;
            if round > 0 {
                peer.measured.append(measured);
                peer.server.add(each);
                busiest.into_iter().for_each(|busiest| peer.busiest.add(busiest));
            }
        }
        check(&ganesha.directory().join(DIRECTORY).join(kind.directory()), kind)?;
    }
    let alone = |processors: usize| {
        let is_alone = |peer: &&Peer<'_>| matches!(peer.answers, Answers::Client(_)) && peer.processors == processors;
        peers.iter().find(is_alone).context("the client alone")
    };
    let mut lines = vec![];
    for peer in &*peers {
        let to_alone = peer.measured.rate.ratio_to(&alone(peer.processors)?.measured.rate);
        let one = peers.iter().find(|one| one.name == peer.name && one.processors == 1);
        let scale = one.map(|one| peer.measured.rate.ratio_to(&one.measured.rate));
        let is_one = peer.processors == 1;
        lines.push([
            format!("{}, {} processor{}", peer.name, peer.processors, if is_one { "" } else { "s" }),
            number(peer.measured.rate.median(), 0),
            peer.measured.rate.range(0),
            format!("{to_alone:.2}"),
            scale.filter(|_| !is_one).map_or_else(String::new, |scale| format!("{scale:.2}")),
            number(peer.measured.p99_ms.median(), 2),
            number(peer.measured.processors.median(), 1),
            if peer.busiest.median().is_nan() { String::new() } else { number(peer.busiest.median(), 1) },
            number(peer.server.median(), 1),
        ]);
    }
    let head = [
        "",
        "requests/s",
        "from – to",
        "× the client alone",
        "× one processor",
        "p99 ms",
        "CPU µs each",
        "its busiest thread's",
        "the NFS server's",
    ];
    let with = if tls { "with TLS to the server" } else { "in the clear" };
    report.say(&format!(
        "\n## nfs: {}, {} files, {with}\n\n{}\n\n{}",
        kind.title,
        number(kind.files as f64, 0),
        paragraph(&format!(
            "{} turns of {} s, {CONNECTIONS} connections of wrk's, or as many calls in flight of the client alone; one \
             target, one NFS-Ganesha on tmpfs. Each peer may use so many processors, and has as many workers where nothing else is said; the NFS \
             server, wrk{} share them. What the busiest thread takes bounds what more processors bring.{}",
            rounds,
            seconds,
            if tls { " and what speaks TLS before the server" } else { "" },
            if peers.iter().any(|peer| peer.name == MOUNTED) {
                " nginx's contents are from the kernel's memory: at each open it asks the server only whether they changed."
            } else {
                ""
            }
        )),
        markdown(head, lines)
    ));
    Ok(())
}

/// What is there after a round is whole.
fn check(directory: &Path, kind: &Kind) -> Result<()> {
    for file in [0, kind.files / 2, kind.files - 1] {
        let found = fs::read(directory.join(file.to_string()))?;
        ensure!(found.len() == kind.size, "{}/{file}: {} bytes", directory.display(), found.len());
        ensure!(kind.method == "PUT" || found == content(file, kind.size), "{}/{file}", directory.display());
    }
    Ok(())
}
