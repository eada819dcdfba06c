//! Follows the requests on a connection, as RFC 9112 frames them, while hyper reads them.
//!
//! hyper discards parts of some requests before any handler sees them: `http::Uri` cuts off a raw `#` and what follows, and
//! a `Content-Length` next to a `Transfer-Encoding` is removed. This module sees the bytes and reports which request must
//! be refused. It also knows whether the client is in the middle of a request, which decides how the connection is closed.
//!
//! It changes no byte. If it loses track of the framing, the next request is refused, so that an error here never lets a
//! request pass unchecked.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::api_error::ApiError;

/// Maximum length of a request line: the longest path of a file with every byte percent-encoded, and the rest. hyper
/// accepts more, and responds 431 to a longer line where RFC 9112, section 3, requires 414.
const MAX_REQUEST_LINE_BYTES: usize = 16 << 10;

/// A framing fault of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Fault {
    /// A request target holds no `#` (RFC 9112, section 3.2).
    Fragment,
    /// A request line longer than any valid one (RFC 9112, section 3).
    LongLine,
    /// Both a Content-Length and a Transfer-Encoding (RFC 9112, section 6.3): a sign of request smuggling.
    TwoLengths,
    /// The framing is invalid (RFC 9112, sections 6.3 and 7.1). Its end is unknown.
    Lost,
}

impl From<Fault> for ApiError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Fragment => Self::bad_request("BadPath", "the request target has a raw #; write it as %23"),
            Fault::LongLine => Self::new(
                StatusCode::URI_TOO_LONG,
                "TooLongPath",
                format!("the request line is longer than {MAX_REQUEST_LINE_BYTES} bytes"),
            ),
            Fault::TwoLengths => {
                Self::bad_request("BadFraming", "a request has a Content-Length or a Transfer-Encoding, not both")
            }
            Fault::Lost => Self::bad_request("BadFraming", "the content is not framed as it says"),
        }
    }
}

/// The state of the requests on one connection. Requests are numbered from 1.
#[derive(Debug, Default)]
pub(super) struct Framing {
    /// Number of the last completely received request.
    received: AtomicU64,
    /// Number of the last request whose content a handler has read to its end.
    read: AtomicU64,
    /// The first request that must be refused. No later one is served.
    fault: OnceLock<(u64, Fault)>,
}

impl Framing {
    /// Why this request must be refused.
    pub fn fault(&self, request: u64) -> Option<Fault> {
        self.fault.get().filter(|(first, _)| request >= *first).map(|(_, fault)| *fault)
    }

    /// Whether the content of this request is malformed although hyper reports no error, or reports the end too early.
    /// hyper takes a bare LF as part of a trailer, and the request behind it too.
    pub fn is_malformed(&self, request: u64, is_at_end: bool) -> bool {
        self.fault(request).is_some() || is_at_end && !self.is_received(request)
    }

    /// Whether the last byte of this request has arrived.
    pub fn is_received(&self, request: u64) -> bool {
        self.received.load(Ordering::Relaxed) >= request
    }

    /// Whether a handler has read the content of this request to its end.
    pub fn is_read(&self, request: u64) -> bool {
        self.read.load(Ordering::Relaxed) >= request
    }

    pub fn set_read(&self, request: u64) {
        self.read.store(request, Ordering::Relaxed);
    }
}

/// A stream whose requests are tracked.
pub(super) struct Followed<S> {
    stream: S,
    follower: Follower,
    is_ended: bool,
}

impl<S> Followed<S> {
    pub fn new(stream: S, framing: Arc<Framing>) -> Self {
        Self { stream, follower: Follower::new(framing), is_ended: false }
    }

    /// The inner stream. Further reads are not tracked.
    pub fn into_inner(self) -> S {
        self.stream
    }

    /// Whether reading stopped because of an endless request line. hyper has sent no response then.
    pub fn is_line_too_long(&self) -> bool {
        self.follower.is_line_too_long()
    }

    /// Whether a request is incomplete, or one was refused for its framing.
    pub fn is_mid_request(&self) -> bool {
        self.follower.is_mid_request()
    }

