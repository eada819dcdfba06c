//! Between the client and a host, on this machine's loopback: it passes bytes, and breaks connections when it is told
//! to. What a network does by chance is done here on purpose.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, copy},
    net::{TcpListener, TcpStream},
    sync::Notify,
    task::JoinHandle,
};

#[derive(Default)]
struct Shared {
    connections: AtomicUsize,
    /// The next bytes of the host do not come through, and end their connection.
    swallows: AtomicBool,
    cut: Notify,
}

/// Ends when it is dropped.
pub struct Pipe {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Pipe {
    pub async fn to(host: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let shared = Arc::<Shared>::default();
        let task = tokio::spawn({
            let shared = Arc::clone(&shared);
            async move {
                while let Ok((client, _)) = listener.accept().await {
                    shared.connections.fetch_add(1, Ordering::Relaxed);
                    let shared = Arc::clone(&shared);
                    tokio::spawn(async move {
                        let cut = shared.cut.notified();
                        tokio::select! {
                            _ = pass(client, host, &shared) => {}
                            () = cut => {}
                        }
                    });
                }
            }
        });
        Ok(Self { address, shared, task })
    }

    /// Of all times.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Breaks the connections.
    pub fn cut(&self) {
        self.shared.cut.notify_waiters();
    }

    /// Breaks the connection when the host's next answer has come, and keeps that answer from the client.
    pub fn drop_next_reply(&self) {
        self.shared.swallows.store(true, Ordering::Relaxed);
    }

    /// It has happened.
    pub fn has_dropped_reply(&self) -> bool {
        !self.shared.swallows.load(Ordering::Relaxed)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.task.abort();
        self.cut();
    }
}

async fn pass(mut client: TcpStream, host: SocketAddr, shared: &Shared) -> io::Result<()> {
    let mut host = TcpStream::connect(host).await?;
    client.set_nodelay(true)?;
    host.set_nodelay(true)?;
    let ((mut from_client, mut to_client), (mut from_host, mut to_host)) = (client.split(), host.split());
    let there = async { copy(&mut from_client, &mut to_host).await.map(drop) };
    let back = async {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let count = from_host.read(&mut bytes).await?;
            if count == 0 || shared.swallows.swap(false, Ordering::Relaxed) {
                return Ok(());
            }
            to_client.write_all(&bytes[..count]).await?;
        }
    };
    tokio::select! {
        ended = there => ended,
        ended = back => ended,
    }
}
