//! OpenTelemetry traces over OTLP, of the functions and the file service. Off unless `OTEL_EXPORTER_OTLP_ENDPOINT` names a
//! collector; then the other variables of the OpenTelemetry specification apply too (`OTEL_SERVICE_NAME`,
//! `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_TRACES_SAMPLER`).
//!
//! A trace belongs to an execution of the state machine ([`execution_context`]) or to a client of the file service
//! ([`client_context`]). Spans are those of `tracing`. They wait in a bounded buffer until [`Telemetry::flush`] exports
//! them: a function flushes before its answer, because Lambda freezes the process afterwards; the service flushes every
//! second.

mod buffer;
mod context;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use domain::config::{ConfigError, Variables, optional};
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::hyper::HyperClient;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::{
    Resource,
    trace::{SdkTracerProvider, SpanExporter as _},
};
use rustls::crypto::aws_lc_rs;
use tokio::sync::Mutex;
use tracing::{Subscriber, warn};
use tracing_subscriber::{
    Layer,
    filter::{LevelFilter, Targets},
    registry::LookupSpan,
};

use buffer::Buffer;
pub use context::{client_context, execution_context};
pub use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The variable that turns traces on.
pub const ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";
const ENDPOINT_EXPECTED: &str = "the address of a collector of OTLP over HTTP, such as http://localhost:4318";
/// The signal's path below the endpoint, by the specification of OTLP.
const TRACES_PATH: &str = "v1/traces";
/// Bound of one export with its retries: a function answers that much later while the collector hangs.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// Default of `OTEL_BSP_MAX_EXPORT_BATCH_SIZE`.
const MAX_SPANS_PER_EXPORT: usize = 512;

/// Collects spans and exports them.
#[derive(Clone, Debug)]
pub struct Telemetry(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    provider: SdkTracerProvider,
    buffer: Buffer,
    /// One export at a time, as the exporter requires.
    exporter: Mutex<SpanExporter>,
    /// The last export failed. A collector that is down is logged once.
    is_failing: AtomicBool,
}

impl Telemetry {
    /// Reads the configuration; `None` when traces are off. `name` is the name of the service unless `OTEL_SERVICE_NAME` or
    /// `OTEL_RESOURCE_ATTRIBUTES` has one.
    ///
    /// # Errors
    /// The endpoint is not an address, or the roots for `https` cannot be read.
    pub fn from_environment(variables: &impl Variables, name: &str) -> Result<Option<Self>, ConfigError> {
        let endpoint = optional(variables, ENDPOINT, ENDPOINT_EXPECTED, |endpoint| {
            let uri: http::Uri = endpoint.parse().ok()?;
            let is_http = matches!(uri.scheme_str(), Some("http" | "https"));
            (is_http && uri.query().is_none()).then(|| endpoint.trim_end_matches('/').to_owned())
        })?;
        let Some(endpoint) = endpoint else { return Ok(None) };
        let bad = |expected| ConfigError::Bad { name: ENDPOINT, value: endpoint.clone(), expected };
        let builder = SpanExporter::builder().with_http();
        let builder = match endpoint.starts_with("https:") {
            true => {
                let provider = Arc::new(aws_lc_rs::default_provider());
                let tls = hyper_rustls::HttpsConnectorBuilder::new().with_provider_and_native_roots(provider);
                let tls = tls.map_err(|_| bad("an address of http, since this system has no root certificates"))?;
                let connector = tls.https_only().enable_http1().build();
                builder.with_http_client(HyperClient::new(connector, EXPORT_TIMEOUT, None))
            }
            false => builder.with_http_client(HyperClient::with_default_connector(EXPORT_TIMEOUT, None)),
        };
        let builder = builder.with_endpoint(format!("{endpoint}/{TRACES_PATH}")).with_protocol(Protocol::HttpBinary);
        let mut exporter = builder.build().map_err(|_| bad(ENDPOINT_EXPECTED))?;
        // A name given here wins over those of the environment, so `service_name` reads them first.
        let resource = Resource::builder().with_service_name(service_name(variables, name)).build();
        exporter.set_resource(&resource);
        let buffer = Buffer::default();
        let provider = SdkTracerProvider::builder().with_span_processor(buffer.clone()).with_resource(resource).build();
        let inner = Inner { provider, buffer, exporter: Mutex::new(exporter), is_failing: AtomicBool::new(false) };
        Ok(Some(Self(Arc::new(inner))))
    }

    /// The layer that turns spans of `tracing` into spans of OpenTelemetry: those of this project, and one for each call of
    /// an AWS SDK.
    pub fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'a> LookupSpan<'a>,
    {
        let targets = Targets::new()
            .with_default(LevelFilter::INFO)
            .with_target("aws_sdk", LevelFilter::DEBUG)
            // The runtime's span of an invocation ends after the export; the others are of the exporter itself.
            .with_targets(["hyper", "lambda_runtime", "opentelemetry"].map(|target| (target, LevelFilter::OFF)));
        tracing_opentelemetry::layer()
            .with_tracer(self.0.provider.tracer("efs-autoscale"))
            .with_location(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(targets)
    }

    /// Exports the spans that have ended. Spans that the collector does not take are dropped, and the log says so once.
    pub async fn flush(&self) {
        let inner = &self.0;
        let exporter = inner.exporter.lock().await;
        loop {
            let spans = inner.buffer.take(MAX_SPANS_PER_EXPORT);
            if spans.is_empty() {
                return;
            }
            let count = spans.len();
            // The exporter retries; the bound is that of all its tries.
            let exported = tokio::time::timeout(EXPORT_TIMEOUT, exporter.export(spans)).await;
            let err = match exported {
                Ok(Ok(())) => {
                    inner.is_failing.store(false, Ordering::Relaxed);
                    continue;
                }
                Ok(Err(err)) => err.to_string(),
                Err(_) => format!("no answer within {EXPORT_TIMEOUT:?}"),
            };
            if !inner.is_failing.swap(true, Ordering::Relaxed) {
                warn!(error = err, spans = count, "spans were not exported; more failures are not logged");
            }
            return;
        }
    }
}

fn service_name(variables: &impl Variables, name: &str) -> String {
    let of_attributes = variables.get("OTEL_RESOURCE_ATTRIBUTES").and_then(|attributes| {
        let mut pairs = attributes.split(',').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| key.trim() == "service.name").map(|(_, value)| value.trim().to_owned())
    });
    variables
        .get("OTEL_SERVICE_NAME")
        .filter(|name| !name.is_empty())
        .or(of_attributes)
        .unwrap_or_else(|| name.to_owned())
}
