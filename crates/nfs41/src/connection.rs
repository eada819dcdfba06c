//! One connection with its session. A task of its own keeps both: it connects, makes the session, sends again what a
//! lost connection has left without an answer, renews the lease, and says goodbye.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

use crate::{
    Options,
    attributes::Wanted,
    compound::{self, Compound, Message, Op, Results},
    error::{Error, Result},
    rpc::{self, Records},
    session::{Agreed, MOST_SLOTS, Session},
    status::Status,
    xdr::{Decoder, Encode},
};

/// Pauses between tries to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long the server may leave all calls without an answer before the connection is thought dead.
const SILENCE: Duration = Duration::from_secs(30);
/// What a server may take until it has a session again after its start.
const GRACE: Duration = Duration::from_secs(120);
/// What was sent is waited for so long at the end.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// Of calls that are sent together.
const TOGETHER: usize = 64 << 10;
/// Calls in flight, so that it is worth waiting for more than one answer.
const MANY: u32 = 8;
/// A server that answers faster than this is near: what is done there and here takes longer than the way.
const NEAR: Duration = Duration::from_micros(300);
/// A content longer than this is not copied to be sent with others.
const COPIED: usize = 4 << 10;
/// Beside the content of a READ or a WRITE: all that is around it.
const AROUND: u32 = 8 << 10;
const LEAST_IO: u32 = 4 << 10;

type Reading = Records<Box<dyn AsyncRead + Send + Unpin>>;
type Writing = Box<dyn AsyncWrite + Send + Unpin>;

/// Who the server says it is: several addresses with one owner and scope are one server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Server {
    pub owner: Bytes,
    pub owner_minor: u64,
    pub scope: Bytes,
    /// Its program, where it says so.
    pub program: Option<String>,
}

/// What the connection is like.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// The last try failed for this reason; none has been made yet.
    Down(Option<Arc<io::Error>>),
    Up(Arc<Session>, Arc<Server>),
    Closed,
}

/// A connection that is kept until this is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    pub state: watch::Receiver<State>,
    closing: watch::Sender<bool>,
}

impl Connection {
    /// Begins to connect. In a runtime of tokio.
    pub fn new(options: Arc<Options>) -> Result<Self> {
        let before = compound::before(&options.credentials.encode()?);
        let (told, state) = watch::channel(State::Down(None));
        let (closing, closed) = watch::channel(false);
        let keeper = Keeper { options, before, owner: owner(), told, closed, session: None, epoch: 0 };
        tokio::spawn(keeper.keep());
        Ok(Self { state, closing })
    }

    /// The one that calls may be made in, if there is one now.
    pub fn session(&self) -> Option<Arc<Session>> {
        match &*self.state.borrow() {
            State::Up(session, _) if !session.slots.is_closed() => Some(Arc::clone(session)),
            _ => None,
        }
    }

    /// Ends the session at the server, too.
    pub async fn close(&self) {
        let _ = self.closing.send(true);
        let mut state = self.state.clone();
        let _ = state.wait_for(|state| matches!(state, State::Closed)).await;
    }
}

/// No other client has it, nor another connection of this one: the time of the start, the process and a count.
fn owner() -> Bytes {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), now);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("nfs41 {now:x} {random:x} {} {count}", std::process::id()).into()
}

struct Keeper {
    options: Arc<Options>,
    before: Bytes,
    owner: Bytes,
    told: watch::Sender<State>,
    closed: watch::Receiver<bool>,
    session: Option<(Arc<Session>, Arc<Server>)>,
    epoch: u64,
}

/// Why a connection is not used any more.
enum End {
    Closed,
    Failed(io::Error),
}

impl From<io::Error> for End {
    fn from(why: io::Error) -> Self {
        Self::Failed(why)
    }
}

impl From<Error> for End {
    fn from(why: Error) -> Self {
        Self::Failed(why.into())
    }
}

impl Keeper {
    async fn keep(mut self) {
        let mut pause = FIRST_PAUSE;
        let mut closed = self.closed.clone();
        loop {
            let began = Instant::now();
            let end = tokio::select! {
                biased;
                _ = closed.wait_for(|closed| *closed) => Err(End::Closed),
                connected = self.connect() => connected,
            };
            let (end, was_up) = match end {
                Ok((writing, reading)) => (self.use_up(writing, reading).await, true),
                Err(end) => (end, false),
            };
            match end {
                End::Closed => break,
                End::Failed(why) => {
                    tracing::debug!(address = %self.options.address, error = %why, "no connection to the NFS server");
                    self.told.send_replace(State::Down((!was_up).then(|| Arc::new(why))));
                }
            }
            if let Some((session, _)) = &self.session {
                session.unlink();
                if session.is_lost() {
                    self.session = None;
                }
            }
            // One that held for a while is made again at once.
            pause =
                if was_up && began.elapsed() > LONGEST_PAUSE { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = closed.wait_for(|closed| *closed) => break,
            }
        }
        if let Some((session, _)) = &self.session {
            session.lose();
        }
        self.told.send_replace(State::Closed);
    }
}

