//! What an SDK's error means to its caller.
//!
//! Only a response of the service can say that something was not done. A connection that ends, a timeout, a
//! response that cannot be read, and the page of a proxy in between leave it open.

use std::fmt::Display;

use aws_smithy_runtime_api::client::{orchestrator::HttpResponse, result::SdkError};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_types::request_id::RequestId;
use domain::error::{AwsError, AwsFault};

use crate::errors::{Call, Meaning};

/// So many characters of a body that is not the service's stand in a message.
const MAX_SHOWN_BODY: usize = 100;

/// A call that was not carried out, or may not have been.
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

/// A response that lacks what its API model promises. Not a refusal: what was asked for may be done.
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

/// What an SDK's error means, and all that is known of it. `resource` is what the request was about.
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
        // Nothing was sent, and never will be.
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

/// A response that is not what the service sends: what a person needs to find out who sent it.
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

/// The innermost cause: what a person can act on.
fn innermost(err: &dyn std::error::Error) -> String {
    let mut cause = err;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
