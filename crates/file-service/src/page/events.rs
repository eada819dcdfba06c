//! The state of this task as server-sent events (HTML, section 9.2), once a second.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll, ready},
    time::{Duration, SystemTime},
};

use axum::{
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use files::stats::BUCKET_BOUNDS_MICROS;
use http::{HeaderValue, Method, StatusCode, header};
use hyper::body::{Body as HttpBody, Frame};
use schemars::JsonSchema;
use serde::Serialize;
use tokio::time::{Interval, MissedTickBehavior, interval};

use super::{ErrorSummary, MAX_STREAMS};
use crate::{api_error::ApiError, app::App, report};

const EVENT_INTERVAL: Duration = Duration::from_secs(1);
/// Then a stream ends, and its page opens another one. A client that has gone silently, or reads nothing, holds its place no
/// longer: the buffers of its socket take the events of many minutes, so that nothing else shows it.
const MAX_STREAM_EVENTS: u32 = 300;

/// One event.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Event {
    /// Milliseconds since 1970.
    at: u64,
    /// The host name of this task; another task has other numbers.
    task: String,
    version: &'static str,
    /// As `GET /readyz` answers.
    ready: bool,
    connections: u64,
    refused_connections: u64,
    unreadable_lists: u64,
    #[serde(flatten)]
    report: report::TargetsReport,
    histogram: Histogram,
    /// Refusals by code, the most recent first.
    errors: Vec<ErrorSummary>,
}

/// Durations of operations.
#[derive(Debug, Serialize, JsonSchema)]
struct Histogram {
    /// Upper bounds of the buckets in milliseconds; one more bucket has no bound.
    bounds_ms: Vec<f64>,
    /// Operations by bucket, for each target in the order of `targets`.
    counts: Vec<Vec<u64>>,
}

impl Event {
    pub fn now(app: &App) -> Self {
        let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        let endpoints = app.files.endpoints();
        Self {
            at: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64),
            task: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            version: env!("CARGO_PKG_VERSION"),
            ready: app.is_ready(),
            connections: count(&app.counters.connections),
            refused_connections: count(&app.counters.refused_connections),
            unreadable_lists: count(&app.counters.unreadable_lists),
            report: report::targets(&app.files),
            histogram: Histogram {
                bounds_ms: BUCKET_BOUNDS_MICROS.iter().map(|bound| *bound as f64 / 1e3).collect(),
                counts: endpoints.iter().map(|endpoint| endpoint.stats.snapshot().buckets.to_vec()).collect(),
            },
            errors: app.errors.summaries(),
        }
    }
}

/// `GET /events`.
pub(super) async fn events(State(app): State<Arc<App>>, method: Method) -> Response {
    let kind = [(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"))];
    if method == Method::HEAD {
        return kind.into_response();
    }
    match Stream::open(app) {
        Some(stream) => (kind, Body::new(stream)).into_response(),
        None => {
            let message = format!("{MAX_STREAMS} pages are open on this task; close one of them");
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "Busy", message).into_response()
        }
    }
}

/// The events of one page. It ends with the service.
struct Stream {
    app: Arc<App>,
    ticks: Interval,
    events: u32,
}

impl Stream {
    fn open(app: Arc<App>) -> Option<Self> {
        let open = |streams| (streams < MAX_STREAMS).then_some(streams + 1);
        app.counters.streams.fetch_update(Ordering::Relaxed, Ordering::Relaxed, open).ok()?;
        let mut ticks = interval(EVENT_INTERVAL);
        // A page that reads slowly gets the state of now, and not that of every missed second.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        Some(Self { app, ticks, events: 0 })
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.app.counters.streams.fetch_sub(1, Ordering::Relaxed);
    }
}

impl HttpBody for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        ready!(self.ticks.poll_tick(context));
        if self.app.counters.is_ending() || self.events == MAX_STREAM_EVENTS {
            return Poll::Ready(None);
        }
        self.events += 1;
        // Numbers and strings in structs: there is nothing here that serde_json can refuse.
        let event = serde_json::to_string(&Event::now(&self.app)).unwrap_or_default();
        Poll::Ready(Some(Ok(Frame::data(format!("data: {event}\n\n").into()))))
    }
}
