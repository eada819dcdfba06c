//! The result of SEQUENCE, the first operation of every reply in a session: RFC 8881, section 18.46.

use crate::{
    compound::CompoundReply,
    error::{Error, Result},
    op::Op,
    slot_table::{Call, CallError, Reply},
    status::Status,
    xdr::Decoder,
};

/// Number of transmissions of one call after which a refusal ends its session. With the backoff between them they take
/// some seconds.
const MAX_REFUSED_SENDS: u32 = 12;
/// This client sends no tag. A longer one is an invalid reply.
const MAX_TAG_BYTES: usize = 1024;
/// Open or lock state was revoked, by lease expiry or by an administrator, or must be reclaimed.
const SEQ4_STATUS_STATE_REVOKED: u32 = 0x8 | 0x10 | 0x20 | 0x100;

/// What a reply means for its call, slot and session.
pub(crate) struct SequenceOutcome {
    pub reply: Reply,
    /// The server has used the call's sequence ID.
    pub advances_seqid: bool,
    /// Retransmit the same message after a delay.
    pub retransmit: bool,
    /// The number of slots that the server wants in use.
    pub target_slots: Option<u32>,
    /// The server has revoked open or lock state.
    pub revokes_state: bool,
}

impl SequenceOutcome {
    fn error(error: CallError) -> Self {
        Self { reply: Err(error), advances_seqid: true, retransmit: false, target_slots: None, revokes_state: false }
    }

    /// The server did not execute the message and did not use its sequence ID (RFC 8881, section 18.46.3). If the call was
    /// sent more than once, another transmission may still be executed, or has been.
    ///
    /// # Errors
    /// [`Error::Protocol`]: too many refusals.
    pub fn refused(call: &Call, err: Error) -> Result<Self> {
        match call.transmissions {
            MAX_REFUSED_SENDS.. => Err(Error::Protocol("the server refuses every retransmission of a call")),
            sends => Ok(Self { advances_seqid: false, retransmit: sends > 1, ..Self::error(CallError::Refused(err)) }),
        }
    }
}

/// Reads a compound's reply up to the result of SEQUENCE.
///
/// # Errors
/// [`Error::SessionLost`]: the server no longer has the session. Any other error: the session cannot be used any more.
pub(crate) fn decode(
    mut reply: Decoder,
    session_id: &[u8; 16],
    slot: u32,
    seqid: u32,
    call: &Call,
) -> Result<SequenceOutcome> {
    let status = Status(reply.word()?);
    reply.opaque(MAX_TAG_BYTES)?;
    let operations = reply.word()?;
    if operations == 0 {
        // The server did not even execute SEQUENCE: the compound is too large, or its minor version unknown.
        return SequenceOutcome::refused(call, Error::Status { op: Op::SEQUENCE, status });
    }
    let mut results = CompoundReply(reply);
    let sequence = match results.expect(Op::SEQUENCE) {
        Ok(sequence) => sequence,
        Err(Error::Status { status: Status::RETRY_UNCACHED_REP | Status::SEQ_FALSE_RETRY, .. }) => {
            return Ok(SequenceOutcome::error(CallError::ReplyNotCached));
        }
        Err(Error::Status { status, .. }) if status.ends_session() => return Err(Error::SessionLost),
        // The server may still have the session, but this client cannot use it.
        Err(Error::Status { status, .. }) if status.retires_session() => {
            return Err(Error::Protocol("the server rejects the sequence ID of a call"));
        }
        Err(err @ Error::Status { .. }) => return SequenceOutcome::refused(call, err),
        Err(err) => return Err(err),
    };
    if sequence.fixed::<16>()? != *session_id || sequence.word()? != seqid || sequence.word()? != slot {
        return Err(Error::Protocol("a reply is for another session, slot or sequence ID"));
    }
    sequence.word()?;
    let target_slots = Some(sequence.word()?.saturating_add(1));
    let revokes_state = sequence.word()? & SEQ4_STATUS_STATE_REVOKED != 0;
    // A server that did not cache the whole reply replays the result of SEQUENCE only.
    let reply = match status {
        Status::RETRY_UNCACHED_REP => Err(CallError::ReplyNotCached),
        // The reply to the empty SEQUENCE that replaced the call, whichever of the two messages it answers.
        Status::OK if operations == 1 && call.operations > 0 => Err(CallError::Withdrawn),
        _ => Ok(results),
    };
    Ok(SequenceOutcome { reply, advances_seqid: true, retransmit: false, target_slots, revokes_state })
}
