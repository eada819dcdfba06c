//! A session with its slots: RFC 8881, section 2.10. Each slot carries one call at a time and numbers them, so that
//! the server does each once, however often it hears it.

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
    attributes::FsLimits,
    budget::Backoff,
    compound::{Compound, CompoundReply, Message, Op, Sequence},
    error::{Error, Result},
    rpc,
    status::Status,
    xdr::Decoder,
};

/// Pauses before a call is sent once more in its slot.
const INITIAL_BACKOFF: Duration = Duration::from_millis(15);
const MAX_BACKOFF: Duration = Duration::from_secs(1);
/// Sends of one call after which a refusal ends its session. With the pauses between them that takes some seconds.
const MAX_REFUSED_SENDS: u32 = 12;
/// A call's number has the slot in its last bits.
const SLOT_BITS: u32 = 8;
/// More calls are not on their way at once.
pub(crate) const MAX_SLOTS: u32 = 1 << SLOT_BITS;

/// Why a call has no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The session is gone, and the call was not sent.
    NotSent,
    /// The session is gone: the server has executed the call already, or never will.
    Lost,
    /// The session is given up, and the server may still execute the call.
    Abandoned,
    /// The server knows the call and has not kept its answer. It does not execute it again.
    ReplyNotCached,
    /// Another call has taken its sequence number before it reached the server: it is never executed.
    Withdrawn,
    /// The server has not executed it.
    Refused(Error),
}

impl ChannelAttrs {
    /// What a file system takes at once, where it says so.
    pub fn limit(&mut self, limits: &FsLimits) {
        let at_most = |own: u32, theirs: Option<u64>| match theirs {
            Some(theirs) if theirs > 0 => own.min(u32::try_from(theirs).unwrap_or(u32::MAX)),
            _ => own,
        };
        self.max_read_bytes = at_most(self.max_read_bytes, limits.max_read_bytes);
        self.max_write_bytes = at_most(self.max_write_bytes, limits.max_write_bytes);
    }
}

pub(crate) type Reply = std::result::Result<CompoundReply, CallError>;

/// What both sides have agreed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChannelAttrs {
    pub max_request_bytes: usize,
    pub max_response_bytes: usize,
    pub max_operations: u32,
    /// Bytes of an answer that the server keeps, to give it again.
    pub max_cached_response_bytes: u32,
    pub slots: u32,
    /// Bytes of content in one call.
    pub max_read_bytes: u32,
    pub max_write_bytes: u32,
    pub lease: Duration,
    /// The shortest that an answer took before anything else was asked.
    pub round_trip: Duration,
}

/// A session.
pub(crate) struct Session {
    pub id: [u8; 16],
    pub client_id: u64,
    /// Of the connection, counted: what was open in another is not open in this one.
    pub epoch: u64,
    pub attrs: ChannelAttrs,
    /// What goes before every compound.
    pub rpc_header: Bytes,
    /// A permit for each slot that may be used.
    pub slots: Semaphore,
    /// A change in it is late: it is to be fenced.
    pub fence_requested: Notify,
    /// Bytes of calls and answers so far.
    pub bytes_transferred: AtomicU64,
    /// There is a connection by way of another address, which what tidies up may take, too.
    pub is_fencing: AtomicBool,
    /// Whoever keeps the connection is told that the session is lost.
    pub lost: Notify,
    table: Mutex<SlotTable>,
}

struct SlotTable {
    slots: Vec<Slot>,
    /// A bit for each that has a call.
    busy: [u64; MAX_SLOTS as usize / 64],
    /// As many permits as the server now wants, or so many more.
    target_slots: u32,
    excess_permits: u32,
    last_xid: u32,
    outgoing: Option<mpsc::UnboundedSender<Message>>,
    /// No more calls are taken. Those that were sent wait until it is known that the session is gone.
    retired: bool,
    lost: bool,
}

struct Slot {
    /// Of the next call, or of the one on its way.
    seqid: u32,
    call: Option<Call>,
}

