//! The code around every Lambda handler: configuration, logs, metrics, and errors with their code.

use std::{
    process::ExitCode,
    sync::{
        OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::{Instant, SystemTime},
};

use domain::{
    config::{ConfigError, INVALID_CONFIGURATION},
    error::{Coded, InvalidInput},
    metric::Metered,
};
use lambda_runtime::{Diagnostic, LambdaEvent, service_fn};
use lambda_runtime_api_client::{Client, body::Body, build_request};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use telemetry::{OpenTelemetrySpanExt as _, Telemetry, execution_context};
use tracing::{Instrument, error, info, info_span};
use tracing_subscriber::{
    Layer as _,
    filter::{LevelFilter, Targets},
    fmt::format::JsonFields,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

use crate::log::PowertoolsFormat;
pub use crate::metrics::Metrics;

/// Why a function cannot start or continue.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Runtime(#[from] lambda_runtime::Error),
}

/// A variable of the process environment, for [`domain::config`].
pub fn environment(name: &str) -> Option<String> {
    std::env::var_os(name).map(|value| value.into_string().unwrap_or_default())
}

/// Of this process, as the subscriber of `tracing` is. Empty while traces are off.
static TELEMETRY: OnceLock<Telemetry> = OnceLock::new();

/// Runs a function. A missing or bad variable is reported to Lambda as an init error with its code, and ends the process.
pub async fn main(function: impl AsyncFnOnce() -> Result<(), Failure>) -> ExitCode {
    let name = environment("AWS_LAMBDA_FUNCTION_NAME").unwrap_or_default();
    let telemetry = Telemetry::from_environment(&environment, &name);
    init_log(telemetry.as_ref().ok().and_then(Option::as_ref));
    let outcome = match telemetry {
        Err(err) => Err(err.into()),
        Ok(telemetry) => {
            telemetry.map(|telemetry| TELEMETRY.set(telemetry));
            function().await
        }
    };
    let Err(failure) = outcome else {
        return ExitCode::SUCCESS;
    };
    let code = match failure {
        Failure::Config(_) => INVALID_CONFIGURATION,
        Failure::Runtime(_) => "RuntimeFailed",
    };
    error!(code, error = %failure, "the function cannot run");
    if let Failure::Config(err) = &failure
        && let Err(unreported) = report_init_error(err).await
    {
        error!(error = %unreported, "the init error could not be reported");
    }
    ExitCode::FAILURE
}

/// Always JSON, whatever the function's log format, so that queries have one shape.
fn init_log(telemetry: Option<&Telemetry>) {
    let level = environment("AWS_LAMBDA_LOG_LEVEL").map(|level| level.to_ascii_lowercase());
    let level = match level.as_deref() {
        Some("fatal") => LevelFilter::ERROR,
        Some(level) => level.parse().unwrap_or(LevelFilter::INFO),
        None => LevelFilter::INFO,
    };
    // The runtime would log a handler's error again, without the request id. A panic still appears: the standard library's
    // hook writes it to stderr.
    let targets = Targets::new().with_default(level).with_target("lambda_runtime::layers::panic", LevelFilter::OFF);
    let json = tracing_subscriber::fmt::layer().fmt_fields(JsonFields::new()).event_format(PowertoolsFormat);
    tracing_subscriber::registry().with(json.with_filter(targets)).with(telemetry.map(Telemetry::layer)).init();
}

/// Reports an init error to `/init/error` of the runtime API.
async fn report_init_error(err: &ConfigError) -> Result<(), lambda_runtime::Error> {
    let diagnostic = Diagnostic { error_type: INVALID_CONFIGURATION.to_owned(), error_message: err.to_string() };
    let endpoint = environment("AWS_LAMBDA_RUNTIME_API").ok_or("AWS_LAMBDA_RUNTIME_API is not set")?;
    let request = build_request()
        .method("POST")
        .uri("/2018-06-01/runtime/init/error")
        .header("lambda-runtime-function-error-type", INVALID_CONFIGURATION)
        .body(Body::from(serde_json::to_vec(&diagnostic)?))?;
    let client = Client::builder().with_endpoint(format!("http://{endpoint}").parse()?).build()?;
    client.call(request).await?;
    Ok(())
}

/// The caller, for logs and ledger facts, and the deadline.
pub struct Caller {
    /// The ARN of the execution; `None` when the function is invoked directly.
    pub execution: Option<String>,
    /// When Lambda ends this invocation.
    pub deadline: SystemTime,
}

/// Serves requests with `handler` until Lambda ends the process. An event is the handler's input plus the field
/// `execution`.
pub async fn serve<I, O, E>(metrics: &Metrics, handler: impl AsyncFn(I, Caller) -> Result<O, E>) -> Result<(), Failure>
where
    I: DeserializeOwned,
    O: Serialize + Metered,
    E: Coded,
{
    let cold = AtomicBool::new(true);
    let (cold, handler) = (&cold, &handler);
    let service = service_fn(|event: LambdaEvent<Value>| async move {
        let mut payload = event.payload;
        let execution = payload
            .as_object_mut()
            .and_then(|fields| fields.remove("execution"))
            .and_then(|execution| execution.as_str().map(str::to_owned));
        let span = info_span!(
            "request",
            otel.name = event.context.env_config.function_name,
            otel.kind = "server",
            function_request_id = event.context.request_id,
            function_name = event.context.env_config.function_name,
            xray_trace_id = event.context.xray_trace_id.as_deref().unwrap_or("none"),
            execution = execution.as_deref().unwrap_or("none"),
            cold_start = cold.swap(false, Ordering::Relaxed),
        );
        let telemetry = TELEMETRY.get();
        if telemetry.is_some() {
            let context = execution_context(event.context.xray_trace_id.as_deref(), execution.as_deref());
            // It fails where the layer is absent or the span disabled, and then there is nothing to relate.
            let _ = span.set_parent(context);
        }
        let caller = Caller { execution, deadline: event.context.deadline() };
        let answer = answer(metrics, handler, payload, caller).instrument(span).await;
        if let Some(telemetry) = telemetry {
            telemetry.flush().await;
        }
        answer
    });
    Ok(lambda_runtime::run(service).await?)
}

async fn answer<I, O, E>(
    metrics: &Metrics,
    handler: &impl AsyncFn(I, Caller) -> Result<O, E>,
    payload: Value,
    caller: Caller,
) -> Result<O, Diagnostic>
where
    I: DeserializeOwned,
    O: Serialize + Metered,
    E: Coded,
{
    let started = Instant::now();
    let outcome = match serde_json::from_value(payload) {
        // Boxed, because the type of the whole function is too deep for the compiler otherwise.
        Ok(input) => Box::pin(handler(input, caller)).await,
        Err(err) => Err(E::invalid_input(InvalidInput(format!("the event is not this function's input: {err}")))),
    };
    let seconds = started.elapsed().as_secs_f64();
    match outcome {
        Ok(output) => {
            info!(seconds, output = serde_json::to_string(&output).unwrap_or_default(), "done");
            if let Err(err) = metrics.emit(&output.samples(), std::io::stdout().lock()) {
                error!(error = %err, "the metrics could not be written");
            }
            Ok(output)
        }
        Err(failure) => {
            let code = failure.code();
            error!(seconds, %code, kind = ?code.kind(), error = %failure, cause = ?failure, "failed");
            Err(Diagnostic { error_type: code.to_string(), error_message: failure.to_string() })
        }
    }
}
