//! Real sockets on loopback: what clients of either protocol see, and which bounds hold.

mod drain;
mod handshake;
mod leaving;
mod write_deadline;

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ::http::{Request, Response, StatusCode, Version};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};

use super::activity::Activity;
use super::*;
use crate::ops::drain::Drain;
use crate::permit;

/// No condition of these tests takes this long unless it never comes.
const GUARD: Duration = Duration::from_secs(30);

struct Served {
    address: SocketAddr,
    metrics: Metrics,
    bounds: permit::Metrics,
    drain: Drain,
}

impl Served {
    /// How often a bound was hit, by the metrics.
    fn hits(&self, bound: &str) -> usize {
        let mut registry = Registry::default();
        self.bounds.register(&mut registry);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        let line = format!("refused_total{{bound=\"{bound}\"}} ");
        text.lines().find_map(|l| l.strip_prefix(&line)).map_or(0, |count| count.parse().unwrap())
    }
}

async fn serve<H: Handler>(config: Config, permits: permit::Config, handler: H) -> Served {
    let (drain, metrics) = (Drain::new(), Metrics::default());
    let config = Config { address: Address::new("127.0.0.1", 0), ..config };
    let listener = Listener::bind(config, metrics.clone()).await.unwrap();
    let address = listener.addresses()[0];
    let bounds = permit::Metrics::default();
    let permits = Permits::new(permits, bounds.clone());
    let watch = drain.watch();
    watch.spawn(listener.serve(handler, permits, drain.watch()));
    Served { address, metrics, bounds, drain }
}

async fn serve_http(http: http::Config) -> Served {
    serve(Config { http, ..Config::default() }, permit::Config::default(), hello).await
}

async fn hello(request: Request<Incoming>) -> Response<Full<Bytes>> {
    Response::new(Full::from(format!("{:?} {}", request.version(), request.uri().path())))
}

/// A body that never ends, in pieces of 64 KiB.
async fn flood(_: Request<Incoming>) -> Response<Flood> {
    Response::new(Flood)
}

struct Flood;

impl http_body::Body for Flood {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Self::Error>>> {
        Poll::Ready(Some(Ok(http_body::Frame::data(Bytes::from_static(&[b'x'; 64 << 10])))))
    }
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://edge{path}")).header("host", "edge").body(Empty::new()).unwrap()
}

type Http1 = http1::SendRequest<Empty<Bytes>>;
type Http2 = http2::SendRequest<Empty<Bytes>>;

