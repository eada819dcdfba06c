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
    connection::{self, ServerIdentity},
    handshake::{Handshake, RPC_OVERHEAD_BYTES},
    open::futures,
    session::{CallId, Session},
    transport::{BoxedWriter, RecordReader, dial, send},
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
const INITIAL_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

/// Other addresses of the same file system, shared by the clients of all of them.
#[derive(Clone, Debug, Default)]
pub struct AlternateAddresses(Arc<Mutex<Arc<[SocketAddr]>>>);

impl AlternateAddresses {
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
    pub rpc_header: Bytes,
    pub co_ownerid: Bytes,
    /// Of the last life of the owner.
    verifier: AtomicU64,
}

impl Origin {
    pub fn new(options: Arc<Options>, rpc_header: Bytes, co_ownerid: Bytes) -> Self {
        Self { options, rpc_header, co_ownerid, verifier: AtomicU64::new(0) }
    }

    /// Of a life that no call was made in yet.
    pub fn next_verifier(&self) -> u64 {
        self.verifier.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Fences the late calls of a session until it is lost.
    pub async fn fence(&self, session: &Session, server: &ServerIdentity) {
        loop {
            session.fence_requested.notified().await;
            let mut backoff = Backoff::new(INITIAL_BACKOFF, MAX_BACKOFF);
            let mut rounds = 0..;
            while session.has_late_calls() {
                self.fence_over_any(session, server, rounds.next().unwrap_or_default()).await;
                if session.has_late_calls() {
                    tokio::time::sleep(backoff.next()).await;
                }
            }
            if session.is_lost() {
                return;
            }
        }
    }

    /// By the first address that says who it is. Of those that do not, none keeps the fence from the others.
    async fn fence_over_any(&self, session: &Session, server: &ServerIdentity, first: usize) {
        let own = self.options.address;
        let others = self.options.alternate_addresses.get();
        let others: Vec<_> = others.iter().copied().filter(|other| *other != own).collect();
        let first = first % others.len().max(1);
        // By its own address last: there the call hangs, or is one of too many.
        let addresses = others[first..].iter().chain(&others[..first]).copied().chain([own]);
        let mut connecting = futures(others.len() + 1);
        for (number, address) in (0..).zip(addresses) {
            connecting.push(Box::pin(async move {
                tokio::time::sleep(STAGGER_DELAY * number).await;
                let connected = timeout(IDENTIFY_TIMEOUT, self.connect(address, server)).await;
                (address, connected.unwrap_or_else(|_| Err(timed_out())))
            }));
        }
        while !connecting.is_empty() {
            let (address, connected) = connecting.next().await;
            let fenced = match connected {
                Ok((writer, reader)) => {
                    session.is_fencing.store(true, Ordering::Release);
                    let fenced = self.fence_over(writer, reader, session).await;
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
    async fn fence_over(&self, mut writer: BoxedWriter, mut reader: RecordReader, session: &Session) -> io::Result<()> {
        reader.max_record_bytes = session.attrs.max_response_bytes + RPC_OVERHEAD_BYTES as usize;
        let mut last_reply = Instant::now();
        // When each is to be sent, once more where it was.
        let mut waiting: Vec<(CallId, Option<Instant>)> = Vec::new();
        while !session.is_lost() {
            let now = Instant::now();
            waiting.retain(|(id, _)| session.needs_fencing(*id));
            for id in session.calls_to_fence() {
                if waiting.iter().all(|(known, _)| *known != id) {
                    waiting.push((id, Some(now)));
                }
            }
            for (id, at) in &mut waiting {
                if at.is_some_and(|at| at <= now) {
                    *at = None;
                    if let Some(message) = session.fence_message(*id) {
                        send(&mut writer, message).await?;
                    }
                }
            }
            let reply_deadline = last_reply + if waiting.is_empty() { IDLE_TIMEOUT } else { SILENCE_TIMEOUT };
            let next =
                waiting.iter().filter_map(|(_, at)| *at).min().map_or(reply_deadline, |at| at.min(reply_deadline));
            tokio::select! {
                record = reader.next() => {
                    last_reply = Instant::now();
                    if let Some(later) = session.on_reply(record?)? {
                        waiting.retain(|(id, _)| *id != later.id);
                        waiting.push((later.id, Some(last_reply + later.delay)));
                    }
                }
                () = session.fence_requested.notified() => {}
                () = tokio::time::sleep_until(next) => match Instant::now() >= reply_deadline {
                    true if waiting.is_empty() => return Ok(()),
                    true => return Err(timed_out()),
                    false => {}
                }
            }
        }
        Ok(())
    }

    /// A connection to the same server. Who it is tells EXCHANGE_ID, for a client that is nobody else's.
    async fn connect(&self, address: SocketAddr, server: &ServerIdentity) -> io::Result<(BoxedWriter, RecordReader)> {
        let (mut writer, mut reader) = dial(&self.options, address).await?;
        let mut handshake = Handshake::new(&mut writer, &mut reader, &self.rpc_header);
        let owner = [&self.co_ownerid[..], b" fence"].concat();
        let (client, _, identity) = handshake.exchange_id(&owner, self.next_verifier()).await?;
        if !identity.is_same(server) {
            return Err(io::Error::other("there is another server at this address"));
        }
        handshake.destroy_client_id(client).await?;
        Ok((writer, reader))
    }
}

impl Client {
    /// Does another address know a session that was made at this client's? Only then a late call that hangs on its way to
    /// the one can be fenced by way of the other. The session is made for this, and ended.
    ///
    /// # Errors
    /// One of the two cannot be reached.
    #[doc(hidden)]
    pub async fn shares_sessions_with(&self, address: SocketAddr) -> io::Result<bool> {
        let options = Arc::new(self.inner.options.clone());
        let rpc_header = compound::rpc_header(&options.credentials.encode()?);
        let origin = Origin::new(Arc::clone(&options), rpc_header, connection::co_ownerid());
        let (mut writer, mut reader) = dial(&options, options.address).await?;
        let mut here = Handshake::new(&mut writer, &mut reader, &origin.rpc_header);
        let (session, _) = here.establish(&origin, 1).await?;
        let (mut writer, mut reader) = dial(&options, address).await?;
        let known = Handshake::new(&mut writer, &mut reader, &origin.rpc_header).knows_session(&session).await;
        let _ = timeout(IDENTIFY_TIMEOUT, here.destroy(session.id, session.client_id)).await;
        known
    }
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer")
}
