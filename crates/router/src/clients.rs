//! A client of one NFS server for each event loop that asks it: what a connection takes of a processor, TLS included, is
//! taken where its answers are waited for. So no loop wakes another for an answer, and as many processors are used as there
//! are loops. Each is a client of its own for the server.

use std::sync::{PoisonError, RwLock};

use nfs41::{Client, Error, Options, Result};
use tokio::runtime::{Handle, Id};

/// The clients of one target.
pub(crate) struct Clients {
    options: Options,
    /// By the event loop, in no order. None where they are closed.
    made: RwLock<Option<Vec<(Id, Client)>>>,
}

impl Clients {
    pub fn new(options: Options) -> Self {
        Self { options, made: RwLock::new(Some(Vec::new())) }
    }

    /// That of the event loop that this is called in, which begins to connect when it is asked for first.
    ///
    /// # Errors
    /// [`Error::Closed`]; the options cannot be.
    pub fn here(&self) -> Result<Client> {
        let id = Handle::current().id();
        let find = |made: &[(Id, Client)]| made.iter().find(|(of, _)| *of == id).map(|(_, client)| client.clone());
        let made = self.made.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = find(made.as_ref().ok_or(Error::Closed)?) {
            return Ok(client);
        }
        drop(made);
        let mut made = self.made.write().unwrap_or_else(PoisonError::into_inner);
        let made = made.as_mut().ok_or(Error::Closed)?;
        // A loop of several threads may have been here meanwhile.
        if let Some(client) = find(made) {
            return Ok(client);
        }
        let client = Client::new(self.options.clone())?;
        made.push((id, client.clone()));
        Ok(client)
    }

    /// Closes all of them, at the server too.
    pub async fn close(&self) {
        let made = self.made.write().unwrap_or_else(PoisonError::into_inner).take();
        let close = |(_, client): (Id, Client)| tokio::spawn(async move { client.close().await });
        let closing: Vec<_> = made.into_iter().flatten().map(close).collect();
        for closing in closing {
            let _ = closing.await;
        }
    }
}
