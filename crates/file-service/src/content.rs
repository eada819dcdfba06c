//! Bodies: the content of a file as a response body, and the body of a request.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, timeout_at};

use super::{access::Record, api_error::ApiError, headers, memory::BUFFERING_TIMEOUT};
use files::{
    Endpoint, Error, Result, buffers,
    transport::{BodyStream, BoxFuture},
};

/// The content of a file as a response body.
pub(super) struct Content {
    first: Option<Bytes>,
    rest: Next,
    left: u64,
    endpoint: Arc<Endpoint>,
    record: Record,
}

enum Next {
    None,
    Ready(Box<dyn BodyStream>),
    Waiting(BoxFuture<'static, (Bytes, Box<dyn BodyStream>)>),
}

impl Content {
    pub fn new(
        first: Bytes,
        rest: Option<Box<dyn BodyStream>>,
        length: u64,
        endpoint: Arc<Endpoint>,
        record: Record,
    ) -> Self {
        Self { first: Some(first), rest: rest.map_or(Next::None, Next::Ready), left: length, endpoint, record }
    }

    fn poll_piece(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        if let Some(first) = self.first.take().filter(|first| !first.is_empty()) {
            return Poll::Ready(Some(Ok(first)));
        }
        loop {
            match std::mem::replace(&mut self.rest, Next::None) {
                Next::None => return Poll::Ready(None),
                Next::Ready(_) if self.left == 0 => return Poll::Ready(None),
                Next::Ready(mut rest) => match rest.next_now() {
                    Some(Ok(bytes)) => {
                        self.rest = Next::Ready(rest);
                        self.endpoint.stats.read(bytes.len());
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                    Some(Err(err)) => return Poll::Ready(Some(Err(err))),
                    None => self.rest = Next::Waiting(rest.next()),
                },
                Next::Waiting(mut answer) => match answer.as_mut().poll(context) {
                    Poll::Pending => {
                        self.rest = Next::Waiting(answer);
                        return Poll::Pending;
                    }
                    Poll::Ready(Err(err)) => return Poll::Ready(Some(Err(err))),
                    Poll::Ready(Ok((bytes, rest))) => {
                        self.rest = Next::Ready(rest);
                        self.endpoint.stats.read(bytes.len());
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                },
            }
        }
    }
}

impl HttpBody for Content {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>>>> {
        let piece = ready!(self.poll_piece(context));
        Poll::Ready(match piece {
            Some(Ok(bytes)) => {
                let length = bytes.len() as u64;
                self.left = self.left.saturating_sub(length);
                self.record.moved(length);
                if self.left == 0 {
                    self.record.ended();
                }
                Some(Ok(Frame::data(bytes)))
            }
            Some(Err(err)) => {
                self.endpoint.record_late_failure(&err);
                self.record.failed(err.code());
                Some(Err(err))
            }
            None => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The body of a request, with its limits on size and speed.
pub(super) struct Incoming {
    body: Body,
    left: u64,
    max: u64,
    pace: Pace,
}

/// Shorter pieces of a body are combined if the next piece arrives soon.
const PIECE_BYTES: usize = 16 << 10;
/// Maximum pause between pieces that are combined.
const COALESCE_PAUSE: Duration = Duration::from_millis(2);

impl Incoming {
    /// # Errors
    /// Content-Length is greater than `max`.
    pub fn new(body: Body, max: u64, pace: Pace) -> std::result::Result<Self, ApiError> {
        if body.size_hint().lower() > max {
            return Err(ApiError::too_large(max));
        }
        Ok(Self { body, left: max, max, pace })
    }

    /// The length, if Content-Length states it.
    pub fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The next bytes; `None` at the end. Cancel safe.
    ///
    /// # Errors
    /// The client is idle for too long, too slow or disconnected, or the body is too large.
    pub async fn next(&mut self) -> std::result::Result<Option<Bytes>, ApiError> {
        loop {
            let Some(frame) = self.pace.wait(self.body.frame()).await? else { return Ok(None) };
            let frame = frame.map_err(|err| ApiError::of_content(&err))?;
            let bytes = match frame.into_data() {
                Ok(bytes) => bytes,
                // Ignore other trailers.
                Err(frame) => {
                    frame.trailers_ref().map_or(Ok(()), headers::check_trailers)?;
                    continue;
                }
            };
            self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| ApiError::too_large(self.max))?;
            self.pace.came(bytes.len());
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
    }

    /// Requires an empty body, however it is framed: the content of a DELETE has no defined semantics (RFC 9110, section
    /// 9.3.5), so a client that sends one expects something that does not happen.
    ///
    /// # Errors
    /// The body is not empty, or as [`Incoming::next`].
    pub async fn none(mut self) -> std::result::Result<(), ApiError> {
        // With Content-Length, refuse without reading (no 100 Continue).
        match self.body.size_hint().lower() > 0 || self.next().await?.is_some() {
            true => Err(ApiError::bad_request("BadHeader", "DELETE takes no content")),
            false => Ok(()),
        }
    }

    /// Like [`Incoming::next`], combined with the pieces that follow soon: a client that sends byte by byte does not cause a
    /// write per byte, and a fast client gets large pieces as far as buffers are available.
    ///
    /// # Errors
    /// As [`Incoming::next`].
    pub async fn piece(&mut self) -> std::result::Result<Option<Bytes>, ApiError> {
        let Some(first) = self.next().await? else { return Ok(None) };
        let (soon, max) = (Instant::now() + BUFFERING_TIMEOUT, buffers::max());
        let mut piece = Vec::with_capacity(PIECE_BYTES.max(first.len()));
        piece.extend_from_slice(&first);
        drop(first);
        loop {
            let until = match piece.len() {
                few if few < PIECE_BYTES => soon,
                many if many < max => Instant::now() + COALESCE_PAUSE,
                _ => break,
            };
            let Ok(next) = timeout_at(until, self.next()).await else { break };
            let Some(more) = next? else { break };
            piece.extend_from_slice(&more);
        }
        Ok(Some(buffers::reserve(piece.len()).hold(piece.into())))
    }
}

/// Minimum speed of a client. Only the time spent waiting for the client counts, not the time of the target.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    idle: Duration,
    /// Minimum bytes per second; 0 disables the limit.
    rate: u64,
    /// Start of the current window.
    left: Duration,
    /// Bytes received in the window.
    came: u64,
}

impl Pace {
    /// A client may be idle for `idle`, and must send this many bytes per second in each such window.
    pub fn new(idle: Duration, rate: u64) -> Self {
        Self { idle, rate, left: idle, came: 0 }
    }

    fn came(&mut self, bytes: usize) {
        self.came = self.came.saturating_add(bytes as u64);
    }

    /// Waits for the next frame of the client.
    async fn wait<T>(&mut self, next: impl Future<Output = T>) -> std::result::Result<T, ApiError> {
        let began = Instant::now();
        let silent_until = began + self.idle;
        let mut next = pin!(next);
        let mut waiting = Waiting { pace: self, since: began };
        loop {
            if let Ok(next) = timeout_at(silent_until.min(waiting.end()), &mut next).await {
                return Ok(next);
            }
            let silent = Instant::now() >= silent_until;
            waiting.evaluate(silent)?;
        }
    }
}

/// Measures the time spent waiting for a client, also if the wait is cancelled.
struct Waiting<'a> {
    pace: &'a mut Pace,
    since: Instant,
}

impl Waiting<'_> {
    /// When so much must have come.
    fn end(&self) -> Instant {
        self.since + self.pace.left
    }

    /// The time is over in which something had to come.
    fn evaluate(&mut self, silent: bool) -> std::result::Result<(), ApiError> {
        let Pace { idle, rate, came, .. } = *self.pace;
        if silent || came == 0 {
            return Err(ApiError::incomplete(&format!("nothing for {} s", idle.as_secs_f64())));
        }
        if (came as f64) < rate as f64 * idle.as_secs_f64() {
            return Err(ApiError::too_slow(rate));
        }
        *self.pace = Pace::new(idle, rate);
        self.since = Instant::now();
        Ok(())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pace.left = self.pace.left.saturating_sub(self.since.elapsed());
    }
}
