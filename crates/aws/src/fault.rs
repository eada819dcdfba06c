//! Converts an SDK's error into its meaning for the caller.
//!
//! Only a response of the service shows that a call had no effect. A closed connection, a timeout, an unreadable response
//! and a page of a proxy leave it open.

use std::fmt::Display;

use aws_smithy_runtime_api::client::{orchestrator::HttpResponse, result::SdkError};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_types::request_id::RequestId;
use domain::error::{AwsError, AwsFault};

use crate::errors::{Call, Meaning};

/// Maximum number of characters of a foreign response body in a message.
const MAX_SHOWN_BODY: usize = 100;

/// A failed call, which may have taken effect.
#[derive(Debug)]
pub(crate) struct Failure {
    pub meaning: Meaning,
    pub fault: AwsFault,
}

impl From<Failure> for AwsError {
    fn from(Failure { meaning, fault }: Failure) -> Self {
        match meaning {
            Meaning::Throttled => Self::Throttled(fault),
            Meaning::Later | Meaning::Uncertain => Self::Unavailable(fault),
            Meaning::Refused
            | Meaning::NotFound
            | Meaning::Subnet
            | Meaning::Zone
            | Meaning::Conflict
            | Meaning::TypeMismatch => Self::Refused(fault),
        }
    }
}

/// A response without a field that the API model promises. The call may have taken effect.
pub(crate) fn incomplete(call: &Call, resource: &impl Display, what: &str) -> AwsError {
    AwsError::Unavailable(AwsFault {
        operation: call.operation,
        resource: resource.to_string().into(),
        code: "ResponseIncomplete".to_owned(),
        message: format!("the response has no {what}"),
        request_id: None,
        source: None,
    })
}

/// The meaning and details of an SDK's error. `resource` is the subject of the request.
pub(crate) fn classify<E>(call: &Call, resource: &impl Display, err: SdkError<E, HttpResponse>) -> Failure
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let (meaning, code, message) = match (&err, err.raw_response()) {
        (SdkError::ServiceError(service), Some(response)) if let Some(code) = service.err().code() => {
            let meaning = call.meaning(code, response.status().as_u16());
            (meaning, code.to_owned(), service.err().message().unwrap_or("no message").to_owned())
        }
        (_, Some(response)) => (Meaning::Uncertain, "UnexpectedResponse".to_owned(), unexpected(response)),
        (SdkError::TimeoutError(_), None) => {
            let message = format!("no response within {:?}", crate::CALL_TIMEOUT);
            (Meaning::Uncertain, "Timeout".to_owned(), message)
        }
        // Nothing was sent.
        (SdkError::ConstructionFailure(_), None) => (Meaning::Refused, "RequestNotBuilt".to_owned(), innermost(&err)),
        (_, None) => (Meaning::Uncertain, "ConnectionFailed".to_owned(), innermost(&err)),
    };
    let fault = AwsFault {
        operation: call.operation,
        resource: resource.to_string().into(),
        code,
        message,
        request_id: err.request_id().map(Into::into),
        source: Some(Box::new(err)),
    };
    Failure { meaning, fault }
}

/// Details of a response that the service did not send, to find out who did.
fn unexpected(response: &HttpResponse) -> String {
    let status = response.status().as_u16();
    let kind = response.headers().get("content-type").unwrap_or("no content type");
    let body = String::from_utf8_lossy(response.body().bytes().unwrap_or_default());
    let mut words = body.split_whitespace().collect::<Vec<_>>().join(" ");
    if let Some((end, _)) = words.char_indices().nth(MAX_SHOWN_BODY) {
        words.truncate(end);
        words.push('…');
    }
    format!("HTTP {status} ({kind}) without an error code of the service; a proxy in between? {words:?}")
}

/// The innermost cause.
fn innermost(err: &dyn std::error::Error) -> String {
    let mut cause = err;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
