//! The lingering close of a connection (RFC 9112, section 9.6).
//!
//! A client that is still sending when its connection is closed is told by a reset, and its system may throw away the
//! response that is there already. So the service closes its own direction, and reads on for a moment.

use std::{io, time::Duration};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Maximum time that a closed connection is read on.
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time without a byte. A client that has the response by then and sends nothing is not sending any more.
const LINGER_READ_TIMEOUT: Duration = Duration::from_secs(1);
/// Time that the connection is kept unread after that many bytes. A client that sends as fast as it can finds no more
/// room, and looks at what it has received.
const LINGER_PAUSE: Duration = Duration::from_secs(1);
/// Maximum number of bytes that are read and thrown away. More than what a client and both systems hold in buffers.
const MAX_LINGER_BYTES: usize = 32 << 20;
const DISCARD_BUFFER_BYTES: usize = 16 << 10;

/// Closes a connection whose client may still be sending. The response is what the stream has been given, and then
/// `rest`.
pub(super) async fn close(stream: impl AsyncRead + AsyncWrite + Unpin, rest: &[u8]) {
    // Whatever fails here, the connection ends.
    let _ = tokio::time::timeout(LINGER_TIMEOUT, discard(stream, rest)).await;
}

async fn discard(mut stream: impl AsyncRead + AsyncWrite + Unpin, rest: &[u8]) -> io::Result<()> {
    if !rest.is_empty() {
        stream.write_all(rest).await?;
    }
    // hyper has done so already, unless the client wanted to upgrade.
    let _ = stream.shutdown().await;
    let mut unread = vec![0; DISCARD_BUFFER_BYTES];
    let mut left = MAX_LINGER_BYTES;
    while left > 0 {
        match tokio::time::timeout(LINGER_READ_TIMEOUT, stream.read(&mut unread)).await?? {
            0 => return Ok(()),
            read => left = left.saturating_sub(read),
        }
    }
    tokio::time::sleep(LINGER_PAUSE).await;
    Ok(())
}
