//! The file service: the crate `files` behind HTTP.

mod access;
mod any_certificate;
mod api_error;
mod app;
mod backend;
mod config;
mod connection;
mod content;
mod exchange;
mod framing;
mod headers;
mod healthy;
mod linger;
mod link;
mod listing;
mod memory;
mod openapi;
mod page;
mod report;
mod request;
mod routes;
mod tls;
mod zone;

use std::{
    io::{self, Write},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use domain::{
    config::{ConfigError, INVALID_CONFIGURATION, Variables},
    published::PublishedList,
};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use tracing_subscriber::{filter::LevelFilter, layer::SubscriberExt, util::SubscriberInitExt};

#[doc(hidden)]
pub use self::any_certificate::AcceptAnyCertificate;
use self::{app::App, backend::Backend, config::Config, report::Emf};
pub use self::{
    config::VARIABLES,
    healthy::{HEALTHY, healthy},
};
use files::{
    Files, Options, StartError,
    source::{self, Source},
};
use files_mounted::{self as mounted, Mount, shared_mounts};
use router::table::Routing;

const EMF_INTERVAL: Duration = Duration::from_secs(60);
const SHARED_MOUNT_CHECK_INTERVAL: Duration = Duration::from_secs(10);

/// The reason why the service ends with status 1.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error("no list of mount targets: {0}")]
    NoList(String),
    #[error(transparent)]
    StartError(#[from] StartError),
    #[error("the mounts are not separate, and REQUIRE_SEPARATE_MOUNTS asks that they are: {0}")]
    SharedMount(String),
    #[error("TLS cannot be spoken: {0}")]
    Tls(Box<dyn std::error::Error + Send + Sync>),
    #[error("{name} is {file:?}: {err}")]
    BadFile { name: &'static str, file: std::path::PathBuf, err: Box<dyn std::error::Error + Send + Sync> },
    #[error("LISTEN {address}: {err}")]
    Listen { address: std::net::SocketAddr, err: io::Error },
    #[error("this process cannot be told to end: {0}")]
    Signals(io::Error),
    #[error("this process gets no event loop: {0}")]
    NoRuntime(io::Error),
}

impl Failure {
    fn code(&self) -> &'static str {
        match self {
            Self::Config(_) | Self::BadFile { .. } => INVALID_CONFIGURATION,
            Self::NoList(_) => "NoList",
            Self::StartError(_) => "NoTarget",
            Self::SharedMount(_) => "FoldedMounts",
            Self::Tls(_) => "NoTls",
            Self::Listen { .. } => "CannotListen",
            Self::Signals(_) => "NoSignals",
            Self::NoRuntime(_) => "NoRuntime",
        }
    }
}

/// Serves until SIGTERM or SIGINT. Returns status 0 then, and 1 if the service cannot start; the log has the reason.
pub fn serve(variables: &impl Variables) -> ExitCode {
    let (queue, _flushes_when_dropped) = tracing_appender::non_blocking(io::stdout());
    let writer = Lines { queue, serving: Arc::default() };
    let level = config::log_level(variables);
    let filter = LevelFilter::from_level(level.as_ref().map_or(tracing::Level::INFO, |level| *level));
    let json = tracing_subscriber::fmt::layer().json().flatten_event(true).with_target(false).with_span_list(false);
    tracing_subscriber::registry()
        .with(json.with_writer({
            let writer = writer.clone();
            move || writer.clone()
        }))
        .with(filter)
        .init();

    let run = |config| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Failure::NoRuntime)?;
        let outcome = runtime.block_on(run(config, writer));
        // Do not wait for blocking tasks, such as a DNS lookup.
        runtime.shutdown_background();
        outcome
    };
    match level.and_then(|_| Config::read(variables)).map_err(Failure::from).and_then(run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            error!(code = err.code(), error = %err, "the service cannot run");
            ExitCode::FAILURE
        }
    }
}

/// The log writer: stdout, and through a queue while requests are served, because a slow reader of the log must not delay
/// a request.
#[derive(Clone)]
struct Lines {
    queue: tracing_appender::non_blocking::NonBlocking,
    serving: Arc<AtomicBool>,
}

