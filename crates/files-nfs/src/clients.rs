//! One NFS client per event loop and target. The loop that waits for a reply also does the work of the connection, TLS
//! included: no loop wakes another for a reply, and the load uses as many processors as there are loops. To the server,
//! each is a client of its own.

use std::{
    sync::{Arc, PoisonError, RwLock, Weak},
    time::{Duration, Instant},
};

use nfs41::{Client, Error, Options, Result};
use rustix::time::{ClockId, clock_gettime};
use tokio::runtime::{Handle, Id};

use crate::{
    Connections,
    scale::{DECISION_INTERVAL, Scale, Window},
};

/// The clients of one event loop.
struct Own {
    of: Id,
    /// Never empty. If there are several, each has one connection.
    clients: Vec<Client>,
}

/// In no order. `None` after they are closed.
type Made = RwLock<Option<Vec<Own>>>;

/// The clients of one target.
pub(crate) struct Clients {
    options: Options,
    grows: bool,
    made: Arc<Made>,
}

impl Clients {
    pub fn new(options: Options, connections: Connections) -> Self {
        let (connections, grows) = match connections {
            Connections::Fixed(connections) => (connections, false),
            Connections::Auto => (1, true),
        };
        let options = Options { connections, ..options };
        Self { options, grows, made: Arc::new(RwLock::new(Some(Vec::new()))) }
    }

    /// The client of the current event loop, which starts to connect on first use. Of several clients, the one with the
    /// fewest calls in flight.
    ///
    /// # Errors
    /// [`Error::Closed`], or invalid options.
    pub fn here(&self) -> Result<Client> {
        let id = Handle::current().id();
        let find = |made: &[Own]| made.iter().find(|own| own.of == id).map(Own::least);
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = find(made.as_ref().ok_or(Error::Closed)?) {
            return Ok(client);
        }
        drop(made);
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        let made = made.as_mut().ok_or(Error::Closed)?;
        // Another thread of the same runtime may have created it in the meantime.
        if let Some(client) = find(made) {
            return Ok(client);
        }
        let client = Client::new(self.options.clone())?;
        made.push(Own { of: id, clients: vec![client.clone()] });
        if self.grows {
            tokio::spawn(scale(Arc::downgrade(&self.made), id, self.options.clone()));
        }
        Ok(client)
    }

    /// Number of connections of all loops.
    pub fn connections(&self) -> usize {
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
        made.iter().flatten().map(|own| own.clients.len() * self.options.connections).sum()
    }

    /// Closes all clients, and their sessions at the server.
    pub async fn close(&self) {
        let made = self.made.write().unwrap_or_else(PoisonError::into_inner).take();
        let close = |client: Client| tokio::spawn(async move { client.close().await });
        let closing: Vec<_> = made.into_iter().flatten().flat_map(|own| own.clients).map(close).collect();
        for closing in closing {
            let _ = closing.await;
        }
    }
}

impl Own {
    fn least(&self) -> Client {
        let [first, more @ ..] = &self.clients[..] else { unreachable!("the first is there always") };
        // A client without a connection must not delay a call.
        let up = more.iter().filter(|client| client.is_connected());
        let least = match up.min_by_key(|client| client.in_flight()) {
            Some(least) if !first.is_connected() || least.in_flight() < first.in_flight() => least,
            _ => first,
        };
        least.clone()
    }
}

/// Adjusts the number of connections of an event loop periodically, in that loop, until they are closed.
async fn scale(made: Weak<Made>, id: Id, options: Options) {
    let mut scale = Scale::default();
    let (mut since, mut processor, mut traffic) = (Instant::now(), processor_time(), 0_u64);
    loop {
        tokio::time::sleep(DECISION_INTERVAL).await;
        let Some(made) = made.upgrade() else { return };
        let mut made = made.write().unwrap_or_else(PoisonError::into_inner);
        let own = made.iter_mut().flatten().find(|own| own.of == id);
        let Some(Own { clients, .. }) = own else { return };

        let (now, used) = (Instant::now(), processor_time());
        let all: u64 = clients.iter().map(Client::bytes_transferred).sum();
        let took = (now - since).as_secs_f64().max(1e-3);
        let window = Window {
            // A lost session restarts its counter.
            rate: (all.saturating_sub(traffic) as f64 / took) as u64,
            calls: clients.iter().map(Client::in_flight).sum(),
            processor_share: used.saturating_sub(processor).as_secs_f64() / took,
        };
        (since, processor) = (now, used);
        let wanted = scale.decide(window);
        if wanted > clients.len()
            && let Ok(client) = Client::new(options.clone())
        {
            clients.push(client);
        }
        // Calls in flight keep a removed client alive until they end.
        clients.truncate(wanted);
        traffic = clients.iter().map(Client::bytes_transferred).sum();
        tracing::debug!(address = %options.address, ?window, connections = clients.len(), "connections");
    }
}

/// The processor time of this thread.
fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanoseconds) = (u64::try_from(time.tv_sec), u32::try_from(time.tv_nsec));
    Duration::new(seconds.unwrap_or_default(), nanoseconds.unwrap_or_default())
}
