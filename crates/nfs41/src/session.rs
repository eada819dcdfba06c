//! A session with its slots: RFC 8881, section 2.10. Each slot carries one call at a time and numbers them, so that
//! the server does each once, however often it hears it.

use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    compound::{Compound, Message, Op, Results, Sequence},
    error::{Error, Result},
    rpc,
    status::Status,
    xdr::Decoder,
};

/// A call's number has the slot in its last bits.
const SLOT_BITS: u32 = 8;
/// More calls are not on their way at once.
pub(crate) const MOST_SLOTS: u32 = 1 << SLOT_BITS;

/// Why a call has no answer.
#[derive(Debug)]
pub(crate) enum Fault {
    /// The session is gone. Was the call sent?
    Lost { sent: bool },
    /// It was done, or is not to be done any more: the server knows it and has not kept its answer.
    Forgotten,
    /// The server has not done it.
    Refused(Error),
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
    answer: oneshot::Sender<Answer>,
    sent: bool,
    since: Instant,
}

/// Sends a call once more, after a while.
pub(crate) struct Later {
    pub slot: u32,
    pub call: u32,
}

impl Session {
    /// `first_number` is that of the first slot's next call.
    pub fn new(id: [u8; 16], client: u64, epoch: u64, agreed: Agreed, before: Bytes, first_number: u32) -> Self {
        let number = |slot| if slot == 0 { first_number } else { 1 };
        let slots = (0..agreed.slots).map(|slot| Slot { number: number(slot), call: None }).collect();
        let table = Table { slots, busy: [0; _], window: agreed.slots, surplus: 0, calls: 0, link: None, lost: false };
        let slots = Semaphore::new(agreed.slots as usize);
        Self { id, client, epoch, agreed, before, slots, table: Mutex::new(table) }
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        // Nothing that panics runs under it.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends it, or keeps it until there is a connection. Whoever calls has taken a permit and forgotten it. `None`:
    /// the session is gone, and nothing was sent.
    pub fn submit(&self, compound: &Compound) -> Option<oneshot::Receiver<Answer>> {
        let mut table = self.table();
        if table.lost {
            return None;
        }
        let slot = table.lowest_free()?;
        table.set(slot, true);
        table.calls = table.calls.wrapping_add(1);
        let sequence = Sequence {
            call: table.calls << SLOT_BITS | slot,
            session: self.id,
            client: self.client,
            slot,
            number: table.slots[slot as usize].number,
            highest: table.highest(),
        };
        let message = compound.message(&self.before, &sequence);
        let (answer, receiver) = oneshot::channel();
        let sent = table.link.as_ref().is_some_and(|link| link.send(message.clone()).is_ok());
        table.slots[slot as usize].call =
            Some(Call { call: sequence.call, message, answer, sent, since: Instant::now() });
        Some(receiver)
    }

    /// There is a connection again: what had no answer goes over it once more, and the server knows by its number
    /// whether it has done it.
    pub fn link(&self, link: mpsc::UnboundedSender<Message>) {
        let mut table = self.table();
        for slot in 0..self.agreed.slots {
            let highest = table.highest();
            let place = &mut table.slots[slot as usize];
            let Some(call) = &mut place.call else { continue };
            if call.answer.is_closed() && !call.sent {
                place.call = None;
                self.release(&mut table, slot);
                continue;
            }
            if call.answer.is_closed() {
                // Nobody waits for it: with nothing in its place it is done either now or never.
                let number = place.number;
                let sequence =
                    Sequence { call: call.call, session: self.id, client: self.client, slot, number, highest };
                call.message = Compound::new().message(&self.before, &sequence);
            }
            call.sent = true;
            let _ = link.send(call.message.clone());
        }
        table.link = Some(link);
    }

    pub fn unlink(&self) {
        self.table().link = None;
    }

    /// Once more, if it still waits.
    pub fn again(&self, later: &Later) {
        let table = self.table();
        if let Some(call) = table.slots[later.slot as usize].call.as_ref().filter(|call| call.call == later.call)
            && let Some(link) = &table.link
        {
            let _ = link.send(call.message.clone());
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

    /// Nothing is sent in it any more, and who waits is told.
    pub fn lose(&self) {
        let mut table = self.table();
        table.lost = true;
        table.link = None;
        self.slots.close();
        for slot in &mut table.slots {
            if let Some(call) = slot.call.take() {
                let _ = call.answer.send(Err(Fault::Lost { sent: call.sent }));
            }
        }
        table.busy = [0; _];
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
    /// [`Error::SessionLost`]: the server does not know this session. Any other: what came is not an answer of ours,
    /// and the connection cannot be relied on.
    pub fn heard(&self, record: Bytes) -> Result<Option<Later>> {
        let mut record = Decoder(record);
        let number = record.word()?;
        let slot = number & (MOST_SLOTS - 1);
        let mut table = self.table();
        let Some(place) = table.slots.get_mut(slot as usize) else {
            return Err(Error::Protocol("an answer to what was not asked"));
        };
        // Heard twice, or of a call that a later one has taken the place of.
        if place.call.as_ref().is_none_or(|call| call.call != number) {
            return Ok(None);
        }
        let answer = match rpc::accepted(&mut record) {
            Ok(()) => sequenced(self, slot, place.number, record)?,
            Err(Error::Refused(why)) => {
                Sequenced { done: false, ..Sequenced::error(Fault::Refused(Error::Refused(why))) }
            }
            Err(why) => return Err(why),
        };
        if answer.later {
            return Ok(Some(Later { slot, call: number }));
        }
        if answer.done {
            place.number = place.number.wrapping_add(1);
        }
        let call = place.call.take();
        self.release(&mut table, slot);
        if let Some(window) = answer.window {
            self.want(&mut table, window);
        }
        drop(table);
        if let Some(Call { answer: waiting, message, .. }) = call {
            // Before anybody goes on: a content that is written shall not be kept while the next one is made.
            drop(message);
            let _ = waiting.send(answer.answer);
        }
        if answer.ended { Err(Error::SessionLost) } else { Ok(None) }
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
    done: bool,
    /// Once more, in a while.
    later: bool,
    window: Option<u32>,
    /// What was open or locked is not any more.
    ended: bool,
}

impl Sequenced {
    fn error(fault: Fault) -> Self {
        Self { answer: Err(fault), done: true, later: false, window: None, ended: false }
    }
}

fn sequenced(session: &Session, slot: u32, number: u32, mut answer: Decoder) -> Result<Sequenced> {
    /// Longer tags than ours, which is empty, are not ours.
    const TAG: usize = 1024;
    let status = Status(answer.word()?);
    answer.opaque(TAG)?;
    if answer.word()? == 0 {
        // Not even that was done: the compound is too large, or its version unknown.
        let op = Op::SEQUENCE;
        return Ok(Sequenced { done: false, ..Sequenced::error(Fault::Refused(Error::Status { op, status })) });
    }
    let mut results = Results(answer);
    let said = match results.op(Op::SEQUENCE) {
        Ok(said) => said,
        Err(Error::Status { status: Status::DELAY, .. }) => {
            return Ok(Sequenced { later: true, ..Sequenced::error(Fault::Forgotten) });
        }
        Err(Error::Status { status: Status::RETRY_UNCACHED_REP | Status::SEQ_FALSE_RETRY, .. }) => {
            return Ok(Sequenced::error(Fault::Forgotten));
        }
        Err(Error::Status { status, .. }) if status.ends_session() => {
            return Err(Error::SessionLost);
        }
        Err(why @ Error::Status { .. }) => {
            return Ok(Sequenced { done: false, ..Sequenced::error(Fault::Refused(why)) });
        }
        Err(why) => return Err(why),
    };
    if said.fixed::<16>()? != session.id || said.word()? != number || said.word()? != slot {
        return Err(Error::Protocol("an answer is for another session, slot or number"));
    }
    said.word()?;
    let window = said.word()?.saturating_add(1);
    /// All or some state revoked, by the lease or by hand; or to be reclaimed.
    const STATE_IS_GONE: u32 = 0x8 | 0x10 | 0x20 | 0x100;
    let ended = said.word()? & STATE_IS_GONE != 0;
    // The server gives its whole answer again where it has kept it, and only the first operation's where it has not.
    let forgotten = Status::RETRY_UNCACHED_REP;
    let answer = if status == forgotten { Err(Fault::Forgotten) } else { Ok(results) };
    Ok(Sequenced { answer, done: true, later: false, window: Some(window), ended })
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("epoch", &self.epoch).field("agreed", &self.agreed).finish_non_exhaustive()
    }
}
