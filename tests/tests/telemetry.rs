//! Traces of the built functions, exported to a collector of OTLP.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test says what it takes for granted")]

use std::{
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Result;
use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    trace::v1::{Span, span::SpanKind},
};
use prost::Message as _;
use serde_json::{Value, json};
use tests::{
    binaries,
    runtime::{Runtime, Told},
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    process::Command,
    task::JoinHandle,
};

const EXECUTION: &str = "arn:aws:states:us-east-1:123456789012:execution:machine:one";
const XRAY: &str = "Root=1-67891233-abcdef012345678912345678;Parent=53995c3f42cd8ad8;Sampled=1";

/// A collector of OTLP over HTTP. It refuses all other requests with 400, as an AWS endpoint would a bad one.
struct Collector {
    endpoint: String,
    received: Arc<Mutex<Vec<ExportTraceServiceRequest>>>,
    server: JoinHandle<()>,
}

impl Collector {
    async fn start() -> Result<Self> {
        let received = Arc::new(Mutex::new(Vec::new()));
        let receive = async |State(received): State<Arc<Mutex<Vec<ExportTraceServiceRequest>>>>, body: Bytes| {
            received.lock().unwrap().push(ExportTraceServiceRequest::decode(body).unwrap());
            StatusCode::OK
        };
        let app = Router::new()
            .route("/v1/traces", post(receive))
            .fallback(async || StatusCode::BAD_REQUEST)
            .with_state(Arc::clone(&received));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let server = tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
        Ok(Self { endpoint, received, server })
    }

    /// All spans so far.
    fn spans(&self) -> Vec<Span> {
        let received = self.received.lock().unwrap();
        let scopes = received.iter().flat_map(|request| &request.resource_spans).flat_map(|found| &found.scope_spans);
        scopes.flat_map(|scope| scope.spans.clone()).collect()
    }

    fn service_name(&self) -> String {
        let received = self.received.lock().unwrap();
        let resource = received[0].resource_spans[0].resource.as_ref().unwrap();
        let name = resource.attributes.iter().find(|attribute| attribute.key == "service.name").unwrap();
        format!("{:?}", name.value)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.server.abort();
    }
}

fn poll_available(runtime: &Runtime, aws: &str) -> Command {
    let mut command = runtime.command(&binaries().join("poll-available"));
    command.envs([("EFS_FILE_SYSTEM_ID", "fs-0123456789abcdef0"), ("AWS_ENDPOINT_URL", aws)]).stdout(Stdio::piped());
    command
}

fn event() -> Value {
    json!({"execution": EXECUTION, "mount_target_id": "fsmt-0123456789abcdef0"})
}

#[tokio::test]
async fn a_function_exports_its_span_and_those_of_its_calls_before_it_answers() -> Result<()> {
    let (collector, runtime) = (Collector::start().await?, Runtime::start().await?);
    let mut command = poll_available(&runtime, &collector.endpoint);
    let mut child = command.env(telemetry::ENDPOINT, &collector.endpoint).spawn()?;
    runtime.send(event());
    let told = runtime.told(1).await?;
    assert!(matches!(&told[0].1, Told::Error(_)), "{told:?}");
    let spans = collector.spans();
    assert!(spans.iter().all(|span| span.trace_id == spans[0].trace_id), "{spans:#?}");
    let request = spans.iter().find(|span| span.name == "function").unwrap_or_else(|| panic!("{spans:#?}"));
    assert_eq!(request.kind, SpanKind::Server as i32);
    assert!(collector.service_name().contains("function"));
    // Whoever knows the execution knows its trace.
    let expected = telemetry::execution_context(None, Some(EXECUTION));
    let expected = expected_ids(&expected);
    assert_eq!((&request.trace_id, &request.parent_span_id), (&expected.0, &expected.1));
    let call =
        spans.iter().find(|span| span.name.contains("DescribeMountTargets")).unwrap_or_else(|| panic!("{spans:#?}"));
    assert_eq!((&call.trace_id, &call.parent_span_id), (&request.trace_id, &request.span_id));

    // With X-Ray the trace is that of Step Functions; a trace that is not sampled is not exported.
    runtime.trace(XRAY);
    runtime.send(event());
    runtime.told(2).await?;
    let of_xray = |span: &Span| span.trace_id.starts_with(&[0x67, 0x89, 0x12, 0x33]);
    assert!(collector.spans().iter().any(|span| span.name == "function" && of_xray(span)));
    let before = collector.spans().len();
    runtime.trace(&XRAY.replace("Sampled=1", "Sampled=0"));
    runtime.send(event());
    runtime.told(3).await?;
    assert_eq!(collector.spans().len(), before);
    child.start_kill()?;
    let output = child.wait_with_output().await?;
    let log = String::from_utf8_lossy(&output.stdout);
    assert!(!log.contains("otel."), "{log}");
    Ok(())
}

fn expected_ids(context: &opentelemetry::Context) -> (Vec<u8>, Vec<u8>) {
    use opentelemetry::trace::TraceContextExt as _;
    let span = context.span().span_context().clone();
    (span.trace_id().to_bytes().to_vec(), span.span_id().to_bytes().to_vec())
}

