//! One connection after its handshake: HTTP/1.1 or HTTP/2 by hyper, within bounds of size and time.
//!
//! How it ends: when the process begins to drain, with the next answer (`Connection: close`) or a GOAWAY; when the listener
//! has closed, as soon as nothing is in flight; at the end of the drain, at once. It does not know what a request means.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
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
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncWrite, Interest};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::Metrics;
use super::activity::{Activity, TimeoutPhase};
use super::repoll::RepollOnSelfWake;
use super::tracked_stream::TrackedStream;
use super::write_deadline::{AnswerBody, WriteDeadline};
use crate::ops::drain::DrainWatch;
use crate::permit::{self, Bound};

/// Bounds of one connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Bytes of one request's head; a larger one is answered 431. 16 KiB: twice what common servers take, enough for the
    /// largest cookies and tokens in use.
    pub header_bytes: usize,
    /// From the first byte of a head (or from the opening of the connection) to the head's end. 15 s: 16 KiB over the
    /// slowest mobile link; a client that opens a connection ahead of need gets some seconds.
    pub head_timeout: Duration,
    /// How long a connection may be without a request. 620 s: load balancers keep theirs up to 600 s and must close first,
    /// or they send requests into a closing connection.
    pub idle_timeout: Duration,
    /// How long a write may make no progress. 30 s: longer than any network hiccup that ends well, and longer than it takes
    /// until a client that reads 8 kB/s is seen to read (`UNSENT_BYTES`).
    pub write_timeout: Duration,
    /// Requests of one HTTP/2 connection at a time. 256: as many calls as a session may have.
    pub streams: u32,
    /// Bytes that a client may send on one HTTP/2 stream before they are read. 256 KiB: a usual body without a wait.
    pub stream_window: u32,
    /// Bytes that a client may send on all streams of an HTTP/2 connection before they are read. 1 MiB: the most a
    /// connection can make the process hold.
    pub connection_window: u32,
    /// How long an HTTP/2 connection may be silent before a PING, and how long the client may take to acknowledge it. 20 s
    /// each: a vanished client is noticed before clients usually give up, at 60 s. The PING waits behind what the kernel
    /// holds, so a client that reads an answer has to read 20 kB/s.
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

/// Answers requests. Every closure of this shape is a handler.
pub trait Handler: Clone + Send + Sync + 'static {
    /// The body of the answers.
    type Body: Body<Data: Send, Error: Into<BoxError>> + Send + 'static;

    /// The future of an answer; dropped when the client leaves.
    type Answer: Future<Output = Response<Self::Body>> + Send + 'static;

    /// Answers one request.
    fn handle(&self, request: Request<Incoming>) -> Self::Answer;
}

/// The error of a body.
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

/// How connections are served, by the protocol that the client's first bytes show.
pub(super) struct Protocols {
    http1: Builder<StreamExecutor>,
    /// HTTP/2 or HTTP/1: hyper decides.
    either: Builder<StreamExecutor>,
}

impl Protocols {
    pub(super) fn new(config: &Config, drain: &DrainWatch, metrics: &Metrics) -> Self {
        let context = StreamContext {
            drain: drain.clone(),
            write_timeout: config.write_timeout,
            metrics: metrics.clone(),
        };
        let either = builder(config, StreamExecutor(Arc::new(context)));
        Self { http1: either.clone().http1_only(), either }
    }
}

/// The stream of a client, which shows the protocol before anything is read.
pub(super) trait ClientStream {
    /// Whether the client certainly speaks HTTP/1. Resolves when its first bytes have arrived.
    fn is_http1(&self) -> impl Future<Output = bool> + Send;

    /// Whether the client has ended its side, even if not all of it has been read. Costs no system call.
    fn has_ended(&self) -> bool;
}

