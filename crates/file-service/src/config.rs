//! The service's variables, read once, before anything is done; a bad one is named with what was expected.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use domain::{
    config::{self, ConfigError, Variables, flag, number, optional, required, within, word},
    model::{FileSystemId, ZoneName},
    published::PublishedList,
};

use nfs41::efs::Settings;

use super::backend::Backend;
use files_mounted::{self as mounted, EFS_OPTIONS, Mount, NFS_OPTIONS, Sync};
use files_nfs::{self as nfs};
use router::{
    path::DirectoryPath,
    select::{STRATEGIES, Strategy, named},
};

/// What `file-service serve --help` says of them.
pub const VARIABLES: &str = "\
Variables, with their defaults:
  Where the list of mount targets comes from
    SSM_PARAMETER_NAME       the parameter that the pipeline publishes [/efs-mount-autoscaling/mount-targets]
    EFS_FILE_SYSTEM_ID       its mount targets are asked for when the parameter cannot be read [no]
    DEFAULT_MOUNT_TARGETS    the parameter's text, for when neither can be read [none]
    TARGETS_FILE             a file with the parameter's text, instead of the parameter [none]
    REFRESH_SECONDS          look for another list every so often, 0 for never [0]
  How paths are spread over the targets
    ROUTE_STRATEGY           rendezvous, or sha256-modulo as in the original design [rendezvous]
    ROUTE_LOCAL_ZONE_WEIGHT  how much this task prefers targets of its own zone, 1 to 100 [1]
    AVAILABILITY_ZONE        its zone, such as ap-northeast-1a [as ECS tells it]
  How the targets are used
    BACKEND                  mounted: by way of directories; nfs: by an NFS client in this process [mounted]
    MOUNT                    none: they are mounted; kernel: mount them; efs: with efs-utils [none]
    MOUNT_BASE               the directory of efs-0, efs-1 and so on [/mnt]
    MOUNT_OPTIONS            of mount -o, instead of those that EFS advises
    REQUIRE_SEPARATE_MOUNTS  1: end when Linux has folded mounts into one connection [0]
    SYNC                     always: what is acknowledged is on stable storage; or never [always]
    READ_AT_ONCE             auto: read what is in memory without a thread where that is safe; or never [auto]
    THREADS_PER_TARGET       threads that one target may block, 1 to 1024 [32]
    QUEUE_PER_TARGET         operations that wait for one, 0 to 100000; one more is refused [1024]
    NFS_PORT                 of every target, for BACKEND=nfs [2049]
    NFS_ROOT                 the directory at the server that is the root of all paths [/]
    NFS_TLS                  efs: TLS as Amazon EFS speaks it, for EFS_FILE_SYSTEM_ID in AWS_REGION; or none [none]
    NFS_TLS_ROOTS            a PEM file with who vouches for the server [the system's]
    NFS_IAM                  1: in the name of this task's role; with NFS_TLS=efs [0]
    EFS_ACCESS_POINT_ID      the access point that is asked for; with NFS_TLS=efs [none]
    CONNECTIONS_PER_TARGET   of each worker, and one more for the probes, 1 to 64; or auto: one at first, and up to 5
                             while another one brings throughput [1]
    DEADLINE_SECONDS         for one operation, 0.1 to 300 [10]
    FILE_MODE                of files that are new, octal, 0600 to 0777; the umask does not count [0644]
    DIRECTORY_MODE           of directories that are made for them, octal, 0700 to 0777 [0755]
    PROBE_SECONDS            from one probe of a target to the next, 0.1 to 300 [2]
    SWEEP_SECONDS            from one search for orphaned temporary files to the next, 0 for never [86400]
    ORPHAN_SECONDS           nobody has written to one for so long; more than IDLE_SECONDS [3600]
  The service
    LISTEN                   address and port [127.0.0.1:8080]
    LISTEN_TLS               made: HTTPS, with a certificate that is made at the start and kept nowhere, for a load
                             balancer, which does not look at it; given: with the certificate of these files [none]
    LISTEN_TLS_CERTIFICATE   for LISTEN_TLS=given: a PEM file, the certificate first, then those that vouch for it
    LISTEN_TLS_KEY           and its private key, a PEM file
    AUTH_TOKEN               every request but of /healthz and /readyz needs it: Authorization: Bearer ... [none]
    AUTH                     none: no token is asked for, whoever reaches the address
    WORKERS                  threads that speak HTTP, 1 to 256 [as many as processors]
    MAX_BODY_BYTES           of a request [1073741824]
    MAX_CONNECTIONS          at once; one more is told 503 [4096]
    IDLE_SECONDS             a client may be silent for so long, 0.1 to 3600 [30]
    MIN_BODY_BYTES_PER_SECOND  of a request's body, in each IDLE_SECONDS; fewer is told 408; 0 for any [1024]
    SHUTDOWN_SECONDS         what runs may go on for so long after SIGTERM; ECS waits 30 [25]
    ACCESS_LOG               1: a line for each operation on a file [0]
    METRICS                  emf: by target, on stdout each minute, for CloudWatch [none]
    LOG_LEVEL                error, warn, info, debug or trace [info]";

/// All of them.
pub struct Config {
    #[cfg(feature = "aws")]
    pub parameter: domain::model::ParameterName,
    pub file_system: Option<FileSystemId>,
    pub defaults: Option<PublishedList>,
    pub targets_file: Option<PathBuf>,
    pub refresh: Option<Duration>,
    pub strategy: &'static dyn Strategy,
    pub local_weight: f64,
    pub zone: Option<ZoneName>,
    pub backend: Backend,
    pub require_separate: bool,
    pub probe_interval: Duration,
    pub sweep_every: Option<Duration>,
    pub orphan_age: Duration,
    pub http: Http,
    pub emf: bool,
}

/// What concerns connections and requests.
pub struct Http {
    pub listen: SocketAddr,
    pub tls: ListenTls,
    pub token: Option<String>,
    pub workers: usize,
    pub max_body: u64,
    pub max_connections: usize,
    pub idle: Duration,
    /// Bytes a second.
    pub min_body_rate: u64,
    pub shutdown: Duration,
    pub access_log: bool,
}

/// `LISTEN_TLS`.
pub enum ListenTls {
    None,
    /// With a certificate of this process alone.
    Made,
    /// With those in these files.
    Given {
        certificate: PathBuf,
        key: PathBuf,
    },
}

impl ListenTls {
    pub const fn is_spoken(&self) -> bool {
        !matches!(self, Self::None)
    }

    pub const CERTIFICATE: &str = "LISTEN_TLS_CERTIFICATE";
    pub const KEY: &str = "LISTEN_TLS_KEY";

    fn read(v: &impl Variables) -> Result<Self, ConfigError> {
        let kind = word(v, "LISTEN_TLS", "none, made or given", &[("none", 0), ("made", 1), ("given", 2)])?;
        let path = |value: &str| Some(PathBuf::from(value));
        if kind == 2 {
            return Ok(Self::Given {
                certificate: required(v, Self::CERTIFICATE, "a PEM file, since LISTEN_TLS is given", path)?,
                key: required(v, Self::KEY, "a PEM file, since LISTEN_TLS is given", path)?,
            });
        }
        // Whoever gives files means them to be used.
        for name in [Self::CERTIFICATE, Self::KEY] {
            optional(v, name, "nothing, since LISTEN_TLS is not given", |_| None::<()>)?;
        }
        Ok(if kind == 1 { Self::Made } else { Self::None })
    }
}

fn seconds(
    v: &impl Variables,
    name: &'static str,
    expected: &'static str,
    bounds: std::ops::RangeInclusive<f64>,
    default: f64,
) -> Result<Duration, ConfigError> {
    within(v, name, expected, bounds, default).map(Duration::from_secs_f64)
}

/// The level of the log. Read by itself, so that what the others say can be logged.
///
/// # Errors
/// [`ConfigError`]
pub fn log_level(v: &impl Variables) -> Result<tracing::Level, ConfigError> {
    optional(v, "LOG_LEVEL", "error, warn, info, debug or trace", number)
        .map(|level| level.unwrap_or(tracing::Level::INFO))
}

impl Config {
    /// # Errors
    /// [`ConfigError`] names the first variable that is missing or bad.
    pub fn read(v: &impl Variables) -> Result<Self, ConfigError> {
        let day = 86_400.0;
        let local_weight =
            within(v, "ROUTE_LOCAL_ZONE_WEIGHT", "a number from 1 to 100; 1 for no preference", 1.0..=100.0, 1.0)?;
        let strategies = STRATEGIES.map(|strategy| (strategy.name(), strategy));
        let strategy = optional(v, "ROUTE_STRATEGY", "rendezvous or sha256-modulo", named)?.unwrap_or(strategies[0].1);
        if local_weight != 1.0 && !strategy.uses_weights() {
            let expected = "1, since ROUTE_STRATEGY is sha256-modulo, which has no weights";
            return Err(ConfigError::Bad {
                name: "ROUTE_LOCAL_ZONE_WEIGHT",
                value: local_weight.to_string(),
                expected,
            });
        }
        let emf = word(v, "METRICS", "none or emf", &[("none", false), ("emf", true)])?;
        let is_named = v.get("EFS_FILE_SYSTEM_ID").is_some_and(|value| !value.is_empty());
        let http = Http::read(v)?;
        let deadline = seconds(v, "DEADLINE_SECONDS", "seconds, from 0.1 to 300", 0.1..=300.0, 10.0)?;
        let modes = Modes::read(v)?;
        let backend = match word(v, "BACKEND", "mounted or nfs", &[("mounted", false), ("nfs", true)])? {
            false => Backend::Mounted(mounted(v, deadline, modes)?),
            true => nfs(v, deadline, modes)?,
        };
        let orphan_age = seconds(v, "ORPHAN_SECONDS", "seconds, from 1 to 31536000", 1.0..=365.0 * day, 3600.0)?;
        Ok(Self {
            #[cfg(feature = "aws")]
            parameter: config::parameter_name(v)?,
            // CloudWatch's metrics are by file system.
            file_system: (is_named || emf).then(|| config::file_system_id(v)).transpose()?,
            defaults: optional(
                v,
                "DEFAULT_MOUNT_TARGETS",
                "the text of a published list: {\"mount_targets\":[…]}",
                |text| PublishedList::parse(text).ok(),
            )?,
            targets_file: optional(v, "TARGETS_FILE", "the path of a file", |value| Some(PathBuf::from(value)))?,
            refresh: Some(seconds(v, "REFRESH_SECONDS", "seconds, 0 for never, at most 86400", 0.0..=day, 0.0)?)
                .filter(|every| !every.is_zero()),
            strategy,
            local_weight,
            zone: optional(v, "AVAILABILITY_ZONE", "the name of a zone, such as ap-northeast-1a", |value| {
                Some(ZoneName::new(value))
            })?,
            backend,
            require_separate: flag(v, "REQUIRE_SEPARATE_MOUNTS")?,
            probe_interval: seconds(v, "PROBE_SECONDS", "seconds, from 0.1 to 300", 0.1..=300.0, 2.0)?,
            sweep_every: Some(seconds(
                v,
                "SWEEP_SECONDS",
                "seconds, 0 for never, at most 31536000",
                0.0..=365.0 * day,
                day,
            )?)
            .filter(|every| !every.is_zero()),
            orphan_age,
            http,
            emf,
        })
    }
}

/// The permissions of files and directories that are new.
#[derive(Clone, Copy)]
struct Modes {
    file: u32,
    directory: u32,
}

impl Modes {
    fn read(v: &impl Variables) -> Result<Self, ConfigError> {
        /// What its owner must be allowed to do with a file, and with a directory.
        const READ_WRITE: u32 = 0o600;
        const READ_WRITE_SEARCH: u32 = 0o700;
        let file = "an octal mode from 0600 to 0777 that lets the owner read and write, such as 0644";
        let directory = "an octal mode from 0700 to 0777, such as 0755";
        let default = nfs::Options::default();
        Ok(Self {
            file: optional(v, "FILE_MODE", file, |text| octal(text, READ_WRITE))?.unwrap_or(default.file_mode),
            directory: optional(v, "DIRECTORY_MODE", directory, |text| octal(text, READ_WRITE_SEARCH))?
                .unwrap_or(default.directory_mode),
        })
    }
}

/// Three octal digits, with or without a 0 before them, that have all the bits of `least`.
fn octal(text: &str, least: u32) -> Option<u32> {
    let digits = text.strip_prefix('0').filter(|rest| rest.len() == 3).unwrap_or(text);
    let is_octal = digits.len() == 3 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'7'));
    let mode = u32::from_str_radix(digits, 8).ok().filter(|_| is_octal)?;
    (mode & least == least).then_some(mode)
}

