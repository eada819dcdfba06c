//! Contents on their way: a file to a client, piece by piece, and a client's body to a file.

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

use super::{access::Record, api_error::ApiError, headers, memory::SOON};
use files::{
    Endpoint, Error, Result, buffers,
    transport::{BodyStream, BoxFuture},
};

/// A file's content as the body of an answer.
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

/// A client's body, with what it must keep to.
pub(super) struct Incoming {
    body: Body,
    left: u64,
    max: u64,
    pace: Pace,
}

/// Pieces of a body that are shorter are put together, where that does not take long.
const PIECE_BYTES: usize = 16 << 10;
/// What comes within this time after other bytes has come with them.
const AT_ONCE: Duration = Duration::from_millis(2);

impl Incoming {
    /// # Errors
    /// The body says beforehand that it is larger than `max`.
    pub fn new(body: Body, max: u64, pace: Pace) -> std::result::Result<Self, ApiError> {
        if body.size_hint().lower() > max {
            return Err(ApiError::too_large(max));
        }
        Ok(Self { body, left: max, max, pace })
    }

    /// Its length, if it is known beforehand.
    pub fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The bytes that came next; `None` at the end. Nothing is lost when it is dropped.
    ///
    /// # Errors
    /// The client is silent for too long, or too slow, has gone, or sends more than it may.
    pub async fn next(&mut self) -> std::result::Result<Option<Bytes>, ApiError> {
        loop {
            let Some(frame) = self.pace.wait(self.body.frame()).await? else { return Ok(None) };
            let frame = frame.map_err(|err| ApiError::of_content(&err))?;
            let bytes = match frame.into_data() {
                Ok(bytes) => bytes,
                // Other trailers say nothing here.
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

    /// Makes sure that it has no bytes, however it is framed: the content of a DELETE has no meaning (RFC 9110, section
    /// 9.3.5), and whoever sends one means something.
    ///
    /// # Errors
    /// It has some, or as [`Incoming::next`].
    pub async fn none(mut self) -> std::result::Result<(), ApiError> {
        // Where the length is known, nobody is asked for the content.
        match self.body.size_hint().lower() > 0 || self.next().await?.is_some() {
            true => Err(ApiError::bad_request("BadHeader", "DELETE takes no content")),
            false => Ok(()),
        }
    }

    /// [`Incoming::next`] with what comes soon after: whoever sends byte by byte does not have each written by itself, and whoever
    /// is fast has large pieces, as long as there is room for them.
    ///
    /// # Errors
    /// As [`Incoming::next`].
    pub async fn piece(&mut self) -> std::result::Result<Option<Bytes>, ApiError> {
        let Some(first) = self.next().await? else { return Ok(None) };
        let (soon, max) = (Instant::now() + SOON, buffers::max());
        let mut piece = Vec::with_capacity(PIECE_BYTES.max(first.len()));
        piece.extend_from_slice(&first);
        drop(first);
        loop {
            let until = match piece.len() {
                few if few < PIECE_BYTES => soon,
                many if many < max => Instant::now() + AT_ONCE,
                _ => break,
            };
            let Ok(next) = timeout_at(until, self.next()).await else { break };
            let Some(more) = next? else { break };
            piece.extend_from_slice(&more);
        }
        Ok(Some(buffers::reserve(piece.len()).hold(piece.into())))
    }
}

/// How slow a client may be. Only the time that it is waited for counts: what the target takes is not the client's.
#[derive(Clone, Copy)]
pub(super) struct Pace {
    idle: Duration,
    /// Bytes for each second; 0 for any.
    rate: u64,
    /// Of the time in which so much has to come.
    left: Duration,
    /// In that time.
    came: u64,
}

impl Pace {
    /// A client may be silent for `idle`, and brings so many bytes a second in each such time.
    pub fn new(idle: Duration, rate: u64) -> Self {
        Self { idle, rate, left: idle, came: 0 }
    }

    fn came(&mut self, bytes: usize) {
        self.came = self.came.saturating_add(bytes as u64);
    }

    /// Waits for what the client sends next.
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

/// Counts the time that a client is waited for, also where that is given up.
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
