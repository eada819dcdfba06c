//! Answers that say no: a status, a stable code, a sentence.

use std::io;

use axum::{
    Json,
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, StatusCode, header};
use schemars::JsonSchema;
use serde::Serialize;

use super::page::ErrorCode;
use files::{Error, RETRY_AFTER};

/// The code for a coding that the service cannot take off a content.
pub(super) const UNSUPPORTED_CODING: &str = "UnsupportedCoding";

/// A request that is not done.
#[derive(Debug)]
pub(super) struct ApiError {
    pub status: StatusCode,
    pub code: &'static str,
    message: String,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub fn bad_request(code: &'static str, message: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    pub fn too_large(max: u64) -> Self {
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "TooLarge", format!("the body is larger than {max} bytes"))
    }

    /// The content did not come whole. What breaks the framing is the client's mistake (400), and the same again would
    /// be too; whoever has gone may try again (408).
    pub fn of_content(err: &(dyn std::error::Error + 'static)) -> Self {
        let is_malformed = |err: &(dyn std::error::Error + 'static)| {
            // As hyper tells a chunk that is none.
            err.downcast_ref::<io::Error>()
                .is_some_and(|err| matches!(err.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::InvalidData))
        };
        match std::iter::successors(Some(err), |err| err.source()).any(is_malformed) {
            true => Self::bad_request("BadFraming", &format!("the content is not framed as it says: {err}")),
            false => Self::incomplete(&err.to_string()),
        }
    }

    /// The client sends fewer bytes a second than this.
    pub fn too_slow(rate: u64) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "SlowBody", format!("the body came slower than {rate} bytes a second"))
    }

    /// The client has sent nothing for too long, or has gone.
    pub fn incomplete(err: &str) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "IncompleteBody", format!("the body did not come whole: {err}"))
    }
}

/// The content of a refusal.
#[derive(Serialize, JsonSchema)]
pub(super) struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Serialize, JsonSchema)]
struct ErrorDetail {
    /// Stable; docs/reference/codes.md has cause and remedy.
    code: &'static str,
    /// For people.
    message: String,
}

/// What an error is in HTTP.
pub(crate) fn status_of(err: &Error) -> StatusCode {
    match err {
        Error::BadPath(_) | Error::BadName(_) | Error::BadCursor => StatusCode::BAD_REQUEST,
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

impl From<Error> for ApiError {
    fn from(err: Error) -> Self {
        if let Error::Failed(source) = &err {
            tracing::warn!(error = %source, "a target failed");
        }
        Self::new(status_of(&err), err.code(), err.to_string())
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response<Body> {
        let body = ErrorBody { error: ErrorDetail { code: self.code, message: self.message } };
        let mut response = (self.status, Json(body)).into_response();
        response.extensions_mut().insert(ErrorCode(self.code));
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

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use files_nfs::status::{error_of, rows};
    use nfs41::{Op, Status};

    use super::*;

    #[test]
    fn a_status_is_answered_for_what_it_says() {
        for (op, status, http, code, is_target_fault) in [
            (Op::LOOKUP, Status::INVAL, 400, "BadName", false),
            (Op::OPEN, Status::INVAL, 400, "BadName", false),
            (Op::LOOKUP, Status::BADCHAR, 400, "BadName", false),
            (Op::RENAME, Status::BADNAME, 400, "BadName", false),
            (Op::CREATE, Status::NAMETOOLONG, 400, "BadName", false),
            (Op::READDIR, Status::NOT_SAME, 400, "BadCursor", false),
            (Op::VERIFY, Status::NOT_SAME, 503, "Locked", false),
            (Op::READDIR, Status::BAD_COOKIE, 400, "BadCursor", false),
            (Op::OPEN, Status::ACCESS, 403, "Denied", false),
            (Op::WRITE, Status::ROFS, 403, "Denied", false),
            (Op::LOOKUP, Status::WRONGSEC, 403, "Denied", false),
            (Op::PUTROOTFH, Status::WRONGSEC, 502, "TargetFailed", true),
            (Op::PUTROOTFH, Status::ACCESS, 502, "TargetFailed", true),
            (Op::SEQUENCE, Status::ACCESS, 502, "TargetFailed", true),
            (Op::SEQUENCE, Status::DELAY, 503, "Busy", true),
            (Op::LOOKUP, Status::XDEV, 403, "Denied", false),
            (Op::LOOKUP, Status::NOENT, 404, "NotFound", false),
            (Op::RENAME, Status::EXIST, 409, "IsADirectory", false),
            (Op::RENAME, Status::NOTEMPTY, 409, "IsADirectory", false),
            (Op::READ, Status::INVAL, 409, "NotAFile", false),
            (Op::OPEN, Status::WRONG_TYPE, 409, "NotAFile", false),
            (Op::WRITE, Status::FBIG, 413, "TooLarge", false),
            (Op::LINK, Status::NOTSUPP, 501, "Unsupported", false),
            (Op::LOCK, Status::LOCK_NOTSUPP, 501, "Unsupported", false),
            (Op::OPEN, Status::SHARE_DENIED, 503, "Locked", false),
            (Op::LOCK, Status::DEADLOCK, 503, "Locked", false),
            (Op::WRITE, Status::DELAY, 503, "Busy", true),
            (Op::OPEN, Status::GRACE, 503, "Busy", true),
            (Op::RENAME, Status::RETRY_UNCACHED_REP, 504, "Uncertain", true),
            (Op::WRITE, Status::NOSPC, 507, "NoSpace", false),
            (Op::LINK, Status::MLINK, 507, "NoSpace", false),
            (Op::SETATTR, Status::INVAL, 502, "TargetFailed", true),
            (Op::READ, Status::IO, 502, "TargetFailed", true),
            (Op::PUTFH, Status::SERVERFAULT, 502, "TargetFailed", true),
            (Op::READ, Status(10_088), 502, "TargetFailed", true),
        ] {
            let err = error_of(nfs41::Error::Status { op, status });
            let found = (status_of(&err).as_u16(), err.code(), err.is_target_fault());
            assert_eq!(found, (http, code, is_target_fault), "{op:?}: {status}");
        }
        for (err, http, code) in [
            (nfs41::Error::BadPath("so many components"), 400, "BadName"),
            (nfs41::Error::BadInput("more than one call carries"), 413, "TooLarge"),
            (nfs41::Error::SessionLost, 502, "TargetFailed"),
        ] {
            let err = error_of(err);
            assert_eq!((status_of(&err).as_u16(), err.code()), (http, code), "{err}");
        }
    }

    /// The rows of the document, by the answer.
    fn documented() -> String {
        let mut found: Vec<(u16, &str, Vec<String>, bool)> = Vec::new();
        for (err, names) in rows() {
            let (http, code) = (status_of(&err).as_u16(), err.code());
            match found.iter_mut().find(|row| (row.0, row.1) == (http, code)) {
                Some(row) => row.2.push(names),
                None => found.push((http, code, vec![names], err.is_target_fault())),
            }
        }
        found.push((502, "TargetFailed", vec!["all others".to_owned()], true));
        found.sort_by_key(|row| row.0);
        found.iter().fold(String::new(), |mut text, (http, code, names, counts)| {
            let counts = match *code {
                "Busy" => "as refused",
                _ if *counts => "yes",
                _ => "no",
            };
            let _ = writeln!(text, "| {http} | `{code}` | {counts} | {} |", names.join("; "));
            text
        })
    }

    #[test]
    fn the_document_has_the_table() {
        let document =
            std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/nfs41.md")).unwrap();
        assert!(document.contains(&documented()), "docs/reference/nfs41.md is to have these rows:\n{}", documented());
    }
}
