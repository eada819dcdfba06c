//! `efs-autoscale probe`, and `file-service probe` in the image: what a file system's servers do, asked with the client that the service uses. It shows on an
//! account what a machine without one cannot show about Amazon EFS.

mod checks;
mod outcome;
mod partitions;
mod pipe;
mod report;
mod target;
mod world;

use std::{
    fmt, fs,
    io::{self, Write as _},
    path::PathBuf,
    process::ExitCode,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use clap::{ArgAction, Args, value_parser};
use nfs41::{
    Client,
    efs::{CertificateProvider, Credentials, CredentialsFuture, CredentialsProvider, Subject},
    tls::{Roots, Tls},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    task::JoinSet,
};

use self::{partitions::Partitions, report::Report, target::Target, world::World};

/// Exit status when something that the service needs is not there.
const MISSING: u8 = 1;
/// Exit status when nothing was reached, or nothing could be asked.
const FAILED: u8 = 2;
/// Exit status of a run that somebody ended.
const INTERRUPTED: u8 = 130;

const NFS_PORT: u16 = 2049;

/// What `--help` says below the options.
pub const HELP: &str = "\
Asks NFS servers what they do, with the NFS client that the file service uses (BACKEND=nfs), and prints a report: each
line is one fact, with yes (✓), no (✗) or not known (–), what came, and how long it took. A no says what it means for
whoever runs the service. Paste it into an issue: no secret is in it, but addresses and names are.

First come the partitions of EFS that some connections to each host reach, and what they mean: whether another mount target
leads anywhere that another connection does not. Servers other than EFS do not say.

With several hosts, what the service needs is asked by way of each, and a yes is one of all. It also shows whether they are
one server, and whether they see each other's writes. Run it where the
file system can be reached: in a task, on an instance or in a CloudShell of its VPC, in a security group that the mount
targets let in at port 2049.

For each host it makes one directory, .efs-autoscale-probe-…, below --root, works in there, and removes it with everything
in it, also after Ctrl-C. Nothing else is touched. --read-only changes nothing at all.

Exit status: 0 when all that the service needs is there, at every host, as far as the arguments let it be asked; 1 when
something it needs is missing or not known, or could not be asked; 2 when the arguments are wrong or no host was reached; 130 when it was interrupted.

Examples:
  efs-autoscale probe 10.0.1.5 10.0.2.5 --file-system fs-0123456789abcdef0 --region ap-northeast-1
  efs-autoscale probe fs-0123456789abcdef0.efs.ap-northeast-1.amazonaws.com --no-tls --read-only
  efs-autoscale probe 10.0.1.5 --file-system fs-0123456789abcdef0 --iam --access-point fsap-0123456789abcdef0 --json";

/// Whom to ask, and how.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Mount targets: an address or a DNS name, with :PORT where it is not 2049
    #[arg(value_name = "HOST", required = true, num_args = 1..=64)]
    hosts: Vec<Host>,
    #[command(flatten)]
    server: ServerOptions,
    /// Ask only what changes nothing
    #[arg(long)]
    read_only: bool,
    /// Stay silent for so long, and see whether what is open stays open; longer than the lease, to show something
    #[arg(long, value_name = "SECONDS", conflicts_with = "read_only", value_parser = value_parser!(u64).range(1..=3600))]
    idle: Option<u64>,
    /// Connections to each host that are only asked which partition of EFS they reach; 0: none are
    #[arg(long, value_name = "COUNT", default_value = "8", value_parser = value_parser!(u8).range(0..=64))]
    connections: u8,
    /// One JSON object on stdout, when all is asked
    #[arg(long)]
    json: bool,
}

