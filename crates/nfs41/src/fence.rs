//! Makes sure that a late call is not executed any more, without the connection that it was sent over.
//!
//! Over another connection to the same server goes an empty compound with the session, the slot and the sequence number
//! of the call. A slot executes one call for each number (RFC 8881, section 2.10.6.1): if the empty one comes first, the
//! late call is a retry of it when it arrives, and is not executed; if it comes second, the server answers what it
//! answered to the call, or says that it has executed it. Any address of the server that shares the session will do, so
//! that a call is stopped that hangs on its way to one of several mount targets. Nothing else of the session is touched.
//!
//! To give up the whole client (EXCHANGE_ID with another verifier) would not do: NFS-Ganesha 4.3 keeps a client for each
//! of its own addresses, and goes on with calls of a client that it has given up. `docs/decisions/0018` has the evidence.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use crate::{
    Client, Options,
    budget::Backoff,
    compound,
    connection::{self, Server},
    handshake::{AROUND, Handshake},
    open::futures,
    session::{CallId, Session},
    transport::{Reading, Writing, dial, send},
};

/// An address that has not said who it is by then is not the one to ask.
const IDENTIFY_TIMEOUT: Duration = Duration::from_secs(2);
/// From one address to the next: most answer at once, and who does not keeps nobody waiting.
const STAGGER_DELAY: Duration = Duration::from_millis(100);
/// A server that executes a late call may answer when it has done so. A connection that is silent for longer is given up.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a connection is kept for the next late call.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Pauses between rounds through all addresses.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Other addresses of the same file system, shared by the clients of all of them.
#[derive(Clone, Debug, Default)]
pub struct Alternatives(Arc<Mutex<Arc<[SocketAddr]>>>);

impl Alternatives {
    /// These from now on. A client leaves out its own.
    pub fn set(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = addresses.into_iter().collect();
    }

    fn get(&self) -> Arc<[SocketAddr]> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Who a connection is for the server, whichever way it takes.
#[derive(Debug)]
pub(crate) struct Origin {
    pub options: Arc<Options>,
    pub before: Bytes,
    pub owner: Bytes,
    /// Of the last life of the owner.
    verifier: AtomicU64,
}

impl Origin {
    pub fn new(options: Arc<Options>, before: Bytes, owner: Bytes) -> Self {
        Self { options, before, owner, verifier: AtomicU64::new(0) }
    }

