//! The page for people at `/`: what this task does, live. It is self-contained and loads nothing from elsewhere.

mod errors;
mod events;
mod session;

use std::{sync::Arc, time::SystemTime};

use axum::{
    Router,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
    routing::{get, post},
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use subtle::ConstantTimeEq;

pub(super) use errors::{ErrorCode, ErrorSummary, Errors};
pub(super) use events::Event;
pub(super) use session::Sessions;

use super::{api_error::ApiError, app::App, content::Incoming, headers};

/// Pages that are open on one task at the same time: each is a connection, and an event a second.
const MAX_STREAMS: u64 = 32;
/// The longest token, 4,096 bytes, with each byte percent-encoded, and its name.
const MAX_FORM_BYTES: u64 = 16 << 10;

/// No inline script or style, no other host, and no other site's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What needs the token or a session.
pub(super) fn protected() -> Router<Arc<App>> {
    Router::new().route("/", get(page)).route("/events", get(events::events))
}

/// What needs neither: it tells nothing of the files.
pub(super) fn open() -> Router<Arc<App>> {
    Router::new()
        .route("/page.css", get(async || asset("text/css; charset=utf-8", include_str!("page.css"))))
        .route("/page.js", get(async || asset("text/javascript; charset=utf-8", include_str!("page.js"))))
        .route("/session", post(sign_in))
        .route("/session/end", post(sign_out))
}

/// What a session opens: reading the state, and never a file. A page of another site cannot use it for anything.
pub(super) fn is_opened_by_session(method: &Method, path: &str) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
        && (matches!(path, "/" | "/events" | "/targets" | "/openapi.json") || path.starts_with("/route/"))
}

async fn page(State(app): State<Arc<App>>) -> Response {
    // Without a token there is nothing to sign out of.
    let hidden = if app.sessions.is_some() { "" } else { " hidden" };
    html(StatusCode::OK, include_str!("page.html").replace("{hidden}", hidden))
}

/// The form for the token, in place of the page.
pub(super) fn form(status: StatusCode, message: &str) -> Response {
    let mut response = html(status, include_str!("sign-in.html").replace("{message}", message));
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    response
}

async fn sign_in(State(app): State<Arc<App>>, request_headers: HeaderMap, body: Body) -> Result<Response, ApiError> {
    let (Some(sessions), Some(token)) = (&app.sessions, &app.token) else { return Ok(see_page(None)) };
    headers::check_content(&request_headers)?;
    let mut body = Incoming::new(body, MAX_FORM_BYTES, app.pace)?;
    let mut text = Vec::new();
    while let Some(bytes) = body.next().await? {
        text.extend_from_slice(&bytes);
    }
    let given = form_urlencoded::parse(&text).find(|(name, _)| name == "token").map(|(_, value)| value);
    // Constant time: the duration must not reveal how much of a token is right.
    let is_right = given.is_some_and(|given| given.trim().as_bytes().ct_eq(token).into());
    Ok(match is_right {
        true => see_page(Some(sessions.issue(SystemTime::now()))),
        false => form(StatusCode::UNAUTHORIZED, "This is not the token of the service. AUTH_TOKEN of its task is."),
    })
}

async fn sign_out(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    // Another site's form would sign the browser out (Fetch Metadata). Older browsers do not say where it is from.
    let is_foreign = headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none");
    if is_foreign {
        return see_page(None);
    }
    see_page(app.sessions.as_ref().map(Sessions::end))
}

fn see_page(cookie: Option<HeaderValue>) -> Response {
    let location = (header::LOCATION, HeaderValue::from_static("/"));
    let mut response = (StatusCode::SEE_OTHER, [location]).into_response();
    if let Some(cookie) = cookie {
        response.headers_mut().insert(header::SET_COOKIE, cookie);
    }
    response
}

fn html(status: StatusCode, text: String) -> Response {
    let mut response = (status, asset("text/html; charset=utf-8", "")).into_response();
    *response.body_mut() = Body::from(text);
    response
}

fn asset(kind: &'static str, text: &'static str) -> Response {
    let fields = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    (fields.map(|(name, value)| (name, HeaderValue::from_static(value))), text).into_response()
}
