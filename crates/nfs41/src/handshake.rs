//! The calls that make a session and end it: RFC 8881, sections 18.35 to 18.37, 18.50 and 18.51. One after the other, on
//! a connection that nobody else uses meanwhile.

use std::{io, time::Duration};

use bytes::Bytes;
use tokio::{io::AsyncWriteExt, time::Instant};

use crate::{
    Options,
    attributes::{Limits, Wanted},
    budget::Backoff,
    compound::{self, Compound, Message, Op, Results},
    connection::Server,
    error::{Error, Result},
    fence::Origin,
    path::Path,
    rpc,
    session::{Agreed, MOST_SLOTS, Session},
    status::Status,
    transport::{Reading, Writing, send},
    xdr::{Decoder, Encode},
};

/// Pauses where the server says later.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// Beside the content of a READ or a WRITE: all that is around it.
pub(crate) const AROUND: u32 = 8 << 10;
const LEAST_IO: u32 = 4 << 10;

/// Calls one after the other, before and after all others.
pub(crate) struct Handshake<'a> {
    writing: &'a mut Writing,
    pub reading: &'a mut Reading,
    before: &'a [u8],
    calls: u32,
    /// The shortest so far.
    round_trip: Duration,
}

impl<'a> Handshake<'a> {
    pub fn new(writing: &'a mut Writing, reading: &'a mut Reading, before: &'a [u8]) -> Self {
        Self { writing, reading, before, calls: 0, round_trip: Duration::MAX }
    }

    /// A session of a client of its own: the same owner, who has begun anew, so that the server forgets what an earlier
    /// client of this owner had open or locked, and does nothing any more that it was asked (RFC 8881, section 18.35.5).
    pub async fn establish(&mut self, origin: &Origin, epoch: u64) -> io::Result<(Session, Server)> {
        let (client, number, server) = self.exchange_id(&origin.owner, origin.next_verifier()).await?;
        let (id, mut agreed) = self.create_session(client, number, &origin.options).await?;
        self.reading.longest = agreed.largest_answer + AROUND as usize;
        let before = &origin.before;
        let session = |agreed, number| Session::new(id, client, epoch, agreed, before.clone(), number);
        let used = self.complete(&session(agreed, 1), &mut agreed, &origin.options.root).await?;
        Ok((session(agreed, used + 1), server))
    }

    /// The session's last calls.
    pub async fn end(&mut self, session: [u8; 16], client: u64) -> io::Result<()> {
        // Numbers that no call in the session has.
        self.calls |= 1 << 31;
        let mut compound = Compound::new();
        compound.op(Op::DESTROY_SESSION).fixed(&session);
        self.ask(&compound).await?.op(Op::DESTROY_SESSION)?;
        self.forget(client).await?;
        self.writing.shutdown().await
    }

    /// A client without a session.
    pub async fn forget(&mut self, client: u64) -> io::Result<()> {
        let mut compound = Compound::new();
        compound.op(Op::DESTROY_CLIENTID).long(client);
        self.ask(&compound).await?.op(Op::DESTROY_CLIENTID)?;
        Ok(())
    }

    async fn send(&mut self, message: Message) -> io::Result<Decoder> {
        let began = Instant::now();
        send(self.writing, message).await?;
        let mut answer = Decoder(self.reading.next().await?);
        self.round_trip = self.round_trip.min(began.elapsed());
        // What an earlier connection's calls are answered with does not come over this one.
        if answer.word()? != self.calls {
            return Err(Error::Protocol("an answer to what was not asked").into());
        }
        rpc::accepted(&mut answer)?;
        Ok(answer)
    }

    async fn ask(&mut self, compound: &Compound) -> io::Result<Results> {
        self.calls += 1;
        let answer = self.send(compound.alone(self.before, self.calls)).await?;
        Ok(results(answer)?)
    }

