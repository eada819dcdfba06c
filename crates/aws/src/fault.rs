//! What an SDK's error means to its caller. Only the code and the status are looked at; the source is
//! kept for the log.

use aws_runtime::retries::classifiers::{THROTTLING_ERRORS, TRANSIENT_ERRORS};
use aws_smithy_runtime_api::client::{orchestrator::HttpResponse, result::SdkError};
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use aws_types::request_id::RequestId;
use domain::error::{AwsError, AwsFault};

/// Codes for "later" that neither the SDK's lists nor an HTTP status tell.
const LATER: &[&str] = &["InternalServerError", "InternalError", "IncorrectFileSystemLifeCycleState"];

/// An answer that lacks what its API model promises. Not a refusal: what was asked for may be done.
pub(crate) fn incomplete(operation: &'static str, what: &str) -> AwsError {
    AwsError::Unavailable(AwsFault {
        operation,
        code: "ResponseIncomplete".to_owned(),
        message: format!("the response has no {what}"),
        request_id: None,
        source: None,
    })
}

/// Which kind of failure an SDK's error is, and all that is known of it.
pub(crate) fn classify<E>(operation: &'static str, error: SdkError<E, HttpResponse>) -> AwsError
where
    E: ProvideErrorMetadata + std::error::Error + Send + Sync + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    let request_id = error.request_id().map(str::to_owned);
    let (code, message) = match &error {
        SdkError::ServiceError(service) => (
            service.err().code().unwrap_or("UnknownError").to_owned(),
            service.err().message().unwrap_or("no message").to_owned(),
        ),
        SdkError::TimeoutError(_) => ("Timeout".to_owned(), format!("no answer within {:?}", crate::CALL_TIMEOUT)),
        SdkError::DispatchFailure(_) => ("ConnectionFailed".to_owned(), deepest(&error)),
        SdkError::ResponseError(_) => ("ResponseUnreadable".to_owned(), "the response could not be read".to_owned()),
        _ => ("RequestNotBuilt".to_owned(), deepest(&error)),
    };
    let kind = match &error {
        SdkError::ServiceError(_) if status == Some(429) || THROTTLING_ERRORS.contains(&code.as_str()) => {
            AwsError::Throttled
        }
        SdkError::ServiceError(_)
            if status.is_some_and(|status| status >= 500)
                || LATER.contains(&code.as_str())
                || TRANSIENT_ERRORS.contains(&code.as_str()) =>
        {
            AwsError::Unavailable
        }
        SdkError::DispatchFailure(failure) if failure.is_io() || failure.is_timeout() => AwsError::Unavailable,
        SdkError::TimeoutError(_) | SdkError::ResponseError(_) => AwsError::Unavailable,
        _ => AwsError::Refused,
    };
    kind(AwsFault { operation, code, message, request_id, source: Some(Box::new(error)) })
}

/// The innermost cause: what a person can act on.
fn deepest(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
