//! `efs-autoscale probe`, and `file-service probe` in the image: checks what the servers of a file system support, with
//! the NFS client of the file service. Run in an AWS account, it verifies what no local test can show about Amazon EFS.

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

pub use self::report::schema;
use self::{partitions::Partitions, report::Report, target::Target, world::World};

/// Exit status when something that the service needs is missing or unknown.
const MISSING: u8 = 1;
/// Exit status when no host was reached, or the arguments are wrong.
const FAILED: u8 = 2;
/// Exit status after Ctrl-C or SIGTERM: 128 + SIGINT.
const INTERRUPTED: u8 = 130;

const NFS_PORT: u16 = 2049;

/// Text below the options in `--help`.
pub const HELP: &str = "\
Checks what NFS servers support, with the NFS client of the file service (BACKEND=nfs), and prints a report. Each line is one
check: yes (✓), no (✗) or unknown (–), with details and the time it took. After a no, a line says what it means for the service.
The report contains addresses and names, but no secrets, so you can paste it into an issue.

The report begins with the EFS partitions that connections to each host reach, and what they mean: whether another mount target
reaches a partition that another connection does not. Only EFS reports partitions.

With several hosts, the checks that the service needs run at each host, and the result is yes only if it is yes at every host.
The report also shows whether the hosts are one server, and whether they see each other's writes. Run the probe where the file
system is reachable: in a task, on an instance or in CloudShell in its VPC, with a security group from which the mount targets
accept port 2049.

For each host the probe creates one directory, .efs-autoscale-probe-…, below --root, works in it, and removes it at the end,
also after Ctrl-C. It changes nothing else. With --read-only it changes nothing.

Exit status: 0 if every host has all that the service needs, as far as the arguments allow the checks; 1 if something that it
needs is missing, unknown, or could not be checked; 2 if the arguments are wrong or no host was reached; 130 if the probe was
interrupted.

Examples:
  efs-autoscale probe 10.0.1.5 10.0.2.5 --file-system fs-0123456789abcdef0 --region ap-northeast-1
  efs-autoscale probe fs-0123456789abcdef0.efs.ap-northeast-1.amazonaws.com --no-tls --read-only
  efs-autoscale probe 10.0.1.5 --file-system fs-0123456789abcdef0 --iam --access-point fsap-0123456789abcdef0 --json";

/// Options of `efs-autoscale probe`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Mount targets: an address or a DNS name, with :PORT unless it is 2049
    #[arg(value_name = "HOST", required = true, num_args = 1..=64)]
    hosts: Vec<Host>,
    #[command(flatten)]
    server: ServerOptions,
    /// Run only the checks that change nothing
    #[arg(long)]
    read_only: bool,
    /// Pause for this long, and check whether a file stays open; must exceed the lease
    #[arg(long, value_name = "SECONDS", conflicts_with = "read_only", value_parser = value_parser!(u64).range(1..=3600))]
    idle: Option<u64>,
    /// Connections to each host that query the EFS partition they reach; 0 skips the query
    #[arg(long, value_name = "COUNT", default_value = "8", value_parser = value_parser!(u8).range(0..=64))]
    connections: u8,
    /// Print one JSON object to stdout at the end
    #[arg(long)]
    json: bool,
}

/// How to connect to a server.
#[derive(Args, Clone, Debug)]
pub struct ServerOptions {
    /// ID of the file system; enables TLS as Amazon EFS uses it
    #[arg(long, value_name = "ID", requires = "region")]
    pub file_system: Option<String>,
    /// Region of the file system
    #[arg(long, value_name = "REGION", env = "AWS_REGION")]
    pub region: Option<String>,
    /// ID of the access point to use
    #[arg(long, value_name = "ID", requires = "file_system")]
    pub access_point: Option<String>,
    /// Authenticate with the AWS credentials of the environment
    #[arg(long, requires = "file_system")]
    pub iam: bool,
    /// Use TLS from the first byte [default: if --file-system is given]
    #[arg(long, requires = "file_system")]
    pub tls: bool,
    /// Do not use TLS
    #[arg(long, action = ArgAction::SetTrue, conflicts_with_all = ["tls", "iam", "access_point", "roots"])]
    pub no_tls: bool,
    /// PEM file with the CA certificates to trust [default: those of the system]
    #[arg(long, value_name = "FILE", requires = "file_system")]
    pub roots: Option<PathBuf>,
    /// Directory on the server to work in
    #[arg(long, value_name = "PATH", default_value = "/")]
    pub root: String,
    /// Timeout of a single call
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = value_parser!(u64).range(1..=600))]
    pub timeout: u64,
}

/// An address or a DNS name, and a port.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Host {
    name: String,
    port: u16,
}

impl FromStr for Host {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "an address or a DNS name, with :PORT unless it is 2049; [ADDRESS]:PORT for IPv6";
        let port = |text: &str| text.parse().ok().filter(|port| *port != 0).ok_or(expected);
        let is_name_byte = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
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
        let is_name = !name.is_empty() && !name.starts_with('-') && name.len() <= 253 && name.bytes().all(is_name_byte);
        (is_address || is_name).then(|| Self { name: name.to_owned(), port }).ok_or(expected)
    }
}

