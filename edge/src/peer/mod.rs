//! Forwarding of requests to the replica that holds what they are about.
//!
//! ```text
//! client ──▶ replica A ── the token says: B's ──▶ peer listener of B ──▶ served as if it had come to B
//! ```
//! Sessions, parked calls and tasks live in one process; the sealed tokens that clients carry name it. Guarantees: only a
//! process with the same keys is served, and each proof counts for a minute and for one caller, method, path and address;
//! a request is forwarded only once; a process that is gone is given up within [`Config::connect_timeout`]. It must not
//! know what requests mean.

mod proof;

use std::error::Error as _;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, Scheme};
use http::{Method, Request, Response, Uri};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::call::Caller;
use crate::error::{Blame, Error, Kind};
use crate::ops::bind::Address;
use crate::permit::{self, Bound, RETRY_AFTER};
use crate::seal::{Home, Sealer};

/// How replicas reach each other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Where this replica listens for the others; `None`: there are no others.
    pub listen: Option<Address>,
    /// The longest wait for a connection to another replica. 2 s: pods of one cluster are milliseconds apart, and a client
    /// waits for the answer that its session is gone.
    pub connect_timeout: Duration,
    /// The longest wait for the head of an answer. 61 min: an hour, which is as long as a call may take
    /// (`limits.call_timeout_max`), and a bit.
    pub answer_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: None,
            connect_timeout: Duration::from_secs(2),
            answer_timeout: Duration::from_secs(3660),
        }
    }
}

/// Forwards requests to other replicas, and verifies those of others. Cheap to clone.
#[derive(Clone)]
pub struct Peers {
    client: Client<HttpConnector, Full<Bytes>>,
    answer_timeout: Duration,
    sealer: Sealer,
    metrics: Metrics,
    /// Bounds forwarded requests, each of which has a connection.
    places: Arc<Semaphore>,
    bounds: permit::Metrics,
}

/// The permit of a forwarded request, until its answer has been passed back.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

/// A client's request that another replica must answer.
pub struct ForwardedRequest {
    /// Of the client's request.
    pub method: Method,
    /// The path and query of the client's request.
    pub uri: Uri,
    /// The client's headers.
    pub headers: HeaderMap,
    /// The whole body.
    pub body: Bytes,
    /// The token in the request that the other replica made.
    pub token: String,
}

/// Why another replica did not answer.
#[derive(Debug)]
pub enum Unanswered {
    /// The process is gone, and what it held is lost.
    Gone,
    /// It may have taken the request; then something failed.
    Failed(Error),
}

/// Metrics of forwarded requests.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    forwarded: Counter,
    received: Counter,
    gone: Counter,
    failed: Counter,
}

impl Metrics {
    /// Registers under the process's prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "peer_requests_passed",
            "Requests forwarded to the replica that holds their session, parked call or task",
            self.forwarded.clone(),
        );
        registry.register(
            "peer_requests_taken",
            "Requests that other replicas forwarded to this one",
            self.received.clone(),
        );
        registry.register(
            "peer_gone",
            "Requests whose replica was not there any more: their clients begin anew",
            self.gone.clone(),
        );
        registry.register(
            "peer_failures",
            "Requests that another replica did not answer to the end, or that were forwarded without a proof that holds",
            self.failed.clone(),
        );
    }
}

