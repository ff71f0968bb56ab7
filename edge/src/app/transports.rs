//! The transports that clients use: HTTP, with listeners for replicas and the admin port, or standard input and output.

use std::future::pending;
use std::sync::Arc;

use hyper::Request;
use hyper::body::Incoming;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::StartError;
use crate::config::{Config, Transport};
use crate::front::{Front, stdio};
use crate::listen::{self, Listener};
use crate::ops::admin::{Admin, Pages, Readiness};
use crate::ops::drain::DrainWatch;
use crate::permit::{self, Permits};

/// The transport of the configuration, ready to serve.
pub(super) enum Transports {
    Http(Box<Network>),
    Stdio,
}

/// The listeners, bound.
pub(super) struct Network {
    listener: Listener,
    /// The listener for other replicas, with permits of its own.
    peers: Option<(Listener, Permits)>,
    admin: Admin,
    pages: Pages,
}

/// A transport that serves. Dropping it closes what the drain has not closed.
pub(super) enum Serving {
    /// The admin listener stays until the end, so that probes and scrapers see the drain.
    Http { _admin: AbortOnDropHandle<()> },
    /// Cancelled when the client closes its stream.
    Stdio(CancellationToken),
}

impl Transports {
    /// Binds the listeners, if the transport has any.
    pub(super) async fn bind(
        config: Config,
        (mut registry, arrivals): (Registry, Counter),
        bounds: permit::Metrics,
        ready: impl Fn() -> Readiness + Send + Sync + 'static,
    ) -> Result<Self, StartError> {
        if config.transport == Transport::Stdio {
            return Ok(Self::Stdio);
        }
        let metrics = listen::Metrics::new(arrivals.clone());
        metrics.register(&mut registry);
        let header_bytes = config.listen.http.header_bytes;
        let listener = Listener::bind(config.listen, metrics).await.map_err(StartError::Listen)?;
        let peers = match config.peers.listen {
            Some(address) => {
                let metrics = listen::Metrics::new(arrivals);
                metrics.register(registry.sub_registry_with_prefix("peer"));
                // Replicas add a header to those of their clients.
                let http =
                    listen::http::Config { header_bytes: header_bytes + PROOF_BYTES, ..Default::default() };
                let own = listen::Config { address, tls: None, http };
                let listener = Listener::bind(own, metrics).await.map_err(StartError::Peers)?;
                // Separate permits: replicas without room for clients still finish what they hold for each other.
                Some((listener, Permits::new(config.permits.clone(), bounds)))
            }
            None => None,
        };
        let admin = Admin::bind(config.admin).await.map_err(StartError::Admin)?;
        tracing::info!(addresses = ?listener.addresses(), admin = ?admin.addresses(), "listening");
        let pages = Pages { registry, ready: Box::new(ready) };
        Ok(Self::Http(Box::new(Network { listener, peers, admin, pages })))
    }

    /// Serves clients until the process stops.
    pub(super) fn serve(self, front: Arc<Front>, permits: Permits, drain: &DrainWatch) -> Serving {
        match self {
            Self::Http(network) => {
                let Network { listener, peers, admin, pages } = *network;
                let admin = admin.serve(pages);
                if let Some((listener, permits)) = peers {
                    let front = front.clone();
                    let handler = move |request: Request<Incoming>| front.clone().handle_forwarded(request);
                    drain.spawn(listener.serve(handler, permits, drain.clone()));
                }
                let handler = move |request: Request<Incoming>| front.clone().handle(request);
                drain.spawn(listener.serve(handler, permits, drain.clone()));
                Serving::Http { _admin: admin }
            }
            Self::Stdio => {
                tracing::info!("serving standard input");
                let (streams, left) = ((tokio::io::stdin(), tokio::io::stdout()), CancellationToken::new());
                drain.spawn(stdio::serve(front, streams, left.clone()));
                Serving::Stdio(left)
            }
        }
    }
}

impl Serving {
    /// Resolves when the only client has left; never over HTTP.
    pub(super) async fn client_left(&self) {
        match self {
            Self::Http { .. } => pending().await,
            Self::Stdio(left) => left.cancelled().await,
        }
    }
}

/// Bytes that replicas add to the head of a client's request: the proof of who the client is. 8 KiB: it is far smaller.
const PROOF_BYTES: usize = 8 << 10;
