//! Counts the regular files of the file system, or the rest that an earlier invocation left. The crate [`walk`] defines
//! what counts.

use std::{
    cell::RefCell,
    io,
    num::NonZero,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use domain::{
    config::{ConfigError, ParameterType, Variables, optional, required, within, word},
    error::{CountError, InvalidInput},
    ledger,
    messages::{CountInput, CountOutput, MAX_PARTITION_BYTES, MAX_PARTITIONS, Start},
    model::{FileSystemId, ParameterName},
    ports::{Clock, ReadParameters, WriteParameter},
};
use nfs41::{
    efs::{CredentialsProvider, Settings},
    tls::BoxError,
};
use tracing::{error, warn};
use walk::{Cache, Counted, Partition, Walk, nfs::Location};

/// The walk ends this long before Lambda's timeout, or a quarter of the time if that is shorter.
const MARGIN: Duration = Duration::from_secs(15);

/// Lambda's maximum timeout.
const LONGEST: Duration = Duration::from_secs(900);

pub struct Config {
    pub file_system: FileSystemId,
    pub root: Root,
    /// `None`: as long as Lambda allows.
    pub budget: Option<Duration>,
    /// `None`: every count reads everything.
    pub full_every: Option<NonZero<u32>>,
    /// `None`: no count is reused.
    pub reuse: Option<Reuse>,
}

/// The directory to count (`COUNT_VIA`).
pub enum Root {
    /// A directory that Lambda has mounted.
    Mounted(PathBuf),
    /// A directory of an NFS server, without a mount.
    Nfs(Box<Server>),
}

pub struct Server {
    location: Location,
    /// `None`: without TLS.
    settings: Option<Settings>,
}

impl Root {
    fn read(v: &impl Variables) -> Result<Self, ConfigError> {
        use domain::config::target_directory;
        if !word(v, "COUNT_VIA", "mounted or nfs", &[("mounted", false), ("nfs", true)])? {
            return target_directory(v).map(Self::Mounted);
        }
        let host = "the address or the name of a mount target, since COUNT_VIA is nfs";
        let host = required(v, "NFS_HOST", host, |host| {
            let is_good = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
            host.bytes().all(is_good).then(|| host.to_owned())
        })?;
        let port = within(v, "NFS_PORT", "a port, from 1 to 65535", 1..=65535, 2049)?;
        let path = optional(v, "NFS_ROOT", "an absolute path without . and ..", |path| {
            path.starts_with('/').then(|| Location::checked(path.as_bytes()).ok()).flatten()
        })?;
        let location = Location::new(host, port, path.unwrap_or_default());
        Ok(Self::Nfs(Box::new(Server { location, settings: Settings::read(v)? })))
    }

    /// Prepares for counting, once per process. `credentials` provides those of the function's role.
    ///
    /// # Errors
    /// TLS cannot be set up as configured. The cause is logged.
    pub async fn open(
        &mut self,
        credentials: impl AsyncFnOnce() -> io::Result<Arc<dyn CredentialsProvider>>,
    ) -> Result<(), ConfigError> {
        if let Self::Nfs(server) = self
            && let Some(settings) = &server.settings
        {
            let refused = |err: BoxError| {
                error!(error = %err, "TLS cannot be set up");
                let expected = "what the log says; see NFS_TLS_ROOTS and NFS_IAM";
                ConfigError::Bad { name: "NFS_TLS", value: "efs".to_owned(), expected }
            };
            server.location.tls = Some(settings.tls(credentials).await.map_err(refused)?);
        }
        Ok(())
    }

    fn walk(&self) -> Walk {
        match self {
            Self::Mounted(directory) => Walk::new(directory),
            Self::Nfs(server) => Walk::nfs(server.location.clone()),
        }
    }
}

/// Reuse of counts.
pub struct Reuse {
    /// Maximum age.
    pub within: Duration,
    /// The parameter that stores the count.
    pub parameter: ParameterName,
}

impl Config {
    /// # Errors
    /// The first variable that is missing or bad.
    pub fn read(variables: &impl Variables) -> Result<Self, ConfigError> {
        use domain::config::{count_budget, count_cache, count_full_every, file_system_id, parameter_name};
        let file_system = file_system_id(variables)?;
        let within = count_cache(variables)?;
        let parameter = parameter_name(variables)?;
        Ok(Self {
            file_system,
            root: Root::read(variables)?,
            budget: count_budget(variables)?,
            full_every: count_full_every(variables)?,
            reuse: (!within.is_zero()).then(|| Reuse { within, parameter: ledger::counted_name(&parameter) }),
        })
    }

    fn directory(&self) -> String {
        match &self.root {
            Root::Mounted(directory) => directory.as_os_str().as_encoded_bytes().escape_ascii().to_string(),
            Root::Nfs(server) => {
                let Server { location, settings } = &**server;
                // The same path means another directory behind an access point.
                let access_point = settings.as_ref().and_then(|settings| settings.subject.access_point());
                access_point.map_or_else(|| location.to_string(), |id| format!("{location} of {id}"))
            }
        }
    }
}

/// The cache of a warm process.
pub type Memory = RefCell<Cache>;

/// Checks the execution's input before anything else, and counts until `deadline`. Only the reuse of counts needs `ports`.
///
/// # Errors
/// [`CountError::InvalidInput`]; [`CountError::TargetDirectoryUnreadable`] when there is nothing to count.
pub async fn handle(
    ports: Option<&(impl Clock + ReadParameters + WriteParameter)>,
    config: &Config,
    memory: &Memory,
    input: CountInput,
    deadline: SystemTime,
) -> Result<CountOutput, CountError> {
    Start::parse(&input.start).map_err(CountError::InvalidInput)?;
    let until = Instant::now() + time_to_walk(config, deadline);
    if let Some(partition) = input.partition {
        let partition = serde_json::from_value::<Partition>(partition)
            .map_err(|err| CountError::InvalidInput(InvalidInput(format!("`partition` is none of count's: {err}"))))?;
        let walk = walk(config, until, input.partitions.unwrap_or(1));
        return walk.count_partition(&partition).map(output).map_err(unreadable);
    }
    let Some((ports, reuse)) = ports.zip(config.reuse.as_ref()) else {
        return count(config, memory, until).map(output).map_err(unreadable);
    };
    if let Some(known) = known(ports, config, reuse).await {
        return Ok(known);
    }
    let began = ports.now();
    let output = count(config, memory, until).map(output).map_err(unreadable)?;
    if output.complete {
        remember(ports, config, reuse, output.files, began).await;
    }
    Ok(output)
}

fn time_to_walk(config: &Config, deadline: SystemTime) -> Duration {
    let left = deadline.duration_since(SystemTime::now()).unwrap_or_default().min(LONGEST);
    let left = left - MARGIN.min(left / 4);
    config.budget.map_or(left, |budget| budget.min(left))
}

fn walk(config: &Config, until: Instant, partitions: usize) -> Walk {
    let beside = partitions.max(1);
    config.root.walk().until(until).return_unvisited(MAX_PARTITIONS / beside, MAX_PARTITION_BYTES / beside)
}

fn count(config: &Config, memory: &Memory, until: Instant) -> Result<Counted, walk::UnreadableRoot> {
    let walk = walk(config, until, 1);
    let Some(every) = config.full_every else { return walk.count() };
    let mut known = memory.borrow_mut();
    let nothing = Cache::default();
    let full = known.age().saturating_add(1) >= every.get();
    let mut counted = walk.count_changed(if full { &nothing } else { &known })?;
    // After a stopped or failed walk, the old cache stays valid.
    if let Some(cache) = counted.cache.take() {
        *known = cache;
    }
    Ok(counted)
}

fn unreadable(err: walk::UnreadableRoot) -> CountError {
    CountError::TargetDirectoryUnreadable { path: err.path, source: err.source }
}

fn output(counted: Counted) -> CountOutput {
    let rest: Vec<_> = counted.rest.iter().flat_map(serde_json::to_value).collect();
    CountOutput {
        files: counted.files,
        directories: counted.directories,
        complete: counted.complete(),
        missed: counted.errors > 0 || counted.truncated || rest.len() < counted.rest.len(),
        vanished: counted.vanished,
        other_file_systems: counted.other_file_systems,
        unchanged: counted.unchanged,
        errors: counted.errors,
        first_errors: counted.first_errors,
        rest,
        seconds: counted.time.as_secs_f64(),
        age_seconds: None,
    }
}

/// A recent count. If it cannot be read, the function counts.
async fn known(ports: &(impl Clock + ReadParameters), config: &Config, reuse: &Reuse) -> Option<CountOutput> {
    let mut found = match ports.read_parameters(std::slice::from_ref(&reuse.parameter)).await {
        Ok(found) => found,
        Err(err) => {
            warn!(error = %err, "the last count cannot be read; counting");
            return None;
        }
    };
    let fact: ledger::Counted = ledger::read(&found.remove(&reuse.parameter)?.value)?;
    let age = ports.now().checked_sub(fact.counted_at)?;
    let same = fact.file_system_id == config.file_system && fact.directory == config.directory();
    (same && age < reuse.within.as_secs()).then(|| CountOutput {
        files: fact.files,
        complete: true,
        age_seconds: Some(age),
        ..CountOutput::default()
    })
}

async fn remember(ports: &impl WriteParameter, config: &Config, reuse: &Reuse, files: u64, counted_at: u64) {
    let file_system_id = config.file_system.clone();
    let fact = ledger::Counted { file_system_id, directory: config.directory(), files, counted_at };
    let written = ports.write_parameter(&reuse.parameter, &ledger::write(&fact), ParameterType::String).await;
    if let Err(err) = written {
        warn!(error = %err.into_aws(), "the count cannot be kept; the next execution counts again");
    }
}
