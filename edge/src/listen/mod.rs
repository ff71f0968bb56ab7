//! The public listener: accepts connections within bounds, and serves each in a task of its own.
//!
//! A [`ConnPermit`] is taken before a connection is accepted, so that over the bound the kernel's backlog feels
//! the pressure and not this process. Closes when the process stops; connections then finish by themselves
//! ([`http`]). Must not know what requests mean: it is generic over their [`Handler`].

mod activity;
mod again;
pub mod http;
mod pace;
#[cfg(test)]
mod tests;
pub mod tls;
mod watched;

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

use self::activity::Phase;
use self::http::{Handler, Opened, Protocols, Service};
use self::tls::{Reloader, Tls, TlsError};
use crate::ops::bind::{Address, BindError};
use crate::ops::drain::DrainWatch;
use crate::ops::metrics::words;
use crate::permit::{ConnPermit, Permits};

/// Where and how to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `[::]:8811`: the port the Go gateway's manifests use.
    pub address: Address,
    /// Plain HTTP without it.
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
    /// Takes the address and reads the certificate.
    ///
    /// # Errors
    /// The address or the file that does not work.
    pub async fn bind(config: Config, metrics: Metrics) -> Result<Self, ListenError> {
        let sockets = config.address.bind().await.map_err(ListenError::Bind)?;
        for socket in &sockets {
            // Accepted sockets have it from this one. A system without it only tells later that something was taken.
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

    /// Accepts until the process stops. Run as a task of `drain`, so that the end of the process waits for it.
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
        // Answers are written whole; waiting for more to send would only delay them.
        if let Err(error) = stream.set_nodelay(true) {
            return tracing::debug!(%error, "connection lost before its first byte");
        }
        let held = (permit, open);
        // A task of its own after the handshake, as for a connection without one: a task takes the room of the
        // largest thing it ever does, for as long as it lives.
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
    S: Opened + AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    service.serve(stream).await;
}

/// The next connection of any socket.
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

/// Errors of the connection that was to be accepted (accept(2)): the next one may be fine.
fn belongs_to_client(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}

/// Out of file descriptors or memory: the connection stays in the backlog, so trying again at once would spin.
/// 50 ms is short for a client; 1 s is enough for a process to shed load.
fn backoff(failures: u32) -> Duration {
    Duration::from_millis(50 << failures.min(5)).min(Duration::from_secs(1))
}

/// What the kernel holds of a connection's answers beside what is under way. 128 KiB: none of the speed of large results is
/// lost. By itself it holds up to 4 MB, and says only after a third of that that something was taken, which a slow reader
/// may not reach within `write_timeout`. Of this it says so after 128 KiB at most, and the window of a receiver opens in
/// steps of about as much: with 8 kB/s both are over in time.
const UNSENT_BYTES: u32 = 128 << 10;

static NEXT_CONNECTION: AtomicU64 = AtomicU64::new(1);

/// What the listener sees.
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
    phase: Phase,
}

impl Metrics {
    /// Each request also counts as one of `arrivals`, which are registered elsewhere.
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

    /// To be counted up with each request.
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
    fn timed_out_times(&self, phase: Phase) -> u64 {
        self.timeouts.get_or_create(&PhaseLabel { phase }).get()
    }

    fn timed_out(&self, phase: Phase) {
        self.timeouts.get_or_create(&PhaseLabel { phase }).inc();
    }
}

/// One open connection in the gauge.
struct Open {
    connections: Gauge,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.connections.dec();
    }
}
