//! Connections: limits, TLS, idle timeouts and shutdown.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
    task::{Context, Poll},
    thread,
    time::{Duration, SystemTime},
};

use axum::Router;
use hyper::{rt::ReadBufCursor, server::conn::http1};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, mpsc, watch},
    time::{Instant, Sleep},
};
use tokio_rustls::TlsAcceptor;

use super::{
    app::App,
    config::Http,
    exchange::Exchanges,
    framing::{Followed, Framing},
    linger,
};

const BACKLOG: u32 = 4096;
/// Maximum number of connections that get the response 503 TooManyConnections at the same time; others are closed at once.
const MAX_REFUSALS_IN_PROGRESS: usize = 64;
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
const RESERVED_DESCRIPTORS: u64 = 128;
/// Buffer size per connection for the head of a request and for unsent bytes.
const BUFFER_BYTES: usize = 32 << 10;
/// A response that is delimited by the end of the connection, so it has no Content-Length.
const TOO_MANY_CONNECTIONS_RESPONSE: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\n\
    retry-after: 1\r\nconnection: close\r\ncontent-type: application/json\r\n\r\n\
    {\"error\":{\"code\":\"TooManyConnections\",\"message\":\"this task has all the connections that it may\"}}";

/// Binds the listener. Connections wait until [`serve`].
pub(super) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Serves connections until `end` completes; then finishes running requests within the shutdown timeout.
pub(super) async fn serve(
    listener: TcpListener,
    app: Arc<App>,
    router: Router,
    http: &Http,
    tls: Option<TlsAcceptor>,
    end: impl Future<Output = ()>,
) {
    let (ending, ended) = watch::channel(());
    let workers = Workers::start(http, tls.as_ref(), &router, &ended);
    drop(ended);
    tokio::pin!(end);
    let mut next = 0;
    let refusing = Arc::new(Semaphore::new(MAX_REFUSALS_IN_PROGRESS));
    let max = http.max_connections.min(most_by_descriptors());
    if max < http.max_connections {
        tracing::warn!(max, "fewer connections than MAX_CONNECTIONS: this process may not open more files");
    }
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = &mut end => break,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(err) => {
                // No free file descriptor: retry shortly.
                tracing::warn!(error = %err, "a connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        if app.counters.connections.load(Ordering::Relaxed) >= max as u64 {
            app.counters.refused_connections.fetch_add(1, Ordering::Relaxed);
            // With TLS, a response would need a handshake, which is the work to avoid under overload.
            if tls.is_none()
                && let Ok(turn) = Arc::clone(&refusing).try_acquire_owned()
            {
                tokio::spawn(async move {
                    let _ = tokio::time::timeout(REFUSAL_TIMEOUT, linger::close(stream, TOO_MANY_CONNECTIONS_RESPONSE))
                        .await;
                    drop(turn);
                });
            }
            continue;
        }
        next = (next + 1) % workers.0.len();
        workers.give(next, stream, &app);
    }
    app.counters.end();
    drop(listener);
    drop(workers);
    tracing::info!(connections = app.counters.connections.load(Ordering::Relaxed), "ending");
    let _ = ending.send(());
    let finished = async {
        // Every connection holds a receiver.
        ending.closed().await;
        app.files.close().await;
    };
    if tokio::time::timeout(http.shutdown, finished).await.is_err() {
        tracing::warn!(connections = app.counters.connections.load(Ordering::Relaxed), "ended before these did");
    }
}

/// A connection needs at most two file descriptors; the rest of the process needs some.
fn most_by_descriptors() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit.saturating_sub(RESERVED_DESCRIPTORS) / 2).unwrap_or(usize::MAX).max(1)
}

/// HTTP worker threads, each with its own connections: no worker waits for another's lock.
struct Workers(Vec<mpsc::UnboundedSender<Connection>>);

struct Connection {
    stream: std::net::TcpStream,
    open: Open,
}

/// Counts a connection while it is open.
struct Open(Arc<App>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.counters.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Workers {
    fn start(http: &Http, tls: Option<&TlsAcceptor>, router: &Router, ended: &watch::Receiver<()>) -> Self {
        let idle = http.idle;
        let start = |number| {
            let (sender, receiver) = mpsc::unbounded_channel();
            let (tls, router, ended) = (tls.cloned(), router.clone(), ended.clone());
            let work = move || match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => runtime.block_on(work(receiver, tls, router, idle, ended)),
                Err(err) => tracing::error!(error = %err, "a worker could not start"),
            };
            // If a worker is missing, its connections go to the next one.
            if let Err(err) = thread::Builder::new().name(format!("http-{number}")).spawn(work) {
                tracing::error!(error = %err, "a worker could not start");
            }
            sender
        };
        Self((0..http.workers.max(1)).map(start).collect())
    }

    fn give(&self, first: usize, stream: TcpStream, app: &Arc<App>) {
        let _ = stream.set_nodelay(true);
        let Ok(stream) = stream.into_std() else { return };
        app.counters.connections.fetch_add(1, Ordering::Relaxed);
        let mut connection = Connection { stream, open: Open(Arc::clone(app)) };
        for worker in self.0.iter().cycle().skip(first).take(self.0.len()) {
            match worker.send(connection) {
                Ok(()) => return,
                Err(back) => connection = back.0,
            }
        }
    }
}