#[tokio::test]
async fn a_collector_that_is_down_or_hangs_delays_an_answer_by_seconds_at_most_and_is_logged_once() -> Result<()> {
    let silent = TcpListener::bind(("127.0.0.1", 0)).await?;
    let hangs = format!("http://{}", silent.local_addr()?);
    let unused = TcpListener::bind(("127.0.0.1", 0)).await?.local_addr()?;
    for endpoint in [hangs, format!("http://{unused}")] {
        let collector = Collector::start().await?;
        let runtime = Runtime::start().await?;
        let mut command = poll_available(&runtime, &collector.endpoint);
        let mut child = command.env(telemetry::ENDPOINT, &endpoint).spawn()?;
        for number in 1..=2 {
            let sent = runtime.send(event());
            let told = runtime.told(number).await?;
            assert!(told[number - 1].0.saturating_duration_since(sent) < Duration::from_secs(10), "{endpoint}");
        }
        child.start_kill()?;
        let output = child.wait_with_output().await?;
        let log = String::from_utf8_lossy(&output.stdout);
        assert_eq!(log.matches("spans were not exported").count(), 1, "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn a_bad_endpoint_is_named_and_without_one_nothing_is_exported() -> Result<()> {
    for bad in ["localhost:4318", "ftp://localhost", "http://", "http://localhost?a=b"] {
        let runtime = Runtime::start().await?;
        let mut command = poll_available(&runtime, "http://127.0.0.1:9");
        let status = command.env(telemetry::ENDPOINT, bad).status().await?;
        assert_eq!(status.code(), Some(1), "{bad}");
        let told = runtime.told(1).await?;
        let Told::InitError(error) = &told[0].1 else { panic!("{told:?}") };
        assert!(error["errorMessage"].as_str().unwrap().starts_with("OTEL_EXPORTER_OTLP_ENDPOINT is"), "{error}");
    }
    let (collector, runtime) = (Collector::start().await?, Runtime::start().await?);
    let mut child = poll_available(&runtime, &collector.endpoint).spawn()?;
    runtime.send(event());
    runtime.told(1).await?;
    child.start_kill()?;
    assert!(collector.spans().is_empty());
    Ok(())
}

#[tokio::test]
async fn a_request_to_the_service_has_a_span_in_the_trace_of_its_client() -> Result<()> {
    let collector = Collector::start().await?;
    let directory = tempfile::tempdir()?;
    std::fs::create_dir_all(directory.path().join("mnt/efs-0"))?;
    let target =
        json!({"mount_target_id": "fsmt-0", "ip_address": "127.0.0.2", "availability_zone": "a", "subnet_id": "s"});
    std::fs::write(directory.path().join("targets.json"), json!({"mount_targets": [target]}).to_string())?;
    let mut command = Command::new(binaries().join("file-service"));
    command
        .arg("serve")
        .env_clear()
        .env("TARGETS_FILE", directory.path().join("targets.json"))
        .env("MOUNT_BASE", directory.path().join("mnt"))
        .envs([("LISTEN", "127.0.0.1:0"), ("OTEL_SERVICE_NAME", "files"), (telemetry::ENDPOINT, &collector.endpoint)])
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn()?;
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut address = String::new();
    while let Some(line) = lines.next_line().await? {
        let line: Value = serde_json::from_str(&line)?;
        if line["message"] == "ready" {
            line["address"].as_str().unwrap().clone_into(&mut address);
            break;
        }
    }
    let (trace, parent) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
    for (request, sampled) in [("GET /files/none", "01"), ("PUT /files/a", "01"), ("GET /files/a", "00")] {
        let mut stream = TcpStream::connect(&address).await?;
        let head = format!(
            "{request} HTTP/1.1\r\nhost: test\r\nconnection: close\r\ncontent-length: 0\r\n\
             traceparent: 00-{trace}-{parent}-{sampled}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).await?;
        stream.read_to_end(&mut Vec::new()).await?;
    }
    // SIGTERM exports what is left.
    let id = i32::try_from(child.id().unwrap()).unwrap();
    // SAFETY: a signal to a process of this test.
    #[expect(unsafe_code, reason = "the standard library has no SIGTERM")]
    unsafe {
        libc::kill(id, libc::SIGTERM);
    }
    while let Some(line) = lines.next_line().await? {
        assert!(!line.contains("traceparent") && !line.contains("otel"), "{line}");
    }
    child.wait().await?;
    let spans = collector.spans();
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["GET /files/{*path}", "PUT /files/{*path}"], "{spans:#?}");
    assert!(collector.service_name().contains("files"));
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    for (span, expected) in spans.iter().zip(["NotFound", "fsmt-0"]) {
        assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (trace.to_owned(), parent.to_owned()));
        assert!(
            span.attributes.iter().any(|attribute| format!("{:?}", attribute.value).contains(expected)),
            "{span:#?}"
        );
    }
    Ok(())
}
