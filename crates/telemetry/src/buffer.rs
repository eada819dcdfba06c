//! The spans that have ended and wait for their export.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use opentelemetry::Context;
use opentelemetry_sdk::{
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};

/// Default of `OTEL_BSP_MAX_QUEUE_SIZE`. Spans beyond it are dropped, so that a collector that is down costs no memory.
const MAX_SPANS: usize = 2048;

/// A span processor that only buffers. The SDK's own exports on a thread of its own, which Lambda freezes in the middle of
/// an export.
#[derive(Clone, Debug, Default)]
pub(crate) struct Buffer(Arc<Mutex<VecDeque<SpanData>>>);

impl Buffer {
    /// Removes at most `max` spans, the oldest first.
    pub fn take(&self, max: usize) -> Vec<SpanData> {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = spans.len().min(max);
        spans.drain(..count).collect()
    }
}

impl SpanProcessor for Buffer {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        let mut spans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if span.span_context.is_sampled() && spans.len() < MAX_SPANS {
            spans.push_back(span);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}
