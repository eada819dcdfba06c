//! The slot table of a session (RFC 8881, section 2.10.6.1), and the calls in it.

use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::{
    budget::Backoff,
    compound::{CompoundReply, Message},
    error::{Error, Result},
};

/// The low bits of an XID hold the slot ID.
pub(crate) const SLOT_BITS: u32 = 8;
/// Maximum number of slots of a session.
pub(crate) const MAX_SLOTS: u32 = 1 << SLOT_BITS;

/// Why a call has no reply.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The session takes no more calls, and the call was not sent.
    NotSent,
    /// The session is lost: the server has executed the call, or never will.
    Lost,
    /// The session was abandoned: the server may still execute the call.
    Abandoned,
    /// The server has seen the call and did not cache its reply. It does not execute the call again.
    ReplyNotCached,
    /// An empty SEQUENCE has used the call's sequence ID before the call arrived: the server never executes it.
    Withdrawn,
    /// The server rejected the call without executing it.
    Refused(Error),
}

pub(crate) type Reply = Result<CompoundReply, CallError>;

pub(crate) struct SlotTable {
    pub slots: Vec<Slot>,
    /// One bit for each slot: set while the slot has a call.
    pub busy: [u64; MAX_SLOTS as usize / 64],
    /// The number of slots that the server wants in use. There are this many permits, and `excess_permits` more that are
    /// taken back when their calls end.
    pub target_slots: u32,
    pub excess_permits: u32,
    pub last_xid: u32,
    /// Queue of the attached connection.
    pub outgoing: Option<mpsc::UnboundedSender<Message>>,
    /// The session takes no more calls. Changes that were sent wait until they are fenced.
    pub retired: bool,
    pub lost: bool,
}

pub(crate) struct Slot {
    /// Sequence ID of the current call, or of the next one.
    pub seqid: u32,
    pub call: Option<Call>,
}

pub(crate) struct Call {
    pub xid: u32,
    pub message: Message,
    /// The original, while `message` is the empty SEQUENCE in its place.
    pub original: Option<Message>,
    /// The server has executed the call, and `message` is the original again, so that the server replays its reply.
    pub replay_requested: bool,
    /// Number of operations after SEQUENCE.
    pub operations: u32,
    pub is_change: bool,
    /// `None` when the caller has a result.
    pub reply: Option<oneshot::Sender<Reply>>,
    /// How often the call was given to a connection.
    pub transmissions: u32,
    /// The caller's deadline has passed: the call should not be executed any more.
    pub is_late: bool,
    /// A cleanup call, which is also sent over the fencing connection while there is one.
    pub is_cleanup: bool,
    pub backoff: Backoff,
    pub submitted_at: Instant,
}

impl Slot {
    pub fn has_late_call(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.is_late)
    }
}

impl Call {
    pub fn needs_fencing(&self) -> bool {
        self.is_late || (self.is_cleanup && self.transmissions > 0)
    }

    pub fn complete(self, reply: Reply) {
        if let Some(waiting) = self.reply {
            let _ = waiting.send(reply);
        }
    }
}

impl SlotTable {
    /// `slots` free slots. `first_seqid` is the sequence ID of the next call in slot 0.
    pub fn new(slots: u32, first_seqid: u32) -> Self {
        let seqid = |slot| if slot == 0 { first_seqid } else { 1 };
        Self {
            slots: (0..slots).map(|slot| Slot { seqid: seqid(slot), call: None }).collect(),
            busy: [0; _],
            target_slots: slots,
            excess_permits: 0,
            last_xid: 0,
            outgoing: None,
            retired: false,
            lost: false,
        }
    }

    pub fn lowest_free_slot(&self) -> Option<u32> {
        let slot = (0..)
            .zip(self.busy)
            .find(|(_, bits)| *bits != u64::MAX)
            .map(|(index, bits)| index * 64 + bits.trailing_ones());
        slot.filter(|slot| (*slot as usize) < self.slots.len())
    }

    /// `sa_highest_slotid`.
    pub fn highest_busy_slot(&self) -> u32 {
        let used = (0..MAX_SLOTS / 64).zip(self.busy).rev().find(|(_, bits)| *bits != 0);
        used.map_or(0, |(index, bits)| index * 64 + 63 - bits.leading_zeros())
    }

    pub fn set_busy(&mut self, slot: u32, busy: bool) {
        let (word, bit) = (slot as usize / 64, 1 << (slot % 64));
        if busy {
            self.busy[word] |= bit;
        } else {
            self.busy[word] &= !bit;
        }
    }
}
