//! One connection after its handshake: HTTP/1.1 or HTTP/2 by hyper, within bounds of size and time.
//!
//! How it ends: when the process leaves, with the next answer (`Connection: close`) or a GOAWAY; when it
//! stops, as soon as nothing is in flight; when nobody waits any longer, at once. What is not here: what a
//! request means.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::Metrics;
use super::activity::{Activity, Phase};
use super::again::Again;
use super::pace::{Answer, Paced};
use super::watched::Watched;
use crate::ops::drain::DrainWatch;
use crate::permit::{self, Bound};

/// Bounds of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes of one request's head; more is answered 431. 16 KiB: twice what common servers take, room for
    /// the largest cookies and tokens in use.
    pub header_bytes: usize,
    /// From the first byte of a head (or the opening of the connection) to its end. 15 s: 16 KiB over the
    /// slowest mobile link, and a client that opens a connection ahead of need gets some seconds.
    pub head_timeout: Duration,
    /// A connection without a request. 620 s: load balancers keep theirs up to 600 s and must be the first to
    /// close, or they send requests into a closing connection.
    pub idle_timeout: Duration,
    /// A write that makes no progress. 30 s: longer than any network hiccup that ends well, and than it takes until one
    /// who reads 8 kB/s is seen to read (`UNSENT_BYTES`).
    pub write_timeout: Duration,
    /// Requests of one HTTP/2 connection at a time. 256: as many as a session may have calls.
    pub streams: u32,
    /// Bytes one HTTP/2 stream may send before they are read. 256 KiB: a usual body without a wait.
    pub stream_window: u32,
    /// The same for all streams of a connection. 1 MiB: the most a connection can make the process hold.
    pub connection_window: u32,
    /// Silence after which an HTTP/2 peer is asked whether it is still there, and how long it may take to say
    /// so. 20 s each: a vanished peer is noticed before the usual client gives up at 60 s. What asks waits behind what the
    /// kernel holds, so one who reads an answer has to read 20 kB/s.
    pub ping_every: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            header_bytes: 16 << 10,
            head_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(620),
            write_timeout: Duration::from_secs(30),
            streams: 256,
            stream_window: 256 << 10,
            connection_window: 1 << 20,
            ping_every: Duration::from_secs(20),
        }
    }
}

/// The least that `header_bytes` may be: what hyper reads at a time.
// hyper 1, http1::Builder::max_buf_size: less is a panic
pub const HEADER_BYTES_LEAST: usize = 8 << 10;

/// What answers requests. Every closure of this shape is one.
pub trait Handler: Clone + Send + Sync + 'static {
    /// The body of the answers.
    type Body: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;

    /// The answer on its way; dropped when the client leaves.
    type Answer: Future<Output = Response<Self::Body>> + Send + 'static;

    /// The answer to one request.
    fn handle(&self, request: Request<Incoming>) -> Self::Answer;
}

/// Whatever a body can fail with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<H, F, B> Handler for H
where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    type Body = B;
    type Answer = F;

    fn handle(&self, request: Request<Incoming>) -> F {
        self(request)
    }
}

/// How connections are served, by what is known of a client when it begins.
pub(super) struct Protocols {
    http1: Builder<Streams>,
    either: Builder<Streams>,
}

impl Protocols {
    pub(super) fn new(config: &Config, drain: &DrainWatch, metrics: &Metrics) -> Self {
        let terms =
            Terms { drain: drain.clone(), write_timeout: config.write_timeout, metrics: metrics.clone() };
        let either = builder(config, Streams(Arc::new(terms)));
        Self { http1: either.clone().http1_only(), either }
    }
}

/// A stream that can tell what its client speaks before anything of it is read, and whether there is an end to it.
pub(super) trait Opened {
    /// Whether it is HTTP/1 for certain; ready once the client has said something.
    fn is_http1(&self) -> impl Future<Output = bool> + Send;

    /// Whether the client's side is at its end, whatever of it has not been read; known from the events of the socket.
    fn has_ended(&self) -> bool;
}

impl Opened for TcpStream {
    async fn is_http1(&self) -> bool {
        let mut first = [0; PREFACE.len()];
        let seen = self.peek(&mut first).await.unwrap_or_default();
        first.get(..seen).is_some_and(|seen| !PREFACE.starts_with(seen))
    }

    fn has_ended(&self) -> bool {
        // Ready at once if anything is known: the bytes that are there, and the end behind them.
        let known = pin!(self.ready(Interest::READABLE)).poll(&mut Context::from_waker(Waker::noop()));
        matches!(known, Poll::Ready(Ok(known)) if known.is_read_closed())
    }
}

impl Opened for TlsStream<TcpStream> {
    async fn is_http1(&self) -> bool {
        // RFC 7301 §3.2; a client that named no protocol is looked at as over plain TCP, by what it sends
        self.get_ref().1.alpn_protocol() == Some(b"http/1.1")
    }

    fn has_ended(&self) -> bool {
        self.get_ref().0.has_ended()
    }
}

/// What every connection of a listener shares.
pub(super) struct Service<H> {
    pub(super) handler: H,
    pub(super) protocols: Protocols,
    pub(super) config: Config,
    pub(super) drain: DrainWatch,
    pub(super) metrics: Metrics,
    pub(super) bounds: permit::Metrics,
}