    pub async fn exchange_id(&mut self, owner: &[u8], verifier: u64) -> io::Result<(u64, u32, Server)> {
        const NO_PNFS: u32 = 0x1_0000;
        const LONGEST: usize = 1024;
        let mut compound = Compound::new();
        // Every session is another life of the same owner.
        compound.op(Op::EXCHANGE_ID).long(verifier).opaque(owner).word(NO_PNFS).word(0).word(0);
        let mut results = self.patiently(&compound, Op::EXCHANGE_ID).await?;
        let answer = &mut results.0;
        let (client, number, _flags) = (answer.long()?, answer.word()?, answer.word()?);
        if answer.word()? != 0 {
            return Err(Error::Protocol("a state protection that nobody asked for").into());
        }
        let owner_minor = answer.long()?;
        let (owner, scope) = (answer.opaque(LONGEST)?, answer.opaque(LONGEST)?);
        let program = match answer.word()? {
            0 => None,
            _ => {
                let (domain, name) = (answer.opaque(LONGEST)?, answer.opaque(LONGEST)?);
                Some(format!("{} {}", String::from_utf8_lossy(&domain), String::from_utf8_lossy(&name)))
            }
        };
        let copied = |bytes: Bytes| Bytes::copy_from_slice(&bytes);
        Ok((client, number, Server { owner: copied(owner), owner_minor, scope: copied(scope), program }))
    }

    async fn create_session(&mut self, client: u64, number: u32, options: &Options) -> io::Result<([u8; 16], Agreed)> {
        const KEPT_ANSWER: u32 = 4096;
        // NFS-Ganesha grants more than the 100 that it takes.
        const OPERATIONS: u32 = 96;
        const BACK: u32 = 4096;
        const BACK_PROGRAM: u32 = 0x4000_0000;
        let largest = options.largest_io.max(LEAST_IO) + AROUND;
        let mut compound = Compound::new();
        let call = compound.op(Op::CREATE_SESSION);
        call.long(client).word(number).word(0);
        let slots = options.most_in_flight.clamp(1, MOST_SLOTS);
        call.word(0).word(largest).word(largest).word(KEPT_ANSWER).word(OPERATIONS).word(slots).word(0);
        call.word(0).word(BACK).word(BACK).word(0).word(2).word(1).word(0);
        call.word(BACK_PROGRAM).word(1).word(0);
        let mut results = self.patiently(&compound, Op::CREATE_SESSION).await?;
        let answer = &mut results.0;
        let id = answer.fixed()?;
        // The number and the flags, and what goes before the content for RDMA.
        answer.skip(12)?;
        let (largest_call, largest_answer) = (answer.word()?.min(largest), answer.word()?.min(largest));
        let (kept_answer, most_operations, granted) = (answer.word()?, answer.word()?, answer.word()?);
        if largest_call < AROUND.min(4096) || largest_answer < AROUND.min(4096) || most_operations < 8 || granted == 0 {
            return Err(Error::Protocol("the server gives a session too small to use").into());
        }
        // Until the file system has said more.
        let io = |largest: u32| if largest > AROUND + LEAST_IO { largest - AROUND } else { largest / 2 };
        Ok((
            id,
            Agreed {
                largest_call: largest_call as usize,
                largest_answer: largest_answer as usize,
                most_operations,
                kept_answer,
                slots: granted.min(slots),
                largest_read: io(largest_answer),
                largest_write: io(largest_call),
                lease: Duration::from_secs(90),
                round_trip: self.round_trip,
            },
        ))
    }