/// How a server is spoken to.
#[derive(Args, Clone, Debug)]
pub struct ServerOptions {
    /// The file system, for TLS as Amazon EFS speaks it
    #[arg(long, value_name = "ID", requires = "region")]
    pub file_system: Option<String>,
    /// The region of the file system
    #[arg(long, value_name = "REGION", env = "AWS_REGION")]
    pub region: Option<String>,
    /// The access point that is asked for
    #[arg(long, value_name = "ID", requires = "file_system")]
    pub access_point: Option<String>,
    /// In the name of the environment's AWS credentials
    #[arg(long, requires = "file_system")]
    pub iam: bool,
    /// TLS from the first byte [default: where --file-system is given]
    #[arg(long, requires = "file_system")]
    pub tls: bool,
    /// No TLS
    #[arg(long, action = ArgAction::SetTrue, conflicts_with_all = ["tls", "iam", "access_point", "roots"])]
    pub no_tls: bool,
    /// A PEM file with who vouches for the server [default: the system's]
    #[arg(long, value_name = "FILE", requires = "file_system")]
    pub roots: Option<PathBuf>,
    /// The directory at the server to work in
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub root: String,
    /// How long to wait for one answer
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = value_parser!(u64).range(1..=600))]
    pub timeout: u64,
}

/// An address or a name, and a port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Host {
    name: String,
    port: u16,
}

impl FromStr for Host {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "an address or a DNS name, and :PORT where it is not 2049; [ADDRESS]:PORT for IPv6";
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0).ok_or(expected);
        let of_a_name = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
        let (name, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((name, "")) => (name, NFS_PORT),
            Some((name, rest)) => (name, port(rest.strip_prefix(':').ok_or(expected)?)?),
            None if text.parse::<std::net::Ipv6Addr>().is_ok() => (text, NFS_PORT),
            None => match text.split_once(':') {
                Some((name, rest)) => (name, port(rest)?),
                None => (text, NFS_PORT),
            },
        };
        let is_address = name.parse::<std::net::IpAddr>().is_ok();
        let is_name = !name.is_empty() && !name.starts_with('-') && name.len() <= 253 && name.bytes().all(of_a_name);
        (is_address || is_name).then(|| Self { name: name.to_owned(), port }).ok_or(expected)
    }
}

impl Host {
    /// # Errors
    /// The name is not found.
    pub async fn resolve(&self) -> io::Result<std::net::SocketAddr> {
        let found = tokio::net::lookup_host((self.name.as_str(), self.port)).await?.next();
        found.ok_or_else(|| io::Error::other(format!("{} has no address", self.name)))
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name.contains(':') {
            true => write!(f, "[{}]:{}", self.name, self.port),
            false => write!(f, "{}:{}", self.name, self.port),
        }
    }
}

/// What every fact is asked with.
pub(crate) struct Setup {
    options: Options,
    dial: Dial,
}

/// How clients are made.
pub struct Dial {
    /// None where no TLS is spoken.
    secure: Option<Secure>,
    timeout: Duration,
}

pub(crate) struct Secure {
    tls: Tls,
    roots: Roots,
    server_name: String,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Setup {
    async fn new(options: Options) -> Result<Self, BoxError> {
        let setup = Self { dial: Dial::new(&options.server).await?, options };
        // Says what is wrong with the root before anything is asked. It needs a runtime, and no server.
        let nowhere = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
        drop(
            Client::new(setup.dial.client_options(nowhere, setup.options.server.root.as_bytes().to_vec()))
                .map_err(|err| format!("--root {}: {err}", setup.options.server.root))?,
        );
        Ok(setup)
    }
}

impl Dial {
    /// # Errors
    /// An id that is none, roots that cannot be read, credentials that are not there.
    pub async fn new(server: &ServerOptions) -> Result<Self, BoxError> {
        let secure = match (&server.file_system, &server.region) {
            (Some(id), Some(region)) if !server.no_tls => Some(Secure::new(id, region, server).await?),
            _ => None,
        };
        Ok(Self { secure, timeout: Duration::from_secs(server.timeout) })
    }

