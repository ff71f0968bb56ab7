//! The public listener: accepts connections within bounds, and serves each in a task of its own.
//!
//! A [`ConnPermit`] is taken before a connection is accepted, so that over the bound connections wait in the kernel's
//! backlog and not in this process. The listener closes when the process stops; open connections then finish by themselves
//! ([`http`]). Must not know what requests mean: it is generic over their [`Handler`].

mod activity;
pub mod http;
mod repoll;
#[cfg(test)]
mod tests;
pub mod tls;
mod tracked_stream;
mod write_deadline;

use std::fmt;
use std::future::{pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::Poll;
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;
use tracing::Instrument;

use self::activity::TimeoutPhase;
use self::http::{ClientStream, Handler, Protocols, Service};
use self::tls::{Reloader, Tls, TlsError};
use crate::ops::bind::{Address, BindError};
use crate::ops::drain::DrainWatch;
use crate::ops::metrics::words;
use crate::permit::{ConnPermit, Permits};

/// Where and how to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[::]:8811` by default: the port of the Go gateway's manifests.
    pub address: Address,
    /// The certificate; plain HTTP without it.
    pub tls: Option<tls::Config>,
    /// Bounds of each connection.
    pub http: http::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self { address: Address::new("", 8811), tls: None, http: http::Config::default() }
    }
}

/// Bound sockets and a loaded certificate; nothing is accepted yet.
pub struct Listener {
    sockets: Vec<TcpListener>,
    tls: Option<(Tls, Reloader)>,
    http: http::Config,
    metrics: Metrics,
}

impl Listener {
    /// Binds the address and reads the certificate.
    ///
    /// # Errors
    /// The address that cannot be bound, or the file that cannot be used.
    pub async fn bind(config: Config, metrics: Metrics) -> Result<Self, ListenError> {
        let sockets = config.address.bind().await.map_err(ListenError::Bind)?;
        for socket in &sockets {
            // Accepted sockets inherit it. Without it the system only reports later that the client has taken something.
            if let Err(error) = SockRef::from(socket).set_tcp_notsent_lowat(UNSENT_BYTES) {
                tracing::debug!(%error, "the system decides by itself how much of an answer it holds");
            }
        }
        let load = |config| Tls::load(config, metrics.clone());
        let tls = config.tls.map(load).transpose().map_err(ListenError::Tls)?;
        Ok(Self { sockets, tls, http: config.http, metrics })
    }

    /// The addresses in use.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Accepts until the process stops. Must run as a task of `drain`, which the end of the process waits for.
    pub async fn serve<H: Handler>(self, handler: H, permits: Permits, drain: DrainWatch) {
        let (tls, reloader) = self.tls.unzip();
        let acceptor = Acceptor {
            tls,
            service: Arc::new(Service {
                handler,
                protocols: Protocols::new(&self.http, &drain, &self.metrics),
                config: self.http,
                drain: drain.clone(),
                metrics: self.metrics.clone(),
                bounds: permits.metrics().clone(),
            }),
            drain: drain.clone(),
            metrics: self.metrics,
        };
        let reload = async {
            match reloader {
                Some(reloader) => reloader.run().await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = drain.stopping() => (),
            () = acceptor.run(&self.sockets, &permits) => (),
            () = reload => (),
        }
    }
}

/// Why there is no listener.
#[derive(Debug)]
pub enum ListenError {
    /// The address.
    Bind(BindError),
    /// The certificate.
    Tls(TlsError),
}

impl fmt::Display for ListenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bind(error) => error.fmt(f),
            Self::Tls(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ListenError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Bind(error) => error.source(),
            Self::Tls(error) => error.source(),
        }
    }
}

struct Acceptor<H> {
    tls: Option<Tls>,
    service: Arc<Service<H>>,
    drain: DrainWatch,
    metrics: Metrics,
}

impl<H: Handler> Acceptor<H> {
    async fn run(&self, sockets: &[TcpListener], permits: &Permits) {
        let mut failures = 0;
        loop {
            let Some(permit) = permits.connection().await else { return };
            match accept(sockets).await {
                Ok(stream) => {
                    failures = 0;
                    self.spawn(stream, permit);
                }
                Err(error) if belongs_to_client(&error) => (),
                Err(error) => {
                    self.metrics.accept_errors.inc();
                    if failures == 0 {
                        tracing::warn!(%error, "accepting connections fails, trying again");
                    }
                    sleep(backoff(failures)).await;
                    failures += 1;
                }
            }
        }
    }

