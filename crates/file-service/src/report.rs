//! Statistics per target, for people, Prometheus and CloudWatch. EFS itself reports nothing per mount target.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
    time::SystemTime,
};

use domain::{
    metric::{self, FILE_SYSTEM_ID, MOUNT_TARGET_ID, Metric, NAMESPACE},
    model::FileSystemId,
    published::PublishedTarget,
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, text},
    metrics::{counter::ConstCounter, gauge::ConstGauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::app::App;
use files::{
    Endpoint, Files,
    stats::{BUCKET_BOUNDS_MICROS, StatsSnapshot},
};

/// A mount target and whether paths are sent to it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct TargetState {
    mount_target_id: String,
    ip_address: String,
    availability_zone: String,
    /// Paths are sent to it.
    up: bool,
}

impl TargetState {
    pub fn new(target: &PublishedTarget, up: bool) -> Self {
        Self {
            mount_target_id: target.mount_target_id.to_string(),
            ip_address: target.ip_address.to_string(),
            availability_zone: target.availability_zone.to_string(),
            up,
        }
    }
}

/// Health, shares and latencies of a mount target since the start of this task.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct TargetReport {
    #[serde(flatten)]
    target: TargetState,
    /// Why the last probe failed or has no answer; `null` when it succeeded.
    error: Option<String>,
    /// How often its paths have moved to other targets because it failed.
    failovers: u64,
    /// Operations on files and directories that were started.
    operations: u64,
    /// From 0 to 1.
    share_of_operations: f64,
    /// Operations that failed for the target's reasons.
    failures: u64,
    /// Operations that were not started because the target was at capacity.
    refused: u64,
    bytes_read: u64,
    bytes_written: u64,
    /// From 0 to 1, of bytes read and written.
    share_of_bytes: f64,
    /// Without that of its probes; `null` on mounts, whose connections belong to the kernel.
    connections: Option<u64>,
    /// Of operations, in milliseconds.
    latency_ms: Latency,
}

/// Quantiles; `null` without operations.
#[derive(Clone, Debug, Serialize, JsonSchema)]
struct Latency {
    p50: Option<f64>,
    p99: Option<f64>,
}

/// The mount targets in use.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct TargetsReport {
    /// The routing strategy.
    strategy: String,
    targets: Vec<TargetReport>,
}

/// Health, shares and latencies of every target.
pub(super) fn targets(files: &Files) -> TargetsReport {
    let endpoints = files.endpoints();
    let snapshot: Vec<_> = endpoints.iter().map(|endpoint| endpoint.stats.snapshot()).collect();
    let bytes = |snapshot: &StatsSnapshot| snapshot.bytes_read + snapshot.bytes_written;
    let share = |of: &dyn Fn(&StatsSnapshot) -> u64, one: &StatsSnapshot| {
        let all: u64 = snapshot.iter().map(of).sum();
        if all == 0 { 0.0 } else { of(one) as f64 / all as f64 }
    };
    let milliseconds = |one: &StatsSnapshot, part| one.quantile(part).map(|time| time.as_secs_f64() * 1e3);
    let target = |(endpoint, one): (&Arc<Endpoint>, &StatsSnapshot)| TargetReport {
        target: TargetState::new(&endpoint.published, endpoint.health.is_up()),
        error: endpoint.health.err(),
        failovers: endpoint.health.failovers(),
        operations: one.operations,
        share_of_operations: share(&|one| one.operations, one),
        failures: one.failures,
        refused: one.refused,
        bytes_read: one.bytes_read,
        bytes_written: one.bytes_written,
        share_of_bytes: share(&bytes, one),
        connections: endpoint.connections().map(|connections| connections as u64),
        latency_ms: Latency { p50: milliseconds(one, 0.5), p99: milliseconds(one, 0.99) },
    };
    let targets = endpoints.iter().zip(&snapshot).map(target).collect();
    TargetsReport { strategy: files.strategy().to_owned(), targets }
}

/// The OpenMetrics exposition, encoded by the reference library.
pub(super) fn prometheus(app: &Arc<App>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("router");
    registry.register_collector(Box::new(Collected(Arc::clone(app))));
    let mut page = String::new();
    text::encode(&mut page, &registry)?;
    Ok(page)
}

struct Collected(Arc<App>);

impl fmt::Debug for Collected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Collected")
    }
}

impl Collector for Collected {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let endpoints: Vec<_> =
            self.0.files.endpoints().into_iter().map(|endpoint| (endpoint.stats.snapshot(), endpoint)).collect();
        let mut counter = |name: &str, help: &str, unit: Option<&Unit>, of: &dyn Fn(&StatsSnapshot) -> u64| {
            let kind = ConstCounter::new(0_u64).metric_type();
            let mut family = encoder.encode_descriptor(name, help, unit, kind)?;
            for (snapshot, endpoint) in &endpoints {
                let label = [("target", endpoint.published.mount_target_id.as_str())];
                ConstCounter::new(of(snapshot)).encode(family.encode_family(&label)?)?;
            }
            Ok::<_, fmt::Error>(())
        };
        counter("operations", "Operations on files and directories", None, &|one| one.operations)?;
        counter("failures", "Operations that failed for the target's reasons", None, &|one| one.failures)?;
        counter("refused", "Operations not begun, since the target was full", None, &|one| one.refused)?;
        counter("read", "Content read", Some(&Unit::Bytes), &|one| one.bytes_read)?;
        counter("written", "Content written", Some(&Unit::Bytes), &|one| one.bytes_written)?;