impl Keeper {
    /// A connection with a session.
    async fn connect(&mut self) -> Result<(Writing, Reading), End> {
        let deadline = self.options.connect_deadline;
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {deadline:?}"));
        let (mut writing, mut reading) = timeout(deadline, self.dial()).await.map_err(late)??;
        if self.session.is_none() {
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the server gives no session");
            let made =
                timeout(deadline.max(GRACE), self.establish(&mut writing, &mut reading)).await.map_err(late)??;
            self.session = Some(made);
        }
        Ok((writing, reading))
    }

    async fn dial(&self) -> Result<(Writing, Reading), End> {
        let stream = TcpStream::connect(self.options.address).await?;
        stream.set_nodelay(true)?;
        keep_alive(&stream)?;
        /// Before anything is agreed on.
        const LONGEST: usize = 64 << 10;
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.options.tls {
            let (reading, writing) = tokio::io::split(tls.connect(stream).await.map_err(io::Error::other)?);
            return Ok((Box::new(writing), Records::new(Box::new(reading), LONGEST)));
        }
        let (reading, writing) = stream.into_split();
        Ok((Box::new(writing), Records::new(Box::new(reading), LONGEST)))
    }

    /// A client of its own for each session: the same owner, who has begun anew, so that the server forgets what an
    /// earlier one had open or locked, and does nothing any more that it was asked.
    async fn establish(
        &mut self,
        writing: &mut Writing,
        reading: &mut Reading,
    ) -> Result<(Arc<Session>, Arc<Server>), End> {
        self.epoch += 1;
        let mut ask = Handshake { writing, reading, before: &self.before, calls: 0, round_trip: Duration::MAX };
        let (client, number, server) = ask.exchange_id(&self.owner, self.epoch).await?;
        let (id, mut agreed) = ask.create_session(client, number, &self.options).await?;
        ask.reading.longest = agreed.largest_answer + AROUND as usize;
        let session = |agreed| Session::new(id, client, self.epoch, agreed, self.before.clone(), 1);
        let used = ask.complete(&session(agreed), &mut agreed).await?;
        let session = Session::new(id, client, self.epoch, agreed, self.before.clone(), used + 1);
        Ok((Arc::new(session), Arc::new(server)))
    }

    /// Until it fails, or this client is closed.
    async fn use_up(&mut self, writing: Writing, mut reading: Reading) -> End {
        let Some((session, server)) = self.session.clone() else { return End::Closed };
        reading.longest = session.agreed.largest_answer + AROUND as usize;
        let (sender, receiver) = mpsc::unbounded_channel();
        session.link(sender.clone());
        self.told.send_replace(State::Up(Arc::clone(&session), server));
        let mut writer = tokio::spawn(write(writing, receiver, Arc::clone(&session)));
        let end = self.listen(&session, &mut reading, &sender).await;
        session.unlink();
        if let End::Closed = end {
            // The session's last calls, on a connection that nobody else uses any more.
            drop(sender);
            if let Ok(Ok(Ok(writing))) = timeout(LAST_WORDS, &mut writer).await {
                let _ = timeout(LAST_WORDS, self.goodbye(&session, writing, reading)).await;
            }
        }
        writer.abort();
        end
    }

    async fn listen(
        &self,
        session: &Arc<Session>,
        reading: &mut Reading,
        link: &mpsc::UnboundedSender<Message>,
    ) -> End {
        let mut closed = self.closed.clone();
        let mut ticks = tokio::time::interval((session.agreed.lease / 3).min(SILENCE / 4));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        let mut heard = Instant::now();
        let is_near = session.agreed.round_trip < NEAR;
        let mut others = Others { not_before: heard };
        // Until when what is on its way may have its answer.
        let mut closing = None;
        loop {
            if closing.is_some() && session.in_flight() == 0 {
                return End::Closed;
            }
            let many = session.in_flight() >= MANY;
            reading.expect(many);
            if many && is_near {
                others.first();
            }
            tokio::select! {
                record = reading.next() => {
                    heard = Instant::now();
                    if let Err(why) = answered(session, record, reading) {
                        if let End::Failed(why) = &why && why.get_ref().is_some_and(is_lost) {
                            session.lose();
                        }
                        return why;
                    }
                }
                _ = ticks.tick() => {
                    let silent = heard.elapsed();
                    let waiting = session.oldest().map(|since| since.elapsed()).unwrap_or_default();
                    if silent > SILENCE && waiting > SILENCE {
                        return io::Error::new(io::ErrorKind::TimedOut, "the server does not answer any more").into();
                    }
                    if link.is_closed() {
                        return io::Error::from(io::ErrorKind::BrokenPipe).into();
                    }
                    renew(session);
                }
                _ = closed.wait_for(|closed| *closed), if closing.is_none() => {
                    closing = Some(Instant::now() + LAST_WORDS);
                    session.slots.close();
                }
                // Whoever is left then has no answer.
                () = tokio::time::sleep_until(closing.unwrap_or_else(Instant::now)), if closing.is_some() => session.lose(),
            }
        }
    }

