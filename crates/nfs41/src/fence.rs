//! Fencing: ensures that a late call cannot be executed any more, without using the connection that it was sent over.
//!
//! The client sends an empty SEQUENCE with the session, slot and sequence ID of the call over another connection to the
//! same server. A slot executes one call per sequence ID (RFC 8881, section 2.10.6.1). If the empty SEQUENCE arrives
//! first, the late call is a retry of it and is not executed. If it arrives second, the server replays the reply to the
//! call, or reports that it has executed it. Every address of the server that shares the session works, so this stops a
//! call that hangs on its way to one of several mount targets. Other calls of the session are not affected.
//!
//! Discarding the whole client ID (EXCHANGE_ID with another verifier) does not work: NFS-Ganesha 4.3 has one client record
//! for each of its own addresses, and continues with the calls of a client that it has discarded. See
//! `docs/decisions/0018`.

use std::{io, net::SocketAddr, sync::atomic::Ordering, time::Duration};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::time::{Instant, timeout};

use crate::{
    budget::Backoff,
    handshake::{Handshake, RPC_OVERHEAD_BYTES},
    identity::{ClientOwner, ServerIdentity},
    session::{CallId, Session},
    transport::{BoxedWriter, RecordReader, dial, send},
};

/// Timeout of connecting to an address and identifying the server.
const IDENTIFY_TIMEOUT: Duration = Duration::from_secs(2);
/// Delay between connecting to one address and the next. Most addresses answer sooner; a dead one delays little.
const STAGGER_DELAY: Duration = Duration::from_millis(100);
/// A server that is executing the late call may answer when it has finished. A connection without a reply for longer than
/// this is closed.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a fencing connection stays open for the next late call.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5);
/// Backoff between rounds over all addresses.
const INITIAL_BACKOFF: Duration = Duration::from_millis(100);
const MAX_BACKOFF: Duration = Duration::from_secs(2);

impl ClientOwner {
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

    /// Fences over the first address that identifies itself as the server, and if that fails over the next one. An address
    /// that does not answer delays none of the others. `first` rotates the order.
    async fn fence_over_any(&self, session: &Session, server: &ServerIdentity, first: usize) {
        let own = self.options.address;
        let others = self.options.alternate_addresses.get();
        let others: Vec<_> = others.iter().copied().filter(|other| *other != own).collect();
        let first = first % others.len().max(1);
        // The own address comes last: the call hangs there, or is one of too many.
        let addresses = others[first..].iter().chain(&others[..first]).copied().chain([own]);
        let connecting = FuturesUnordered::new();
        for (number, address) in (0..).zip(addresses) {
            connecting.push(async move {
                tokio::time::sleep(STAGGER_DELAY * number).await;
                let connected = timeout(IDENTIFY_TIMEOUT, self.connect(address, server)).await;
                (address, connected.unwrap_or_else(|_| Err(timed_out())))
            });
        }
        let mut connecting = std::pin::pin!(connecting);
        while let Some((address, connected)) = connecting.next().await {
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
                Err(error) => tracing::debug!(%own, by = %address, %error, "cannot fence late calls over this address"),
            }
        }
    }

    /// Fences until there has been no late call for [`IDLE_TIMEOUT`].
    async fn fence_over(&self, mut writer: BoxedWriter, mut reader: RecordReader, session: &Session) -> io::Result<()> {
        reader.max_record_bytes = session.attrs.max_response_bytes + RPC_OVERHEAD_BYTES as usize;
        let mut last_reply = Instant::now();
        // When to send each call's message; `None` while it waits for a reply.
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

    /// Connects, and checks with EXCHANGE_ID that it is the same server. The check uses a client owner of its own.
    async fn connect(&self, address: SocketAddr, server: &ServerIdentity) -> io::Result<(BoxedWriter, RecordReader)> {
        let (mut writer, mut reader) = dial(&self.options, address).await?;
        let mut handshake = Handshake::new(&mut writer, &mut reader, &self.rpc_header);
        let owner = [&self.id[..], b" fence"].concat();
        let (client, _, identity) = handshake.exchange_id(&owner, self.next_verifier()).await?;
        if !identity.is_same(server) {
            return Err(io::Error::other("another server is at this address"));
        }
        handshake.destroy_client_id(client).await?;
        Ok((writer, reader))
    }
}

fn timed_out() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no reply")
}
