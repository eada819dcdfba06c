//! The trace to which a span belongs.

use aws_lc_rs::digest::{SHA256, digest};
use http::HeaderMap;
use opentelemetry::{
    Context,
    propagation::TextMapPropagator as _,
    trace::{SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState},
};
use opentelemetry_http::HeaderExtractor;
use opentelemetry_sdk::propagation::TraceContextPropagator;

/// The trace of an execution. All of its functions have the same: that of X-Ray where Step Functions traces, else one made
/// from the ARN of the execution. `tracing_header` is `X-Amzn-Trace-Id`, as Lambda has it.
#[must_use]
pub fn execution_context(tracing_header: Option<&str>, execution: Option<&str>) -> Context {
    let context = tracing_header.and_then(of_xray).or_else(|| execution.map(of_execution));
    context.map_or_else(Context::new, |context| Context::new().with_remote_span_context(context))
}

/// The trace of a client's request, from the fields `traceparent` and `tracestate` of W3C Trace Context; an invalid
/// `traceparent` is ignored, as the specification requires.
#[must_use]
pub fn client_context(headers: &HeaderMap) -> Context {
    TraceContextPropagator::new().extract_with_context(&Context::new(), &HeaderExtractor(headers))
}

/// Reads `Root=1-<8 digits>-<24 digits>;Parent=<16 digits>;Sampled=1`. The digits of the root are a W3C trace id.
/// Source: <https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader>
fn of_xray(header: &str) -> Option<SpanContext> {
    let field = |name: &str| {
        let mut fields = header.split(';').filter_map(|field| field.trim().split_once('='));
        fields.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    let (time, random) = field("Root")?.strip_prefix("1-")?.split_once('-')?;
    if (time.len(), random.len()) != (8, 24) {
        return None;
    }
    let trace = TraceId::from_hex(&format!("{time}{random}")).ok()?;
    let parent = SpanId::from_hex(field("Parent")?).ok()?;
    let flags = if field("Sampled") == Some("0") { TraceFlags::NOT_SAMPLED } else { TraceFlags::SAMPLED };
    let context = SpanContext::new(trace, parent, flags, true, TraceState::NONE);
    context.is_valid().then_some(context)
}

/// The first 16 bytes of the digest are the trace, the next 8 the parent: the execution, which nobody exports.
fn of_execution(arn: &str) -> SpanContext {
    let digest = digest(&SHA256, arn.as_bytes());
    let (mut trace, mut parent) = ([0; 16], [0; 8]);
    trace.copy_from_slice(&digest.as_ref()[..16]);
    parent.copy_from_slice(&digest.as_ref()[16..24]);
    SpanContext::new(
        TraceId::from_bytes(trace),
        SpanId::from_bytes(parent),
        TraceFlags::SAMPLED,
        true,
        TraceState::NONE,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const XRAY: &str = "Root=1-67891233-abcdef012345678912345678;Parent=53995c3f42cd8ad8;Sampled=1";
    const ARN: &str = "arn:aws:states:us-east-1:123456789012:execution:m:e";

    fn ids(context: &Context) -> (String, String, bool) {
        let span = context.span().span_context().clone();
        (span.trace_id().to_string(), span.span_id().to_string(), span.is_sampled())
    }

    #[test]
    fn the_trace_of_xray_is_that_of_the_execution() {
        let expected = ("67891233abcdef012345678912345678".to_owned(), "53995c3f42cd8ad8".to_owned(), true);
        assert_eq!(ids(&execution_context(Some(XRAY), Some(ARN))), expected);
        let unsampled = XRAY.replace("Sampled=1", "Sampled=0");
        assert!(!ids(&execution_context(Some(&unsampled), None)).2);
    }

    #[test]
    fn without_xray_the_functions_of_an_execution_have_one_trace() {
        let derived = ids(&execution_context(None, Some(ARN)));
        for header in
            ["", "Root=1-67891233-abc;Parent=53995c3f42cd8ad8", "Root=1-67891233-abcdef012345678912345678", "x"]
        {
            assert_eq!(ids(&execution_context(Some(header), Some(ARN))), derived, "{header}");
        }
        assert_ne!(ids(&execution_context(None, Some("another"))).0, derived.0);
        assert!(derived.2 && !execution_context(None, None).span().span_context().is_valid());
    }

    #[test]
    fn a_client_has_its_own_trace() {
        let context = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("traceparent", text.parse().unwrap_or_else(|_| unreachable!("{text}")));
            client_context(&headers)
        };
        let valid = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let expected = ("0af7651916cd43dd8448eb211c80319c".to_owned(), "b7ad6b7169203331".to_owned(), true);
        assert_eq!(ids(&context(valid)), expected);
        for invalid in
            ["", "00-0-0-0", &valid.replace("00-0", "ff-0"), &valid.replace("b7ad6b7169203331", "0000000000000000")]
        {
            assert!(!context(invalid).span().span_context().is_valid(), "{invalid}");
        }
    }
}
