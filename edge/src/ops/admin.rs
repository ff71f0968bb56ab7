//! The admin listener: `/metrics`, `/health` and `/ready` for probes and scrapers inside the cluster.
//!
//! Plain HTTP without authentication, so nothing secret may be served here. It has bounds of its own, so that it answers when
//! the public listener is full, and it outlives that listener, so that a draining process still reports its state.
//! Connections without a request never block others: an orchestrator that gets no answer kills the process.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::bind::{Address, BindError};
use super::metrics;

/// Where and how the admin listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[::]:9090` by default: the port that scrapers expect; a NetworkPolicy should keep it inside the cluster.
    pub address: Address,
    /// Connections at a time; over it the oldest one without a request is closed. 32: a scraper, the kubelet's probes, and a
    /// person with curl.
    pub connections: usize,
    /// From the opening of a connection to the end of its request's head. 2 s: clients are nearby and send at once, and a
    /// probe waits 1 s by default.
    pub head_timeout: Duration,
    /// The longest life of a connection, which serves one request. 10 s: Prometheus' default timeout.
    pub timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            address: Address::new("", 9090),
            connections: 32,
            head_timeout: Duration::from_secs(2),
            timeout: Duration::from_secs(10),
        }
    }
}

/// The sources of the pages.
pub struct Pages {
    /// `/metrics`.
    pub registry: Registry,
    /// `/ready`; called for each request.
    pub ready: Box<dyn Fn() -> Readiness + Send + Sync>,
}

/// Whether this process accepts traffic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// 200 or 503.
    pub is_ready: bool,
    /// The state of each server: a JSON object.
    pub json: String,
}

/// A bound listener that does not serve yet.
pub struct Admin {
    sockets: Vec<TcpListener>,
    config: Config,
}

impl Admin {
    /// Binds the address.
    ///
    /// # Errors
    /// The address, and the system's error.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        Ok(Self { sockets: config.address.bind().await?, config })
    }

    /// The addresses in use.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Serves until the handle is dropped. It is not a task of the drain, because the drain would wait for it.
    pub fn serve(self, mut pages: Pages) -> AbortOnDropHandle<()> {
        let silent = Counter::default();
        pages.registry.register(
            "admin_silent_connections_closed",
            "Connections to this port that asked nothing in time, or while others waited; many look like an attack",
            silent.clone(),
        );
        let (pages, config) = (Arc::new(pages), Arc::new(self.config));
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut listeners = JoinSet::new();
            let places = Arc::new(Places::new(config.connections, silent));
            for socket in self.sockets {
                listeners.spawn(accept(socket, pages.clone(), places.clone(), config.clone()));
            }
            listeners.join_all().await;
        }))
    }
}

impl fmt::Debug for Admin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Admin({:?})", self.addresses())
    }
}

