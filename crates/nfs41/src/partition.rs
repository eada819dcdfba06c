//! Finds the partition of Amazon EFS that a connection reaches.
//!
//! EFS serves a second RPC program on the NFS port, by which efs-proxy finds connections that reach the same partition. The
//! program is not documented. This module follows `src/proxy` of [efs-utils](https://github.com/aws/efs-utils) (MIT), version
//! 3.2.0: program 400123, version 1, procedure 2 (`bind_client_to_partition`). The arguments are a proxy identifier (`opaque
//! identifier<16>`, `opaque incarnation<8>`). The result is a union {RETRY = 0, RETRY_LATER = 1, both with a string;
//! PREFERRED = 2, READY = 3, both with `opaque[64]`, the partition; ERROR = 4, with a string}, followed by four integers: the
//! fields of [`ScaleUp`].
//!
//! The call binds its connection to the partition, so use the connection for nothing else.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};

use crate::{
    error::{Error, Result},
    rpc::{self, Records},
    xdr::{Decoder, Encode},
};

const PROGRAM: u32 = 400_123;
const VERSION: u32 = 1;
const BIND_CLIENT_TO_PARTITION: u32 = 2;
/// Maximum length of a string in a reply.
const MAX_TEXT_BYTES: usize = 1024;
/// Maximum length of a reply.
const MAX_REPLY_BYTES: usize = 4096;

/// Opaque identifier of a partition.
pub type PartitionId = [u8; 64];

/// Identity of a client.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// The same for all connections of a client.
    pub identifier: [u8; 16],
    /// The same for all connections of a client until it restarts.
    pub incarnation: [u8; 8],
}

impl Identity {
    /// A new random identity.
    pub fn random() -> Self {
        let (mut identifier, mut incarnation) = ([0; 16], [0; 8]);
        fastrand::fill(&mut identifier);
        fastrand::fill(&mut incarnation);
        Self { identifier, incarnation }
    }
}

/// The server's reply about a connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Binding {
    /// Retry over a new connection.
    Retry(String),
    /// Retry later over a new connection.
    RetryLater(String),
    /// The connection reaches this partition, which the server prefers for this client.
    Preferred(PartitionId),
    /// The connection reaches this partition.
    Ready(PartitionId),
    /// The server could not bind the connection.
    Error(String),
}

impl Binding {
    /// The partition that the connection reaches.
    pub fn partition(&self) -> Option<&PartitionId> {
        match self {
            Self::Preferred(id) | Self::Ready(id) => Some(id),
            Self::Retry(_) | Self::RetryLater(_) | Self::Error(_) => None,
        }
    }
}

/// When a client should open more connections, as the server recommends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ScaleUp {
    /// Maximum number of connections.
    pub max_connections: u32,
    /// Throughput above which a client should open another connection.
    pub bytes_per_second: u32,
    /// For how long the throughput must be above it.
    pub seconds: u32,
    /// Time over which the throughput is measured.
    pub window_seconds: u32,
}

/// Asks which partition a new connection reaches, after the TLS handshake if there is one. Returns `None` if the server does
/// not have the program: only EFS has it.
///
/// Has no timeout of its own. Dropping the future is safe.
///
/// # Errors
/// The connection ended, or the reply is invalid.
pub async fn bind(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    identity: &Identity,
) -> io::Result<Option<(Binding, ScaleUp)>> {
    const XID: u32 = 1;
    const CALL: u32 = 0;
    const RPC_VERSION: u32 = 2;
    let mut call = BytesMut::new();
    call.word(XID).word(CALL).word(RPC_VERSION).word(PROGRAM).word(VERSION).word(BIND_CLIENT_TO_PARTITION);
    // AUTH_NONE, and no verifier.
    call.word(0).word(0).word(0).word(0);
    call.opaque(&identity.identifier).opaque(&identity.incarnation);
    let mut record = BytesMut::new();
    record.word(1 << 31 | u32::try_from(call.len()).unwrap_or_default()).fixed(&call);
    stream.write_all(&record).await?;
    stream.flush().await?;
    let reply = Records::new(&mut stream, MAX_REPLY_BYTES).next().await?;
    Ok(read(reply, XID)?)
}

