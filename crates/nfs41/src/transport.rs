//! The bytes of a connection: how it is made, and how calls are sent over it.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use crate::{compound::Message, options::Options, rpc::Records, session::Session};

/// Of calls that are sent together.
const MAX_BATCH_BYTES: usize = 64 << 10;
/// A content longer than this is not copied to be sent with others.
const COPY_THRESHOLD_BYTES: usize = 4 << 10;

pub(crate) type RecordReader = Records<Box<dyn AsyncRead + Send + Unpin>>;
pub(crate) type BoxedWriter = Box<dyn AsyncWrite + Send + Unpin>;

/// A connection to this address, by TLS where the options say so.
pub(crate) async fn dial(options: &Options, address: SocketAddr) -> io::Result<(BoxedWriter, RecordReader)> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    keep_alive(&stream)?;
    /// Before anything is agreed on.
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

/// So that a connection whose other side has vanished is found out about while nothing is sent.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}

/// One call alone.
pub(crate) async fn send(writer: &mut BoxedWriter, message: Message) -> io::Result<()> {
    for part in [message.head, message.payload, message.tail] {
        writer.write_all(&part).await?;
    }
    writer.flush().await
}

/// Sends what comes, as much of it together as there is. The stream, when nothing comes any more.
pub(crate) async fn write(
    mut stream: BoxedWriter,
    mut calls: mpsc::UnboundedReceiver<Message>,
    session: Arc<Session>,
) -> io::Result<BoxedWriter> {
    let mut small = BytesMut::new();
    while let Some(first) = calls.recv().await {
        if session.in_flight() > 1 {
            // Answers come together: whoever goes on with one of them has a call to go with this one.
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

/// Pieces that are sent as one.
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