async fn work(
    mut connections: mpsc::UnboundedReceiver<Connection>,
    tls: Option<TlsAcceptor>,
    router: Router,
    idle: Duration,
    ended: watch::Receiver<()>,
) {
    let mut http = http1::Builder::new();
    // A client that closes its direction after a complete request still reads the response.
    http.timer(TokioTimer::new()).header_read_timeout(idle).max_buf_size(BUFFER_BYTES).half_close(true);
    while let Some(Connection { stream, open }) = connections.recv().await {
        let Ok(stream) = TcpStream::from_std(stream) else { continue };
        let (framing, mut ended) = (Arc::<Framing>::default(), ended.clone());
        let service = Exchanges::new(router.clone(), Arc::clone(&open.0), Arc::clone(&framing));
        // Two task types of different sizes: a plain-text connection does not reserve memory for TLS.
        match &tls {
            None => {
                let connection = http.serve_connection(Patient::new(Followed::new(stream, framing), idle), service);
                tokio::spawn(speak(connection, open, ended));
            }
            Some(tls) => {
                // No request has started, so at shutdown it is closed at once.
                let (http, shaken) = (http.clone(), tls.accept(stream));
                tokio::spawn(async move {
                    let shaken = tokio::select! {
                        shaken = tokio::time::timeout(idle, shaken) => shaken,
                        _ = ended.changed() => return,
                    };
                    match shaken {
                        Ok(Ok(stream)) => {
                            let stream = Patient::new(Followed::new(stream, framing), idle);
                            let connection = http.serve_connection(stream, service);
                            speak(connection, open, ended).await;
                        }
                        Ok(Err(err)) => tracing::debug!(error = %err, "a connection ended in its handshake"),
                        Err(_) => tracing::debug!("a connection ended: its handshake took longer than IDLE_SECONDS"),
                    }
                });
            }
        }
    }
    // Waits for the connections only. Their tasks run on this thread while it waits.
    drop(ended);
    std::future::pending::<()>().await;
}

/// Serves a connection until the client or the service ends it.
async fn speak<S: AsyncRead + AsyncWrite + Unpin>(
    mut connection: http1::Connection<Patient<Followed<S>>, Exchanges>,
    open: Open,
    mut ended: watch::Receiver<()>,
) {
    let (served, is_ending) = tokio::select! {
        served = &mut connection => (served, false),
        _ = ended.changed() => {
            Pin::new(&mut connection).graceful_shutdown();
            ((&mut connection).await, true)
        }
    };
    // A client that was idle for too long, or has gone, gets no response.
    let is_told = served.as_ref().err().is_none_or(hyper::Error::is_parse);
    if let Err(err) = served {
        tracing::debug!(error = %err, "a connection ended early");
    }
    let stream = connection.into_parts().io.into_inner();
    let rest = if stream.is_line_too_long() { line_too_long() } else { String::new() };
    // Between two requests the last response may have ended the connection while more requests are in flight. At shutdown
    // most connections are idle; those are not waited for.
    let is_sending = !stream.is_ended() && (stream.is_mid_request() || !is_ending);
    if !rest.is_empty() || is_told && is_sending {
        // Boxed, so that not every connection reserves memory for it.
        Box::pin(linger::close(stream.into_inner(), rest.as_bytes())).await;
    }
    drop((open, ended));
}

/// The response to an endless request line. Like hyper's parse errors, it has no content.
fn line_too_long() -> String {
    let date = httpdate::fmt_http_date(SystemTime::now());
    format!(
        "HTTP/1.1 414 URI Too Long\r\ndate: {date}\r\nconnection: close\r\ncache-control: no-cache\r\n\
        content-length: 0\r\n\r\n"
    )
}

/// A connection that ends when its client does not read for too long.
struct Patient<S> {
    io: TokioIo<S>,
    idle: Duration,
    /// The time since the last byte could be sent.
    stuck: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    fn new(stream: S, idle: Duration) -> Self {
        Self { io: TokioIo::new(stream), idle, stuck: None }
    }

    fn into_inner(self) -> S {
        self.io.into_inner()
    }

    fn evaluate<T>(&mut self, sent: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if sent.is_ready() {
            self.stuck = None;
            return sent;
        }
        let idle = self.idle;
        let stuck = self.stuck.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(Instant::now() + idle)));
        match stuck.as_mut().poll(context) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client does not read"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> hyper::rt::Read for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> hyper::rt::Write for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.io).poll_write(context, bytes);
        self.evaluate(sent, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let sent = Pin::new(&mut self.io).poll_write_vectored(context, pieces);
        self.evaluate(sent, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS buffers what could not be sent and reports it as written.
        let sent = Pin::new(&mut self.io).poll_flush(context);
        self.evaluate(sent, context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let sent = Pin::new(&mut self.io).poll_shutdown(context);
        self.evaluate(sent, context)
    }
}