    async fn goodbye(&self, session: &Session, mut writing: Writing, mut reading: Reading) -> Result<(), End> {
        let (before, round_trip) = (&self.before, Duration::MAX);
        let mut ask = Handshake { writing: &mut writing, reading: &mut reading, before, calls: 1 << 31, round_trip };
        let mut compound = Compound::new();
        compound.op(Op::DESTROY_SESSION).fixed(&session.id);
        ask.ask(&compound).await?.op(Op::DESTROY_SESSION)?;
        let mut compound = Compound::new();
        compound.op(Op::DESTROY_CLIENTID).long(session.client);
        ask.ask(&compound).await?.op(Op::DESTROY_CLIENTID)?;
        writing.shutdown().await?;
        Ok(())
    }
}

/// Whoever else has work for the processors: a server that is on this machine, and the rest of this process.
struct Others {
    not_before: Instant,
}

impl Others {
    /// Lets them run before more is read, so that answers come together and so do the calls that follow from them: to
    /// be woken for each costs both sides more than the answer itself. Not for a while where somebody has kept the
    /// processor, who would do so again: for what it brings, at most a few hundredths of the time are given away.
    fn first(&mut self) {
        const KEPT: Duration = Duration::from_millis(1);
        let began = Instant::now();
        if began >= self.not_before {
            std::thread::yield_now();
            let took = began.elapsed();
            if took > KEPT {
                self.not_before = began + took * 32;
            }
        }
    }
}

/// This record, and those that have come with it.
fn answered(session: &Arc<Session>, first: io::Result<Bytes>, reading: &mut Reading) -> Result<(), End> {
    let mut next = Some(first?);
    while let Some(record) = next {
        if let Some(later) = session.heard(record)? {
            let session = Arc::clone(session);
            tokio::spawn(async move {
                tokio::time::sleep(FIRST_PAUSE).await;
                session.again(&later);
            });
        }
        next = reading.whole()?;
    }
    Ok(())
}

fn is_lost(why: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(why.downcast_ref(), Some(Error::SessionLost | Error::Protocol(_)))
}

/// Says that this client is still there, if nothing else is on its way to say so.
fn renew(session: &Session) {
    if session.in_flight() == 0
        && let Ok(permit) = session.slots.try_acquire()
    {
        permit.forget();
        // Nobody waits for the answer.
        let _ = session.submit(&Compound::new());
    }
}

/// So that a connection whose other side has vanished is found out about while nothing is sent.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(30))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(10))?;
    sockopt::set_tcp_keepcnt(stream, 3)?;
    Ok(())
}

/// Sends what comes, as much of it together as there is. The stream, when nothing comes any more.
async fn write(
    mut stream: Writing,
    mut calls: mpsc::UnboundedReceiver<Message>,
    session: Arc<Session>,
) -> io::Result<Writing> {
    let mut small = BytesMut::new();
    while let Some(first) = calls.recv().await {
        if session.in_flight() > 1 {
            // Answers come together: whoever goes on with one of them has a call to go with this one.
            tokio::task::yield_now().await;
        }
        let mut queue = Queue::default();
        let mut next = Some(first);
        while let Some(Message { head, payload, tail }) = next {
            for part in [head, payload, tail] {
                if part.len() <= COPIED {
                    small.extend_from_slice(&part);
                } else {
                    queue.add(small.split().freeze());
                    queue.add(part);
                }
            }
            next = if queue.remaining() + small.len() < TOGETHER { calls.try_recv().ok() } else { None };
        }
        queue.add(small.split().freeze());
        stream.write_all_buf(&mut queue).await?;
        stream.flush().await?;
    }
    Ok(stream)
}

/// Pieces that are sent as one.
#[derive(Default)]
struct Queue {
    parts: std::collections::VecDeque<Bytes>,
    length: usize,
}

impl Queue {
    fn add(&mut self, part: Bytes) {
        if !part.is_empty() {
            self.length += part.len();
            self.parts.push_back(part);
        }
    }
}

impl Buf for Queue {
    fn remaining(&self) -> usize {
        self.length
    }

