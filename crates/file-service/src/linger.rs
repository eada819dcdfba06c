//! The lingering close of a connection (RFC 9112, section 9.6).
//!
//! Closing a connection while the client still sends causes a reset, and the client's system may discard a response that it
//! has already received. The service therefore closes its own direction and reads on for a moment.

use std::{io, time::Duration};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Maximum time to read from a closed connection.
const LINGER_TIMEOUT: Duration = Duration::from_secs(5);
/// Maximum time without a byte. A client that sends nothing for that long has finished.
const LINGER_READ_TIMEOUT: Duration = Duration::from_secs(1);
/// Time to keep the connection unread after that many bytes. The client's send buffer fills, so that it reads the response.
const LINGER_PAUSE: Duration = Duration::from_secs(1);
/// Maximum number of bytes to read and discard. More than the client and both systems hold in buffers.
const MAX_LINGER_BYTES: usize = 32 << 20;
const DISCARD_BUFFER_BYTES: usize = 16 << 10;

/// Closes a connection whose client may still be sending, after writing `rest` to it.
pub(super) async fn close(stream: impl AsyncRead + AsyncWrite + Unpin, rest: &[u8]) {
    // The connection ends even if a step fails.
    let _ = tokio::time::timeout(LINGER_TIMEOUT, discard(stream, rest)).await;
}

async fn discard(mut stream: impl AsyncRead + AsyncWrite + Unpin, rest: &[u8]) -> io::Result<()> {
    if !rest.is_empty() {
        stream.write_all(rest).await?;
    }
    // hyper has already done so, unless the client asked for an upgrade.
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
