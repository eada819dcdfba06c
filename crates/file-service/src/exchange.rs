//! A request and its response: checks before the handler, and header fields of every response.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use axum::{
    BoxError, Router,
    response::{IntoResponse, Response},
    routing::future::RouteFuture,
};
use bytes::Bytes;
use http::{HeaderValue, Request, header};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use tower::Service as _;

use super::{App, api_error::ApiError, framing::Framing, headers};

/// The requests of one connection, in sequence.
pub(super) struct Exchanges {
    router: Router,
    app: Arc<App>,
    framing: Arc<Framing>,
    /// Number of requests so far.
    requests: AtomicU64,
}

impl Exchanges {
    pub fn new(router: Router, app: Arc<App>, framing: Arc<Framing>) -> Self {
        Self { router, app, framing, requests: AtomicU64::new(0) }
    }
}

impl hyper::service::Service<Request<Incoming>> for Exchanges {
    type Response = Response;
    type Error = Infallible;
    type Future = Exchange;

    fn call(&self, request: Request<Incoming>) -> Exchange {
        let number = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        let fault = self.framing.fault(number).map(ApiError::from);
        if let Some(api_error) = fault.or_else(|| headers::check_request(&request).err()) {
            return Exchange::Refused(api_error.into_response());
        }
        // The connection may learn of the shutdown after this request started.
        let is_last = self.app.counters.is_ending();
        if request.body().is_end_stream() {
            return Exchange::Handled { response: self.router.clone().call(request), content: None, is_last };
        }
        let content = Content { number, framing: Arc::clone(&self.framing), is_chunked: is_chunked(&request) };
        let request = request.map(|body| Watched { body, number, framing: Arc::clone(&self.framing) });
        Exchange::Handled { response: self.router.clone().call(request), content: Some(content), is_last }
    }
}

/// After [`headers::check_request`] there is no transfer coding but `chunked`.
fn is_chunked<B>(request: &Request<B>) -> bool {
    request.headers().contains_key(header::TRANSFER_ENCODING)
}

/// The content of a request, as far as it decides whether the connection closes.
pub(super) struct Content {
    number: u64,
    framing: Arc<Framing>,
    is_chunked: bool,
}

impl Content {
    /// Whether hyper will close the connection because the content was not read. hyper discards what it has received if it
    /// knows the length.
    fn is_left(&self) -> bool {
        !self.framing.is_read(self.number) && (self.is_chunked || !self.framing.is_received(self.number))
    }
}

/// A response in progress.
#[expect(clippy::large_enum_variant, reason = "the large one is the usual one, and a connection has one at a time")]
pub(super) enum Exchange {
    Refused(Response),
    Handled { response: RouteFuture<Infallible>, content: Option<Content>, is_last: bool },
}

impl Future for Exchange {
    type Output = Result<Response, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let (mut response, is_last) = match &mut *self {
            Self::Refused(response) => (std::mem::take(response), true),
            Self::Handled { response, content, is_last } => {
                let response = ready!(Pin::new(response).poll(context))?;
                (response, *is_last || content.as_ref().is_some_and(Content::is_left))
            }
        };
        let headers = response.headers_mut();
        if is_last {
            // RFC 9112, section 9.6: the side that closes sends `Connection: close`.
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        // Without this, a cache may store even a 404 (RFC 9110, section 15.1).
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache"));
        Poll::Ready(Ok(response))
    }
}

/// Content that records when it has been read to its end, and ends only with its request.
struct Watched {
    body: Incoming,
    number: u64,
    framing: Arc<Framing>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        let is_at_end = matches!(frame, Poll::Ready(None)) || self.body.is_end_stream();
        // hyper's own error is more specific.
        if !matches!(frame, Poll::Ready(Some(Err(_)))) && self.framing.is_malformed(self.number, is_at_end) {
            let err = io::Error::new(io::ErrorKind::InvalidData, "a line of a chunk or a trailer does not end in CRLF");
            return Poll::Ready(Some(Err(err.into())));
        }
        let frame = ready!(frame);
        if is_at_end {
            self.framing.set_read(self.number);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BoxError::from)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
