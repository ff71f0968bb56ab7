//! The admin listener: `/metrics`, `/health` and `/ready` for probes and scrapers inside the cluster.
//!
//! Plain HTTP without authentication, so nothing secret may be served here. It has bounds of its own, so that
//! it answers when the public listener is full, and it outlives that one: a process that drains still says so.

use std::convert::Infallible;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use prometheus_client::registry::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::bind::{Address, BindError};
use super::metrics;

/// Where and how the admin listener listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[::]:9090`: the port scrapers expect; a NetworkPolicy keeps it inside.
    pub address: Address,
    /// Connections at a time. 32: a scraper, the kubelet's probes, and a person with curl.
    pub connections: usize,
    /// The longest life of a connection, which serves one request. 10 s: Prometheus' own default timeout.
    pub timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { address: Address::new("", 9090), connections: 32, timeout: Duration::from_secs(10) }
    }
}

/// What the pages say.
pub struct Pages {
    /// `/metrics`.
    pub registry: Registry,
    /// `/ready`, asked anew for each request.
    pub ready: Box<dyn Fn() -> Readiness + Send + Sync>,
}

/// Whether this process wants traffic, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// 200 or 503.
    pub is_ready: bool,
    /// The state of each server: a JSON object.
    pub json: String,
}

/// Bound, not yet serving.
pub struct Admin {
    sockets: Vec<TcpListener>,
    config: Config,
}

impl Admin {
    /// Takes the address.
    ///
    /// # Errors
    /// The address, and what the system says about it.
    pub async fn bind(config: Config) -> Result<Self, BindError> {
        Ok(Self { sockets: config.address.bind().await?, config })
    }

    /// The addresses in use.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Serves until the handle is dropped. Not a task of the drain, which would then wait for it.
    pub fn serve(self, pages: Pages) -> AbortOnDropHandle<()> {
        let (pages, config) = (Arc::new(pages), self.config);
        AbortOnDropHandle::new(tokio::spawn(async move {
            let mut listeners = JoinSet::new();
            let room = Arc::new(Semaphore::new(config.connections));
            for socket in self.sockets {
                listeners.spawn(accept(socket, pages.clone(), room.clone(), config.timeout));
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

async fn accept(socket: TcpListener, pages: Arc<Pages>, room: Arc<Semaphore>, longest: Duration) {
    let mut connections = JoinSet::new();
    loop {
        // The semaphore is never closed.
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match socket.accept().await {
            Ok((stream, _)) => {
                let pages = pages.clone();
                connections.spawn(async move {
                    let _held = permit;
                    // A scraper that went away or is too slow asks again by itself.
                    let _ = timeout(longest, serve(stream, pages)).await;
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

async fn serve(stream: TcpStream, pages: Arc<Pages>) {
    let answer = service_fn(move |request: Request<Incoming>| {
        let answer = page(&request, &pages);
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .keep_alive(false)
        .max_buf_size(HEAD_BYTES)
        .header_read_timeout(None) // the whole connection has one
        .serve_connection(TokioIo::new(stream), answer)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection ended");
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
/// hyper's smallest buffer, and more than a probe or a scraper sends.
const HEAD_BYTES: usize = 8 << 10;
/// Out of file descriptors: short enough for a probe, long enough not to spin.
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
    async fn pages_answer_what_they_are_asked() {
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

    #[tokio::test]
    async fn silent_connections_do_not_keep_the_probes_out() {
        let config = Config { connections: 2, timeout: Duration::from_millis(100), ..Config::default() };
        let (address, _, _task) = admin(config).await;
        let mut silent = Vec::new();
        for _ in 0..4 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
        assert!(ask(address, "GET /health").await.starts_with("HTTP/1.1 200 "));
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