struct Call {
    xid: u32,
    message: Message,
    /// What is sent is an empty compound in the place of this.
    original: Option<Message>,
    /// The server says that it has executed the call: it is asked for its answer by the call itself.
    replay_requested: bool,
    /// More than SEQUENCE.
    operations: u32,
    is_change: bool,
    /// None when whoever waited has an answer.
    reply: Option<oneshot::Sender<Reply>>,
    /// How often it was given to a connection.
    transmissions: u32,
    /// Nobody wants it to be executed any more.
    is_late: bool,
    /// It tidies up, and goes by way of another address, too, while late calls do.
    is_cleanup: bool,
    backoff: Backoff,
    sent_at: Instant,
}

impl Slot {
    fn has_late_call(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.is_late)
    }
}

impl Call {
    fn needs_fencing(&self) -> bool {
        self.is_late || (self.is_cleanup && self.transmissions > 0)
    }

    fn complete(self, reply: Reply) {
        if let Some(waiting) = self.reply {
            let _ = waiting.send(reply);
        }
    }
}

/// Sends a call once more, after a while.
pub(crate) struct Retransmit {
    pub delay: Duration,
    pub id: CallId,
}

/// A call on its way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct CallId {
    slot: u32,
    xid: u32,
}

impl Session {
    /// `first_number` is that of the first slot's next call.
    pub fn new(
        id: [u8; 16],
        client_id: u64,
        epoch: u64,
        attrs: ChannelAttrs,
        rpc_header: Bytes,
        first_seqid: u32,
    ) -> Self {
        let seqid = |slot| if slot == 0 { first_seqid } else { 1 };
        let slots = (0..attrs.slots).map(|slot| Slot { seqid: seqid(slot), call: None }).collect();
        let (target_slots, excess_permits, last_xid, outgoing, retired, lost) = (attrs.slots, 0, 0, None, false, false);
        let table = SlotTable { slots, busy: [0; _], target_slots, excess_permits, last_xid, outgoing, retired, lost };
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
        // Nothing that panics runs under it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends it, or keeps it until there is a connection. Whoever calls has taken a permit and forgotten it. `None`:
    /// the session is gone, and nothing was sent.
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
            sent_at: Instant::now(),
        });
        if is_cleanup && self.is_fencing.load(Ordering::Acquire) {
            self.fence_requested.notify_one();
        }
        Some((CallId { slot, xid }, receiver))
    }

    /// Nothing but SEQUENCE, in the first slot, by this number of a call.
    pub fn sequence_only(&self, xid: u32) -> Message {
        Compound::new().encode_in_session(&self.rpc_header, &self.sequence(&self.table(), 0, xid))
    }

    fn sequence(&self, table: &SlotTable, slot: u32, xid: u32) -> Sequence {
        let (seqid, highest_slot) = (table.slots[slot as usize].seqid, table.highest_busy_slot());
        Sequence { xid, session_id: self.id, client_id: self.client_id, slot, seqid, highest_slot }
    }

    /// Puts an empty compound with its sequence number in the place of a call: if that comes first, the original is a
    /// false retry when it arrives, and the server does not execute it; if it comes second, the server gives the answer
    /// to the original again, or says that it has executed it (RFC 8881, section 2.10.6.1.3.1).
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

    /// The calls that were sent, have no answer, and are late or tidy up.
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

    /// What has to be sent, over whichever connection, so that this call ends: what takes the place of a late one, and
    /// what tidies up itself.
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

    /// The caller's time is over. True: it was not sent, and never will be. False: it was sent, and where it has to be
    /// sent again, a withdrawal goes in its place.
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
            // It has its answer.
            _ => false,
        }
    }

    /// There is a connection again: what had no answer goes over it once more, and the server knows by its number
    /// whether it has done it.
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

    /// Once more, if it still waits.
    pub fn retransmit(&self, id: CallId) {
        let mut table = self.table();
        let Some(outgoing) = table.outgoing.clone() else { return };
        if table.slots[id.slot as usize].call.as_ref().is_some_and(|call| call.xid == id.xid) {
            self.transmit(&mut table, id.slot, &outgoing);
        }
    }

    /// Since when the oldest call waits for its answer.
    pub fn oldest_call(&self) -> Option<Instant> {
        self.table().slots.iter().filter_map(|slot| slot.call.as_ref()).map(|call| call.sent_at).min()
    }

    /// Calls that have no answer yet.
    pub fn in_flight(&self) -> u32 {
        self.table().busy.iter().map(|bits| bits.count_ones()).sum()
    }

    pub fn is_lost(&self) -> bool {
        self.table().lost
    }

    /// Nothing new is sent in it.
    pub fn is_retired(&self) -> bool {
        let table = self.table();
        table.retired || table.lost
    }

    /// Takes no more calls, and gives up its connection. The server has it still: what was sent waits until that is
    /// over, and [`Session::lose`] says so.
    pub fn retire(&self) {
        let mut table = self.table();
        table.retired = true;
        table.outgoing = None;
        self.slots.close();
        // What changes nothing is asked again; what changes something must not be done later.
        self.fail_calls(&mut table, |call| match (call.transmissions, call.is_change) {
            (0, _) => Some(CallError::NotSent),
            (_, false) => Some(CallError::Lost),
            (_, true) => None,
        });
        table.slots.iter_mut().filter_map(|slot| slot.call.as_mut()).for_each(|call| call.is_late = true);
        drop(table);
        self.fence_requested.notify_one();
    }

    /// The server has this session no more: nothing that was sent in it is executed any more.
    pub fn mark_lost(&self) {
        self.close(|| CallError::Lost);
    }

    /// Nobody finds out any more what becomes of what was sent.
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
        // Who waits to fence it goes home.
        self.fence_requested.notify_one();
    }

    fn fail_calls(&self, table: &mut SlotTable, fault: impl Fn(&Call) -> Option<CallError>) {
        for slot in 0..self.attrs.slots {
            let entry = &mut table.slots[slot as usize].call;
            if let Some(fault) = entry.as_ref().and_then(&fault)
                && let Some(call) = entry.take()
            {
                call.complete(Err(fault));
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

    /// The server wants at most so many calls at once from now on.
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

    /// A record has come. What is to be sent once more later, if anything.
    ///
    /// # Errors
    /// [`Error::SessionLost`]: the server does not have this session any more. Any other: what came is not an answer of
    /// ours, or the session is of no more use; it has to be retired.
    pub fn on_reply(&self, record: Bytes) -> Result<Option<Retransmit>> {
        self.bytes_transferred.fetch_add(record.len() as u64, Ordering::Relaxed);
        let mut record = Decoder(record);
        let xid = record.word()?;
        let slot = xid & (MAX_SLOTS - 1);
        let mut table = self.table();
        let Some(entry) = table.slots.get_mut(slot as usize) else {
            return Err(Error::Protocol("a reply to a call that was not sent"));
        };
        // Heard twice, or of a call that a later one has taken the place of.
        let Some(call) = entry.call.as_mut().filter(|call| call.xid == xid) else { return Ok(None) };
        let id = CallId { slot, xid };
        let reply = match rpc::decode_reply_header(&mut record) {
            Ok(()) => decode_sequence(self, slot, entry.seqid, call, record)?,
            // The server has failed at an unknown point: only the slot can tell whether it has executed the call.
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
        if reply.retransmit {
            return Ok(Some(Retransmit { delay: call.backoff.next(), id }));
        }
        // It has executed the call: its answer comes for the call itself.
        if matches!(reply.reply, Err(CallError::ReplyNotCached))
            && let Some(original) = call.original.take()
        {
            (call.message, call.replay_requested) = (original, true);
            return Ok(Some(Retransmit { delay: Duration::ZERO, id }));
        }
        if reply.advances_seqid {
            entry.seqid = entry.seqid.wrapping_add(1);
        }
        let call = entry.call.take();
        self.release_slot(&mut table, slot);
        if let Some(target_slots) = reply.target_slots {
            self.resize(&mut table, target_slots);
        }
        drop(table);
        if let Some(mut call) = call {
            // Before anybody goes on: a content that is written shall not be kept while the next one is made.
            drop(std::mem::take(&mut call.message.payload));
            call.complete(reply.reply);
        }
        match reply.revokes_state {
            // The session itself goes on, and so does what was sent in it.
            true => Err(Error::Protocol("what was open or locked is not any more")),
            false => Ok(None),
        }
    }
}

impl SlotTable {
    fn lowest_free_slot(&self) -> Option<u32> {
        let slot = (0..)
            .zip(self.busy)
            .find(|(_, bits)| *bits != u64::MAX)
            .map(|(index, bits)| index * 64 + bits.trailing_ones());
        slot.filter(|slot| (*slot as usize) < self.slots.len())
    }

    fn highest_busy_slot(&self) -> u32 {
        let used = (0..MAX_SLOTS / 64).zip(self.busy).rev().find(|(_, bits)| *bits != 0);
        used.map_or(0, |(index, bits)| index * 64 + 63 - bits.leading_zeros())
    }

    fn set_busy(&mut self, slot: u32, busy: bool) {
        let (word, bit) = (slot as usize / 64, 1 << (slot % 64));
        if busy {
            self.busy[word] |= bit;
        } else {
            self.busy[word] &= !bit;
        }
    }
}

/// What the first operation of an answer says.
struct SequenceOutcome {
    reply: Reply,
    /// The slot's number counts on.
    advances_seqid: bool,
    /// The same once more, in a while.
    retransmit: bool,
    target_slots: Option<u32>,
    /// What was open or locked is not any more.
    revokes_state: bool,
}

impl SequenceOutcome {
    fn fault(fault: CallError) -> Self {
        Self { reply: Err(fault), advances_seqid: true, retransmit: false, target_slots: None, revokes_state: false }
    }

    /// The server has not begun what this answers, and its slot is as it was (RFC 8881, section 18.46.3). Of a call that was
    /// sent more than once that says nothing of the other sends: the server may execute one of them, or has.
    ///
    /// # Errors
    /// It was refused so often that the session is of no more use.
    fn refused(call: &Call, err: Error) -> Result<Self> {
        match call.transmissions {
            MAX_REFUSED_SENDS.. => Err(Error::Protocol("what was sent again is refused each time")),
            sends => Ok(Self { advances_seqid: false, retransmit: sends > 1, ..Self::fault(CallError::Refused(err)) }),
        }
    }
}

fn decode_sequence(
    session: &Session,
    slot: u32,
    seqid: u32,
    call: &Call,
    mut reply: Decoder,
) -> Result<SequenceOutcome> {
    /// Longer tags than ours, which is empty, are not ours.
    const MAX_TAG_BYTES: usize = 1024;
    let status = Status(reply.word()?);
    reply.opaque(MAX_TAG_BYTES)?;
    let operations = reply.word()?;
    if operations == 0 {
        // Not even that was done: the compound is too large, or its version unknown.
        return SequenceOutcome::refused(call, Error::Status { op: Op::SEQUENCE, status });
    }
    let mut results = CompoundReply(reply);
    let sequence = match results.expect(Op::SEQUENCE) {
        Ok(sequence) => sequence,
        Err(Error::Status { status: Status::RETRY_UNCACHED_REP | Status::SEQ_FALSE_RETRY, .. }) => {
            return Ok(SequenceOutcome::fault(CallError::ReplyNotCached));
        }
        Err(Error::Status { status, .. }) if status.ends_session() => return Err(Error::SessionLost),
        // The session may be there still, and cannot be used by us.
        Err(Error::Status { status, .. }) if status.retires_session() => {
            return Err(Error::Protocol("the server does not take this call for the next one of its slot"));
        }
        Err(err @ Error::Status { .. }) => return SequenceOutcome::refused(call, err),
        Err(err) => return Err(err),
    };
    if sequence.fixed::<16>()? != session.id || sequence.word()? != seqid || sequence.word()? != slot {
        return Err(Error::Protocol("a reply is for another session, slot or seqid"));
    }
    sequence.word()?;
    let target_slots = sequence.word()?.saturating_add(1);
    /// All or some state revoked, by the lease or by hand; or to be reclaimed.
    const STATE_IS_GONE: u32 = 0x8 | 0x10 | 0x20 | 0x100;
    let revokes_state = sequence.word()? & STATE_IS_GONE != 0;
    // The server gives its whole answer again where it has kept it, and only the first operation's where it has not.
    let reply = match status {
        Status::RETRY_UNCACHED_REP => Err(CallError::ReplyNotCached),
        // The answer to what has taken its place, whichever of the two it comes for.
        Status::OK if operations == 1 && call.operations > 0 => Err(CallError::Withdrawn),
        _ => Ok(results),
    };
    Ok(SequenceOutcome {
        reply,
        advances_seqid: true,
        retransmit: false,
        target_slots: Some(target_slots),
        revokes_state,
    })
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("epoch", &self.epoch).field("attrs", &self.attrs).finish_non_exhaustive()
    }
}