    /// Whether the client has closed its direction.
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Followed<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        // hyper has consumed the line and reads on, so no earlier request is still being served.
        if self.follower.is_line_too_long() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "the request line is too long")));
        }
        let before = into.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        self.is_ended |= matches!(read, Poll::Ready(Ok(()))) && into.filled().len() == before && into.remaining() > 0;
        self.follower.follow(into.filled().get(before..).unwrap_or_default());
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Followed<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// The part of a request that the next byte belongs to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    /// Empty lines before a request are skipped.
    RequestLine,
    Fields {
        length: Option<u64>,
        chunked: bool,
    },
    /// Remaining bytes of content.
    Content(u64),
    ChunkSize,
    /// Remaining bytes of a chunk.
    ChunkData(u64),
    ChunkEnd,
    Trailers,
    /// Not recognizable as HTTP.
    Lost,
}

const FIELDS: State = State::Fields { length: None, chunked: false };

/// Finds the ends of requests in the bytes of a connection, wherever they are split.
struct Follower {
    state: State,
    /// The start of an incomplete line. hyper bounds the header section, chunk extensions and trailers, and reads no
    /// further.
    line: Vec<u8>,
    /// Number of the last started request.
    request: u64,
    framing: Arc<Framing>,
}

impl Follower {
    fn new(framing: Arc<Framing>) -> Self {
        Self { state: State::RequestLine, line: Vec::new(), request: 0, framing }
    }

    fn is_mid_request(&self) -> bool {
        self.state != State::RequestLine || !self.line.is_empty() || self.framing.fault.get().is_some()
    }

    fn is_line_too_long(&self) -> bool {
        self.state == State::RequestLine && self.line.len() > MAX_REQUEST_LINE_BYTES
    }

    fn follow(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Lost => return,
                State::Content(left) | State::ChunkData(left) => {
                    let now = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                    let left = left - now as u64;
                    self.state = match self.state {
                        State::Content(_) if left == 0 => self.end(),
                        State::Content(_) => State::Content(left),
                        _ if left == 0 => State::ChunkEnd,
                        _ => State::ChunkData(left),
                    };
                    bytes.get(now..).unwrap_or_default()
                }
                _ => self.up_to_line_end(bytes),
            };
        }
    }

    /// Takes the bytes up to the end of a line, and returns the others.
    fn up_to_line_end<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let Some((line, rest)) =
            bytes.iter().position(|byte| *byte == b'\n').and_then(|end| bytes.split_at_checked(end + 1))
        else {
            self.line.extend_from_slice(bytes);
            return &[];
        };
        self.state = if self.line.is_empty() {
            self.after(line)
        } else {
            let mut whole = std::mem::take(&mut self.line);
            whole.extend_from_slice(line);
            self.after(&whole)
        };
        rest
    }

    /// The state after a line.
    fn after(&mut self, line: &[u8]) -> State {
        let (line, is_crlf) = match line.strip_suffix(b"\r\n") {
            Some(line) => (line, true),
            None => (line.strip_suffix(b"\n").unwrap_or(line), false),
        };
        match self.state {
            State::RequestLine if line.is_empty() => State::RequestLine,
            State::RequestLine => {
                self.request += 1;
                if line.len() > MAX_REQUEST_LINE_BYTES {
                    self.fault(Fault::LongLine);
                } else if line.contains(&b'#') {
                    self.fault(Fault::Fragment);
                }
                FIELDS
            }
            State::Fields { length, chunked } if line.is_empty() => match (chunked, length) {
                (true, Some(_)) => {
                    self.fault(Fault::TwoLengths);
                    State::ChunkSize
                }
                (true, None) => State::ChunkSize,
                (false, None | Some(0)) => self.end(),
                (false, Some(length)) => State::Content(length),
            },
            State::Fields { length, chunked } => match field(line) {
                Field::ContentLength(Some(given)) if length.is_none_or(|length| length == given) => {
                    State::Fields { length: Some(given), chunked }
                }
                // hyper refuses it and closes the connection.
                Field::ContentLength(_) => self.lose(),
                Field::TransferEncoding => State::Fields { length, chunked: true },
                Field::Other => self.state,
            },
            // hyper accepts no bare LF within chunked content; neither does this.
            _ if !is_crlf => self.lose(),
            State::ChunkSize => match chunk_size(line) {
                Some(0) => State::Trailers,
                Some(size) => State::ChunkData(size),
                None => self.lose(),
            },
            State::ChunkEnd if line.is_empty() => State::ChunkSize,
            State::ChunkEnd => self.lose(),
            State::Trailers if line.is_empty() => self.end(),
            State::Trailers => State::Trailers,
            State::Content(_) | State::ChunkData(_) | State::Lost => self.lose(),
        }
    }

    fn end(&mut self) -> State {
        self.framing.received.store(self.request, Ordering::Relaxed);
        State::RequestLine
    }

    fn fault(&mut self, fault: Fault) {
        let _ = self.framing.fault.set((self.request, fault));
    }

    /// A handler may already have the request; it learns of the fault when it reads the content.
    fn lose(&mut self) -> State {
        self.fault(Fault::Lost);
        State::Lost
    }
}