    /// Nothing of an earlier session is claimed; and what the file system of the root takes at once. So many calls were
    /// made in the first slot.
    async fn complete(&mut self, session: &Session, agreed: &mut Agreed, root: &[u8]) -> io::Result<u32> {
        let mut used = 0;
        let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
        loop {
            let mut compound = Compound::new();
            compound.op(Op::RECLAIM_COMPLETE).word(0);
            let mut results = self.ask_in(session, &mut used, &compound).await?;
            match results.op(Op::RECLAIM_COMPLETE).map(drop) {
                Ok(()) | Err(Error::Status { status: Status::COMPLETE_ALREADY, .. }) => break,
                Err(Error::Status { status, .. }) if status.is_later() => {}
                Err(why) => return Err(why.into()),
            }
            tokio::time::sleep(backoff.next()).await;
        }
        // The root may be in an export with limits of its own. One that is not there is found out about by whoever uses it.
        let limits = loop {
            match self.limits(session, &mut used, root).await {
                Ok(limits) => break limits,
                Err(Error::Status { status, .. }) if status.is_later() => tokio::time::sleep(backoff.next()).await,
                Err(Error::Status { .. }) => break self.limits(session, &mut used, b"").await?,
                Err(why) => return Err(why.into()),
            }
        };
        agreed.limit(&limits);
        agreed.round_trip = self.round_trip;
        agreed.lease = Duration::from_secs(limits.lease.unwrap_or(90).clamp(1, 3600).into());
        Ok(used)
    }

    async fn limits(&mut self, session: &Session, used: &mut u32, path: &[u8]) -> Result<Limits> {
        let mut compound = Compound::new();
        let names: Vec<_> = Path::new(path)?.components().take(session.agreed.most_operations as usize - 3).collect();
        compound.plain(Op::PUTROOTFH);
        for name in &names {
            compound.lookup(name);
        }
        compound.attributes(Wanted::LIMITS);
        let mut results = self.ask_in(session, used, &compound).await.map_err(Error::lost)?;
        results.op(Op::PUTROOTFH)?;
        names.iter().try_for_each(|_| results.op(Op::LOOKUP).map(drop))?;
        Ok(results.attributes()?.limits)
    }

    /// Is this session, in which nothing has been asked since it was made, known here?
    pub async fn knows(&mut self, session: &Session) -> io::Result<bool> {
        self.calls += 1;
        let message = session.first(self.calls);
        let answer = self.send(message).await?;
        match results(answer)?.op(Op::SEQUENCE).map(drop) {
            Ok(()) => Ok(true),
            Err(Error::Status { status, .. }) if status.ends_session() || status.retires_session() => Ok(false),
            Err(why) => Err(why.into()),
        }
    }

    /// In the first slot.
    async fn ask_in(&mut self, session: &Session, used: &mut u32, compound: &Compound) -> io::Result<Results> {
        self.calls += 1;
        *used += 1;
        let (call, slot, number, highest) = (self.calls, 0, *used, 0);
        let sequence = compound::Sequence { call, session: session.id, client: session.client, slot, number, highest };
        let answer = self.send(compound.message(self.before, &sequence)).await?;
        let mut results = results(answer)?;
        results.op(Op::SEQUENCE)?.skip(36)?;
        Ok(results)
    }

    /// Again where the server says later.
    async fn patiently(&mut self, compound: &Compound, op: Op) -> io::Result<Results> {
        let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
        loop {
            let mut results = self.ask(compound).await?;
            match results.op(op).map(drop) {
                Ok(()) => return Ok(results),
                Err(Error::Status { status, .. }) if status.is_later() || status == Status::CLIENTID_BUSY => {}
                Err(why) => return Err(why.into()),
            }
            tokio::time::sleep(backoff.next()).await;
        }
    }
}

/// What comes before the operations' answers: the status of the last of them, a tag, and how many there are.
fn results(mut answer: Decoder) -> Result<Results> {
    const TAG: usize = 1024;
    let status = Status(answer.word()?);
    answer.opaque(TAG)?;
    match answer.word()? {
        0 => Err(match status {
            Status::MINOR_VERS_MISMATCH => Error::Refused("it does not speak NFS 4.1"),
            _ => Error::Refused("it does not understand the call"),
        }),
        _ => Ok(Results(answer)),
    }
}
