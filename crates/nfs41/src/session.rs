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
    attributes::Limits,
    budget::Backoff,
    compound::{Compound, Message, Op, Results, Sequence},
    error::{Error, Result},
    rpc,
    status::Status,
    xdr::Decoder,
};

/// Pauses before a call is sent once more in its slot.
const FIRST_PAUSE: Duration = Duration::from_millis(15);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Sends of one call after which a refusal ends its session. With the pauses between them that takes some seconds.
const MAX_REFUSED_SENDS: u32 = 12;
/// A call's number has the slot in its last bits.
const SLOT_BITS: u32 = 8;
/// More calls are not on their way at once.
pub(crate) const MOST_SLOTS: u32 = 1 << SLOT_BITS;

/// Why a call has no answer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The session is gone, and the call was not sent.
    NotSent,
    /// The session is gone: the server has executed the call already, or never will.
    Lost,
    /// The session is given up, and the server may still execute the call.
    Abandoned,
    /// The server knows the call and has not kept its answer. It does not execute it again.
    Forgotten,
    /// Another call has taken its sequence number before it reached the server: it is never executed.
    Withdrawn,
    /// The server has not executed it.
    Refused(Error),
}

impl Agreed {
    /// What a file system takes at once, where it says so.
    pub fn limit(&mut self, limits: &Limits) {
        let at_most = |own: u32, theirs: Option<u64>| match theirs {
            Some(theirs) if theirs > 0 => own.min(u32::try_from(theirs).unwrap_or(u32::MAX)),
            _ => own,
        };
        self.largest_read = at_most(self.largest_read, limits.largest_read);
        self.largest_write = at_most(self.largest_write, limits.largest_write);
    }
}

pub(crate) type Answer = std::result::Result<Results, Fault>;

/// What both sides have agreed on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Agreed {
    pub largest_call: usize,
    pub largest_answer: usize,
    pub most_operations: u32,
    /// Bytes of an answer that the server keeps, to give it again.
    pub kept_answer: u32,
    pub slots: u32,
    /// Bytes of content in one call.
    pub largest_read: u32,
    pub largest_write: u32,
    pub lease: Duration,
    /// The shortest that an answer took before anything else was asked.
    pub round_trip: Duration,
}

/// A session.
pub(crate) struct Session {
    pub id: [u8; 16],
    pub client: u64,
    /// Of the connection, counted: what was open in another is not open in this one.
    pub epoch: u64,
    pub agreed: Agreed,
    /// What goes before every compound.
    pub before: Bytes,
    /// A permit for each slot that may be used.
    pub slots: Semaphore,
    /// A change in it is late: it is to be fenced.
    pub fenced: Notify,
    /// Bytes of calls and answers so far.
    pub traffic: AtomicU64,
    /// There is a connection by way of another address, which what tidies up may take, too.
    pub is_fencing: AtomicBool,
    /// Whoever keeps the connection is told that the session is lost.
    pub lost: Notify,
    table: Mutex<Table>,
}

struct Table {
    slots: Vec<Slot>,
    /// A bit for each that has a call.
    busy: [u64; MOST_SLOTS as usize / 64],
    /// As many permits as the server now wants, or so many more.
    window: u32,
    surplus: u32,
    calls: u32,
    link: Option<mpsc::UnboundedSender<Message>>,
    /// No more calls are taken. Those that were sent wait until it is known that the session is gone.
    retired: bool,
    lost: bool,
}

struct Slot {
    /// Of the next call, or of the one on its way.
    number: u32,
    call: Option<Call>,
}

struct Call {
    call: u32,
    message: Message,
    /// What is sent is an empty compound in the place of this.
    withdrawn: Option<Message>,
    /// The server says that it has executed the call: it is asked for its answer by the call itself.
    asked_again: bool,
    /// More than SEQUENCE.
    operations: u32,
    changes: bool,
    /// None when whoever waited has an answer.
    answer: Option<oneshot::Sender<Answer>>,
    /// How often it was given to a connection.
    transmissions: u32,
    /// Nobody wants it to be executed any more.
    late: bool,
    /// It tidies up, and goes by way of another address, too, while late calls do.
    is_cleanup: bool,
    backoff: Backoff,
    since: Instant,
}

