//! Contents on their way: a file to a client, piece by piece, and a client's body to a file.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as HttpBody, Frame, SizeHint};

use super::{access::Record, headers, refusal::Refusal};
use crate::{
    error::{Error, Result},
    files::Member,
    target::{Answer, Rest},
};

/// A file's content as the body of an answer.
pub(super) struct Content {
    first: Option<Bytes>,
    rest: Next,
    left: u64,
    member: Arc<Member>,
    record: Record,
}

enum Next {
    None,
    Ready(Box<dyn Rest>),
    Waiting(Answer<'static, (Bytes, Box<dyn Rest>)>),
}

impl Content {
    pub fn new(first: Bytes, rest: Option<Box<dyn Rest>>, length: u64, member: Arc<Member>, record: Record) -> Self {
        Self { first: Some(first), rest: rest.map_or(Next::None, Next::Ready), left: length, member, record }
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
                        self.member.stats.read(bytes.len());
                        return Poll::Ready(Some(Ok(bytes)));
                    }
                    Some(Err(why)) => return Poll::Ready(Some(Err(why))),
                    None => self.rest = Next::Waiting(rest.next()),
                },
                Next::Waiting(mut answer) => match answer.as_mut().poll(context) {
                    Poll::Pending => {
                        self.rest = Next::Waiting(answer);
                        return Poll::Pending;
                    }
                    Poll::Ready(Err(why)) => return Poll::Ready(Some(Err(why))),
                    Poll::Ready(Ok((bytes, rest))) => {
                        self.rest = Next::Ready(rest);
                        self.member.stats.read(bytes.len());
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
            Some(Err(why)) => {
                self.member.broke_off(&why);
                self.record.failed(why.code());
                Some(Err(why))
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
    most: u64,
    idle: Duration,
}

impl Incoming {
    /// # Errors
    /// The body says beforehand that it is larger than `most`.
    pub fn new(body: Body, most: u64, idle: Duration) -> std::result::Result<Self, Refusal> {
        if body.size_hint().lower() > most {
            return Err(Refusal::too_large(most));
        }
        Ok(Self { body, left: most, most, idle })
    }

    /// Its length, if it is known beforehand.
    pub fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// The bytes that came next; `None` at the end.
    ///
    /// # Errors
    /// The client is silent for too long, has gone, or sends more than it may.
    pub async fn next(&mut self) -> std::result::Result<Option<Bytes>, Refusal> {
        loop {
            let frame = tokio::time::timeout(self.idle, self.body.frame()).await;
            let frame =
                frame.map_err(|_| Refusal::incomplete(&format!("nothing for {} s", self.idle.as_secs_f64())))?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|why| Refusal::of_content(&why))?;
            let bytes = match frame.into_data() {
                Ok(bytes) => bytes,
                // Other trailers say nothing here.
                Err(frame) => {
                    frame.trailers_ref().map_or(Ok(()), headers::check_write)?;
                    continue;
                }
            };
            self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| Refusal::too_large(self.most))?;
            if !bytes.is_empty() {
                return Ok(Some(bytes));
            }
        }
    }

    /// All that is still to come. The caller knows that there is room for it.
    ///
    /// # Errors
    /// As [`Incoming::next`].
    pub async fn whole(mut self) -> std::result::Result<Bytes, Refusal> {
        let Some(first) = self.next().await? else { return Ok(Bytes::new()) };
        // Most bodies that are small come in one piece.
        let Some(second) = self.next().await? else { return Ok(first) };
        let mut all = BytesMut::from(first);
        all.extend_from_slice(&second);
        while let Some(more) = self.next().await? {
            all.extend_from_slice(&more);
        }
        Ok(all.freeze())
    }
}