impl<H: Handler> Service<H> {
    /// Serves one connection to its end.
    pub(super) async fn serve<S>(&self, stream: S)
    where
        S: Opened + AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let drain = self.drain.child();
        let activity = Activity::new(&self.config, drain.is_leaving());
        // hyper looks for itself by reading the first bytes; a buffer that begins with some of them grows to twice
        // its size, and stays so.
        let http1 = tokio::select! {
            () = drain.stopping() => return,
            phase = activity.expired() => return self.metrics.timed_out(phase),
            http1 = stream.is_http1() => http1,
        };
        let builder = if http1 { &self.protocols.http1 } else { &self.protocols.either };
        let stream = Watched::new(stream, activity.clone(), self.config.write_timeout);
        let answer = {
            let (handler, activity, arrivals) =
                (self.handler.clone(), activity.clone(), self.metrics.arrivals());
            let (header_bytes, bounds) = (self.config.header_bytes, self.bounds.clone());
            service_fn(move |request: Request<Incoming>| {
                arrivals.inc();
                let in_flight = activity.request(request.version());
                // hyper keeps room for this future as long as the connection lives; boxed, 10,000 idle streams do
                // without the 7 KiB that answering one request takes.
                let answer = if is_too_large(&request, header_bytes) {
                    bounds.hit(Bound::Head);
                    None
                } else {
                    Some(Box::pin(handler.handle(request)))
                };
                let activity = activity.clone();
                async move {
                    let Some(answer) = answer else {
                        let mut refused = Response::new(Answer::empty(in_flight));
                        *refused.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                        return Ok(refused);
                    };
                    let mut answer = answer.await;
                    if activity.is_last_answer() {
                        answer.headers_mut().insert(CONNECTION, CLOSE);
                    }
                    Ok::<_, Infallible>(answer.map(|body| Answer::new(body, in_flight)))
                }
            })
        };
        let mut connection = pin!(Again::new(builder.serve_connection(TokioIo::new(stream), answer)));
        // In this order in both: `expired` judges what the connection has just done.
        tokio::select! {
            biased;
            result = connection.as_mut() => return self.ended(result, &activity),
            phase = activity.expired() => return self.metrics.timed_out(phase),
            () = drain.leaving() => activity.leave(),
        }
        let mut told = false;
        loop {
            tokio::select! {
                biased;
                () = drain.gone() => return,
                result = connection.as_mut() => return self.ended(result, &activity),
                () = may_close(&drain, &activity), if !told => {
                    told = true;
                    connection.as_mut().inner().graceful_shutdown();
                }
                phase = activity.expired() => return self.metrics.timed_out(phase),
            }
        }
    }

    fn ended(&self, result: Result<(), BoxError>, activity: &Activity) {
        let Err(error) = result else { return };
        if activity.was_not_taken() {
            self.metrics.timed_out(Phase::Answer);
            return tracing::debug!("an answer that its client does not take ends its connection");
        }
        // hyper answers this by itself: 431.
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse_too_large) {
            self.bounds.hit(Bound::Head);
        }
        tracing::debug!(%error, "connection ended");
    }
}

/// Whether the head of a request over HTTP/2 is over the bound; of HTTP/1 hyper sees to that.
fn is_too_large(request: &Request<Incoming>, header_bytes: usize) -> bool {
    // RFC 9113 §6.5.2: the size of a field
    let field = |name: usize, value: usize| name + value + 32;
    let fields = || {
        request.headers().iter().map(|(name, value)| field(name.as_str().len(), value.len())).sum::<usize>()
    };
    let uri = request.uri();
    let authority =
        uri.authority().map_or(0, |authority| field(":authority".len(), authority.as_str().len()));
    let path = uri.path_and_query().map_or(0, |path| field(":path".len(), path.as_str().len()));
    request.version() == Version::HTTP_2 && fields() + authority + path > header_bytes
}

/// Resolves when a connection should be told to end, in a process that leaves. Cancel-safe: holds nothing.
async fn may_close(drain: &DrainWatch, activity: &Activity) {
    tokio::select! {
        () = drain.stopping() => (),
        () = poll_fn(|_| if activity.may_leave() { Poll::Ready(()) } else { Poll::Pending }) => (),
    }
}

fn builder(config: &Config, streams: Streams) -> Builder<Streams> {
    let mut builder = Builder::new(streams);
    builder
        .http1()
        .max_buf_size(config.header_bytes)
        .header_read_timeout(None) // `Activity` tells a slow head from an idle connection
        .timer(TokioTimer::new());
    builder
        .http2()
        .max_header_list_size(
            u32::try_from(config.header_bytes.saturating_mul(HEAD_ROOM)).unwrap_or(u32::MAX),
        )
        .max_concurrent_streams(config.streams)
        .initial_stream_window_size(config.stream_window)
        .initial_connection_window_size(config.connection_window)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(config.ping_every)
        .keep_alive_timeout(config.ping_every)
        .timer(TokioTimer::new());
    builder
}

/// Runs the requests of HTTP/2 connections as tasks that the end of the process waits for.
#[derive(Clone)]
pub(super) struct Streams(Arc<Terms>);

/// What every stream runs by; shared, for each connection keeps one.
pub(super) struct Terms {
    drain: DrainWatch,
    pub(super) write_timeout: Duration,
    pub(super) metrics: Metrics,
}

impl<F> Executor<F> for Streams
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.drain.spawn(Paced::new(task, self.0.clone()));
    }
}

/// How HTTP/2 begins; no method of HTTP/1 in use does.
// RFC 9113 §3.4
const PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// What h2 takes of a head is so many times `header_bytes`, for what it refuses by itself nobody counts. 4: 64 KiB, the
/// heads of clients that carry a few cookies too many; one connection reads one head at a time.
const HEAD_ROOM: usize = 4;
const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// Bytes of answers that one HTTP/2 stream buffers for a slow reader. 64 KiB: a few frames, so that 256 streams
/// cannot make one connection hold 100 MB as hyper's 400 KiB would.
const SEND_BUFFER_BYTES: usize = 64 << 10;