impl Slot {
    fn is_late(&self) -> bool {
        self.call.as_ref().is_some_and(|call| call.late)
    }
}

impl Call {
    fn is_urgent(&self) -> bool {
        self.late || (self.is_cleanup && self.transmissions > 0)
    }

    fn tell(self, answer: Answer) {
        if let Some(waiting) = self.answer {
            let _ = waiting.send(answer);
        }
    }
}

/// Sends a call once more, after a while.
pub(crate) struct Later {
    pub pause: Duration,
    pub id: CallId,
}

/// A call on its way.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct CallId {
    slot: u32,
    call: u32,
}

impl Session {
    /// `first_number` is that of the first slot's next call.
    pub fn new(id: [u8; 16], client: u64, epoch: u64, agreed: Agreed, before: Bytes, first_number: u32) -> Self {
        let number = |slot| if slot == 0 { first_number } else { 1 };
        let slots = (0..agreed.slots).map(|slot| Slot { number: number(slot), call: None }).collect();
        let (window, surplus, calls, link, retired, lost) = (agreed.slots, 0, 0, None, false, false);
        let table = Table { slots, busy: [0; _], window, surplus, calls, link, retired, lost };
        let slots = Semaphore::new(agreed.slots as usize);
        let (fenced, traffic, is_fencing, lost) = Default::default();
        Self { id, client, epoch, agreed, before, slots, fenced, traffic, is_fencing, lost, table: Mutex::new(table) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing that panics runs under it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends it, or keeps it until there is a connection. Whoever calls has taken a permit and forgotten it. `None`:
    /// the session is gone, and nothing was sent.
    pub fn submit(&self, compound: &Compound, is_cleanup: bool) -> Option<(CallId, oneshot::Receiver<Answer>)> {
        let mut table = self.table();
        if table.lost || table.retired {
            return None;
        }
        let slot = table.lowest_free()?;
        table.set(slot, true);
        table.calls = table.calls.wrapping_add(1);
        let call = table.calls << SLOT_BITS | slot;
        let sequence = self.sequence(&table, slot, call);
        let message = compound.message(&self.before, &sequence);
        self.traffic.fetch_add(compound.len() as u64, Ordering::Relaxed);
        let (answer, receiver) = oneshot::channel();
        let sent = table.link.as_ref().is_some_and(|link| link.send(message.clone()).is_ok());
        table.slots[slot as usize].call = Some(Call {
            call,
            message,
            withdrawn: None,
            asked_again: false,
            operations: compound.operations(),
            changes: compound.kept,
            answer: Some(answer),
            transmissions: sent.into(),
            late: false,
            is_cleanup,
            backoff: Backoff::new(FIRST_PAUSE, MAX_PAUSE),
            since: Instant::now(),
        });
        if is_cleanup && self.is_fencing.load(Ordering::Acquire) {
            self.fenced.notify_one();
        }
        Some((CallId { slot, call }, receiver))
    }

    /// Nothing but SEQUENCE, in the first slot, by this number of a call.
    pub fn first(&self, call: u32) -> Message {
        Compound::new().message(&self.before, &self.sequence(&self.table(), 0, call))
    }

    fn sequence(&self, table: &Table, slot: u32, call: u32) -> Sequence {
        let (number, highest) = (table.slots[slot as usize].number, table.highest());
        Sequence { call, session: self.id, client: self.client, slot, number, highest }
    }

    /// Puts an empty compound with its sequence number in the place of a call: if that comes first, the original is a
    /// false retry when it arrives, and the server does not execute it; if it comes second, the server gives the answer
    /// to the original again, or says that it has executed it (RFC 8881, section 2.10.6.1.3.1).
    fn replace(&self, table: &mut Table, slot: u32) {
        let Some(number) = table.slots[slot as usize].call.as_ref().map(|call| call.call) else { return };
        let empty = Compound::new().message(&self.before, &self.sequence(table, slot, number));
        if let Some(call) = &mut table.slots[slot as usize].call
            && call.withdrawn.is_none()
            && !call.asked_again
        {
            call.withdrawn = Some(std::mem::replace(&mut call.message, empty));
        }
    }

    /// The calls that were sent, have no answer, and are late or tidy up.
    pub fn urgent(&self) -> Vec<CallId> {
        let table = self.table();
        let urgent = (0..).zip(&table.slots).filter_map(|(slot, place)| {
            let call = place.call.as_ref().filter(|call| call.is_urgent())?;
            Some(CallId { slot, call: call.call })
        });
        urgent.collect()
    }

    pub fn has_late(&self) -> bool {
        self.table().slots.iter().any(Slot::is_late)
    }

    pub fn is_urgent(&self, id: CallId) -> bool {
        let table = self.table();
        table.slots[id.slot as usize].call.as_ref().is_some_and(|call| call.call == id.call && call.is_urgent())
    }

    /// What has to be sent, over whichever connection, so that this call ends: what takes the place of a late one, and
    /// what tidies up itself.
    pub fn ending(&self, id: CallId) -> Option<Message> {
        let mut table = self.table();
        let call = table.slots[id.slot as usize].call.as_ref().filter(|call| call.call == id.call)?;
        if call.late {
            self.replace(&mut table, id.slot);
        }
        let call = table.slots[id.slot as usize].call.as_mut()?;
        call.transmissions = call.transmissions.saturating_add(1);
        Some(call.message.clone())
    }

    /// The caller's time is over. True: it was not sent, and never will be. False: it was sent, and where it has to be
    /// sent again, a withdrawal goes in its place.
    pub fn withdraw(&self, id: CallId) -> bool {
        let mut table = self.table();
        let place = &mut table.slots[id.slot as usize];
        match &mut place.call {
            Some(call) if call.call == id.call && call.transmissions == 0 => {
                place.call = None;
                self.release(&mut table, id.slot);
                true
            }
            Some(call) if call.call == id.call => {
                call.late = true;
                false
            }
            // It has its answer.
            _ => false,
        }
    }

    /// There is a connection again: what had no answer goes over it once more, and the server knows by its number
    /// whether it has done it.
    pub fn link(&self, link: mpsc::UnboundedSender<Message>) {
        let mut table = self.table();
        for slot in 0..self.agreed.slots {
            self.transmit(&mut table, slot, &link);
        }
        table.link = Some(link);
    }

    fn transmit(&self, table: &mut Table, slot: u32, link: &mpsc::UnboundedSender<Message>) {
        let Some(call) = &table.slots[slot as usize].call else { return };
        let is_awaited = call.answer.as_ref().is_some_and(|answer| !answer.is_closed());
        let (is_unwanted, was_sent) = (!is_awaited || call.late, call.transmissions > 0);
        if !is_awaited && !was_sent {
            table.slots[slot as usize].call = None;
            self.release(table, slot);
            return;
        }
        if is_unwanted {
            self.replace(table, slot);
        }
        let Some(call) = &mut table.slots[slot as usize].call else { return };
        call.transmissions = call.transmissions.saturating_add(1);
        let _ = link.send(call.message.clone());
    }

    pub fn unlink(&self) {
        self.table().link = None;
    }

    /// Once more, if it still waits.
    pub fn again(&self, id: CallId) {
        let mut table = self.table();
        let Some(link) = table.link.clone() else { return };
        if table.slots[id.slot as usize].call.as_ref().is_some_and(|call| call.call == id.call) {
            self.transmit(&mut table, id.slot, &link);
        }
    }

    /// Since when the oldest call waits for its answer.
    pub fn oldest(&self) -> Option<Instant> {
        self.table().slots.iter().filter_map(|slot| slot.call.as_ref()).map(|call| call.since).min()
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
        table.link = None;
        self.slots.close();
        // What changes nothing is asked again; what changes something must not be done later.
        self.end(&mut table, |call| match (call.transmissions, call.changes) {
            (0, _) => Some(Fault::NotSent),
            (_, false) => Some(Fault::Lost),
            (_, true) => None,
        });
        table.slots.iter_mut().filter_map(|slot| slot.call.as_mut()).for_each(|call| call.late = true);
        drop(table);
        self.fenced.notify_one();
    }

    /// The server has this session no more: nothing that was sent in it is executed any more.
    pub fn lose(&self) {
        self.close(|| Fault::Lost);
    }

    /// Nobody finds out any more what becomes of what was sent.
    pub fn abandon(&self) {
        self.close(|| Fault::Abandoned);
    }

    fn close(&self, sent: impl Fn() -> Fault) {
        let mut table = self.table();
        table.lost = true;
        table.link = None;
        self.slots.close();
        self.end(&mut table, |call| Some(if call.transmissions == 0 { Fault::NotSent } else { sent() }));
        table.busy = [0; _];
        drop(table);
        self.lost.notify_one();
        // Who waits to fence it goes home.
        self.fenced.notify_one();
    }

    fn end(&self, table: &mut Table, fault: impl Fn(&Call) -> Option<Fault>) {
        for slot in 0..self.agreed.slots {
            let place = &mut table.slots[slot as usize].call;
            if let Some(fault) = place.as_ref().and_then(&fault)
                && let Some(call) = place.take()
            {
                call.tell(Err(fault));
                table.set(slot, false);
            }
        }
    }

    fn release(&self, table: &mut Table, slot: u32) {
        table.set(slot, false);
        match table.surplus {
            0 => self.slots.add_permits(1),
            _ => table.surplus -= 1,
        }
    }

    /// The server wants at most so many calls at once from now on.
    fn want(&self, table: &mut Table, window: u32) {
        let window = window.clamp(1, self.agreed.slots);
        if window > table.window {
            let more = window - table.window;
            let owed = more.min(table.surplus);
            table.surplus -= owed;
            self.slots.add_permits((more - owed) as usize);
        } else if window < table.window {
            let fewer = (table.window - window) as usize;
            let taken = self.slots.forget_permits(fewer);
            table.surplus += u32::try_from(fewer - taken).unwrap_or_default();
        }
        table.window = window;
    }

    /// A record has come. What is to be sent once more later, if anything.
    ///
    /// # Errors
    /// [`Error::SessionLost`]: the server does not have this session any more. Any other: what came is not an answer of
    /// ours, or the session is of no more use; it has to be retired.
    pub fn heard(&self, record: Bytes) -> Result<Option<Later>> {
        self.traffic.fetch_add(record.len() as u64, Ordering::Relaxed);
        let mut record = Decoder(record);
        let number = record.word()?;
        let slot = number & (MOST_SLOTS - 1);
        let mut table = self.table();
        let Some(place) = table.slots.get_mut(slot as usize) else {
            return Err(Error::Protocol("an answer to what was not asked"));
        };
        // Heard twice, or of a call that a later one has taken the place of.
        let Some(call) = place.call.as_mut().filter(|call| call.call == number) else { return Ok(None) };
        let id = CallId { slot, call: number };
        let answer = match rpc::accepted(&mut record) {
            Ok(()) => sequenced(self, slot, place.number, call, record)?,
            // The server has failed at an unknown point: only the slot can tell whether it has executed the call.
            Err(Error::Refused(rpc::SYSTEM_ERROR)) => {
                let pause = call.backoff.next();
                if !call.changes
                    && let Some(waiting) = call.answer.take()
                {
                    let _ = waiting.send(Err(Fault::Refused(Error::Refused(rpc::SYSTEM_ERROR))));
                }
                self.replace(&mut table, slot);
                return Ok(Some(Later { pause, id }));
            }
            Err(Error::Refused(why)) => Sequenced::refused(call, Error::Refused(why))?,
            Err(why) => return Err(why),
        };
        if answer.again {
            return Ok(Some(Later { pause: call.backoff.next(), id }));
        }
        // It has executed the call: its answer comes for the call itself.
        if matches!(answer.answer, Err(Fault::Forgotten))
            && let Some(original) = call.withdrawn.take()
        {
            (call.message, call.asked_again) = (original, true);
            return Ok(Some(Later { pause: Duration::ZERO, id }));
        }
        if answer.counts {
            place.number = place.number.wrapping_add(1);
        }
        let call = place.call.take();
        self.release(&mut table, slot);
        if let Some(window) = answer.window {
            self.want(&mut table, window);
        }
        drop(table);
        if let Some(mut call) = call {
            // Before anybody goes on: a content that is written shall not be kept while the next one is made.
            drop(std::mem::take(&mut call.message.payload));
            call.tell(answer.answer);
        }
        match answer.ends {
            // The session itself goes on, and so does what was sent in it.
            true => Err(Error::Protocol("what was open or locked is not any more")),
            false => Ok(None),
        }
    }
}

impl Table {
    fn lowest_free(&self) -> Option<u32> {
        let slot = (0..)
            .zip(self.busy)
            .find(|(_, bits)| *bits != u64::MAX)
            .map(|(index, bits)| index * 64 + bits.trailing_ones());
        slot.filter(|slot| (*slot as usize) < self.slots.len())
    }

    fn highest(&self) -> u32 {
        let used = (0..MOST_SLOTS / 64).zip(self.busy).rev().find(|(_, bits)| *bits != 0);
        used.map_or(0, |(index, bits)| index * 64 + 63 - bits.leading_zeros())
    }

    fn set(&mut self, slot: u32, busy: bool) {
        let (word, bit) = (slot as usize / 64, 1 << (slot % 64));
        if busy {
            self.busy[word] |= bit;
        } else {
            self.busy[word] &= !bit;
        }
    }
}

/// What the first operation of an answer says.
struct Sequenced {
    answer: Answer,
    /// The slot's number counts on.
    counts: bool,
    /// The same once more, in a while.
    again: bool,
    window: Option<u32>,
    /// What was open or locked is not any more.
    ends: bool,
}

impl Sequenced {
    fn fault(fault: Fault) -> Self {
        Self { answer: Err(fault), counts: true, again: false, window: None, ends: false }
    }

    /// The server has not begun what this answers, and its slot is as it was (RFC 8881, section 18.46.3). Of a call that was
    /// sent more than once that says nothing of the other sends: the server may execute one of them, or has.
    ///
    /// # Errors
    /// It was refused so often that the session is of no more use.
    fn refused(call: &Call, why: Error) -> Result<Self> {
        match call.transmissions {
            MAX_REFUSED_SENDS.. => Err(Error::Protocol("what was sent again is refused each time")),
            sends => Ok(Self { counts: false, again: sends > 1, ..Self::fault(Fault::Refused(why)) }),
        }
    }
}

fn sequenced(session: &Session, slot: u32, number: u32, call: &Call, mut answer: Decoder) -> Result<Sequenced> {
    /// Longer tags than ours, which is empty, are not ours.
    const TAG: usize = 1024;
    let status = Status(answer.word()?);
    answer.opaque(TAG)?;
    let operations = answer.word()?;
    if operations == 0 {
        // Not even that was done: the compound is too large, or its version unknown.
        return Sequenced::refused(call, Error::Status { op: Op::SEQUENCE, status });
    }
    let mut results = Results(answer);
    let said = match results.op(Op::SEQUENCE) {
        Ok(said) => said,
        Err(Error::Status { status: Status::RETRY_UNCACHED_REP | Status::SEQ_FALSE_RETRY, .. }) => {
            return Ok(Sequenced::fault(Fault::Forgotten));
        }
        Err(Error::Status { status, .. }) if status.ends_session() => return Err(Error::SessionLost),
        // The session may be there still, and cannot be used by us.
        Err(Error::Status { status, .. }) if status.retires_session() => {
            return Err(Error::Protocol("the server does not take this call for the next one of its slot"));
        }
        Err(why @ Error::Status { .. }) => return Sequenced::refused(call, why),
        Err(why) => return Err(why),
    };
    if said.fixed::<16>()? != session.id || said.word()? != number || said.word()? != slot {
        return Err(Error::Protocol("an answer is for another session, slot or number"));
    }
    said.word()?;
    let window = said.word()?.saturating_add(1);
    /// All or some state revoked, by the lease or by hand; or to be reclaimed.
    const STATE_IS_GONE: u32 = 0x8 | 0x10 | 0x20 | 0x100;
    let ends = said.word()? & STATE_IS_GONE != 0;
    // The server gives its whole answer again where it has kept it, and only the first operation's where it has not.
    let answer = match status {
        Status::RETRY_UNCACHED_REP => Err(Fault::Forgotten),
        // The answer to what has taken its place, whichever of the two it comes for.
        Status::OK if operations == 1 && call.operations > 0 => Err(Fault::Withdrawn),
        _ => Ok(results),
    };
    Ok(Sequenced { answer, counts: true, again: false, window: Some(window), ends })
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("epoch", &self.epoch).field("agreed", &self.agreed).finish_non_exhaustive()
    }
}
