//! A session and its slot table: RFC 8881, section 2.10. A slot carries one call at a time. Each call has a sequence ID,
//! by which the server recognizes a retransmission and executes every call once.

use std::{
    fmt,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};

use crate::{
    budget::Backoff,
    channel::ChannelAttrs,
    compound::{Compound, Message, Sequence},
    error::{Error, Result},
    rpc,
    sequence::{self, SequenceOutcome},
    slot_table::{Call, CallError, MAX_SLOTS, Reply, SLOT_BITS, Slot, SlotTable},
    xdr::Decoder,
};

/// Backoff before a call is retransmitted in its slot.
const INITIAL_BACKOFF: Duration = Duration::from_millis(15);
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// A session of one connection.
pub(crate) struct Session {
    pub id: [u8; 16],
    pub client_id: u64,
    /// Ordinal number among the sessions of its connection.
    pub epoch: u64,
    pub attrs: ChannelAttrs,
    /// Bytes before every compound.
    pub rpc_header: Bytes,
    /// One permit for each slot that may be used. Closed when the session takes no more calls.
    pub slots: Semaphore,
    /// Notified when a call needs fencing.
    pub fence_requested: Notify,
    /// Bytes of requests and replies so far.
    pub bytes_transferred: AtomicU64,
    /// A fencing connection exists, over which cleanup calls are sent, too.
    pub is_fencing: AtomicBool,
    /// Notifies the connection manager that the session is lost.
    pub lost: Notify,
    table: Mutex<SlotTable>,
}

/// A call to retransmit after a delay.
pub(crate) struct Retransmit {
    pub delay: Duration,
    pub id: CallId,
}

/// A call that waits for its reply.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct CallId {
    slot: u32,
    xid: u32,
}

impl Session {
    /// `first_seqid` is the sequence ID of the next call in slot 0.
    pub fn new(
        id: [u8; 16],
        client_id: u64,
        epoch: u64,
        attrs: ChannelAttrs,
        rpc_header: Bytes,
        first_seqid: u32,
    ) -> Self {
        let table = SlotTable::new(attrs.slots, first_seqid);
        let slots = Semaphore::new(attrs.slots as usize);
        let (fence_requested, bytes_transferred, is_fencing, lost) = Default::default();
        Self {
            id,
            client_id,
            epoch,
            attrs,
            rpc_header,
            slots,
            fence_requested,
            bytes_transferred,
            is_fencing,
            lost,
            table: Mutex::new(table),
        }
    }

    fn table(&self) -> MutexGuard<'_, SlotTable> {
        // Nothing panics while it holds the lock.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Assigns a slot to a call, and sends the call or keeps it until there is a connection. The caller must have acquired
    /// and forgotten a permit of `slots`. Returns `None` if the session takes no more calls.
    pub fn submit(&self, compound: &Compound, is_cleanup: bool) -> Option<(CallId, oneshot::Receiver<Reply>)> {
        let mut table = self.table();
        if table.lost || table.retired {
            return None;
        }
        let slot = table.lowest_free_slot()?;
        table.set_busy(slot, true);
        table.last_xid = table.last_xid.wrapping_add(1);
        let xid = table.last_xid << SLOT_BITS | slot;
        let sequence = self.sequence(&table, slot, xid);
        let message = compound.encode_in_session(&self.rpc_header, &sequence);
        self.bytes_transferred.fetch_add(compound.len() as u64, Ordering::Relaxed);
        let (reply, receiver) = oneshot::channel();
        let sent = table.outgoing.as_ref().is_some_and(|outgoing| outgoing.send(message.clone()).is_ok());
        table.slots[slot as usize].call = Some(Call {
            xid,
            message,
            original: None,
            replay_requested: false,
            operations: compound.operations(),
            is_change: compound.cache_this,
            reply: Some(reply),
            transmissions: sent.into(),
            is_late: false,
            is_cleanup,
            backoff: Backoff::new(INITIAL_BACKOFF, MAX_BACKOFF),
            submitted_at: Instant::now(),
        });
        if is_cleanup && self.is_fencing.load(Ordering::Acquire) {
            self.fence_requested.notify_one();
        }
        Some((CallId { slot, xid }, receiver))
    }