    pub fn client_options(&self, address: std::net::SocketAddr, root: Vec<u8>) -> nfs41::Options {
        let mut options = nfs41::Options::new(address);
        options.tls = self.secure.as_ref().map(|secure| secure.tls.clone());
        options.root = root;
        options.connect_timeout = self.timeout;
        options.connect_wait = self.timeout;
        options.operation_timeout = Some(self.timeout);
        // As many as the client can use, to see how many the server gives.
        options.max_in_flight = 256;
        options
    }
}

impl Secure {
    async fn new(file_system: &str, region: &str, server: &ServerOptions) -> Result<Self, BoxError> {
        let mut subject = Subject::new(file_system, region)?;
        if let Some(id) = &server.access_point {
            subject = subject.with_access_point(id)?;
        }
        let roots = match &server.roots {
            None => Roots::System,
            Some(file) => Roots::Pem(fs::read(file).map_err(|err| format!("--roots {}: {err}", file.display()))?),
        };
        let server_name = subject.server_name();
        let mut certificates = CertificateProvider::new(subject);
        if server.iam {
            certificates = certificates.with_credentials(Arc::new(Source::new().await?));
        }
        // Now, so that the time it takes (a key is made) is not the first host's.
        certificates.certificate().await?;
        let tls = Tls::new(&server_name, roots.clone())?.with_identity_provider(Arc::new(certificates));
        Ok(Self { tls, roots, server_name })
    }
}

/// The environment's credentials.
struct Source(aws::credentials::Lender);

impl Source {
    async fn new() -> io::Result<Self> {
        aws::credentials::Lender::from_environment().await.map(Self)
    }
}

impl CredentialsProvider for Source {
    fn credentials(&self) -> CredentialsFuture<'_> {
        Box::pin(async {
            let lent = self.0.lend().await?;
            Ok(Credentials::new(lent.access_key_id, lent.secret, lent.session_token, lent.expires)?)
        })
    }
}

/// Asks, and says what was found.
#[tokio::main]
pub async fn run(options: Options) -> ExitCode {
    let setup = match Setup::new(options).await {
        Ok(setup) => Arc::new(setup),
        Err(err) => {
            eprintln!("efs-autoscale: {err}");
            return ExitCode::from(FAILED);
        }
    };
    let mut report = Report::new(&setup);
    let target = |host| Arc::new(Target::new(host, Arc::clone(&setup)));
    let targets: Vec<_> = setup.options.hosts.iter().map(target).collect();
    let worlds = World::each(&setup, &targets);
    report.interrupted = tokio::select! {
        // First, so that it is waited for before anything is made that has to be removed.
        biased;
        () = interruption() => true,
        () = ask(&setup, &targets, &worlds, &mut report) => false,
    };
    let left = tokio::select! {
        left = remove_leftovers(&worlds) => left,
        // Whoever sends another one does not want to wait.
        () = interruption() => worlds.iter().filter(|world| world.is_begun())
            .map(|world| (world.directory(), "it was interrupted".to_owned())).collect(),
    };
    for (directory, err) in left {
        eprintln!("efs-autoscale: {directory} cannot be removed: {err}; remove it by hand");
        report.left_behind.get_or_insert(directory);
    }
    for target in &targets {
        target.close().await;
    }
    match report.end() {
        Ok(()) => ExitCode::from(report.status()),
        Err(err) => {
            eprintln!("efs-autoscale: the report cannot be written: {err}");
            ExitCode::from(FAILED)
        }
    }
}

/// Ctrl-C, or whoever ends a task. Never, where signals cannot be waited for: then they end the process.
pub async fn interruption() {
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
}

/// Removes what was made, all at once: a host that does not answer makes nobody wait for the others. What stays, and why.
async fn remove_leftovers(worlds: &[Arc<World>]) -> Vec<(String, String)> {
    let mut tasks = JoinSet::new();
    for world in worlds {
        let world = Arc::clone(world);
        tasks.spawn(async move { world.remove_leftovers().await.err().map(|err| (world.directory(), err)) });
    }
    let mut left: Vec<_> = tasks.join_all().await.into_iter().flatten().collect();
    left.sort();
    left
}

/// All of it, in the order of the report.
async fn ask(setup: &Arc<Setup>, targets: &[Arc<Target>], worlds: &[Arc<World>], report: &mut Report) {
    let connections = usize::from(setup.options.connections);
    if connections > 0 {
        report.partitions(&Partitions::ask(setup, connections).await);
    }
    for target in targets {
        report.host(target);
        for check in target::CHECKS {
            let fact = check.fact(&**target).await;
            report.add(fact);
        }
    }
    report.all(worlds);
    for check in checks::CHECKS {
        let fact = check.fact_of_all(worlds).await;
        report.add(fact);
    }
}

/// A number as people read it: `150000` as `150,000`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

fn out(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

#[cfg(test)]
mod tests {
    #[test]
    fn numbers_are_grouped_by_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (150_000, "150,000"), (1_234_567, "1,234,567")]
        {
            assert_eq!(super::grouped(number), text);
        }
    }
}
