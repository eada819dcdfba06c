//! A TCP proxy on loopback between the client and a host, which cuts connections on request to simulate network
//! failures.

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
    /// The next bytes from the host are dropped, and end their connection.
    drop_next: AtomicBool,
    cut: Notify,
}

/// Stops when it is dropped.
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

    /// Number of connections accepted so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Cuts all connections.
    pub fn cut(&self) {
        self.shared.cut.notify_waiters();
    }

    /// Drops the next reply of the host, and cuts its connection.
    pub fn drop_next_reply(&self) {
        self.shared.drop_next.store(true, Ordering::Relaxed);
    }

    /// Whether the reply has been dropped.
    pub fn has_dropped_reply(&self) -> bool {
        !self.shared.drop_next.load(Ordering::Relaxed)
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
    let upstream = async { copy(&mut from_client, &mut to_host).await.map(drop) };
    let downstream = async {
        let mut bytes = vec![0; 64 << 10];
        loop {
            let count = from_host.read(&mut bytes).await?;
            if count == 0 || shared.drop_next.swap(false, Ordering::Relaxed) {
                return Ok(());
            }
            to_client.write_all(&bytes[..count]).await?;
        }
    };
    tokio::select! {
        result = upstream => result,
        result = downstream => result,
    }
}