impl Peers {
    /// A client for other replicas, with the keys that all share and a bound on forwarded requests. Must be called inside a
    /// runtime.
    pub fn new(
        config: &Config,
        sealer: Sealer,
        metrics: Metrics,
        (places, bounds): (usize, permit::Metrics),
    ) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(config.connect_timeout));
        // A replica that vanishes is noticed in the same way as a client that vanishes.
        connector.set_keepalive(Some(SILENCE));
        connector.set_keepalive_interval(Some(SILENCE));
        connector.set_keepalive_retries(Some(1));
        connector.set_tcp_user_timeout(Some(SILENCE));
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(connector);
        let places = Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS)));
        let answer_timeout = config.answer_timeout;
        Self { client, answer_timeout, sealer, metrics, places, bounds }
    }

    /// Forwards a request of `caller` to the replica at `to` and returns its answer. The permit must be held until the
    /// answer has been passed back.
    ///
    /// # Errors
    /// The replica is gone, or did not answer; or too many requests are being forwarded.
    pub async fn forward(
        &self,
        to: SocketAddr,
        forwarded: ForwardedRequest,
        caller: &Caller,
    ) -> Result<(Response<Incoming>, Place), Unanswered> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| {
            self.bounds.hit(Bound::Connections);
            Unanswered::Failed(Bound::Connections.refusal())
        })?;
        self.metrics.forwarded.inc();
        let request = self.request(to, forwarded, caller).map_err(Unanswered::Failed)?;
        let answered = timeout(self.answer_timeout, self.client.request(request)).await;
        let answered = answered.map_err(|_| {
            self.metrics.failed.inc();
            let message = "the replica that holds this took longer than any call may";
            Unanswered::Failed(Error::new(Kind::Timeout, Blame::Edge, message))
        })?;
        match answered {
            Ok(mut response) => {
                HOP_BY_HOP.iter().for_each(|name| drop(response.headers_mut().remove(name)));
                Ok((response, Place { _permit: place }))
            }
            Err(error) if is_gone(&error) => {
                self.metrics.gone.inc();
                tracing::info!(peer = %to, "replica is gone, and what it held with it");
                Err(Unanswered::Gone)
            }
            Err(error) => {
                self.metrics.failed.inc();
                tracing::warn!(peer = %to, %error, "replica did not answer");
                let message = "the replica that holds this did not answer; try again";
                Err(Unanswered::Failed(Error::busy(Blame::Edge, RETRY_AFTER, message)))
            }
        }
    }

    /// The caller of a request that another replica has forwarded; `None` without a valid proof for this request.
    pub fn forwarded_caller(&self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Option<Caller> {
        let caller =
            proof::read(&self.sealer, (method, uri, self.sealer.home()), headers.get(&PROOF)?.to_str().ok()?);
        let counter = if caller.is_some() { &self.metrics.received } else { &self.metrics.failed };
        counter.inc();
        caller
    }

    fn request(
        &self,
        to: SocketAddr,
        forwarded: ForwardedRequest,
        caller: &Caller,
    ) -> Result<Request<Full<Bytes>>, Error> {
        let ForwardedRequest { method, uri, headers, body, token } = forwarded;
        let broken = || Error::new(Kind::Lost, Blame::Edge, "the request cannot be forwarded");
        let proof = proof::write((&self.sealer, &token), (&method, &uri, Home::at(to)), caller)?;
        // Credentials are not forwarded: the proof names the caller.
        let mut forwarded = HeaderMap::new();
        for (name, value) in &headers {
            if name.as_str().starts_with("mcp-") || FORWARDED_HEADERS.contains(name) {
                forwarded.append(name, value.clone());
            }
        }
        forwarded.insert(PROOF.clone(), proof.parse().map_err(|_| broken())?);
        let mut parts = uri.into_parts();
        parts.scheme = Some(Scheme::HTTP);
        parts.authority = Some(Authority::try_from(to.to_string()).map_err(|_| broken())?);
        let uri = Uri::from_parts(parts).map_err(|_| broken())?;
        let mut request =
            Request::builder().method(method).uri(uri).body(Full::new(body)).map_err(|_| broken())?;
        *request.headers_mut() = forwarded;
        Ok(request)
    }
}

/// Whether nobody listens at that address. Other errors, of this machine for example, say nothing about the other one.
fn is_gone(error: &hyper_util::client::legacy::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, HostUnreachable, TimedOut};
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(cause) = cause.downcast_ref::<io::Error>() {
            let is_nobody = matches!(cause.kind(), ConnectionRefused | HostUnreachable | TimedOut);
            return error.is_connect() && is_nobody;
        }
        source = cause.source();
    }
    false
}

/// The headers of a client that are forwarded, besides those that begin with `mcp-`.
static FORWARDED_HEADERS: [HeaderName; 4] =
    [ACCEPT, CONTENT_ENCODING, CONTENT_TYPE, HeaderName::from_static("last-event-id")];
/// The header with the proof.
static PROOF: HeaderName = HeaderName::from_static("mcp-edge-peer");
/// Headers of one connection, which are not forwarded.
// RFC 9110 §7.6.1
static HOP_BY_HOP: [HeaderName; 7] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];
/// How long a connection may be silent before the other end is asked whether it is there. 20 s, as clients are.
const SILENCE: Duration = Duration::from_secs(20);
/// How long a connection waits for the next request. 30 s: far less than the other end keeps it.
const IDLE: Duration = Duration::from_secs(30);
/// Connections that wait so, to one replica. 64: a burst, not a crowd.
const IDLE_CONNECTIONS: usize = 64;

#[cfg(test)]
mod tests;