fn mounted(v: &impl Variables, deadline: Duration, modes: Modes) -> Result<mounted::Options, ConfigError> {
    let absolute = |value: &str| Some(PathBuf::from(value)).filter(|path| path.is_absolute());
    let default = mounted::Options::default();
    Ok(mounted::Options {
        base: optional(v, "MOUNT_BASE", "an absolute path", absolute)?.unwrap_or(default.base),
        mount: mount(v)?,
        sync: word(v, "SYNC", "always or never", &[("always", Sync::Always), ("never", Sync::Never)])?,
        threads: within(v, "THREADS_PER_TARGET", "a number from 1 to 1024", 1..=1024, default.threads)?,
        waiting: within(v, "QUEUE_PER_TARGET", "a number from 0 to 100000", 0..=100_000, default.waiting)?,
        deadline,
        file_mode: modes.file,
        directory_mode: modes.directory,
        read_at_once: word(v, "READ_AT_ONCE", "auto or never", &[("auto", true), ("never", false)])?,
    })
}

fn nfs(v: &impl Variables, deadline: Duration, modes: Modes) -> Result<Backend, ConfigError> {
    let default = nfs::Options::default();
    // As the client itself will take it: absolute here, below what the server exports.
    let root = |value: &str| {
        let inner = value.strip_prefix('/')?;
        (inner.is_empty() || DirectoryPath::new(inner).is_ok()).then(|| inner.as_bytes().to_vec())
    };
    let options = nfs::Options {
        port: within(v, "NFS_PORT", "a port, from 1 to 65535", 1..=65535, default.port)?,
        root: optional(v, "NFS_ROOT", "an absolute path without . and ..", root)?.unwrap_or_default(),
        connections: connections(v)?.unwrap_or(default.connections),
        tls: None,
        deadline,
        file_mode: modes.file,
        directory_mode: modes.directory,
        ..default
    };
    Ok(Backend::Nfs(Box::new(options), Settings::read(v)?))
}