    /// A call in slot 0 before the session is in use.
    pub fn setup_message(&self, compound: &Compound, xid: u32, seqid: u32) -> Message {
        compound.encode_in_session(&self.rpc_header, &self.sequence_args(xid, 0, seqid, 0))
    }

    /// The sequence ID of the next call in slot 0.
    pub fn first_seqid(&self) -> u32 {
        self.table().slots.first().map_or(1, |slot| slot.seqid)
    }

    fn sequence(&self, table: &SlotTable, slot: u32, xid: u32) -> Sequence {
        self.sequence_args(xid, slot, table.slots[slot as usize].seqid, table.highest_busy_slot())
    }

    fn sequence_args(&self, xid: u32, slot: u32, seqid: u32, highest_slot: u32) -> Sequence {
        Sequence { xid, session_id: self.id, client_id: self.client_id, slot, seqid, highest_slot }
    }

    /// Replaces a call by an empty SEQUENCE with the same slot and sequence ID, so that a lost call cannot run later. If
    /// the empty SEQUENCE arrives first, the original is a false retry and the server does not execute it. If it arrives
    /// second, the server replays the reply to the original, or reports that it has executed it (RFC 8881, section
    /// 2.10.6.1.3.1).
    fn substitute_empty_sequence(&self, table: &mut SlotTable, slot: u32) {
        let Some(xid) = table.slots[slot as usize].call.as_ref().map(|call| call.xid) else { return };
        let empty = Compound::new().encode_in_session(&self.rpc_header, &self.sequence(table, slot, xid));
        if let Some(call) = &mut table.slots[slot as usize].call
            && call.original.is_none()
            && !call.replay_requested
        {
            call.original = Some(std::mem::replace(&mut call.message, empty));
        }
    }

    /// The calls without a reply that are late, or are cleanup calls that were sent.
    pub fn calls_to_fence(&self) -> Vec<CallId> {
        let table = self.table();
        let calls = (0..).zip(&table.slots).filter_map(|(slot, entry)| {
            let call = entry.call.as_ref().filter(|call| call.needs_fencing())?;
            Some(CallId { slot, xid: call.xid })
        });
        calls.collect()
    }

    pub fn has_late_calls(&self) -> bool {
        self.table().slots.iter().any(Slot::has_late_call)
    }

    pub fn needs_fencing(&self, id: CallId) -> bool {
        let table = self.table();
        table.slots[id.slot as usize].call.as_ref().is_some_and(|call| call.xid == id.xid && call.needs_fencing())
    }

    /// The message that ends a call over any connection to the server: the empty SEQUENCE in place of a late call, or the
    /// cleanup call itself.
    pub fn fence_message(&self, id: CallId) -> Option<Message> {
        let mut table = self.table();
        let call = table.slots[id.slot as usize].call.as_ref().filter(|call| call.xid == id.xid)?;
        if call.is_late {
            self.substitute_empty_sequence(&mut table, id.slot);
        }
        let call = table.slots[id.slot as usize].call.as_mut()?;
        call.transmissions = call.transmissions.saturating_add(1);
        Some(call.message.clone())
    }

    /// The caller's deadline has passed. Returns true if the call was not sent, and then it never will be. Otherwise the
    /// call is late: a retransmission sends an empty SEQUENCE in its place.
    pub fn withdraw(&self, id: CallId) -> bool {
        let mut table = self.table();
        let entry = &mut table.slots[id.slot as usize];
        match &mut entry.call {
            Some(call) if call.xid == id.xid && call.transmissions == 0 => {
                entry.call = None;
                self.release_slot(&mut table, id.slot);
                true
            }
            Some(call) if call.xid == id.xid => {
                call.is_late = true;
                false
            }
            // The reply has come.
            _ => false,
        }
    }

