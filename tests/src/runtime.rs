//! A fake of Lambda's runtime API for one function process: passes events and records responses.
//!
//! <https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Result, bail};
use axum::{
    Json, Router,
    body::Bytes,
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, process::Command, sync::Notify, task::JoinHandle};

/// What a function sent to the runtime API.
#[derive(Clone, Debug, PartialEq)]
pub enum Told {
    Response(Value),
    Error(Value),
    InitError(Value),
}

/// A runtime API on its own loopback port.
pub struct Runtime {
    /// `127.0.0.1:port`, as in `AWS_LAMBDA_RUNTIME_API`.
    pub endpoint: String,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Default)]
struct Inner {
    events: VecDeque<Value>,
    told: Vec<(Instant, Told)>,
    asked: Vec<Instant>,
    tracing_header: Option<String>,
}

impl Shared {
    fn with_quietly<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        let outcome = self.with_quietly(work);
        self.changed.notify_waiters();
        outcome
    }
}

impl Runtime {
    /// # Errors
    /// No port is free.
    pub async fn start() -> Result<Self> {
        let shared = Arc::new(Shared::default());
        // As bytes, because the runtime does not declare JSON.
        let told = |kind: fn(Value) -> Told| {
            move |State(shared): State<Arc<Shared>>, body: Bytes| async move {
                let body = serde_json::from_slice(&body).unwrap_or_default();
                shared.with(|inner| inner.told.push((Instant::now(), kind(body))));
                (StatusCode::ACCEPTED, Json(json!({"status": "OK"})))
            }
        };
        let app = Router::new()
            .route("/2018-06-01/runtime/invocation/next", get(next))
            .route("/2018-06-01/runtime/invocation/{id}/response", post(told(Told::Response)))
            .route("/2018-06-01/runtime/invocation/{id}/error", post(told(Told::Error)))
            .route("/2018-06-01/runtime/init/error", post(told(Told::InitError)))
            .with_state(Arc::clone(&shared));
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let endpoint = listener.local_addr()?.to_string();
        let server = tokio::spawn(async move {
            if let Err(err) = axum::serve(listener, app).await {
                eprintln!("the runtime API ended: {err}");
            }
        });
        Ok(Self { endpoint, shared, server })
    }

    /// Only the environment that Lambda gives a function.
    pub fn command(&self, binary: &std::path::Path) -> Command {
        let mut command = Command::new(binary);
        command
            .env_clear()
            .env("AWS_LAMBDA_RUNTIME_API", &self.endpoint)
            .env("AWS_LAMBDA_FUNCTION_NAME", "function")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_REGION", "us-east-1")
            .env("AWS_ACCESS_KEY_ID", "nobody")
            .env("AWS_SECRET_ACCESS_KEY", "nothing")
            .kill_on_drop(true);
        command
    }

    /// Sets `Lambda-Runtime-Trace-Id` of the events from now on.
    pub fn trace(&self, header: &str) {
        self.shared.with(|inner| inner.tracing_header = Some(header.to_owned()));
    }

    /// Passes an event to the function when it polls.
    pub fn send(&self, event: Value) -> Instant {
        self.shared.with(|inner| inner.events.push_back(event));
        Instant::now()
    }

    /// Waits for this many responses; returns them with their times.
    ///
    /// # Errors
    /// They do not arrive in time.
    pub async fn told(&self, number: usize) -> Result<Vec<(Instant, Told)>> {
        self.wait(|inner| (inner.told.len() >= number).then(|| inner.told.clone())).await
    }

    /// Waits for the function's first poll.
    ///
    /// # Errors
    /// It does not poll in time.
    pub async fn asked(&self) -> Result<Instant> {
        self.wait(|inner| inner.asked.first().copied()).await
    }

    async fn wait<T>(&self, ready: impl Fn(&Inner) -> Option<T>) -> Result<T> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let changed = self.shared.changed.notified();
            if let Some(found) = ready(&self.shared.inner.lock().unwrap_or_else(PoisonError::into_inner)) {
                return Ok(found);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if tokio::time::timeout(left.min(Duration::from_millis(100)), changed).await.is_err() && left.is_zero() {
                bail!("the function does not answer");
            }
        }
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn next(State(shared): State<Arc<Shared>>) -> Response {
    shared.with(|inner| inner.asked.push(Instant::now()));
    loop {
        let changed = shared.changed.notified();
        let (event, header) = shared.with_quietly(|inner| (inner.events.pop_front(), inner.tracing_header.clone()));
        if let Some(event) = event {
            let deadline = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_millis()) + 60_000;
            return (
                [
                    ("lambda-runtime-aws-request-id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd".to_owned()),
                    ("lambda-runtime-deadline-ms", deadline.to_string()),
                    (
                        "lambda-runtime-invoked-function-arn",
                        "arn:aws:lambda:us-east-1:123456789012:function:function".to_owned(),
                    ),
                ],
                header.map(|header| [("lambda-runtime-trace-id", header)]),
                Json(event),
            )
                .into_response();
        }
        changed.await;
    }
}