fn connections(v: &impl Variables) -> Result<Option<nfs::Connections>, ConfigError> {
    optional(v, "CONNECTIONS_PER_TARGET", "a number from 1 to 64, or auto", |value| match value {
        "auto" => Some(nfs::Connections::Auto),
        value => number(value).filter(|count| (1..=64).contains(count)).map(nfs::Connections::Fixed),
    })
}

fn mount(v: &impl Variables) -> Result<Mount, ConfigError> {
    let mount = word(v, "MOUNT", "none, kernel or efs", &[("none", 0), ("kernel", 1), ("efs", 2)])?;
    // They go to `mount` as one argument; what it makes of them is the operator's affair.
    let options = optional(v, "MOUNT_OPTIONS", "options as `mount -o` takes them, without white space", |value| {
        (!value.contains(char::is_whitespace) && !value.starts_with('-')).then(|| value.to_owned())
    })?;
    Ok(match mount {
        0 => Mount::None,
        1 => Mount::Kernel { options: options.unwrap_or_else(|| NFS_OPTIONS.to_owned()) },
        _ => Mount::EfsUtils {
            options: options.unwrap_or_else(|| EFS_OPTIONS.to_owned()),
            file_system: config::file_system_id(v)?,
        },
    })
}

impl Http {
    /// # Errors
    /// As [`Config::read`].
    pub fn read(v: &impl Variables) -> Result<Self, ConfigError> {
        let listen = optional(v, "LISTEN", "an address and a port, such as 127.0.0.1:8080", number)?
            .unwrap_or(SocketAddr::from(([127, 0, 0, 1], 8080)));
        let open = word(v, "AUTH", "token or none", &[("token", false), ("none", true)])?;
        // Its value is nobody's to read.
        let expected = "a secret of 16 to 4096 visible ASCII characters";
        let token = v.get("AUTH_TOKEN").filter(|token| !token.is_empty());
        if token.as_ref().is_some_and(|token| {
            !(16..=4096).contains(&token.len()) || !token.bytes().all(|byte| byte.is_ascii_graphic())
        }) {
            return Err(ConfigError::Bad { name: "AUTH_TOKEN", value: "…".to_owned(), expected });
        }
        if token.is_none() && !open && !listen.ip().is_loopback() {
            return required(v, "AUTH_TOKEN", "a secret, since LISTEN is not a loopback address; or AUTH=none", |_| {
                None
            });
        }
        let workers = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            listen,
            tls: ListenTls::read(v)?,
            token: token.filter(|_| !open),
            workers: within(v, "WORKERS", "a number from 1 to 256", 1..=256, workers)?,
            max_body: within(v, "MAX_BODY_BYTES", "a number of bytes, 1 or more", 1..=u64::MAX, 1 << 30)?,
            max_connections: within(v, "MAX_CONNECTIONS", "a number from 1 to 1000000", 1..=1_000_000, 4096)?,
            idle: seconds(v, "IDLE_SECONDS", "seconds, from 0.1 to 3600", 0.1..=3600.0, 30.0)?,
            min_body_rate: within(
                v,
                "MIN_BODY_BYTES_PER_SECOND",
                "a number of bytes, 0 to 1073741824",
                0..=1 << 30,
                1 << 10,
            )?,
            shutdown: seconds(v, "SHUTDOWN_SECONDS", "seconds, from 0 to 3600", 0.0..=3600.0, 25.0)?,
            access_log: flag(v, "ACCESS_LOG")?,
        })
    }
}