    /// Attaches a new connection, and retransmits the calls without a reply over it.
    pub fn attach(&self, outgoing: mpsc::UnboundedSender<Message>) {
        let mut table = self.table();
        for slot in 0..self.attrs.slots {
            self.transmit(&mut table, slot, &outgoing);
        }
        table.outgoing = Some(outgoing);
    }

    fn transmit(&self, table: &mut SlotTable, slot: u32, outgoing: &mpsc::UnboundedSender<Message>) {
        let Some(call) = &table.slots[slot as usize].call else { return };
        let is_awaited = call.reply.as_ref().is_some_and(|reply| !reply.is_closed());
        let (is_unwanted, was_sent) = (!is_awaited || call.is_late, call.transmissions > 0);
        if !is_awaited && !was_sent {
            table.slots[slot as usize].call = None;
            self.release_slot(table, slot);
            return;
        }
        if is_unwanted {
            self.substitute_empty_sequence(table, slot);
        }
        let Some(call) = &mut table.slots[slot as usize].call else { return };
        call.transmissions = call.transmissions.saturating_add(1);
        let _ = outgoing.send(call.message.clone());
    }

    pub fn detach(&self) {
        self.table().outgoing = None;
    }

    /// Retransmits a call if it still waits for its reply.
    pub fn retransmit(&self, id: CallId) {
        let mut table = self.table();
        let Some(outgoing) = table.outgoing.clone() else { return };
        if table.slots[id.slot as usize].call.as_ref().is_some_and(|call| call.xid == id.xid) {
            self.transmit(&mut table, id.slot, &outgoing);
        }
    }

    /// When the oldest call without a reply was submitted.
    pub fn oldest_call(&self) -> Option<Instant> {
        self.table().slots.iter().filter_map(|slot| slot.call.as_ref()).map(|call| call.submitted_at).min()
    }

    /// Number of calls without a reply.
    pub fn in_flight(&self) -> u32 {
        self.table().busy.iter().map(|bits| bits.count_ones()).sum()
    }

    pub fn is_lost(&self) -> bool {
        self.table().lost
    }

    /// Whether the session takes no more calls.
    pub fn is_retired(&self) -> bool {
        let table = self.table();
        table.retired || table.lost
    }

    /// Takes no more calls and detaches the connection. The server may still have the session, so changes that were sent
    /// wait until they are fenced, or until [`Session::mark_lost`] or [`Session::abandon`].
    pub fn retire(&self) {
        let mut table = self.table();
        table.retired = true;
        table.outgoing = None;
        self.slots.close();
        // The caller repeats a call that changes nothing. A change that was sent must not take effect later.
        self.fail_calls(&mut table, |call| match (call.transmissions, call.is_change) {
            (0, _) => Some(CallError::NotSent),
            (_, false) => Some(CallError::Lost),
            (_, true) => None,
        });
        table.slots.iter_mut().filter_map(|slot| slot.call.as_mut()).for_each(|call| call.is_late = true);
        drop(table);
        self.fence_requested.notify_one();
    }

    /// The server no longer has this session, and executes nothing in it any more.
    pub fn mark_lost(&self) {
        self.close(|| CallError::Lost);
    }

    /// Gives up all calls. The outcome of those that were sent stays unknown.
    pub fn abandon(&self) {
        self.close(|| CallError::Abandoned);
    }

    fn close(&self, sent: impl Fn() -> CallError) {
        let mut table = self.table();
        table.lost = true;
        table.outgoing = None;
        self.slots.close();
        self.fail_calls(&mut table, |call| Some(if call.transmissions == 0 { CallError::NotSent } else { sent() }));
        table.busy = [0; _];
        drop(table);
        self.lost.notify_one();
        // Ends the fencing task.
        self.fence_requested.notify_one();
    }

    fn fail_calls(&self, table: &mut SlotTable, error: impl Fn(&Call) -> Option<CallError>) {
        for slot in 0..self.attrs.slots {
            let entry = &mut table.slots[slot as usize].call;
            if let Some(error) = entry.as_ref().and_then(&error)
                && let Some(call) = entry.take()
            {
                call.complete(Err(error));
                table.set_busy(slot, false);
            }
        }
    }