    /// Of a life that no call was made in yet.
    pub fn next_verifier(&self) -> u64 {
        self.verifier.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Fences the late calls of a session until it is lost.
    pub async fn fence(&self, session: &Session, server: &Server) {
        loop {
            session.fenced.notified().await;
            let mut backoff = Backoff::new(FIRST_PAUSE, MAX_PAUSE);
            let mut rounds = 0..;
            while session.has_late() {
                self.fence_by_any(session, server, rounds.next().unwrap_or_default()).await;
                if session.has_late() {
                    tokio::time::sleep(backoff.next()).await;
                }
            }
            if session.is_lost() {
                return;
            }
        }
    }

    /// By the first address that says who it is. Of those that do not, none keeps the fence from the others.
    async fn fence_by_any(&self, session: &Session, server: &Server, first: usize) {
        let own = self.options.address;
        let others = self.options.alternatives.get();
        let others: Vec<_> = others.iter().copied().filter(|other| *other != own).collect();
        let first = first % others.len().max(1);
        // By its own address last: there the call hangs, or is one of too many.
        let addresses = others[first..].iter().chain(&others[..first]).copied().chain([own]);
        let mut connecting = futures(others.len() + 1);
        for (number, address) in (0..).zip(addresses) {
            connecting.push(Box::pin(async move {
                tokio::time::sleep(STAGGER_DELAY * number).await;
                let connected = timeout(IDENTIFY_TIMEOUT, self.connect(address, server)).await;
                (address, connected.unwrap_or_else(|_| Err(late())))
            }));
        }
        while !connecting.is_empty() {
            let (address, connected) = connecting.next().await;
            let fenced = match connected {
                Ok((writing, reading)) => {
                    session.is_fencing.store(true, Ordering::Release);
                    let fenced = self.fence_over(writing, reading, session).await;
                    session.is_fencing.store(false, Ordering::Release);
                    fenced
                }
                Err(error) => Err(error),
            };
            match fenced {
                Ok(()) => return,
                Err(error) => tracing::debug!(%own, by = %address, %error, "late calls cannot be fenced this way"),
            }
        }
    }

    /// Until there is no late call, and none has come for a while.
    async fn fence_over(&self, mut writing: Writing, mut reading: Reading, session: &Session) -> io::Result<()> {
        reading.longest = session.agreed.largest_answer + AROUND as usize;
        let mut heard = Instant::now();
        // When each is to be sent, once more where it was.
        let mut waiting: Vec<(CallId, Option<Instant>)> = Vec::new();
        while !session.is_lost() {
            let now = Instant::now();
            waiting.retain(|(id, _)| session.is_urgent(*id));
            for id in session.urgent() {
                if waiting.iter().all(|(known, _)| *known != id) {
                    waiting.push((id, Some(now)));
                }
            }
            for (id, at) in &mut waiting {
                if at.is_some_and(|at| at <= now) {
                    *at = None;
                    if let Some(message) = session.ending(*id) {
                        send(&mut writing, message).await?;
                    }
                }
            }
            let silent = heard + if waiting.is_empty() { IDLE_TIMEOUT } else { SILENCE_TIMEOUT };
            let next = waiting.iter().filter_map(|(_, at)| *at).min().map_or(silent, |at| at.min(silent));
            tokio::select! {
                record = reading.next() => {
                    heard = Instant::now();
                    if let Some(later) = session.heard(record?)? {
                        waiting.retain(|(id, _)| *id != later.id);
                        waiting.push((later.id, Some(heard + later.pause)));
                    }
                }
                () = session.fenced.notified() => {}
                () = tokio::time::sleep_until(next) => match Instant::now() >= silent {
                    true if waiting.is_empty() => return Ok(()),
                    true => return Err(late()),
                    false => {}
                }
            }
        }
        Ok(())
    }

    /// A connection to the same server. Who it is tells EXCHANGE_ID, for a client that is nobody else's.
    async fn connect(&self, address: SocketAddr, server: &Server) -> io::Result<(Writing, Reading)> {
        let (mut writing, mut reading) = dial(&self.options, address).await?;
        let mut handshake = Handshake::new(&mut writing, &mut reading, &self.before);
        let owner = [&self.owner[..], b" fence"].concat();
        let (client, _, found) = handshake.exchange_id(&owner, self.next_verifier()).await?;
        if !found.is_same(server) {
            return Err(io::Error::other("there is another server at this address"));
        }
        handshake.forget(client).await?;
        Ok((writing, reading))
    }
}

impl Client {
    /// Does another address know a session that was made at this client's? Only then a late call that hangs on its way to
    /// the one can be fenced by way of the other. The session is made for this, and ended.
    ///
    /// # Errors
    /// One of the two cannot be reached.
    #[doc(hidden)]
    pub async fn session_is_known_at(&self, address: SocketAddr) -> io::Result<bool> {
        let options = Arc::new(self.inner.options.clone());
        let before = compound::before(&options.credentials.encode()?);
        let origin = Origin::new(Arc::clone(&options), before, connection::owner());
        let (mut writing, mut reading) = dial(&options, options.address).await?;
        let mut here = Handshake::new(&mut writing, &mut reading, &origin.before);
        let (session, _) = here.establish(&origin, 1).await?;
        let (mut writing, mut reading) = dial(&options, address).await?;
        let known = Handshake::new(&mut writing, &mut reading, &origin.before).knows(&session).await;
        let _ = timeout(IDENTIFY_TIMEOUT, here.end(session.id, session.client)).await;
        known
    }
}

fn late() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer")
}
