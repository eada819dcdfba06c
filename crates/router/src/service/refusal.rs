//! Answers that say no: a status, a stable code, a sentence.

use std::io;

use axum::{
    Json,
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use serde_json::json;

use crate::error::{Error, RETRY_AFTER};

/// The code for a coding that the service cannot take off a content.
pub(super) const UNSUPPORTED_CODING: &str = "UnsupportedCoding";

/// A request that is not done.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: StatusCode,
    pub code: &'static str,
    message: String,
}

impl Refusal {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub fn bad_request(code: &'static str, message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub fn too_large(most: u64) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "TooLarge", format!("the body is larger than {most} bytes"))
    }

    /// The content did not come whole. What breaks the framing is the client's mistake (400), and the same again would
    /// be too; whoever has gone may try again (408).
    pub fn of_content(why: &(dyn std::error::Error + 'static)) -> Self {
        let is_malformed = |why: &(dyn std::error::Error + 'static)| {
            // As hyper tells a chunk that is none.
            why.downcast_ref::<io::Error>()
                .is_some_and(|why| matches!(why.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData))
        };
        match std::iter::successors(Some(why), |why| why.source()).any(is_malformed) {
            true => Self::bad_request("BadFraming", &format!("the content is not framed as it says: {why}")),
            false => Self::incomplete(&why.to_string()),
        }
    }

    /// The client sends fewer bytes a second than this.
    pub fn too_slow(rate: u64) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "SlowBody", format!("the body came slower than {rate} bytes a second"))
    }

    /// The client has sent nothing for too long, or has gone.
    pub fn incomplete(why: &str) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "IncompleteBody", format!("the body did not come whole: {why}"))
    }
}

/// What an error is in HTTP.
pub(crate) fn status_of(why: &Error) -> StatusCode {
    match why {
        Error::BadPath(_) | Error::BadName(_) | Error::BadPlace => StatusCode::BAD_REQUEST,
        Error::LinkInPath | Error::Denied(_) => StatusCode::FORBIDDEN,
        Error::NotFound => StatusCode::NOT_FOUND,
        Error::NotADirectory | Error::IsADirectory | Error::NotAFile => StatusCode::CONFLICT,
        Error::PreconditionFailed => StatusCode::PRECONDITION_FAILED,
        Error::TooLarge(_) | Error::AboveLimit(_) => StatusCode::PAYLOAD_TOO_LARGE,
        Error::Unsupported(_) => StatusCode::NOT_IMPLEMENTED,
        Error::NoSpace => StatusCode::INSUFFICIENT_STORAGE,
        Error::Busy | Error::Fenced | Error::Locked | Error::NoTarget => StatusCode::SERVICE_UNAVAILABLE,
        Error::Deadline | Error::Uncertain | Error::Pending => StatusCode::GATEWAY_TIMEOUT,
        Error::Shortened | Error::Failed(_) => StatusCode::BAD_GATEWAY,
    }
}

impl From<Error> for Refusal {
    fn from(why: Error) -> Self {
        if let Error::Failed(source) = &why {
            tracing::warn!(error = %source, "a target failed");
        }
        Self::new(status_of(&why), why.code(), why.to_string())
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        let body = json!({ "error": { "code": self.code, "message": self.message } });
        let mut response = (self.status, Json(body)).into_response();
        let headers = response.headers_mut();
        if matches!(self.status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER.as_secs()));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status == StatusCode::UNSUPPORTED_MEDIA_TYPE && self.code == UNSUPPORTED_CODING {
            // Which content codings there may be (RFC 9110, section 15.5.16).
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        if self.status == StatusCode::REQUEST_TIMEOUT {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}