    fn spawn(&self, stream: TcpStream, permit: ConnPermit) {
        let number = NEXT_CONNECTION.fetch_add(1, Ordering::Relaxed);
        let span = tracing::info_span!("downstream", conn = number);
        let open = self.metrics.opened();
        let (service, drain) = (self.service.clone(), self.drain.clone());
        // Answers are written whole; Nagle's algorithm would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            return tracing::debug!(%error, "connection lost before its first byte");
        }
        let held = (permit, open);
        // The handshake runs in a task that ends with it: as long as a task lives, it takes the memory of the largest thing
        // it ever does.
        let Some(tls) = self.tls.clone() else {
            self.drain.spawn(serve(service, stream, held).instrument(span));
            return;
        };
        let shake = async move {
            tokio::select! {
                () = drain.cut() => (),
                handshake = tls.accept(stream) => match handshake {
                    Ok(stream) => {
                        drain.spawn(serve(service, stream, held).in_current_span());
                    }
                    Err(error) => {
                        service.metrics.handshake_failed(&error);
                        tracing::debug!(%error, "TLS handshake failed");
                    }
                },
            }
        };
        self.drain.spawn(shake.instrument(span));
    }
}

async fn serve<H: Handler, S>(service: Arc<Service<H>>, stream: S, _held: (ConnPermit, Open))
where
    S: ClientStream + AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    service.serve(stream).await;
}

/// Accepts the next connection on any of the sockets.
async fn accept(sockets: &[TcpListener]) -> io::Result<TcpStream> {
    poll_fn(|context| {
        for socket in sockets {
            if let Poll::Ready(accepted) = socket.poll_accept(context) {
                return Poll::Ready(accepted.map(|(stream, _)| stream));
            }
        }
        Poll::Pending
    })
    .await
}

/// Whether the error concerns only the connection that was to be accepted (accept(2)): the next one may be fine.
fn belongs_to_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// How long to wait after an accept failed. Without file descriptors or memory the connection stays in the backlog, so
/// trying again at once would spin. 50 ms is short for a client; 1 s is enough for a process to shed load.
fn backoff(failures: u32) -> Duration {
    Duration::from_millis(50 << failures.min(5)).min(Duration::from_secs(1))
}

/// Bytes of a connection's answers that the kernel holds beyond what is in flight. 128 KiB costs large results no speed. By
/// default the kernel holds up to 4 MB and reports progress only after a third of that, which a slow reader may not reach
/// within `write_timeout`. With this it reports progress after 128 KiB at most, and a receiver's window opens in steps of
/// about the same size: a client that reads 8 kB/s makes both in time.
const UNSENT_BYTES: u32 = 128 << 10;

static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

/// The listener's metrics.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    connections: Gauge,
    connections_total: Counter,
    accept_errors: Counter,
    handshakes: Family<HandshakeLabel, Counter>,
    timeouts: Family<PhaseLabel, Counter>,
    tls_reload_failed: Gauge,
    arrivals: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabel {
    reason: HandshakeFailure,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum HandshakeFailure {
    Timeout,
    Refused,
}

words!(HandshakeFailure { Timeout => "timeout", Refused => "refused" });

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PhaseLabel {
    phase: TimeoutPhase,
}

impl Metrics {
    /// Metrics that also count each request in `arrivals`, which is registered elsewhere.
    pub fn new(arrivals: Counter) -> Self {
        Self { arrivals, ..Self::default() }
    }

    /// Registers under the process's prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "downstream_connections",
            "Open connections of clients; near `limits.connections`, add replicas or raise it",
            self.connections.clone(),
        );
        registry.register(
            "downstream_connections_opened",
            "Connections accepted; far above the rate of calls, a client does not keep them alive",
            self.connections_total.clone(),
        );
        registry.register(
            "accept_errors",
            "Failures to accept; usually the limit of open files: raise it",
            self.accept_errors.clone(),
        );
        registry.register(
            "tls_handshake_failures",
            "Handshakes that failed; a rise after a renewal means a certificate that clients do not trust",
            self.handshakes.clone(),
        );
        registry.register(
            "connection_timeouts",
            "Connections closed, and answers over HTTP/2 reset, because nothing came or was taken; many of the phase opening or head look like an attack",
            self.timeouts.clone(),
        );
        registry.register(
            "tls_reload_failed",
            "1 while the certificate files are not usable and the old one is served: mend the files",
            self.tls_reload_failed.clone(),
        );
    }

    /// The counter of requests.
    fn arrivals(&self) -> Counter {
        self.arrivals.clone()
    }

    fn opened(&self) -> Open {
        self.connections.inc();
        self.connections_total.inc();
        Open { connections: self.connections.clone() }
    }

    fn handshake_failed(&self, error: &io::Error) {
        let timed_out = error.kind() == io::ErrorKind::TimedOut;
        let reason = if timed_out { HandshakeFailure::Timeout } else { HandshakeFailure::Refused };
        self.handshakes.get_or_create(&HandshakeLabel { reason }).inc();
    }

    #[cfg(test)]
    fn timed_out_times(&self, phase: TimeoutPhase) -> u64 {
        self.timeouts.get_or_create(&PhaseLabel { phase }).get()
    }

    fn timed_out(&self, phase: TimeoutPhase) {
        self.timeouts.get_or_create(&PhaseLabel { phase }).inc();
    }
}

/// Counts one open connection in the gauge.
struct Open {
    connections: Gauge,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connections.dec();
    }
}
