//! A span of OpenTelemetry for each request, if traces are on. Names are those of the semantic conventions for HTTP servers.

use std::sync::Arc;

use axum::{
    extract::{MatchedPath, Request, State},
    middleware::Next,
    response::Response,
};
use telemetry::{OpenTelemetrySpanExt as _, client_context};
use tracing::{Instrument as _, field::Empty, info_span};

use super::{app::App, page::ErrorCode, routes::TARGET};

/// Traces a request until the head of its response; content is sent afterwards. Its parent is the client's span, if the
/// request has a `traceparent`.
pub(super) async fn trace(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    if !app.is_traced {
        return next.run(request).await;
    }
    // The name has no part of the path, so that there are few names.
    let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
    let span = info_span!(
        "request",
        otel.name = %format_args!("{} {route}", request.method()),
        otel.kind = "server",
        otel.status_code = Empty,
        http.request.method = %request.method(),
        http.route = route,
        url.path = request.uri().path(),
        http.response.status_code = Empty,
        error.type = Empty,
        efs.mount_target_id = Empty,
    );
    // It fails only where the span is disabled.
    let _ = span.set_parent(client_context(request.headers()));
    let response = next.run(request).instrument(span.clone()).await;
    span.record("http.response.status_code", response.status().as_u16());
    if let Some(ErrorCode(code)) = response.extensions().get() {
        span.record("error.type", code);
    }
    if response.status().is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    if let Some(target) = response.headers().get(TARGET).and_then(|target| target.to_str().ok()) {
        span.record("efs.mount_target_id", target);
    }
    response
}