impl Host {
    /// # Errors
    /// The name does not resolve.
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

/// What all checks share.
pub(crate) struct Setup {
    options: Options,
    dial: Dial,
}

/// Creates the options of NFS clients.
pub struct Dial {
    /// `None` without TLS.
    tls: Option<TlsSetup>,
    timeout: Duration,
}

pub(crate) struct TlsSetup {
    tls: Tls,
    roots: Roots,
    server_name: String,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Setup {
    async fn new(options: Options) -> Result<Self, BoxError> {
        let setup = Self { dial: Dial::new(&options.server).await?, options };
        // Rejects an invalid --root before any check runs. A client needs a runtime, but connects only when it is used.
        let unused_address = std::net::SocketAddr::from(([127, 0, 0, 1], 9));
        drop(
            Client::new(setup.dial.client_options(unused_address, setup.options.server.root.as_bytes().to_vec()))
                .map_err(|err| format!("--root {}: {err}", setup.options.server.root))?,
        );
        Ok(setup)
    }
}

impl Dial {
    /// # Errors
    /// An ID is invalid, the roots cannot be read, or credentials are missing.
    pub async fn new(server: &ServerOptions) -> Result<Self, BoxError> {
        let tls = match (&server.file_system, &server.region) {
            (Some(id), Some(region)) if !server.no_tls => Some(TlsSetup::new(id, region, server).await?),
            _ => None,
        };
        Ok(Self { tls, timeout: Duration::from_secs(server.timeout) })
    }

    pub fn client_options(&self, address: std::net::SocketAddr, root: Vec<u8>) -> nfs41::Options {
        let mut options = nfs41::Options::new(address);
        options.tls = self.tls.as_ref().map(|setup| setup.tls.clone());
        options.root = root;
        options.connect_timeout = self.timeout;
        options.connect_wait = self.timeout;
        options.operation_timeout = Some(self.timeout);
        // The maximum of the client, to see how many slots the server grants.
        options.max_in_flight = 256;
        options
    }
}

impl TlsSetup {
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
            certificates = certificates.with_credentials(Arc::new(EnvironmentCredentials::new().await?));
        }
        // Generate the key now, so that the time is not attributed to the first host.
        certificates.certificate().await?;
        let tls = Tls::new(&server_name, roots.clone())?.with_identity_provider(Arc::new(certificates));
        Ok(Self { tls, roots, server_name })
    }
}

/// The AWS credentials of the environment.
struct EnvironmentCredentials(aws::credentials::Lender);

impl EnvironmentCredentials {
    async fn new() -> io::Result<Self> {
        aws::credentials::Lender::from_environment().await.map(Self)
    }
}

impl CredentialsProvider for EnvironmentCredentials {
    fn credentials(&self) -> CredentialsFuture<'_> {
        Box::pin(async {
            let lent = self.0.lend().await?;
            Ok(Credentials::new(lent.access_key_id, lent.secret, lent.session_token, lent.expires)?)
        })
    }
}

/// Runs the checks, prints the report, and returns the exit status.
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
        // Register the signal handlers before anything is created that must be removed.
        biased;
        () = interruption() => true,
        () = run_checks(&setup, &targets, &worlds, &mut report) => false,
    };
    let left = tokio::select! {
        left = remove_leftovers(&worlds) => left,
        // A second signal skips the removal.
        () = interruption() => worlds.iter().filter(|world| world.may_exist())
            .map(|world| (world.directory(), "interrupted".to_owned())).collect(),
    };
    for (directory, err) in left {
        eprintln!("efs-autoscale: cannot remove {directory}: {err}; remove it by hand");
        report.left_behind.get_or_insert(directory);
    }
    for target in &targets {
        target.close().await;
    }
    match report.finish() {
        Ok(()) => ExitCode::from(report.status()),
        Err(err) => {
            eprintln!("efs-autoscale: cannot write the report: {err}");
            ExitCode::from(FAILED)
        }
    }
}

/// Waits for SIGINT (Ctrl-C) or SIGTERM (ECS stops a task). Pending forever if the handlers cannot be installed; the
/// signals then end the process.
pub async fn interruption() {
    let (Ok(mut int), Ok(mut term)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = int.recv() => {}
        _ = term.recv() => {}
    }
}

/// Removes the directories concurrently, so that an unresponsive host does not delay the others. Returns those that
/// remain, with the error.
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

/// All checks, in the order of the report.
async fn run_checks(setup: &Arc<Setup>, targets: &[Arc<Target>], worlds: &[Arc<World>], report: &mut Report) {
    let connections = usize::from(setup.options.connections);
    if connections > 0 {
        report.partitions(&Partitions::query(setup, connections).await);
    }
    for target in targets {
        report.begin_host(target);
        for check in target::CHECKS {
            let fact = check.fact(&**target).await;
            report.add(fact);
        }
    }
    report.begin_common(worlds);
    for check in checks::CHECKS {
        let fact = check.fact_of_all(worlds).await;
        report.add(fact);
    }
}

/// A number with thousands separators: `150,000`.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

fn write_stdout(text: &str) -> io::Result<()> {
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