#[cfg(test)]
#[allow(clippy::panic, reason = "a test says what it takes for granted")]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Config, String> {
        let get = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        Config::read(&get).map_err(|err| err.to_string())
    }

    #[test]
    fn the_defaults_are_what_the_help_says() {
        let config = read(&[]).unwrap();
        assert_eq!(config.strategy.name(), "rendezvous");
        assert_eq!(config.http.listen.to_string(), "127.0.0.1:8080");
        let Backend::Mounted(mounted) = &config.backend else { panic!("BACKEND is mounted") };
        assert_eq!(mounted.directory(1), PathBuf::from("/mnt/efs-1"));
        assert_eq!((config.refresh, config.http.token), (None, None));
        for name in ["SSM_PARAMETER_NAME", "AUTH", "LISTEN_TLS", "LOG_LEVEL", "MOUNT", "READ_AT_ONCE"] {
            assert!(VARIABLES.contains(&format!("\n    {name} ")), "{name}");
        }
    }

    #[test]
    fn what_is_bad_is_named() {
        for (name, value) in [
            ("ROUTE_STRATEGY", "random"),
            ("ROUTE_LOCAL_ZONE_WEIGHT", "0"),
            ("BACKEND", "nfs4"),
            ("MOUNT", "yes"),
            ("MOUNT_BASE", "mnt"),
            ("MOUNT_OPTIONS", "a b"),
            ("REQUIRE_SEPARATE_MOUNTS", "perhaps"),
            ("THREADS_PER_TARGET", "0"),
            ("DEADLINE_SECONDS", "NaN"),
            ("REFRESH_SECONDS", "-1"),
            ("LISTEN", "8080"),
            ("LISTEN_TLS", "yes"),
            ("LISTEN_TLS_CERTIFICATE", "file"),
            ("LISTEN_TLS_KEY", "file"),
            ("AUTH_TOKEN", "short"),
            ("AUTH", "yes"),
            ("MAX_BODY_BYTES", "1e9"),
            ("MIN_BODY_BYTES_PER_SECOND", "-1"),
            ("DEFAULT_MOUNT_TARGETS", "{}"),
            ("EFS_FILE_SYSTEM_ID", "fs"),
            ("METRICS", "statsd"),
        ] {
            let err = read(&[(name, value)]).err().unwrap_or_default();
            assert!(err.starts_with(name), "{name}={value}: {err:?}");
            assert!(name != "AUTH_TOKEN" || !err.contains(value), "a secret in an error: {err}");
        }
        assert!(read(&[("METRICS", "emf")]).err().unwrap_or_default().starts_with("EFS_FILE_SYSTEM_ID is missing"));
        assert!(read(&[("MOUNT", "efs")]).err().unwrap_or_default().starts_with("EFS_FILE_SYSTEM_ID is missing"));
    }

    #[test]
    fn what_efs_wants_to_know_is_asked_for_with_tls_only() {
        let nfs = ("BACKEND", "nfs");
        let efs =
            [nfs, ("NFS_TLS", "efs"), ("EFS_FILE_SYSTEM_ID", "fs-0123456789abcdef0"), ("AWS_REGION", "eu-west-1")];
        let Backend::Nfs(options, Some(efs_)) = read(&efs).unwrap().backend else { panic!("NFS with TLS") };
        assert_eq!(efs_.subject.server_name(), "fs-0123456789abcdef0.efs.eu-west-1.amazonaws.com");
        assert_eq!((options.port, options.connections, options.root), (2049, nfs::Connections::Fixed(1), vec![]));
        for (variables, named) in [
            (&efs[..3], "AWS_REGION is missing"),
            (&efs[..2], "EFS_FILE_SYSTEM_ID is missing"),
            (&[nfs, ("NFS_IAM", "1")][..], "NFS_IAM"),
            (&[nfs, ("EFS_ACCESS_POINT_ID", "fsap-0123456789abcdef0")][..], "EFS_ACCESS_POINT_ID"),
            (&[nfs, ("NFS_ROOT", "/a/../b")][..], "NFS_ROOT"),
            (&[nfs, ("NFS_ROOT", "a")][..], "NFS_ROOT"),
            (&[nfs, ("NFS_PORT", "0")][..], "NFS_PORT"),
            (&[nfs, ("CONNECTIONS_PER_TARGET", "0")][..], "CONNECTIONS_PER_TARGET"),
            (&[nfs, ("CONNECTIONS_PER_TARGET", "many")][..], "CONNECTIONS_PER_TARGET"),
        ] {
            let err = read(variables).err().unwrap_or_default();
            assert!(err.starts_with(named), "{variables:?}: {err}");
        }
    }

    #[test]
    fn an_address_that_others_reach_wants_a_token_or_a_word() {
        let token = ("AUTH_TOKEN", "0123456789abcdef");
        let everywhere = ("LISTEN", "0.0.0.0:80");
        let err = read(&[everywhere]).err().unwrap_or_default();
        assert!(err.starts_with("AUTH_TOKEN is missing") && err.contains("AUTH=none"), "{err}");
        assert_eq!(read(&[everywhere, token]).unwrap().http.token.as_deref(), Some(token.1));
        assert_eq!(read(&[everywhere, ("AUTH", "none")]).unwrap().http.token, None);
        assert_eq!(read(&[token]).unwrap().http.token.as_deref(), Some(token.1));
    }

    #[test]
    fn the_seeds_strategy_has_no_weights() {
        let both = [("ROUTE_STRATEGY", "sha256-modulo"), ("ROUTE_LOCAL_ZONE_WEIGHT", "2")];
        assert!(read(&both).err().unwrap_or_default().starts_with("ROUTE_LOCAL_ZONE_WEIGHT"));
        assert!(read(&both[..1]).is_ok() && read(&both[1..]).is_ok());
    }
}