impl Write for Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match self.serving.load(Ordering::Relaxed) {
            true => self.queue.write(line),
            false => io::stdout().lock().write_all(line).map(|()| line.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

async fn run(mut config: Config, lines: Lines) -> Result<(), Failure> {
    // First, so that no signal is missed.
    let mut terminate = signal(SignalKind::terminate()).map_err(Failure::Signals)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Failure::Signals)?;
    raise_descriptors();
    if let Backend::Mounted(mounted) = &mut config.backend {
        // Use the names that the kernel shows for mounts. A mount that fails is reported by its target.
        if mounted.mount != Mount::None {
            let _ = std::fs::create_dir_all(&mounted.base);
        }
        if let Ok(base) = mounted.base.canonicalize() {
            mounted.base = base;
        }
    }
    let tls = tls::acceptor(&config.http.tls)?;
    let listen = |err| Failure::Listen { address: config.http.listen, err };
    // Bind before anything slow: a port in use is reported at once.
    let listener = connection::listen(config.http.listen).map_err(listen)?;

    let end = async {
        tokio::select! {
            _ = terminate.recv() => info!("SIGTERM"),
            _ = interrupt.recv() => info!("SIGINT"),
        }
    };
    tokio::pin!(end);
    let sources = sources(&config).await;
    let files = tokio::select! {
        started = start(&sources, &config) => started?,
        () = &mut end => return Ok(()),
    };

    let app = Arc::new(App::new(Arc::clone(&files), &config.http));
    let router = routes::router(Arc::clone(&app));
    let address = listener.local_addr().map_err(listen)?;
    info!(%address, strategy = files.strategy(), targets = files.endpoints().len(), "ready");

    lines.serving.store(true, Ordering::Relaxed);
    let emf = Emf::default();
    let beside = async {
        tokio::join!(refresh(&app, &*sources[0], &config), sweep(&app, &config), async {
            loop {
                tokio::time::sleep(EMF_INTERVAL).await;
                report_metrics(&emf, &app, &config, &mut lines.clone());
            }
        })
    };
    tokio::select! {
        () = connection::serve(listener, Arc::clone(&app), router, &config.http, tls, end) => {}
        _ = beside => {}
        folds = watch_mounts(&files, &config) => {
            files.close().await;
            return Err(Failure::SharedMount(folds));
        }
    }
    lines.serving.store(false, Ordering::Relaxed);
    report_metrics(&emf, &app, &config, &mut lines.clone());
    Ok(())
}

async fn start(sources: &[Box<dyn Source>], config: &Config) -> Result<Arc<Files>, Failure> {
    let list = first_list(sources).await?;
    let routing = Routing { strategy: config.strategy, local: zone::local(config).await? };
    let options = Options { routing, probe_interval: config.probe_interval };
    let files = Files::start(list, config.backend.open().await?, options).await?;
    if let Err(err) = judge_mounts(&files, config) {
        // Unmount what this process mounted.
        files.close().await;
        return Err(err);
    }
    Ok(files)
}

/// Raises the limit of file descriptors: every connection and every open file needs one.
fn raise_descriptors() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = rustix::process::Rlimit { current: limit.maximum, ..limit };
    if let Err(err) = setrlimit(Resource::Nofile, raised) {
        warn!(error = %err, limit = limit.current, "the number of open files stays limited");
    }
}

/// The sources of the list, in order of preference.
async fn sources(config: &Config) -> Vec<Box<dyn Source>> {
    let mut sources: Vec<Box<dyn Source>> = Vec::new();
    match &config.targets_file {
        Some(file) => sources.push(Box::new(source::File(file.clone()))),
        #[cfg(feature = "aws")]
        None => {
            let aws = Arc::new(aws::Aws::from_environment().await);
            sources.push(Box::new(source::Parameter { aws: Arc::clone(&aws), name: config.parameter.clone() }));
            if let Some(file_system) = config.file_system.clone() {
                sources.push(Box::new(source::Reported { aws, file_system }));
            }
        }
        #[cfg(not(feature = "aws"))]
        None => {}
    }
    sources.extend(config.defaults.clone().map(|list| Box::new(source::Given(list)) as Box<dyn Source>));
    sources
}

async fn first_list(sources: &[Box<dyn Source>]) -> Result<PublishedList, Failure> {
    let (found, failed) = source::first(sources).await;
    for err in &failed {
        warn!(error = %err, "a source gave no list of targets");
    }
    let Some((list, index)) = found else {
        let all: Vec<_> = failed.iter().map(ToString::to_string).collect();
        return Err(Failure::NoList(format!("{}; DEFAULT_MOUNT_TARGETS is not set", all.join("; "))));
    };
    info!(source = sources[index].name(), targets = list.targets().len(), "the list of targets is read");
    Ok(list)
}

