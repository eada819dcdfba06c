//! The routes of the HTTP API and their handlers.

use std::{sync::Arc, time::SystemTime};

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{MethodFilter, get, on},
};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use schemars::JsonSchema;
use serde::Serialize;

use super::{
    access::Record,
    api_error::ApiError,
    app::App,
    content::{Content, Incoming},
    headers,
    link::{FILES, LIST, href},
    listing::Listing,
    memory::Taken,
    openapi::openapi,
    page::{self, ErrorCode},
    report::{self, TargetState, TargetsReport},
    request::{conditions, digits, directory_path, file_path, only_query, query, want},
};
use files::{
    Endpoint, Upload, Written,
    transport::{Metadata, Preconditions, ReadOutcome},
};
use router::path::FilePath;

const ROUTE: &str = "/route/";

/// Maximum size of a body that is buffered in memory and written in one step.
const MAX_BUFFERED_BODY_BYTES: u64 = 256 << 10;
/// Maximum size of an append, which is one WRITE.
const MAX_APPEND_BYTES: u64 = 1 << 20;
const DEFAULT_PAGE_ENTRIES: usize = 1000;
const MAX_PAGE_ENTRIES: usize = 10_000;

const TARGET: &str = "x-mount-target";

/// The HTTP service.
pub(super) fn router(app: Arc<App>) -> Router {
    let file = on(MethodFilter::GET.or(MethodFilter::HEAD), read).put(put).delete(delete).post(post);
    Router::new()
        .route("/files/{*path}", file)
        .route("/list", get(list))
        .route("/list/", get(list))
        .route("/list/{*directory}", get(list))
        .route("/route/{*path}", get(route))
        .route("/targets", get(targets))
        .route("/metrics", get(metrics))
        .route("/openapi.json", get(openapi))
        .merge(page::protected())
        .fallback(no_such_address)
        .method_not_allowed_fallback(no_such_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&app), authenticate))
        // Health checks have no token, and who signs in has none yet.
        .route("/healthz", get(async || "alive\n"))
        .route("/readyz", get(ready))
        .merge(page::open())
        .method_not_allowed_fallback(no_such_method)
        .with_state(app)
}

async fn no_such_address(uri: Uri) -> Response {
    if uri.path() == "*" {
        // OPTIONS of the service as a whole (RFC 9110, section 9.3.7).
        let allow = [(header::ALLOW, HeaderValue::from_static("GET,HEAD,PUT,DELETE,POST"))];
        return (allow, no_such_method().await).into_response();
    }
    ApiError::new(
        StatusCode::NOT_FOUND,
        "NoSuchAddress",
        "there is /files/, /list/, /route/, /targets, /metrics, /openapi.json, /healthz, /readyz, and / for people",
    )
    .into_response()
}

/// 405 Method Not Allowed; axum adds Allow with the methods of the route.
async fn no_such_method() -> ApiError {
    ApiError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "NoSuchMethod",
        "a file takes GET, HEAD, PUT, DELETE, and POST with ?append; /session takes POST; all else GET",
    )
}

async fn authenticate(State(app): State<Arc<App>>, request: Request, next: Next) -> Response {
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let response = match app.is_allowed(&method, uri.path(), request.headers()) {
        true => next.run(request).await,
        false => refuse_without_token(&uri),
    };
    if let Some(ErrorCode(code)) = response.extensions().get() {
        let target = || {
            let path = file_path(&uri, FILES).ok()?;
            Some(app.files.target_of(&path)?.published.mount_target_id.to_string())
        };
        app.errors.record(code, response.status(), &method, uri.path(), target);
    }
    response
}

fn refuse_without_token(uri: &Uri) -> Response {
    if uri.path() == "/" {
        return page::form(StatusCode::UNAUTHORIZED, "");
    }
    ApiError::new(
        StatusCode::UNAUTHORIZED,
        "NoToken",
        "the request needs Authorization: Bearer and the service's token",
    )
    .into_response()
}

async fn ready(State(app): State<Arc<App>>) -> Response {
    match app.is_ready() {
        true => "ready\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready\n").into_response(),
    }
}