async fn accept(socket: TcpListener, pages: Arc<Pages>, places: Arc<Places>, config: Arc<Config>) {
    let mut connections = JoinSet::new();
    loop {
        match socket.accept().await {
            Ok((stream, _)) => {
                // Waits at most as long as a connection lives. The semaphore is never closed.
                let Some(place) = places.take().await else { return };
                let (pages, config) = (pages.clone(), config.clone());
                connections.spawn(async move {
                    let cut = place.cut.clone();
                    tokio::select! {
                        () = cut.cancelled() => (),
                        // A scraper that went away or is too slow retries by itself.
                        _ = timeout(config.timeout, serve(stream, pages, place, config.head_timeout)) => (),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "admin listener cannot accept");
                sleep(ACCEPT_AGAIN).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn serve(stream: TcpStream, pages: Arc<Pages>, place: Place, head_timeout: Duration) {
    let silent = place.places.silent_closed.clone();
    let answer = service_fn(move |request: Request<Incoming>| {
        place.asked();
        let answer = page(&request, &pages);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        if error.is_timeout() {
            silent.inc();
        }
        tracing::debug!(%error, "admin connection ended");
    }
}

/// The places for connections.
struct Places {
    free: Arc<Semaphore>,
    /// Connections without a request yet, by number, so that the oldest is first.
    silent: Mutex<BTreeMap<u64, CancellationToken>>,
    next: AtomicU64,
    silent_closed: Counter,
}

/// The place of one connection, until it is dropped.
struct Place {
    places: Arc<Places>,
    number: u64,
    /// Notified when another connection needs the place.
    cut: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

impl Places {
    fn new(connections: usize, silent_closed: Counter) -> Self {
        let free = Arc::new(Semaphore::new(connections));
        Self { free, silent: Mutex::default(), next: AtomicU64::new(0), silent_closed }
    }

    /// Returns a place; if there is none, that of the oldest connection without a request.
    async fn take(self: &Arc<Self>) -> Option<Place> {
        let permit = match self.free.clone().try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                if let Some((_, oldest)) = self.silent.lock().pop_first() {
                    oldest.cancel();
                    self.silent_closed.inc();
                }
                self.free.clone().acquire_owned().await.ok()?
            }
        };
        let (number, cut) = (self.next.fetch_add(1, Ordering::Relaxed), CancellationToken::new());
        self.silent.lock().insert(number, cut.clone());
        Some(Place { places: self.clone(), number, cut, _permit: permit })
    }
}

impl Place {
    /// Keeps the place until the connection's request is answered.
    fn asked(&self) {
        self.places.silent.lock().remove(&self.number);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.asked();
    }
}

fn page<B>(request: &Request<B>, pages: &Pages) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "use GET\n");
        refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refused;
    }
    match request.uri().path() {
        "/metrics" => text(StatusCode::OK, metrics::CONTENT_TYPE, metrics::encode(&pages.registry)),
        "/health" => text(StatusCode::OK, PLAIN, "ok\n"),
        "/ready" => {
            let Readiness { is_ready, json } = (pages.ready)();
            let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            text(status, "application/json", json)
        }
        _ => text(StatusCode::NOT_FOUND, PLAIN, "this port serves /metrics, /health and /ready\n"),
    }
}

fn text(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

const PLAIN: &str = "text/plain; charset=utf-8";
/// hyper's smallest buffer; more than a probe or a scraper sends.
const HEAD_BYTES: usize = 8 << 10;
/// The pause without file descriptors: short enough for a probe, long enough not to spin.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const GUARD: Duration = Duration::from_secs(30);

    async fn admin(config: Config) -> (SocketAddr, Arc<AtomicBool>, AbortOnDropHandle<()>) {
        let config = Config { address: Address::new("127.0.0.1", 0), ..config };
        let admin = Admin::bind(config).await.unwrap();
        let (address, ready) = (admin.addresses()[0], Arc::new(AtomicBool::new(false)));
        let state = ready.clone();
        let state = move || Readiness {
            is_ready: state.load(Ordering::Relaxed),
            json: r#"{"servers":{"time":"up"}}"#.into(),
        };
        let pages = Pages { registry: metrics::registry(), ready: Box::new(state) };
        (address, ready, admin.serve(pages))
    }

    async fn ask(address: SocketAddr, request_line: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(format!("{request_line} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        timeout(GUARD, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        answer
    }

    #[tokio::test]
    async fn pages_are_served_by_path() {
        let (address, ready, _task) = admin(Config::default()).await;
        assert!(ask(address, "GET /health").await.starts_with("HTTP/1.1 200 "));
        let answer = ask(address, "GET /ready").await;
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.ends_with(r#"{"servers":{"time":"up"}}"#));
        ready.store(true, Ordering::Relaxed);
        assert!(ask(address, "GET /ready").await.starts_with("HTTP/1.1 200 "));
        let answer = ask(address, "GET /metrics").await;
        assert!(answer.contains(metrics::CONTENT_TYPE) && answer.ends_with("# EOF\n"), "{answer}");
        assert!(ask(address, "GET /mcp").await.starts_with("HTTP/1.1 404 "));
        assert!(ask(address, "POST /ready").await.starts_with("HTTP/1.1 405 "));
    }

    async fn closed(stream: &mut TcpStream) {
        let mut rest = Vec::new();
        // A reset ends the connection as a FIN does.
        let _ = timeout(GUARD, stream.read_to_end(&mut rest)).await.expect("it is closed");
    }

    /// Seen: a probe got no answer for ten seconds while 32 connections sent nothing.
    #[tokio::test]
    async fn connections_without_a_request_do_not_block_probes() {
        let config =
            Config { connections: 2, head_timeout: GUARD * 2, timeout: GUARD * 2, ..Config::default() };
        let (address, _, _task) = admin(config).await;
        let mut silent = Vec::new();
        for said in ["", "GET /health HTTP/1.1\r\n", "", ""] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(said.as_bytes()).await.unwrap();
            silent.push(stream);
        }
        assert!(ask(address, "GET /health").await.starts_with("HTTP/1.1 200 "));
        for oldest in &mut silent[..3] {
            closed(oldest).await;
        }
        silent[3].write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 12];
        timeout(GUARD, silent[3].read_exact(&mut answer)).await.unwrap().unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200");
        let metrics = ask(address, "GET /metrics").await;
        assert!(metrics.contains("admin_silent_connections_closed_total 3\n"), "{metrics}");
    }

    #[tokio::test]
    async fn connection_without_a_request_is_closed_at_the_head_timeout() {
        let config =
            Config { head_timeout: Duration::from_millis(50), timeout: GUARD * 2, ..Config::default() };
        let (address, _, _task) = admin(config).await;
        closed(&mut TcpStream::connect(address).await.unwrap()).await;
        let metrics = ask(address, "GET /metrics").await;
        assert!(metrics.contains("admin_silent_connections_closed_total 1\n"), "{metrics}");
    }

    #[tokio::test]
    async fn a_dropped_handle_closes_the_port() {
        let (address, _, task) = admin(Config::default()).await;
        drop(task);
        let refused = async {
            while TcpStream::connect(address).await.is_ok() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(GUARD, refused).await.unwrap();
    }
}