/// Reads the list periodically. An unreadable list changes nothing.
async fn refresh(app: &App, source: &dyn Source, config: &Config) {
    let Some(every) = config.refresh else { return std::future::pending().await };
    let mut last = None;
    loop {
        tokio::time::sleep(every).await;
        let read = source.read().await;
        let replaced = match read {
            Ok(list) => {
                let targets = list.targets().len();
                app.files.replace(list).map(|changed| changed.then_some(targets)).map_err(|err| err.to_string())
            }
            Err(err) => Err(err.to_string()),
        };
        let err = match replaced {
            Ok(Some(targets)) => {
                info!(targets, "another list of targets is in use");
                None
            }
            Ok(None) => None,
            Err(err) => {
                app.counters.unreadable_lists.fetch_add(1, Ordering::Relaxed);
                Some(err)
            }
        };
        if let Some(err) = err.as_ref().filter(|err| last.as_ref() != Some(*err)) {
            warn!(error = %err, "the list of targets cannot be read again; the one in use stays");
        }
        last = err;
    }
}

async fn sweep(app: &App, config: &Config) {
    let Some(every) = config.sweep_every else { return std::future::pending().await };
    // By then, the temporary files of a crashed process are old enough.
    tokio::time::sleep(every.min(config.orphan_age)).await;
    loop {
        let removed = app.files.sweep(config.orphan_age).await;
        app.counters.swept.fetch_add(removed, Ordering::Relaxed);
        if removed > 0 {
            info!(removed, "orphaned temporary files are removed");
        }
        tokio::time::sleep(every).await;
    }
}

/// Logs the metrics since the last call in the Embedded Metric Format, if enabled.
fn report_metrics(emf: &Emf, app: &App, config: &Config, lines: &mut Lines) {
    let Some(file_system) = config.file_system.as_ref().filter(|_| config.emf) else { return };
    for line in emf.lines(&app.files, file_system) {
        // To a channel: it cannot fail, and does not wait.
        // One write, so that no other line comes between.
        let _ = lines.write_all(format!("{line}\n").as_bytes());
    }
}

/// Evidence that mounts of healthy targets share a connection.
fn folds(files: &Files, mounted: &mounted::Options) -> Vec<String> {
    let endpoints = files.endpoints();
    let up = endpoints.iter().filter(|endpoint| endpoint.health.is_up());
    let expected: Vec<_> =
        up.map(|endpoint| (mounted.directory(endpoint.slot), endpoint.published.ip_address)).collect();
    match shared_mounts(&expected) {
        Ok(folds) => folds.iter().map(ToString::to_string).collect(),
        Err(err) => vec![format!("it cannot be told: {err}")],
    }
}

/// The mounts that may share a connection. Mounts of efs-utils lead to a local proxy, whose connections are not visible here.
fn kernel_mounts(config: &Config) -> Option<&mounted::Options> {
    match &config.backend {
        Backend::Mounted(mounted) if matches!(mounted.mount, Mount::Kernel { .. }) => Some(mounted),
        _ => None,
    }
}

fn judge_mounts(files: &Files, config: &Config) -> Result<(), Failure> {
    let Some(mounted) = kernel_mounts(config) else { return Ok(()) };
    let folds = folds(files, mounted);
    if folds.is_empty() {
        info!("the mounts are separate: an address, a device and a connection each");
        return Ok(());
    }
    let folds = folds.join("; ");
    if config.require_separate {
        return Err(Failure::SharedMount(folds));
    }
    warn_of_folds(&folds);
    Ok(())
}

fn warn_of_folds(folds: &str) {
    warn!(
        folds,
        "Linux has folded mounts of one server into one connection, so that all traffic takes one mount target; \
         MOUNT_OPTIONS with vers=4.0, or a network namespace for each mount, keeps them apart"
    );
}

/// Checks targets that are added later, and ends when a shared mount is not allowed.
async fn watch_mounts(files: &Files, config: &Config) -> String {
    let Some(mounted) = kernel_mounts(config) else { return std::future::pending().await };
    let mut last = folds(files, mounted);
    loop {
        tokio::time::sleep(SHARED_MOUNT_CHECK_INTERVAL).await;
        let now = folds(files, mounted);
        if config.require_separate && !now.is_empty() {
            return now.join("; ");
        }
        if now != last && !now.is_empty() {
            warn_of_folds(&now.join("; "));
        }
        last = now;
    }
}