    fn release_slot(&self, table: &mut SlotTable, slot: u32) {
        table.set_busy(slot, false);
        match table.excess_permits {
            0 => self.slots.add_permits(1),
            _ => table.excess_permits -= 1,
        }
    }

    /// Applies the server's target for the number of slots in use.
    fn resize(&self, table: &mut SlotTable, target_slots: u32) {
        let target_slots = target_slots.clamp(1, self.attrs.slots);
        if target_slots > table.target_slots {
            let more = target_slots - table.target_slots;
            let owed = more.min(table.excess_permits);
            table.excess_permits -= owed;
            self.slots.add_permits((more - owed) as usize);
        } else if target_slots < table.target_slots {
            let fewer = (table.target_slots - target_slots) as usize;
            let taken = self.slots.forget_permits(fewer);
            table.excess_permits += u32::try_from(fewer - taken).unwrap_or_default();
        }
        table.target_slots = target_slots;
    }

    /// Processes a reply. Returns a call to retransmit, if any.
    ///
    /// # Errors
    /// [`Error::SessionLost`]: the server no longer has this session. Any other error: the record is not a reply to a call
    /// of this session, or the session cannot be used any more; retire it.
    pub fn on_reply(&self, record: Bytes) -> Result<Option<Retransmit>> {
        self.bytes_transferred.fetch_add(record.len() as u64, Ordering::Relaxed);
        let mut record = Decoder(record);
        let xid = record.word()?;
        let slot = xid & (MAX_SLOTS - 1);
        let mut table = self.table();
        let Some(entry) = table.slots.get_mut(slot as usize) else {
            return Err(Error::Protocol("a reply to a call that was not sent"));
        };
        // A duplicate, or the reply to an earlier call of this slot.
        let Some(call) = entry.call.as_mut().filter(|call| call.xid == xid) else { return Ok(None) };
        let id = CallId { slot, xid };
        let outcome = match rpc::decode_reply_header(&mut record) {
            Ok(()) => sequence::decode(record, &self.id, slot, entry.seqid, call)?,
            // The server failed at an unknown point. The empty SEQUENCE finds out whether it has executed the call.
            Err(Error::Refused(rpc::SYSTEM_ERROR)) => {
                let delay = call.backoff.next();
                if !call.is_change
                    && let Some(waiting) = call.reply.take()
                {
                    let _ = waiting.send(Err(CallError::Refused(Error::Refused(rpc::SYSTEM_ERROR))));
                }
                self.substitute_empty_sequence(&mut table, slot);
                return Ok(Some(Retransmit { delay, id }));
            }
            Err(Error::Refused(err)) => SequenceOutcome::refused(call, Error::Refused(err))?,
            Err(err) => return Err(err),
        };
        if outcome.retransmit {
            return Ok(Some(Retransmit { delay: call.backoff.next(), id }));
        }
        // The server has executed the original. Retransmit the original to get its reply.
        if matches!(outcome.reply, Err(CallError::ReplyNotCached))
            && let Some(original) = call.original.take()
        {
            (call.message, call.replay_requested) = (original, true);
            return Ok(Some(Retransmit { delay: Duration::ZERO, id }));
        }
        if outcome.advances_seqid {
            entry.seqid = entry.seqid.wrapping_add(1);
        }
        let call = entry.call.take();
        self.release_slot(&mut table, slot);
        if let Some(target_slots) = outcome.target_slots {
            self.resize(&mut table, target_slots);
        }
        drop(table);
        if let Some(mut call) = call {
            // Free the payload before the caller continues and allocates the next one.
            drop(std::mem::take(&mut call.message.payload));
            call.complete(outcome.reply);
        }
        match outcome.revokes_state {
            true => Err(Error::Protocol("the server revoked open or lock state")),
            false => Ok(None),
        }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("epoch", &self.epoch).field("attrs", &self.attrs).finish_non_exhaustive()
    }
}