/// A field that determines the length of the content.
enum Field {
    ContentLength(Option<u64>),
    TransferEncoding,
    Other,
}

fn field(line: &[u8]) -> Field {
    const CONTENT_LENGTH: &[u8] = b"content-length";
    const TRANSFER_ENCODING: &[u8] = b"transfer-encoding";
    let named = |name: &[u8]| match line.split_at_checked(name.len()) {
        Some((given, [b':', value @ ..])) if given.eq_ignore_ascii_case(name) => Some(value),
        _ => None,
    };
    if let Some(value) = named(CONTENT_LENGTH) {
        return Field::ContentLength(number(value.trim_ascii(), 10));
    }
    named(TRANSFER_ENCODING).map_or(Field::Other, |_| Field::TransferEncoding)
}

/// chunk-size [ chunk-ext ] (RFC 9112, section 7.1).
fn chunk_size(line: &[u8]) -> Option<u64> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, extension) = line.split_at_checked(end)?;
    matches!(extension.trim_ascii_start(), [] | [b';', ..]).then(|| number(digits, 16))?
}

/// A number without a sign.
fn number(digits: &[u8], radix: u32) -> Option<u64> {
    let digits = std::str::from_utf8(digits).ok().filter(|digits| !digits.starts_with('+'))?;
    u64::from_str_radix(digits, radix).ok()
}

#[cfg(test)]
mod tests {
    use std::{convert::Infallible, sync::Mutex};

    use http::{HeaderValue, Request, Response, header::CONNECTION};
    use http_body_util::BodyExt;
    use hyper::{body::Incoming, service::service_fn};
    use hyper_util::rt::TokioIo;
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Follows the bytes, cut at these places.
    fn followed(bytes: &[u8], cuts: &[usize]) -> (Follower, Arc<Framing>) {
        let framing = Arc::<Framing>::default();
        let mut follower = Follower::new(Arc::clone(&framing));
        let mut at = 0;
        for cut in cuts.iter().copied().chain([bytes.len()]) {
            follower.follow(&bytes[at..cut.clamp(at, bytes.len())]);
            at = cut.clamp(at, bytes.len());
        }
        (follower, framing)
    }