impl ClientStream for TcpStream {
    async fn is_http1(&self) -> bool {
        let mut first = [0; PREFACE.len()];
        let seen = self.peek(&mut first).await.unwrap_or_default();
        first.get(..seen).is_some_and(|seen| !PREFACE.starts_with(seen))
    }

    fn has_ended(&self) -> bool {
        // Ready at once if anything is known: the bytes that have arrived, and the end that follows them.
        let known = pin!(self.ready(Interest::READABLE)).poll(&mut Context::from_waker(Waker::noop()));
        matches!(known, Poll::Ready(Ok(known)) if known.is_read_closed())
    }
}

impl ClientStream for TlsStream<TcpStream> {
    async fn is_http1(&self) -> bool {
        // RFC 7301 §3.2; without ALPN, hyper detects the protocol by the first bytes
        self.get_ref().1.alpn_protocol() == Some(b"http/1.1")
    }

    fn has_ended(&self) -> bool {
        self.get_ref().0.has_ended()
    }
}

/// Serves the connections of a listener.
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
        S: ClientStream + AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let drain = self.drain.child();
        let activity = Activity::new(&self.config, drain.is_leaving());
        let Some(builder) = self.detect_protocol(&stream, &activity, &drain).await else { return };
        let stream = TrackedStream::new(stream, activity.clone(), self.config.write_timeout);
        let service = RequestService {
            handler: self.handler.clone(),
            activity: activity.clone(),
            arrivals: self.metrics.arrivals(),
            header_bytes: self.config.header_bytes,
            bounds: self.bounds.clone(),
        };
        let service = service_fn(move |request| service.answer(request));
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(RepollOnSelfWake::new(connection));
        if self.serve_until_drain(connection.as_mut(), &activity, &drain).await.is_continue() {
            self.drain_connection(
                connection,
                |connection| connection.inner().graceful_shutdown(),
                &activity,
                &drain,
            )
            .await;
        }
    }

    /// Chooses the protocol by the first bytes; `None` if the connection ends before them.
    ///
    /// hyper would detect it by reading the first bytes, but a buffer that begins with some of them grows to twice its size
    /// and stays so.
    async fn detect_protocol(
        &self,
        stream: &impl ClientStream,
        activity: &Activity,
        drain: &DrainWatch,
    ) -> Option<&Builder<StreamExecutor>> {
        tokio::select! {
            () = drain.stopping() => None,
            phase = activity.expired() => {
                self.metrics.timed_out(phase);
                None
            }
            is_http1 = stream.is_http1() => {
                Some(if is_http1 { &self.protocols.http1 } else { &self.protocols.either })
            }
        }
    }

    /// Serves until the connection ends (`Break`) or the process begins to drain.
    async fn serve_until_drain(
        &self,
        connection: Pin<&mut impl Future<Output = Result<(), BoxError>>>,
        activity: &Activity,
        drain: &DrainWatch,
    ) -> ControlFlow<()> {
        // In this order: `expired` must see what the connection has just done.
        tokio::select! {
            biased;
            result = connection => self.ended(result, activity),
            phase = activity.expired() => self.metrics.timed_out(phase),
            () = drain.leaving() => {
                activity.leave();
                return ControlFlow::Continue(());
            }
        }
        ControlFlow::Break(())
    }

    /// Serves in a draining process until the connection ends: what is in flight is finished, then the connection closes.
    async fn drain_connection<C: Future<Output = Result<(), BoxError>>>(
        &self,
        mut connection: Pin<&mut C>,
        shut_down: impl Fn(Pin<&mut C>),
        activity: &Activity,
        drain: &DrainWatch,
    ) {
        let mut is_shutting_down = false;
        loop {
            // In this order: `expired` must see what the connection has just done.
            tokio::select! {
                biased;
                () = drain.gone() => return,
                result = connection.as_mut() => return self.ended(result, activity),
                () = may_close(drain, activity), if !is_shutting_down => {
                    is_shutting_down = true;
                    shut_down(connection.as_mut());
                }
                phase = activity.expired() => return self.metrics.timed_out(phase),
            }
        }
    }

    fn ended(&self, result: Result<(), BoxError>, activity: &Activity) {
        let Err(error) = result else { return };
        if activity.did_write_time_out() {
            self.metrics.timed_out(TimeoutPhase::Answer);
            return tracing::debug!("an answer that its client does not take ends its connection");
        }
        // hyper answers this by itself: 431.
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_parse_too_large) {
            self.bounds.hit(Bound::Head);
        }
        tracing::debug!(%error, "connection ended");
    }
}