async fn read(State(app): State<Arc<App>>, method: Method, uri: Uri, headers: HeaderMap) -> Response {
    let path = match file_path(&uri, FILES) {
        Ok(path) => path,
        Err(api_error) => return api_error.into_response(),
    };
    let mut record = app.record(&method, &path);
    let opened = match want(&headers, method == Method::HEAD) {
        Ok(want) => app.files.open(&path, &want).await.map_err(ApiError::from),
        Err(api_error) => Err(api_error),
    };
    let opened = match opened {
        Ok(opened) => opened,
        Err(api_error) => return refused(record, api_error),
    };
    let (endpoint, reading) = (opened.endpoint, opened.reading);
    record.target(&endpoint);
    let mut response = Response::new(Body::empty());
    let (meta, size) = (reading.meta, reading.meta.size);
    describe(response.headers_mut(), &meta, &endpoint);
    let headers = response.headers_mut();
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let status = match reading.outcome {
        ReadOutcome::NotModified => {
            // Without this, hyper would announce Content-Length: 0.
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
            StatusCode::NOT_MODIFIED
        }
        ReadOutcome::PreconditionFailed => return refused(record, files::Error::PreconditionFailed.into()),
        ReadOutcome::Unsatisfiable => {
            headers.insert(header::CONTENT_RANGE, value(format!("bytes */{size}")));
            StatusCode::RANGE_NOT_SATISFIABLE
        }
        ReadOutcome::Content { from, to, part } => {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
            // A browser must not interpret a file as a page of this service.
            headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(to - from));
            if part {
                headers.insert(header::CONTENT_RANGE, value(format!("bytes {from}-{}/{size}", to - 1)));
            }
            let status = if part { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK };
            record.status(status);
            *response.status_mut() = status;
            if method != Method::HEAD {
                *response.body_mut() = match reading.rest {
                    None if !app.access_log => Body::from(reading.first),
                    rest => {
                        if to == from {
                            record.ended();
                        }
                        Body::new(Content::new(reading.first, rest, to - from, endpoint, record))
                    }
                };
                return response;
            }
            status
        }
    };
    record.status(status);
    record.ended();
    *response.status_mut() = status;
    response
}

async fn put(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap, body: Body) -> Response {
    change(&app, &Method::PUT, &uri, &headers, async |path, conditions, record| {
        only_query(&uri, &[])?;
        headers::check_content(&headers)?;
        let mut body = Incoming::new(body, app.max_body, app.pace)?;
        let begun = match body.length().filter(|length| *length <= MAX_BUFFERED_BODY_BYTES) {
            None => vec![],
            Some(length) => match app.memory(path).take(&mut body, length as usize).await? {
                Taken::Begun(begun) => begun,
                Taken::Whole(content) => {
                    record.moved(content.len() as u64);
                    return Ok(app.files.write(path, content, conditions).await?);
                }
            },
        };
        let (upload, _) = stage(&app, path, begun, body, record).await?;
        Ok(upload.commit(conditions).await?)
    })
    .await
}

async fn post(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap, body: Body) -> Response {
    change(&app, &Method::POST, &uri, &headers, async |path, conditions, record| {
        if !matches!(uri.query(), Some("append" | "append=")) {
            return Err(ApiError::bad_request(
                "BadQuery",
                "POST adds to a file, with ?append and nothing else; PUT replaces it",
            ));
        }
        headers::check_content(&headers)?;
        let max = app.max_body.min(MAX_APPEND_BYTES);
        let mut body = Incoming::new(body, max, app.pace)?;
        let (memory, expected) = (app.memory(path), body.length().unwrap_or(max));
        let content = match memory.take(&mut body, expected as usize).await? {
            Taken::Whole(content) => {
                record.moved(content.len() as u64);
                content
            }
            Taken::Begun(begun) => {
                let (upload, length) = stage(&app, path, begun, body, record).await?;
                memory.again(length, app.files.deadline(), upload.into_bytes()).await?
            }
        };
        Ok(app.files.append(path, content, conditions).await?)
    })
    .await
}

/// Streams a body to an upload: the part that is read already and the rest. Returns its length.
async fn stage(
    app: &App,
    path: &FilePath,
    begun: Vec<Bytes>,
    mut body: Incoming,
    record: &mut Record,
) -> Result<(Upload, u64), ApiError> {
    let mut upload = app.files.begin(path).await?;
    let mut length = 0;
    let mut begun = begun.into_iter().filter(|bytes| !bytes.is_empty());
    while let Some(bytes) = match begun.next() {
        None => body.piece().await?,
        some => some,
    } {
        let written = bytes.len() as u64;
        upload.write(bytes).await?;
        record.moved(written);
        length += written;
    }
    Ok((upload, length))
}

/// The response to a write.
async fn change(
    app: &App,
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    change: impl AsyncFnOnce(&FilePath, Preconditions, &mut Record) -> Result<Written, ApiError>,
) -> Response {
    let path = match file_path(uri, FILES) {
        Ok(path) => path,
        Err(api_error) => return api_error.into_response(),
    };
    let mut record = app.record(method, &path);
    let written = match headers::check_write(headers).and_then(|()| conditions(headers)) {
        Ok(conditions) => change(&path, conditions, &mut record).await,
        Err(api_error) => Err(api_error),
    };
    let written = match written {
        Ok(written) => written,
        Err(api_error) => return refused(record, api_error),
    };
    let status = if written.new { StatusCode::CREATED } else { StatusCode::NO_CONTENT };
    record.target(&written.endpoint);
    record.status(status);
    record.ended();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    describe(response.headers_mut(), &written.meta, &written.endpoint);
    if written.new && *method == Method::POST {
        // The file has another URI than the request (RFC 9110, section 9.3.3).
        response.headers_mut().insert(header::LOCATION, value(href(FILES, path.as_bytes())));
    }
    response
}