/// Decodes a reply without its record mark.
pub(crate) fn read(reply: Bytes, xid: u32) -> Result<Option<(Binding, ScaleUp)>> {
    let mut reply = Decoder(reply);
    if reply.word()? != xid {
        return Err(Error::Protocol("a reply to a call that was not sent"));
    }
    match rpc::decode_reply_header(&mut reply) {
        Err(Error::Refused(err)) if err != rpc::SYSTEM_ERROR => return Ok(None),
        accepted => accepted?,
    }
    let kind = reply.word()?;
    let binding = match kind {
        2 => Binding::Preferred(reply.fixed()?),
        3 => Binding::Ready(reply.fixed()?),
        0 | 1 | 4 => {
            let text = String::from_utf8_lossy(&reply.opaque(MAX_TEXT_BYTES)?).into_owned();
            match kind {
                0 => Binding::Retry(text),
                1 => Binding::RetryLater(text),
                _ => Binding::Error(text),
            }
        }
        _ => return Err(Error::Protocol("an unknown kind of binding")),
    };
    let scale_up = ScaleUp {
        max_connections: reply.word()?,
        bytes_per_second: reply.word()?,
        seconds: reply.word()?,
        window_seconds: reply.word()?,
    };
    Ok(Some((binding, scale_up)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SCALE_UP: ScaleUp =
        ScaleUp { max_connections: 5, bytes_per_second: 300 << 20, seconds: 1, window_seconds: 1 };

    fn reply(binding: &Binding) -> Bytes {
        let mut bytes = BytesMut::new();
        bytes.word(7).word(1).word(0).word(0).word(0).word(0);
        match binding {
            Binding::Retry(text) => bytes.word(0).opaque(text.as_bytes()),
            Binding::RetryLater(text) => bytes.word(1).opaque(text.as_bytes()),
            Binding::Preferred(id) => bytes.word(2).fixed(id),
            Binding::Ready(id) => bytes.word(3).fixed(id),
            Binding::Error(text) => bytes.word(4).opaque(text.as_bytes()),
        };
        bytes.word(5).word(300 << 20).word(1).word(1);
        bytes.freeze()
    }

    /// The bytes of one answer, written down by hand from the description.
    #[test]
    fn an_answer_is_read_as_it_is_described() {
        let id: [u8; 64] = std::array::from_fn(|index| index as u8);
        let mut bytes = vec![0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend([0, 0, 0, 3]);
        bytes.extend(id);
        bytes.extend([0, 0, 0, 5, 0x12, 0xc0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1]);
        assert_eq!(read(bytes.into(), 7).unwrap(), Some((Binding::Ready(id), SCALE_UP)));
    }

    #[test]
    fn who_does_not_know_the_program_says_so() {
        for word in 1..=4 {
            let mut bytes = BytesMut::new();
            bytes.word(7).word(1).word(0).word(0).word(0).word(word);
            assert_eq!(read(bytes.freeze(), 7).unwrap(), None, "{word}");
        }
        for denied in [[1, 0, 2], [1, 1, 1]] {
            let mut bytes = BytesMut::new();
            bytes.word(7).word(1).word(denied[0]).word(denied[1]).word(denied[2]);
            assert_eq!(read(bytes.freeze(), 7).unwrap(), None, "{denied:?}");
        }
    }

    proptest! {
        #[test]
        fn every_binding_is_read_as_it_was_written(text in "\\PC{0,40}", id in proptest::array::uniform32(any::<u8>())) {
            let id: [u8; 64] = [id, id].concat().try_into().unwrap();
            for binding in [
                Binding::Retry(text.clone()), Binding::RetryLater(text.clone()), Binding::Error(text.clone()),
                Binding::Ready(id), Binding::Preferred(id),
            ] {
                let bytes = reply(&binding);
                for end in 0..bytes.len() {
                    prop_assert!(read(bytes.slice(..end), 7).is_err(), "{end} of {} bytes", bytes.len());
                }
                prop_assert_eq!(read(bytes.clone(), 7).unwrap(), Some((binding, SCALE_UP)));
                prop_assert!(read(bytes, 8).is_err());
            }
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(bytes.clone().into(), 0);
            // Past the header too.
            let mut accepted = BytesMut::new();
            accepted.word(0).word(1).word(0).word(0).word(0).word(0);
            accepted.extend_from_slice(&bytes);
            let _ = read(accepted.freeze(), 0);
        }
    }
}
