//! Entry points for fuzzing: they process bytes as if a server had sent them. No input may cause a panic, allocate more
//! memory than was sent, or loop forever.

use std::time::Duration;

use bytes::{Bytes, BytesMut};

use crate::{
    channel::ChannelAttrs,
    compound::{Compound, CompoundReply},
    op::Op,
    read, readdir, rpc,
    session::Session,
    xdr::Decoder,
};

/// Reads records from a stream that arrives in chunks. The first byte is the chunks' length minus one.
pub fn stream(bytes: &[u8]) {
    const MAX_RECORD_BYTES: usize = 4096;
    let Some((size, rest)) = bytes.split_first() else { return };
    let (mut buffer, mut partial, mut fragments) = (BytesMut::new(), BytesMut::new(), 0);
    for piece in rest.chunks(usize::from(*size) + 1) {
        buffer.extend_from_slice(piece);
        loop {
            match rpc::take_record(&mut buffer, &mut partial, &mut fragments, MAX_RECORD_BYTES) {
                Ok(Some(record)) => assert!(record.len() <= MAX_RECORD_BYTES, "a record is too long"),
                Ok(None) => break,
                Err(_) => return,
            }
        }
    }
}

/// Decodes the result of one operation. The first byte selects the operation.
pub fn reply(bytes: &[u8]) {
    let Some((which, rest)) = bytes.split_first() else { return };
    let mut results = CompoundReply(Decoder(Bytes::copy_from_slice(rest)));
    let _ = match which % 10 {
        0 => readdir::decode_page(&mut results)
            .map(|page| assert!(page.entries.len() <= bytes.len() / 8, "more than was sent")),
        1 => results.attributes().map(drop),
        2 => results.opened().map(drop),
        3 => results.written().map(drop),
        4 => results.renamed(),
        5 => results.changed(Op::CREATE),
        6 => read::decode_read(&mut results, 4096)
            .map(|(data, _)| assert!(data.len() <= 4096, "more than was asked for")),
        7 => results.handle().map(drop),
        8 => results.committed().map(drop),
        _ => results.set(),
    };
}

/// Processes records while four calls are in flight.
pub fn session(bytes: &[u8]) {
    let attrs = ChannelAttrs {
        max_request_bytes: 4096,
        max_response_bytes: 4096,
        max_operations: 16,
        max_cached_response_bytes: 1024,
        slots: 4,
        max_read_bytes: 1024,
        max_write_bytes: 1024,
        lease_time: Duration::from_secs(90),
        round_trip: Duration::MAX,
    };
    let session = Session::new([7; 16], 1, 1, attrs, Bytes::from_static(&[0; 64]), 1);
    let answers: Vec<_> = (0..4)
        .filter_map(|_| {
            session.slots.try_acquire().ok()?.forget();
            session.submit(&Compound::new(), false)
        })
        .collect();
    let mut rest = bytes;
    while let Some((length, more)) = rest.split_first() {
        let (record, more) = more.split_at(usize::from(*length).min(more.len()));
        if session.on_reply(Bytes::copy_from_slice(record)).is_err() {
            session.mark_lost();
        }
        rest = more;
    }
    // No slot is released twice.
    assert!(session.slots.available_permits() <= 4, "more permits than slots");
    drop(answers);
}