/// Answers the requests of one connection.
struct RequestService<H> {
    handler: H,
    activity: Arc<Activity>,
    arrivals: Counter,
    header_bytes: usize,
    bounds: permit::Metrics,
}

impl<H: Handler> RequestService<H> {
    fn answer(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<AnswerBody<H::Body>>, Infallible>> + Send + use<H> {
        self.arrivals.inc();
        let in_flight = self.activity.request(request.version());
        // hyper keeps room for this future as long as the connection lives; boxed, 10,000 idle streams do without the 7 KiB
        // that answering one request takes.
        let answer = if is_too_large(&request, self.header_bytes) {
            self.bounds.hit(Bound::Head);
            None
        } else {
            Some(Box::pin(self.handler.handle(request)))
        };
        let activity = self.activity.clone();
        async move {
            let Some(answer) = answer else {
                let mut refused = Response::new(AnswerBody::empty(in_flight));
                *refused.status_mut() = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
                return Ok(refused);
            };
            let mut answer = answer.await;
            if activity.is_last_answer() {
                answer.headers_mut().insert(CONNECTION, CLOSE);
            }
            Ok(answer.map(|body| AnswerBody::new(body, in_flight)))
        }
    }
}

/// Whether the head of a request over HTTP/2 is over the bound. For HTTP/1 hyper checks that.
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

/// Resolves when a connection of a draining process should be closed. Cancel-safe: holds nothing.
async fn may_close(drain: &DrainWatch, activity: &Activity) {
    tokio::select! {
        () = drain.stopping() => (),
        () = poll_fn(|_| if activity.may_leave() { Poll::Ready(()) } else { Poll::Pending }) => (),
    }
}

fn builder(config: &Config, executor: StreamExecutor) -> Builder<StreamExecutor> {
    let mut builder = Builder::new(executor);
    builder
        .http1()
        .max_buf_size(config.header_bytes)
        .header_read_timeout(None) // `Activity` has a deadline for slow heads
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

/// Runs the requests of HTTP/2 connections as tasks that the drain waits for.
#[derive(Clone)]
pub(super) struct StreamExecutor(Arc<StreamContext>);

/// What the tasks of HTTP/2 streams need; shared, because each connection keeps a reference.
pub(super) struct StreamContext {
    drain: DrainWatch,
    pub(super) write_timeout: Duration,
    pub(super) metrics: Metrics,
}

impl<F> Executor<F> for StreamExecutor
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, task: F) {
        self.0.drain.spawn(WriteDeadline::new(task, self.0.clone()));
    }
}

/// The first bytes of HTTP/2; no HTTP/1 method in use begins like this.
// RFC 9113 §3.4
const PREFACE: &[u8] = b"PRI * HTTP/2.0";
/// h2 accepts heads of this many times `header_bytes`, because refusals by h2 itself are not counted. 4: 64 KiB covers
/// clients that carry a few cookies too many; a connection reads one head at a time.
const HEAD_ROOM: usize = 4;
const CLOSE: HeaderValue = HeaderValue::from_static("close");
/// Bytes of answers that one HTTP/2 stream buffers for a slow reader. 64 KiB: a few frames, so that 256 streams
/// cannot make one connection hold 100 MB as hyper's 400 KiB would.
const SEND_BUFFER_BYTES: usize = 64 << 10;
