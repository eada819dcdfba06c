//! Connecting, and sending calls in batches.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use crate::{compound::Message, options::Options, rpc::Records, session::Session};

/// Maximum size of calls that are sent together.
const MAX_BATCH_BYTES: usize = 64 << 10;
/// A part of a call longer than this is sent from where it is; shorter parts are copied together.
const COPY_THRESHOLD_BYTES: usize = 4 << 10;

pub(crate) type RecordReader = Records<Box<dyn AsyncRead + Send + Unpin>>;
pub(crate) type BoxedWriter = Box<dyn AsyncWrite + Send + Unpin>;

/// Connects, with TLS if the options say so.
pub(crate) async fn dial(options: &Options, address: SocketAddr) -> io::Result<(BoxedWriter, RecordReader)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    keep_alive(&stream)?;
    /// Maximum size of a reply before CREATE_SESSION.
    const MAX_HANDSHAKE_RECORD_BYTES: usize = 64 << 10;
    #[cfg(feature = "tls")]
    if let Some(tls) = &options.tls {
        let (reader, writer) = tokio::io::split(tls.connect(stream).await.map_err(io::Error::other)?);
        return Ok((Box::new(writer), Records::new(Box::new(reader), MAX_HANDSHAKE_RECORD_BYTES)));
    }
    #[cfg(not(feature = "tls"))]
    let _ = options;
    let (reader, writer) = stream.into_split();
    Ok((Box::new(writer), Records::new(Box::new(reader), MAX_HANDSHAKE_RECORD_BYTES)))
}

/// Enables TCP keep-alive, which detects that the peer has vanished while nothing is sent.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}

/// Sends one call.
pub(crate) async fn send(writer: &mut BoxedWriter, message: Message) -> io::Result<()> {
    for part in [message.head, message.payload, message.tail] {
        writer.write_all(&part).await?;
    }
    writer.flush().await
}

/// Sends calls from a queue in batches. Returns the stream when the queue is closed.
pub(crate) async fn write(
    mut stream: BoxedWriter,
    mut calls: mpsc::UnboundedReceiver<Message>,
    session: Arc<Session>,
) -> io::Result<BoxedWriter> {
    let mut small = BytesMut::new();
    while let Some(first) = calls.recv().await {
        if session.in_flight() > 1 {
            // Replies arrive in batches. Other tasks that got one of them may have a call for this batch.
            tokio::task::yield_now().await;
        }
        let mut queue = Queue::default();
        let mut next = Some(first);
        while let Some(Message { head, payload, tail }) = next {
            for part in [head, payload, tail] {
                if part.len() <= COPY_THRESHOLD_BYTES {
                    small.extend_from_slice(&part);
                } else {
                    queue.add(small.split().freeze());
                    queue.add(part);
                }
            }
            next = if queue.remaining() + small.len() < MAX_BATCH_BYTES { calls.try_recv().ok() } else { None };
        }
        queue.add(small.split().freeze());
        stream.write_all_buf(&mut queue).await?;
        stream.flush().await?;
    }
    Ok(stream)
}

/// Buffers that are written together.
#[derive(Default)]
struct Queue {
    parts: std::collections::VecDeque<Bytes>,
    length: usize,
}

impl Queue {
    fn add(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.length += part.len();
            self.parts.push_back(part);
        }
    }
}

impl Buf for Queue {
    fn remaining(&self) -> usize {
        self.length
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&[], |part| part)
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [io::IoSlice<'a>]) -> usize {
        let filled = into.iter_mut().zip(&self.parts).map(|(slice, part)| *slice = io::IoSlice::new(part));
        filled.count()
    }

    fn advance(&mut self, mut count: usize) {
        self.length -= count;
        while let Some(first) = self.parts.front_mut() {
            if count < first.len() {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.parts.pop_front();
        }
    }
}