    fn chunk(&self) -> &[u8] {
        self.parts.front().map_or(&[], |part| part)
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [io::IoSlice<'a>]) -> usize {
        let filled = into.iter_mut().zip(&self.parts).map(|(place, part)| *place = io::IoSlice::new(part));
        filled.count()
    }

    fn advance(&mut self, mut count: usize) {
        self.length -= count;
        while let Some(first) = self.parts.front_mut() {
            if count < first.len() {
                first.advance(count);
                return;
            }
            count -= first.len();
            self.parts.pop_front();
        }
    }
}

/// Calls one after the other, before and after all others.
struct Handshake<'a> {
    writing: &'a mut Writing,
    reading: &'a mut Reading,
    before: &'a [u8],
    calls: u32,
    /// The shortest so far.
    round_trip: Duration,
}

impl Handshake<'_> {
    async fn send(&mut self, message: Message) -> Result<Decoder, End> {
        let began = Instant::now();
        for part in [message.head, message.payload, message.tail] {
            self.writing.write_all(&part).await?;
        }
        self.writing.flush().await?;
        let mut answer = Decoder(self.reading.next().await?);
        self.round_trip = self.round_trip.min(began.elapsed());
        // What an earlier connection's calls are answered with does not come over this one.
        if answer.word()? != self.calls {
            return Err(Error::Protocol("an answer to what was not asked").into());
        }
        rpc::accepted(&mut answer)?;
        Ok(answer)
    }

    async fn ask(&mut self, compound: &Compound) -> Result<Results, End> {
        self.calls += 1;
        let answer = self.send(compound.alone(self.before, self.calls)).await?;
        Ok(results(answer)?)
    }

    async fn exchange_id(&mut self, owner: &[u8], epoch: u64) -> Result<(u64, u32, Server), End> {
        const NO_PNFS: u32 = 0x1_0000;
        const LONGEST: usize = 1024;
        let mut compound = Compound::new();
        // Every session is another life of the same owner.
        compound.op(Op::EXCHANGE_ID).long(epoch).opaque(owner).word(NO_PNFS).word(0).word(0);
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

    async fn create_session(&mut self, client: u64, number: u32, options: &Options) -> Result<([u8; 16], Agreed), End> {
        const KEPT_ANSWER: u32 = 4096;
        const OPERATIONS: u32 = 128;
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

    /// Nothing of an earlier session is claimed; and what the file system takes at once. So many calls were made in
    /// the first slot.
    async fn complete(&mut self, session: &Session, agreed: &mut Agreed) -> Result<u32, End> {
        let mut used = 0;
        let mut pause = FIRST_PAUSE;
        loop {
            self.calls += 1;
            used += 1;
            let mut compound = Compound::new();
            compound.op(Op::RECLAIM_COMPLETE).word(0);
            let sequence = compound::Sequence {
                call: self.calls,
                session: session.id,
                client: session.client,
                slot: 0,
                number: used,
                highest: 0,
            };
            let answer = self.send(compound.message(self.before, &sequence)).await?;
            let mut results = results(answer)?;
            results.op(Op::SEQUENCE)?.skip(36)?;
            match results.op(Op::RECLAIM_COMPLETE).map(drop) {
                Ok(()) | Err(Error::Status { status: Status::COMPLETE_ALREADY, .. }) => break,
                Err(Error::Status { status, .. }) if status.is_later() => {}
                Err(why) => return Err(why.into()),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.calls += 1;
        used += 1;
        let mut compound = Compound::new();
        compound.plain(Op::PUTROOTFH).attributes(Wanted::LIMITS);
        let sequence = compound::Sequence {
            call: self.calls,
            session: session.id,
            client: session.client,
            slot: 0,
            number: used,
            highest: 0,
        };
        let answer = self.send(compound.message(self.before, &sequence)).await?;
        let mut results = results(answer)?;
        results.op(Op::SEQUENCE)?.skip(36)?;
        results.op(Op::PUTROOTFH)?;
        let limits = results.attributes()?.limits;
        let at_most = |own: u32, theirs: Option<u64>| match theirs {
            Some(theirs) if theirs > 0 => own.min(u32::try_from(theirs).unwrap_or(u32::MAX)),
            _ => own,
        };
        agreed.largest_read = at_most(agreed.largest_read, limits.largest_read);
        agreed.largest_write = at_most(agreed.largest_write, limits.largest_write);
        agreed.round_trip = self.round_trip;
        agreed.lease = Duration::from_secs(limits.lease.unwrap_or(90).clamp(1, 3600).into());
        Ok(used)
    }

    /// Again where the server says later.
    async fn patiently(&mut self, compound: &Compound, op: Op) -> Result<Results, End> {
        let mut pause = FIRST_PAUSE;
        loop {
            let mut results = self.ask(compound).await?;
            match results.op(op).map(drop) {
                Ok(()) => return Ok(results),
                Err(Error::Status { status, .. }) if status.is_later() || status == Status::CLIENTID_BUSY => {}
                Err(why) => return Err(why.into()),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
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