    #[test]
    fn the_request_with_the_fault_is_named() {
        const GOOD: &str = "PUT /a HTTP/1.1\r\nContent-Length: 28\r\nX: #\r\n\r\nGET /b#c HTTP/1.1\r\nX: y\r\n\r\n\
            \r\nPUT /a HTTP/1.1\r\ntransfer-encoding:chunked\r\n\r\n5;x=#\r\n#\r\n\r\n\r\n0\r\nX: #\r\n\r\nGET / HTTP/1.1\n\n";
        for (then, fault) in [
            ("", None),
            ("GET /a#b HTTP/1.1\r\n", Some(Fault::Fragment)),
            ("GET /# HTTP/1.1\r\n", Some(Fault::Fragment)),
            ("GET /a?b#c HTTP/1.1\r\n", Some(Fault::Fragment)),
            ("GET /a HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", Some(Fault::TwoLengths)),
            ("GET /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n", Some(Fault::TwoLengths)),
            ("GET /a HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx", None),
        ] {
            let bytes = [GOOD, then].concat();
            let (follower, framing) = followed(bytes.as_bytes(), &[]);
            assert_eq!((framing.fault(3), framing.fault(4)), (None, fault), "{then}");
            assert!(framing.is_received(3), "{then}");
            assert_eq!(follower.is_mid_request(), fault.is_some(), "{then}");
        }
    }