async fn http1_over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Http1 {
    let (client, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn http2_over<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S) -> Http2 {
    let (client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    client
}

async fn text(response: Response<Incoming>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Polls until `condition` holds.
async fn eventually(condition: impl Fn() -> bool) {
    guarded(async {
        while !condition() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

async fn guarded<T>(future: impl Future<Output = T>) -> T {
    timeout(GUARD, future).await.expect("the condition holds in time")
}

#[tokio::test]
async fn one_port_speaks_both_protocols() {
    let served = serve_http(http::Config::default()).await;
    let mut client = http1_over(TcpStream::connect(served.address).await.unwrap()).await;
    for path in ["/a", "/b"] {
        let response = guarded(client.send_request(get(path))).await.unwrap();
        assert_eq!(text(response).await, format!("HTTP/1.1 {path}"));
    }
    let mut client = http2_over(TcpStream::connect(served.address).await.unwrap()).await;
    for path in ["/a", "/b"] {
        let response = guarded(client.send_request(get(path))).await.unwrap();
        assert_eq!(text(response).await, format!("HTTP/2.0 {path}"));
    }
    assert_eq!(served.metrics.connections.get(), 2);
    assert_eq!(served.metrics.connections_total.get(), 2);
    drop(client);
    eventually(|| served.metrics.connections.get() < 2).await;
}

#[tokio::test]
async fn a_large_head_is_answered_431() {
    let served = serve_http(http::Config::default()).await;
    let value = "x".repeat(served_header_bytes());
    let large = || {
        let (mut head, body) = get("/").into_parts();
        head.headers.insert("x-large", value.parse().unwrap());
        Request::from_parts(head, body)
    };
    let mut client = http1_over(TcpStream::connect(served.address).await.unwrap()).await;
    let response = guarded(client.send_request(large())).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);

    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let mut many = String::from("GET / HTTP/1.1\r\nhost: edge\r\n");
    for n in 0..200 {
        many.push_str(&format!("x-{n}: y\r\n"));
    }
    stream.write_all(format!("{many}\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    guarded(stream.read_to_end(&mut answer)).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&answer));
    eventually(|| served.hits("head") == 2).await;

    let mut client = http2_over(TcpStream::connect(served.address).await.unwrap()).await;
    let response = guarded(client.send_request(large())).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(served.hits("head"), 3);
    let response = guarded(client.send_request(get("/after"))).await.unwrap();
    assert_eq!(text(response).await, "HTTP/2.0 /after");
}

/// Seen as a broken pipe in place of a 413.
#[tokio::test]
async fn the_refusal_of_a_body_reaches_a_client_that_is_still_sending_it() {
    let served = serve_http(http::Config::default()).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    let mut answer = Vec::new();
    guarded(async {
        stream
            .write_all(b"POST /x HTTP/1.1\r\nhost: edge\r\ncontent-length: 16000000\r\n\r\n")
            .await
            .unwrap();
        for _ in 0..250 {
            stream.write_all(&[b'x'; 64_000]).await.expect("no reset while it is sent");
        }
        stream.read_to_end(&mut answer).await.expect("no reset before the answer was read");
    })
    .await;
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    drop(stream);
    eventually(|| served.metrics.connections.get() == 0).await;
}

fn served_header_bytes() -> usize {
    http::Config::default().header_bytes
}

/// Connections of which each stops at another point before its first answer.
async fn closed_by_server(mut stream: TcpStream, sent: &[u8]) -> Duration {
    let start = Instant::now();
    stream.write_all(sent).await.unwrap();
    let mut answer = Vec::new();
    // A reset is as much an end as a FIN.
    let _ = guarded(stream.read_to_end(&mut answer)).await;
    assert!(answer.is_empty() || sent.starts_with(b"PRI"), "{}", String::from_utf8_lossy(&answer));
    start.elapsed()
}

#[tokio::test]
async fn a_head_that_never_ends_is_cut_off() {
    let head_timeout = Duration::from_millis(100);
    let served = serve_http(http::Config { head_timeout, ..http::Config::default() }).await;
    let opening = PhaseLabel { phase: TimeoutPhase::Opening };
    for (count, sent) in
        [&b""[..], b"GET / HT", b"GET / HTTP/1.1\r\nhost: e", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]
            .into_iter()
            .enumerate()
    {
        let stream = TcpStream::connect(served.address).await.unwrap();
        assert!(closed_by_server(stream, sent).await >= head_timeout / 2);
        assert_eq!(served.metrics.timeouts.get_or_create(&opening).get(), count as u64 + 1);
    }
}

#[tokio::test]
async fn a_slow_second_head_is_cut_off_before_an_idle_connection() {
    let http = http::Config {
        head_timeout: Duration::from_millis(100),
        idle_timeout: GUARD * 2,
        ..http::Config::default()
    };
    let served = serve_http(http).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: edge\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    guarded(stream.read_exact(&mut first)).await.unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    stream.write_all(b"GET / HT").await.unwrap();
    let mut rest = Vec::new();
    let _ = guarded(stream.read_to_end(&mut rest)).await;
    let head = PhaseLabel { phase: TimeoutPhase::Head };
    assert_eq!(served.metrics.timeouts.get_or_create(&head).get(), 1);
}

#[tokio::test]
async fn idle_connections_of_both_protocols_are_closed() {
    let http = http::Config { idle_timeout: Duration::from_millis(100), ..http::Config::default() };
    let served = serve_http(http).await;
    let mut one = http1_over(TcpStream::connect(served.address).await.unwrap()).await;
    let mut two = http2_over(TcpStream::connect(served.address).await.unwrap()).await;
    text(guarded(one.send_request(get("/"))).await.unwrap()).await;
    text(guarded(two.send_request(get("/"))).await.unwrap()).await;
    eventually(|| served.metrics.connections.get() == 0).await;
    let idle = PhaseLabel { phase: TimeoutPhase::Idle };
    assert_eq!(served.metrics.timeouts.get_or_create(&idle).get(), 2);
}

#[tokio::test(start_paused = true)]
async fn idle_timeout_starts_at_the_last_request() {
    let config = http::Config { idle_timeout: Duration::from_secs(100), ..http::Config::default() };
    let activity = Activity::new(&config, false);
    let mut expired = pin!(activity.expired());
    for _ in 0..3 {
        drop(activity.request(Version::HTTP_11));
        assert!(timeout(Duration::from_secs(60), expired.as_mut()).await.is_err());
    }
    drop(activity.request(Version::HTTP_11));
    let last = Instant::now();
    assert_eq!(expired.await, TimeoutPhase::Idle);
    assert_eq!(last.elapsed().as_secs(), 100);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped() {
    let http = http::Config { write_timeout: Duration::from_millis(100), ..http::Config::default() };
    let served = serve(Config { http, ..Config::default() }, permit::Config::default(), flood).await;
    let mut stream = TcpStream::connect(served.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: edge\r\n\r\n").await.unwrap();
    eventually(|| served.metrics.connections_total.get() == 1).await;
    eventually(|| served.metrics.connections.get() == 0).await;
    assert_eq!(served.metrics.timed_out_times(TimeoutPhase::Answer), 1);
}

/// Seen: an answer broke off although its client read all the time, because the kernel reports progress of megabytes late.
#[tokio::test]
async fn kernel_holds_little_of_an_answer_that_is_not_read() {
    let http = http::Config { write_timeout: Duration::from_millis(500), ..http::Config::default() };
    let served = serve(Config { http, ..Config::default() }, permit::Config::default(), flood).await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let mut stream = socket.connect(served.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nhost: edge\r\n\r\n").await.unwrap();
    eventually(|| served.metrics.connections_total.get() == 1).await;
    eventually(|| served.metrics.connections.get() == 0).await;
    let mut taken = Vec::new();
    // A reset is as much an end as a FIN.
    let _ = guarded(stream.read_to_end(&mut taken)).await;
    assert!(taken.len() < 1 << 20, "{} bytes", taken.len());
}

#[tokio::test]
async fn over_the_bound_connections_wait_to_be_accepted() {
    let permits = permit::Config { connections: 1, ..permit::Config::default() };
    let served = serve(Config::default(), permits, hello).await;
    let mut first = http1_over(TcpStream::connect(served.address).await.unwrap()).await;
    text(guarded(first.send_request(get("/1"))).await.unwrap()).await;
    let mut second = http1_over(TcpStream::connect(served.address).await.unwrap()).await;
    let answer = tokio::spawn(async move { text(second.send_request(get("/2")).await.unwrap()).await });
    text(guarded(first.send_request(get("/1"))).await.unwrap()).await;
    assert_eq!(served.metrics.connections_total.get(), 1);
    assert_eq!(served.hits("connections"), 1);
    drop(first);
    assert_eq!(guarded(answer).await.unwrap(), "HTTP/1.1 /2");
}

/// Seen as 38 KB for each idle stream: a task takes the room of the largest thing that it ever does.
#[tokio::test]
async fn the_task_of_a_connection_is_small() {
    let drain = Drain::new();
    let service = Service {
        handler: hello,
        protocols: Protocols::new(&http::Config::default(), &drain.watch(), &Metrics::default()),
        config: http::Config::default(),
        drain: drain.watch(),
        metrics: Metrics::default(),
        bounds: permit::Metrics::default(),
    };
    let permit = Permits::default().connection().await.unwrap();
    let held = (permit, service.metrics.opened());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let task = super::serve(Arc::new(service), stream, held);
    // 10,000 of them are 25 MB.
    assert!(size_of_val(&task) <= 2500, "{} bytes", size_of_val(&task));
}

#[test]
fn accepting_backs_off_up_to_a_second() {
    let waits: Vec<_> = [0, 1, 4, 5, 1000].into_iter().map(|n| backoff(n).as_millis()).collect();
    assert_eq!(waits, [50, 100, 800, 1000, 1000]);
    assert!(belongs_to_client(&io::ErrorKind::ConnectionAborted.into()));
    assert!(!belongs_to_client(&io::Error::from_raw_os_error(24)), "EMFILE is ours");
}