        let up = ConstGauge::new(0_i64).metric_type();
        let mut family = encoder.encode_descriptor("target_up", "Whether paths are sent to the target", None, up)?;
        for (_, endpoint) in &endpoints {
            let label = [("target", endpoint.published.mount_target_id.as_str())];
            ConstGauge::new(i64::from(endpoint.health.is_up())).encode(family.encode_family(&label)?)?;
        }

        let kind = ConstGauge::new(0_i64).metric_type();
        let help = "Connections to the target, without that of its probes";
        let mut family = encoder.encode_descriptor("target_connections", help, None, kind)?;
        for (_, endpoint) in &endpoints {
            let Some(connections) = endpoint.connections() else { continue };
            let label = [("target", endpoint.published.mount_target_id.as_str())];
            let connections = i64::try_from(connections).unwrap_or(i64::MAX);
            ConstGauge::new(connections).encode(family.encode_family(&label)?)?;
        }

        let kind = Histogram::new([]).metric_type();
        let help = "Time of one operation";
        let mut family = encoder.encode_descriptor("operation", help, Some(&Unit::Seconds), kind)?;
        for (snapshot, endpoint) in &endpoints {
            let label = [("target", endpoint.published.mount_target_id.as_str())];
            let bounds = BUCKET_BOUNDS_MICROS.iter().map(|bound| *bound as f64 / 1e6).chain([f64::INFINITY]);
            let buckets: Vec<_> = bounds.zip(snapshot.buckets).collect();
            let mut family = family.encode_family(&label)?;
            family.encode_histogram::<[(&str, &str); 0]>(
                snapshot.time.as_secs_f64(),
                snapshot.operations,
                &buckets,
                None,
            )?;
        }

        let counters = &self.0.counters;
        let open = ConstGauge::new(counters.connections.load(Ordering::Relaxed));
        open.encode(encoder.encode_descriptor("connections", "Open connections", None, open.metric_type())?)?;
        for (name, help, counter) in [
            ("refused_connections", "Connections told 503, since there were too many", &counters.refused_connections),
            ("unreadable_lists", "Lists of targets that could not be read again", &counters.unreadable_lists),
            ("swept_files", "Orphaned temporary files removed", &counters.swept),
        ] {
            let counter = ConstCounter::new(counter.load(Ordering::Relaxed));
            counter.encode(encoder.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}

/// Maximum number of values per metric in one EMF document.
const MAX_METRIC_VALUES: u64 = 100;

/// CloudWatch Embedded Metric Format, one line per target with what happened since the last call.
#[derive(Default)]
pub(super) struct Emf(Mutex<Vec<(String, StatsSnapshot)>>);

impl Emf {
    pub fn lines(&self, files: &Files, file_system: &FileSystemId) -> Vec<String> {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now: Vec<_> = files.endpoints().into_iter().map(|endpoint| (endpoint.stats.snapshot(), endpoint)).collect();
        let lines = now.iter().map(|(snapshot, endpoint)| {
            let id = endpoint.published.mount_target_id.as_str();
            let before = last.iter().find(|(known, _)| known == id).map(|(_, snapshot)| *snapshot).unwrap_or_default();
            line(id, file_system, endpoint.health.is_up(), &snapshot.since(&before))
        });
        let lines = lines.collect();
        *last = now.iter().map(|(one, endpoint)| (endpoint.published.mount_target_id.to_string(), *one)).collect();
        lines
    }
}

fn line(id: &str, file_system: &FileSystemId, up: bool, snapshot: &StatsSnapshot) -> String {
    // CloudWatch computes percentiles itself, from values distributed like the operations.
    let values = snapshot.buckets.iter().sum::<u64>().min(MAX_METRIC_VALUES);
    let times = (0..values).filter_map(|index| snapshot.quantile((index as f64 + 0.5) / values as f64));
    let times: Vec<_> = times.map(|time| time.as_secs_f64()).collect();
    let mut values: Vec<(Metric, Value)> = vec![
        (metric::TARGET_UP, json!(u8::from(up))),
        (metric::TARGET_OPERATIONS, json!(snapshot.operations)),
        (metric::TARGET_FAILURES, json!(snapshot.failures)),
        (metric::TARGET_REFUSED, json!(snapshot.refused)),
        (metric::TARGET_BYTES_READ, json!(snapshot.bytes_read)),
        (metric::TARGET_BYTES_WRITTEN, json!(snapshot.bytes_written)),
    ];
    if !times.is_empty() {
        values.push((metric::TARGET_LATENCY, json!(times)));
    }
    let declared = values.iter().map(|(metric, _)| json!({ "Name": metric.name, "Unit": metric.unit.name() }));
    let timestamp = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64);
    let mut line = Map::new();
    line.insert(
        "_aws".to_owned(),
        json!({
            "Timestamp": timestamp,
            "CloudWatchMetrics": [{
                "Namespace": NAMESPACE,
                "Dimensions": [[FILE_SYSTEM_ID, MOUNT_TARGET_ID]],
                "Metrics": declared.collect::<Vec<_>>(),
            }],
        }),
    );
    line.insert(FILE_SYSTEM_ID.to_owned(), json!(file_system));
    line.insert(MOUNT_TARGET_ID.to_owned(), json!(id));
    line.extend(values.into_iter().map(|(metric, value)| (metric.name.to_owned(), value)));
    Value::Object(line).to_string()
}