async fn delete(State(app): State<Arc<App>>, uri: Uri, headers: HeaderMap, body: Body) -> Response {
    let path = match file_path(&uri, FILES) {
        Ok(path) => path,
        Err(api_error) => return api_error.into_response(),
    };
    let mut record = app.record(&Method::DELETE, &path);
    let deleted = async {
        only_query(&uri, &[])?;
        headers::check_write(&headers)?;
        let conditions = conditions(&headers)?;
        Incoming::new(body, u64::MAX, app.pace)?.none().await?;
        Ok(app.files.delete(&path, conditions).await?)
    };
    match deleted.await {
        Err(api_error) => refused(record, api_error),
        Ok(endpoint) => {
            record.target(&endpoint);
            record.status(StatusCode::NO_CONTENT);
            record.ended();
            let mut response = StatusCode::NO_CONTENT.into_response();
            response.headers_mut().insert(TARGET, value(endpoint.published.mount_target_id.as_str()));
            response
        }
    }
}

fn refused(mut record: Record, api_error: ApiError) -> Response {
    record.status(api_error.status);
    record.failed(api_error.code);
    api_error.into_response()
}

/// The header fields of a file.
fn describe(headers: &mut HeaderMap, meta: &Metadata, endpoint: &Endpoint) {
    headers.insert(header::ETAG, value(format!("\"{}\"", meta.tag)));
    let modified = last_modified(headers, meta.modified_second(), SystemTime::now());
    headers.insert(header::LAST_MODIFIED, modified);
    headers.insert(TARGET, value(endpoint.published.mount_target_id.as_str()));
}

/// Last-Modified, which is never later than Date (RFC 9110, section 8.8.2.1): if the file's time is in the future, both are
/// the current time. Otherwise hyper adds Date.
fn last_modified(headers: &mut HeaderMap, modified: SystemTime, now: SystemTime) -> HeaderValue {
    let shown = value(httpdate::fmt_http_date(modified.min(now)));
    if modified > now {
        headers.insert(header::DATE, shown.clone());
    }
    shown
}

/// A header value. Values of this service are visible ASCII; an id of a target that is not is left out.
fn value(text: impl TryInto<HeaderValue>) -> HeaderValue {
    text.try_into().unwrap_or_else(|_| HeaderValue::from_static(""))
}

async fn list(State(app): State<Arc<App>>, uri: Uri) -> Result<Response, ApiError> {
    let directory = directory_path(&uri, LIST)?;
    only_query(&uri, &["limit", "from"])?;
    let bad = |key: &str, expected: &str| ApiError::bad_request("BadQuery", &format!("{key} is to be {expected}"));
    let limit = match query(&uri, "limit") {
        None => DEFAULT_PAGE_ENTRIES,
        Some(limit) => digits(limit)
            .filter(|limit| (1..=MAX_PAGE_ENTRIES).contains(limit))
            .ok_or_else(|| bad("limit", "a number from 1 to 10000"))?,
    };
    let cursor = match query(&uri, "from") {
        None => None,
        Some(cursor) => Some(digits(cursor).ok_or_else(|| bad("from", "what `next` of an earlier page says"))?),
    };
    let (listing, endpoint) = Listing::new(Arc::clone(&app.files), directory, cursor, limit).await?;
    let mut response = Response::new(listing.body());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(TARGET, value(endpoint.published.mount_target_id.as_str()));
    Ok(response)
}

/// Where a path goes.
#[derive(Serialize, JsonSchema)]
pub(super) struct RouteReport {
    path: String,
    /// The routing strategy.
    strategy: &'static str,
    /// Where it goes now; `null` when no mount target is up.
    target: Option<TargetState>,
    /// All mount targets in the order of preference.
    order: Vec<TargetState>,
}

async fn route(State(app): State<Arc<App>>, uri: Uri) -> Result<Json<RouteReport>, ApiError> {
    let path = file_path(&uri, ROUTE)?;
    let route = app.files.route(path.as_bytes());
    let order: Vec<_> = route.order.iter().map(|(target, up)| TargetState::new(target, *up)).collect();
    Ok(Json(RouteReport {
        path: path.to_string(),
        strategy: route.strategy,
        target: route.chosen.and_then(|index| order.get(index)).cloned(),
        order,
    }))
}

async fn targets(State(app): State<Arc<App>>) -> Json<TargetsReport> {
    Json(report::targets(&app.files))
}

async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let failed = |err: std::fmt::Error| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "NoMetrics", err.to_string());
    let text = report::prometheus(&app).map_err(failed)?;
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}
