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

use bytes::Bytes;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout},
};

use crate::{
    Options,
    compound::{self, Compound, Message},
    error::{Error, Result},
    fence::Origin,
    handshake::{AROUND, Handshake},
    session::Session,
    transport::{self, Reading, Writing, dial},
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
/// Calls in flight, so that it is worth waiting for more than one answer.
const MANY: u32 = 8;
/// A server that answers faster than this is near: what is done there and here takes longer than the way.
const NEAR: Duration = Duration::from_micros(300);
/// How long a session that is given up waits until its changes have ended.
const RETIRING_TIMEOUT: Duration = Duration::from_secs(5);
/// A server that has heard nothing of a client for its lease and this long gives the client up (RFC 8881, section 8.3).
const LEASE_MARGIN: Duration = Duration::from_secs(10);

/// Who the server says it is: several addresses with one owner and scope are one server.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Server {
    pub owner: Bytes,
    pub owner_minor: u64,
    pub scope: Bytes,
    /// Its program, where it says so.
    pub program: Option<String>,
}

impl Server {
    /// One server, maybe at another of its addresses (RFC 8881, section 2.10.5).
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (&self.owner, &self.scope) == (&other.owner, &other.scope)
    }
}

/// What the connection is like.
#[derive(Clone, Debug)]
pub(crate) enum State {
    /// The first try has not ended yet.
    New,
    /// The last try failed for this reason; none that has failed since there was a connection.
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
        let (told, state) = watch::channel(State::New);
        let (closing, closed) = watch::channel(false);
        let origin = Arc::new(Origin::new(Arc::clone(&options), before, owner()));
        let keeper = Keeper { options, origin, told, closed, session: None, epoch: 0, heard: Instant::now() };
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
pub(crate) fn owner() -> Bytes {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), now);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    format!("nfs41 {now:x} {random:x} {} {count}", std::process::id()).into()
}

struct Keeper {
    options: Arc<Options>,
    origin: Arc<Origin>,
    told: watch::Sender<State>,
    closed: watch::Receiver<bool>,
    session: Option<(Arc<Session>, Arc<Server>)>,
    epoch: u64,
    /// When the server last answered.
    heard: Instant,
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
                if self.heard.elapsed() > session.agreed.lease + LEASE_MARGIN {
                    session.lose();
                }
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
            session.abandon();
        }
        self.told.send_replace(State::Closed);
    }
}

impl Keeper {
    /// A connection with a session.
    async fn connect(&mut self) -> Result<(Writing, Reading), End> {
        let deadline = self.options.connect_deadline;
        let late = |_| io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {deadline:?}"));
        let (mut writing, mut reading) =
            timeout(deadline, dial(&self.options, self.options.address)).await.map_err(late)??;
        if self.session.as_ref().is_none_or(|(session, _)| session.is_retired()) {
            if let Some((retired, _)) = &self.session {
                ended(retired).await;
            }
            let late = |_| io::Error::new(io::ErrorKind::TimedOut, "the server gives no session");
            let made =
                timeout(deadline.max(GRACE), self.establish(&mut writing, &mut reading)).await.map_err(late)??;
            // The server gives up an earlier client of the same owner with that. What it is still executing goes on.
            if let Some((retired, _)) = self.session.replace(made) {
                retired.abandon();
            }
        }
        Ok((writing, reading))
    }

    async fn establish(
        &mut self,
        writing: &mut Writing,
        reading: &mut Reading,
    ) -> io::Result<(Arc<Session>, Arc<Server>)> {
        self.epoch += 1;
        let made = Handshake::new(writing, reading, &self.origin.before).establish(&self.origin, self.epoch).await?;
        self.heard = Instant::now();
        let (session, server) = (Arc::new(made.0), Arc::new(made.1));
        let (origin, guarded, its) = (Arc::clone(&self.origin), Arc::clone(&session), Arc::clone(&server));
        tokio::spawn(async move { origin.fence(&guarded, &its).await });
        Ok((session, server))
    }

    /// Until it fails, or this client is closed.
    async fn use_up(&mut self, writing: Writing, mut reading: Reading) -> End {
        let Some((session, server)) = self.session.clone() else { return End::Closed };
        reading.longest = session.agreed.largest_answer + AROUND as usize;
        let (sender, receiver) = mpsc::unbounded_channel();
        session.link(sender.clone());
        self.told.send_replace(State::Up(Arc::clone(&session), server));
        let mut writer = tokio::spawn(transport::write(writing, receiver, Arc::clone(&session)));
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
        &mut self,
        session: &Arc<Session>,
        reading: &mut Reading,
        link: &mpsc::UnboundedSender<Message>,
    ) -> End {
        let mut closed = self.closed.clone();
        let mut ticks = tokio::time::interval((session.agreed.lease / 3).min(SILENCE / 4));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        let began = Instant::now();
        let is_near = session.agreed.round_trip < NEAR;
        let mut others = Others { not_before: began };
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
                    self.heard = Instant::now();
                    if let Err(why) = answered(session, record, reading) {
                        match &why {
                            End::Failed(why) if why.get_ref().is_some_and(is_lost) => session.lose(),
                            End::Failed(why) if why.get_ref().is_some_and(is_of_no_use) => session.retire(),
                            _ => {}
                        }
                        return why;
                    }
                }
                _ = ticks.tick() => {
                    // As the server sees it, too: it has given this client up.
                    if self.heard.elapsed() > session.agreed.lease + LEASE_MARGIN {
                        session.lose();
                        return io::Error::new(io::ErrorKind::TimedOut, "the lease is over").into();
                    }
                    let silent = self.heard.max(began).elapsed();
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
                () = session.lost.notified() => return Error::SessionLost.into(),
                // Whoever is left then has no answer.
                () = tokio::time::sleep_until(closing.unwrap_or_else(Instant::now)), if closing.is_some() => {
                    session.abandon();
                }
            }
        }
    }

    async fn goodbye(&self, session: &Session, mut writing: Writing, mut reading: Reading) -> io::Result<()> {
        Handshake::new(&mut writing, &mut reading, &self.origin.before).end(session.id, session.client).await
    }
}

/// Late changes in a session that is not used any more are fenced while the server has it still: some time is given to that.
async fn ended(session: &Session) {
    let end = Instant::now() + RETIRING_TIMEOUT;
    while session.has_late() && Instant::now() < end {
        tokio::time::sleep(FIRST_PAUSE).await;
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
                tokio::time::sleep(later.pause).await;
                session.again(later.id);
            });
        }
        next = reading.whole()?;
    }
    Ok(())
}

fn is_lost(why: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(why.downcast_ref(), Some(Error::SessionLost))
}

fn is_of_no_use(why: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    matches!(why.downcast_ref(), Some(Error::Protocol(_)))
}

/// Says that this client is still there, if nothing else is on its way to say so.
fn renew(session: &Session) {
    if session.in_flight() == 0
        && let Ok(permit) = session.slots.try_acquire()
    {
        permit.forget();
        // Nobody waits for the answer.
        let _ = session.submit(&Compound::new(), false);
    }
}