    #[test]
    fn after_what_cannot_be_followed_nothing_is_served() {
        const CHUNKED: &str = "PUT /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for bad in [
            "g\r\n",
            "-3\r\n",
            "+3\r\n",
            "0x3\r\n",
            "\r\n",
            "3 3\r\n",
            "10000000000000003\r\n",
            "3\n",
            "3\r\nabcd\r\n",
            "0\r\nx: y\n",
            "0\r\n\n",
        ] {
            let (follower, framing) = followed(&[CHUNKED.as_bytes(), bad.as_bytes()].concat(), &[]);
            assert_eq!((framing.fault(0), framing.fault(1)), (None, Some(Fault::Lost)), "{bad:?}");
            assert!(follower.is_mid_request() && !framing.is_received(1), "{bad:?}");
        }
        for bad in ["-1", "1x", "1, 1", "", "18446744073709551616"] {
            let (_, framing) = followed(format!("PUT /a HTTP/1.1\r\ncontent-length: {bad}\r\n").as_bytes(), &[]);
            assert_eq!(framing.fault(1), Some(Fault::Lost), "{bad:?}");
        }
    }

    #[test]
    fn a_request_is_received_with_its_last_byte() {
        for whole in [
            "GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
            "PUT /a HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc",
            "PUT /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "PUT /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\na ;x=y\r\n0123456789\r\n0\r\nX: y\r\n\r\n",
        ] {
            for end in 0..=whole.len() {
                let (follower, framing) = followed(&whole.as_bytes()[..end], &[]);
                assert_eq!(framing.is_received(1), end == whole.len(), "{:?}", &whole[..end]);
                assert_eq!(follower.is_mid_request(), end != 0 && end != whole.len(), "{:?}", &whole[..end]);
            }
        }
    }

    /// Requests with a content that looks like requests, and where the first raw `#` of a target is.
    fn requests() -> impl Strategy<Value = (Vec<u8>, Option<u64>)> {
        let one = (any::<bool>(), 0..3u8, prop::collection::vec("GET /#x HTTP/1.1\r\n|[#\r\n0-9;:a]{0,9}", 1..4));
        prop::collection::vec(one, 1..6).prop_map(|requests| {
            let mut bytes = Vec::new();
            let mut first = None;
            for (number, (fragment, kind, pieces)) in requests.into_iter().enumerate() {
                let target = if fragment { "/a#b" } else { "/a%23b" };
                first = first.or(fragment.then_some(number as u64 + 1));
                bytes.extend_from_slice(format!("PUT {target} HTTP/1.1\r\nX: #\r\n").as_bytes());
                match kind {
                    0 => bytes.extend_from_slice(b"\r\n"),
                    1 => {
                        let content = pieces.concat();
                        bytes.extend_from_slice(format!("Content-Length: {}\r\n\r\n", content.len()).as_bytes());
                        bytes.extend_from_slice(content.as_bytes());
                    }
                    _ => {
                        bytes.extend_from_slice(b"Transfer-Encoding: chunked\r\n\r\n");
                        for piece in pieces.iter().filter(|piece| !piece.is_empty()) {
                            bytes.extend_from_slice(format!("{:x};#\r\n{piece}\r\n", piece.len()).as_bytes());
                        }
                        bytes.extend_from_slice(b"0\r\nX: #\r\n\r\n");
                    }
                }
            }
            (bytes, first)
        })
    }

    proptest! {
        #[test]
        fn the_cuts_between_reads_change_nothing(
            (bytes, first) in requests(),
            mut cuts in prop::collection::vec(0..400usize, 0..20),
        ) {
            cuts.sort_unstable();
            let (follower, framing) = followed(&bytes, &cuts);
            prop_assert_eq!(framing.fault.get().copied(), first.map(|first| (first, Fault::Fragment)));
            prop_assert!(follower.state == State::RequestLine && follower.line.is_empty());
        }

        #[test]
        fn whatever_comes_is_followed_or_given_up(bytes in prop::collection::vec(any::<u8>(), 0..200), head: bool) {
            let head = if head { &b"PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"[..] } else { b"" };
            followed(&[head, &bytes].concat(), &[20]);
        }
    }

    /// What hyper serves of these bytes: the path and query of each request, unless it is refused for a fault.
    async fn served(bytes: Vec<u8>) -> Vec<String> {
        let framing = Arc::<Framing>::default();
        let served = Arc::<Mutex<Vec<String>>>::default();
        let (client, server) = tokio::io::duplex(37);
        let (number, found) = (AtomicU64::new(0), Arc::clone(&served));
        let (faults, stream) = (Arc::clone(&framing), Followed::new(server, framing));
        let service = service_fn(move |request: Request<Incoming>| {
            let fault = faults.fault(number.fetch_add(1, Ordering::Relaxed) + 1);
            let (target, found) = (request.uri().to_string(), Arc::clone(&found));
            async move {
                let mut response = Response::new(String::new());
                if fault.is_some() {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                } else if request.into_body().collect().await.is_ok() {
                    found.lock().unwrap().push(target);
                }
                Ok::<_, Infallible>(response)
            }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        let (mut responses, mut requests) = tokio::io::split(client);
        let send = async {
            let _ = requests.write_all(&bytes).await;
            let _ = requests.shutdown().await;
        };
        let receive = async {
            let _ = tokio::io::copy(&mut responses, &mut tokio::io::sink()).await;
        };
        tokio::join!(connection, send, receive).0.ok();
        std::mem::take(&mut *served.lock().unwrap())
    }

    /// Requests of which those with `b` have a raw `#`, in their contents too; with some bytes changed.
    fn damaged() -> impl Strategy<Value = Vec<u8>> {
        const PIECES: [&str; 7] = [
            "GET /g HTTP/1.1\r\n\r\n",
            "GET /b#x HTTP/1.1\r\n\r\n",
            "PUT /g HTTP/1.1\r\nContent-Length: 21\r\n\r\nGET /b#x HTTP/1.1\r\n\r\n",
            "PUT /g HTTP/1.1\r\nContent-Length: 10\r\nx: y\r\n\r\n0123456789",
            "PUT /g HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n15;x\r\nGET /b#x HTTP/1.1\r\n\r\n\r\n0\r\n\r\n",
            "PUT /g HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\nF\r\n0123456789abcde\r\n0\r\nx: y\r\n\r\n",
            "\r\n",
        ];
        let pieces = prop::collection::vec(prop::sample::select(&PIECES[..]), 1..6);
        let changed = prop::sample::select(&b"\r\n #0123f:;,x"[..]);
        let changes = prop::collection::vec((any::<prop::sample::Index>(), changed), 0..3);
        (pieces, changes).prop_map(|(pieces, changes)| {
            let mut bytes = pieces.concat().into_bytes();
            for (cursor, byte) in changes {
                if !bytes.is_empty() {
                    let cursor = cursor.index(bytes.len());
                    bytes[cursor] = byte;
                }
            }
            bytes
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]
        #[test]
        fn whatever_hyper_makes_of_the_bytes_no_target_is_cut(bytes in damaged()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let served = runtime.block_on(served(bytes.clone()));
            prop_assert!(!served.contains(&"/b".to_owned()), "{:?} of {}", served, bytes.escape_ascii());
        }
    }
}
