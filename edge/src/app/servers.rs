//! The upstream half of the gateway: a pool for each configured server, and the router in front of them. A reload adds,
//! replaces and removes servers.

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

/// The router and the pools. Cheap to clone.
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
    running: Mutex<Vec<Running>>,
    /// All callers are one principal, so that clients without sessions share processes.
    one_principal: AtomicBool,
}

/// A configured server with its pool.
#[derive(Clone)]
struct Running {
    server: config::Server,
    /// The environment variables that its local processes do not inherit.
    withheld: Vec<String>,
    pool: Arc<Pool>,
    /// Cancelled when it leaves the configuration.
    gone: CancellationToken,
}

/// The slugs of the servers that a new configuration changed.
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
            running: Mutex::default(),
            one_principal: AtomicBool::new(is_one_principal(config)),
        });
        let running: Vec<_> = config.servers.iter().map(|server| shared.start_pool(server, config)).collect();
        let entries = running.iter().map(Running::entry).collect();
        *shared.running.lock() = running;
        let router = Router::new(config.router.clone(), entries, router_metrics, drain.clone());
        Self { router, shared }
    }

    /// Starts to list every server. Logs their states once names are given out.
    pub(super) fn start(&self) {
        refresh::settle(&self.router);
        for Running { pool, gone, .. } in self.shared.running.lock().iter() {
            refresh::follow(&self.router, pool.clone(), gone.clone());
        }
        let (servers, watch) = (self.clone(), self.shared.drain.clone());
        let mut settled = servers.router.settled();
        self.shared.drain.spawn(async move {
            tokio::select! {
                // The router lives as long as `servers`.
                _ = settled.wait_for(|settled| *settled) => {
                    status::log_servers(&servers);
                    status::log_odd_globs(&servers);
                }
                () = watch.leaving() => {}
            }
        });
    }

    /// Applies the servers and the policy of `config`. Servers whose settings are the same are undisturbed. Servers that were
    /// removed or replaced finish the calls they have.
    pub(super) fn reconfigure(&self, config: &Config) -> Changed {
        let mut changed = Changed::default();
        let mut running = self.shared.running.lock();
        let mut before = std::mem::take(&mut *running);
        let mut new = Vec::new();
        for server in &config.servers {
            let name = &server.upstream.name;
            let known = before.iter().position(|known| known.is(server, config));
            let place = match known {
                Some(known) => Running { server: server.clone(), ..before.swap_remove(known) },
                None => {
                    let is_known = before.iter().any(|known| known.server.upstream.name == *name);
                    let list = if is_known { &mut changed.replaced } else { &mut changed.added };
                    list.push(name.to_string());
                    let place = self.shared.start_pool(server, config);
                    new.push(place.clone());
                    place
                }
            };
            running.push(place);
        }
        let policy = config.router.policy.as_deref();
        self.router.reconfigure(running.iter().map(Running::entry).collect(), policy);
        for Running { pool, gone, .. } in new {
            refresh::follow(&self.router, pool, gone);
        }
        for Running { pool, gone, .. } in before {
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

    /// The pools in the configured order.
    pub(super) fn pools(&self) -> Vec<Arc<Pool>> {
        self.shared.running.lock().iter().map(|running| running.pool.clone()).collect()
    }

    pub(super) fn is_one_principal(&self) -> bool {
        self.shared.one_principal.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn start_pool(&self, server: &config::Server, config: &Config) -> Running {
        // Which variables hold secrets may change with the tokens. All other settings are those of the start.
        let settings =
            upstream::Config { withheld: config.upstream.withheld.clone(), ..self.upstream.clone() };
        let environment = Environment {
            permits: self.permits.clone(),
            drain: self.drain.clone(),
            sealer: self.sealer.clone(),
        };
        let pool = Pool::new(server.upstream.clone(), settings, &self.metrics, environment);
        let withheld = config.upstream.withheld.clone();
        Running { server: server.clone(), withheld, pool, gone: CancellationToken::new() }
    }

    /// Lets a pool finish its calls, for as long as a call may take, and stops it.
    async fn retire(self: Arc<Self>, pool: Arc<Pool>) {
        let finished = async {
            // A call that was routed a moment ago may not have reached the pool yet.
            sleep(IDLE_CHECK).await;
            while !pool.is_idle() {
                sleep(IDLE_CHECK).await;
            }
        };
        tokio::select! {
            _ = timeout(self.upstream.call_timeout_max, finished) => {}
            () = self.drain.cut() => {}
        }
        pool.stop();
        let name = pool.name();
        if !self.running.lock().iter().any(|running| running.pool.name() == name) {
            self.metrics.forget(name);
        }
    }
}

impl Running {
    /// Whether `server` has the same settings, and its local processes must not see the same variables.
    fn is(&self, server: &config::Server, config: &Config) -> bool {
        let is_local = matches!(server.upstream.source, Source::Command { .. });
        self.server.upstream == server.upstream && (!is_local || self.withheld == config.upstream.withheld)
    }

    fn entry(&self) -> Entry {
        let server = self.pool.clone() as Arc<dyn Server>;
        Entry { name: self.pool.name().clone(), prefix: self.server.prefix, server }
    }
}

/// Whether all HTTP clients are one principal. On standard input there is one client, which shares with nobody.
fn is_one_principal(config: &Config) -> bool {
    config.transport == Transport::Http && config.auth.tokens.len() <= 1 && config.auth.oauth.is_none()
}

/// How often a removed server is checked for calls. 500 ms: nobody waits for its end.
const IDLE_CHECK: Duration = Duration::from_millis(500);
