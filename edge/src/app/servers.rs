//! The upstream half: a pool for each configured server, and the router before them. Servers may come, go and change.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::status;
use crate::call::Server;
use crate::config::{self, Config, Transport};
use crate::ops::drain::DrainWatch;
use crate::permit::Permits;
use crate::router::{self, Entry, Gateway, Router, refresh};
use crate::seal::Sealer;
use crate::upstream::{self, Environment, Pool, Source};

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(super) struct Servers {
    pub(super) router: Router,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: upstream::Config,
    metrics: upstream::Metrics,
    permits: Permits,
    drain: DrainWatch,
    sealer: Sealer,
    placed: Mutex<Vec<Placed>>,
    /// All callers are one principal, where each session of some servers should have a process of its own.
    one_principal: AtomicBool,
}

/// A server in its place.
#[derive(Clone)]
struct Placed {
    server: config::Server,
    /// What a local process of it does not inherit.
    withheld: Vec<String>,
    pool: Arc<Pool>,
    /// Cancelled when it is configured no longer.
    gone: CancellationToken,
}

/// The slugs of what a new configuration changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) added: Vec<String>,
    pub(super) replaced: Vec<String>,
    pub(super) removed: Vec<String>,
}

impl Servers {
    pub(super) fn build(
        config: &Config,
        permits: &Permits,
        drain: &DrainWatch,
        sealer: &Sealer,
        (registry, arrivals): (&mut Registry, Counter),
    ) -> Self {
        let metrics = upstream::Metrics::new(arrivals);
        metrics.register(registry);
        let router_metrics = router::Metrics::default();
        router_metrics.register(registry);
        let shared = Arc::new(Shared {
            upstream: config.upstream.clone(),
            metrics,
            permits: permits.clone(),
            drain: drain.clone(),
            sealer: sealer.clone(),
            placed: Mutex::default(),
            one_principal: AtomicBool::new(is_one_principal(config)),
        });
        let placed: Vec<_> = config.servers.iter().map(|server| shared.place(server, config)).collect();
        let entries = placed.iter().map(Placed::entry).collect();
        *shared.placed.lock() = placed;
        let router = Router::new(config.router.clone(), entries, router_metrics, drain.clone());
        Self { router, shared }
    }

    /// Starts to list every server, and says once names are given out what an operator should know.
    pub(super) fn start(&self) {
        refresh::settle(&self.router);
        for Placed { pool, gone, .. } in self.shared.placed.lock().iter() {
            refresh::follow(&self.router, pool.clone(), gone.clone());
        }
        let (servers, watch) = (self.clone(), self.shared.drain.clone());
        let mut settled = servers.router.settled();
        self.shared.drain.spawn(async move {
            tokio::select! {
                // The router lives as long as `servers`.
                _ = settled.wait_for(|settled| *settled) => {
                    status::tell(&servers);
                    status::tell_globs(&servers);
                }
                () = watch.leaving() => {}
            }
        });
    }

    /// Serves what this configuration says from now on. A server of which it says the same goes on undisturbed; one that
    /// is there no longer, or is another one, finishes the calls it has.
    pub(super) fn serve(&self, config: &Config) -> Changed {
        let mut changed = Changed::default();
        let mut placed = self.shared.placed.lock();
        let mut before = std::mem::take(&mut *placed);
        let mut new = Vec::new();
        for server in &config.servers {
            let name = &server.upstream.name;
            let known = before.iter().position(|known| known.is(server, config));
            let place = match known {
                Some(known) => Placed { server: server.clone(), ..before.swap_remove(known) },
                None => {
                    let is_known = before.iter().any(|known| known.server.upstream.name == *name);
                    let list = if is_known { &mut changed.replaced } else { &mut changed.added };
                    list.push(name.to_string());
                    let place = self.shared.place(server, config);
                    new.push(place.clone());
                    place
                }
            };
            placed.push(place);
        }
        let policy = config.router.policy.as_deref();
        self.router.reconfigure(placed.iter().map(Placed::entry).collect(), policy);
        for Placed { pool, gone, .. } in new {
            refresh::follow(&self.router, pool, gone);
        }
        for Placed { pool, gone, .. } in before {
            let name = pool.name().to_string();
            if !changed.replaced.contains(&name) {
                changed.removed.push(name);
            }
            gone.cancel();
            self.shared.drain.spawn(self.shared.clone().retire(pool));
        }
        self.shared.one_principal.store(is_one_principal(config), Ordering::Relaxed);
        changed
    }

    /// In the configured order.
    pub(super) fn pools(&self) -> Vec<Arc<Pool>> {
        self.shared.placed.lock().iter().map(|placed| placed.pool.clone()).collect()
    }

    pub(super) fn is_one_principal(&self) -> bool {
        self.shared.one_principal.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn place(&self, server: &config::Server, config: &Config) -> Placed {
        // Which variables are secrets may change with the tokens; everything else is as it was at the start.
        let settings =
            upstream::Config { withheld: config.upstream.withheld.clone(), ..self.upstream.clone() };
        let environment = Environment {
            permits: self.permits.clone(),
            drain: self.drain.clone(),
            sealer: self.sealer.clone(),
        };
        let pool = Pool::new(server.upstream.clone(), settings, &self.metrics, environment);
        let withheld = config.upstream.withheld.clone();
        Placed { server: server.clone(), withheld, pool, gone: CancellationToken::new() }
    }

    /// Lets a pool finish its calls, for as long as a call may take, and ends it.
    async fn retire(self: Arc<Self>, pool: Arc<Pool>) {
        let finished = async {
            // Who looked it up a moment ago may be about to call it.
            sleep(LOOK_AGAIN).await;
            while !pool.is_idle() {
                sleep(LOOK_AGAIN).await;
            }
        };
        tokio::select! {
            _ = timeout(self.upstream.call_timeout_max, finished) => {}
            () = self.drain.cut() => {}
        }
        pool.stop();
        let name = pool.name();
        if !self.placed.lock().iter().any(|placed| placed.pool.name() == name) {
            self.metrics.forget(name);
        }
    }
}

impl Placed {
    /// Whether the configuration says the same of it, and of what its processes must not know.
    fn is(&self, server: &config::Server, config: &Config) -> bool {
        let is_local = matches!(server.upstream.source, Source::Command { .. });
        self.server.upstream == server.upstream && (!is_local || self.withheld == config.upstream.withheld)
    }

    fn entry(&self) -> Entry {
        let server = self.pool.clone() as Arc<dyn Server>;
        Entry { name: self.pool.name().clone(), prefix: self.server.prefix, server }
    }
}

/// On standard input there is one client, and nobody to share with.
fn is_one_principal(config: &Config) -> bool {
    config.transport == Transport::Http && config.auth.tokens.len() <= 1 && config.auth.oauth.is_none()
}

/// How often a server that is on its way out is looked at. 500 ms: nobody waits for its end.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
