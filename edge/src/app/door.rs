//! How clients come in: over the network, with an admin listener beside it, or on the streams of the process.

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

/// See the module; nothing is served yet.
pub(super) enum Door {
    Http(Box<Network>),
    Stdio,
}

/// Both listeners, bound.
pub(super) struct Network {
    listener: Listener,
    /// For other replicas, and how many of their connections may be open.
    peers: Option<(Listener, Permits)>,
    admin: Admin,
    pages: Pages,
}

/// What is open; dropping it closes what has not been closed by the drain.
pub(super) enum Open {
    /// The admin listener stays until the very end: probes and scrapers want to see the drain.
    Http { _admin: AbortOnDropHandle<()> },
    /// Cancelled when the client has left.
    Stdio(CancellationToken),
}

impl Door {
    /// Binds what there is to bind.
    pub(super) async fn open(
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
                // They add a header of their own to their clients'.
                let http =
                    listen::http::Config { header_bytes: header_bytes + PROOF_BYTES, ..Default::default() };
                let own = listen::Config { address, tls: None, http };
                let listener = Listener::bind(own, metrics).await.map_err(StartError::Peers)?;
                // Of their own: replicas that have no room for clients still finish what they hold for each other.
                Some((listener, Permits::new(config.permits.clone(), bounds)))
            }
            None => None,
        };
        let admin = Admin::bind(config.admin).await.map_err(StartError::Admin)?;
        tracing::info!(addresses = ?listener.addresses(), admin = ?admin.addresses(), "listening");
        let pages = Pages { registry, ready: Box::new(ready) };
        Ok(Self::Http(Box::new(Network { listener, peers, admin, pages })))
    }

    /// Lets clients in until the process stops.
    pub(super) fn serve(self, front: Arc<Front>, permits: Permits, drain: &DrainWatch) -> Open {
        match self {
            Self::Http(network) => {
                let Network { listener, peers, admin, pages } = *network;
                let admin = admin.serve(pages);
                if let Some((listener, permits)) = peers {
                    let front = front.clone();
                    let handler = move |request: Request<Incoming>| front.clone().handle_passed(request);
                    drain.spawn(listener.serve(handler, permits, drain.clone()));
                }
                let handler = move |request: Request<Incoming>| front.clone().handle(request);
                drain.spawn(listener.serve(handler, permits, drain.clone()));
                Open::Http { _admin: admin }
            }
            Self::Stdio => {
                tracing::info!("serving standard input");
                let (streams, left) = ((tokio::io::stdin(), tokio::io::stdout()), CancellationToken::new());
                drain.spawn(stdio::serve(front, streams, left.clone()));
                Open::Stdio(left)
            }
        }
    }
}

impl Open {
    /// Resolves when the only client there can be has left.
    pub(super) async fn deserted(&self) {
        match self {
            Self::Http { .. } => pending().await,
            Self::Stdio(left) => left.cancelled().await,
        }
    }
}

/// The most that replicas add to the head of a client's request: who it is.
const PROOF_BYTES: usize = 8 << 10;
