//! Leads from public names to the servers that have them: all that the front needs to know of the servers.
//!
//! [`Gateway`] is the interface: the adapters of the front dispatch calls through it and ask it what the servers offer
//! together. [`Router`] implements it: it answers lists from the [`catalog`], which [`refresh`] keeps up to date in the
//! background, and routes everything else by table. It must not know of HTTP or eras, and of sessions no more than the
//! handle that a call brings with it.
//!
//! ```text
//! refresh ── lists of a server ──▶ publish ──▶ Catalog ──▶ limited to a grant ──▶ with a session's lists ──▶ route
//!   part, repair, render            names       view          policy_view           session_overlay
//! ```

mod canonical_uri;
pub mod catalog;
pub mod glob;
mod list_age;
mod listed_uris;
pub mod names;
pub mod part;
pub mod policy;
mod policy_view;
mod publish;
pub mod refresh;
pub mod render;
mod repair;
mod route;
mod server_set;
mod session;
mod session_overlay;
mod session_relist;
mod shown_uris;
mod subscribe;
mod template;
mod uri_syntax;
pub mod view;

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use wire::limits::Limits;
use wire::mcp::mirror::Mirrored;

use crate::call::{
    Call, Caller, Dispatch, Next, Reply, Responder, ServerName, SessionHandle, Subscriber, reply,
};
use crate::error::{Blame, Error, Kind};
use crate::ops::drain::DrainWatch;
use crate::permit::RETRY_AFTER;
use catalog::{Catalog, CatalogOptions};
use list_age::ListAges;
use policy::Rule;
use publish::State;
use server_set::ServerSet;
use session_overlay::SessionOverlays;
use shown_uris::{SEEN_URIS, ShownUris};
use subscribe::{ListWatchers, ResourceListeners};

pub use server_set::{Entry, ServerIndex};
pub use subscribe::Accepted;

/// All configured servers as one. Answers the four list methods itself and routes tools, prompts, resources, completions,
/// log levels and tasks; it refuses every other method. To a caller, what the policy denies them does not exist.
pub trait Gateway: Dispatch {
    /// The server with this slug, if `caller` may use it, for `/servers/{slug}/…`.
    fn server(&self, caller: &Caller, slug: &str) -> Option<ServerName>;

    /// Whether public names have been given out. Before that, lists are incomplete.
    fn settled(&self) -> watch::Receiver<bool>;

    /// Waits until public names are given out, at most `names_settle`. Fails at once in a process that stops.
    fn settling(&self) -> Settling;

    /// The instructions to models of all servers, or of the one in scope.
    fn instructions(&self, caller: &Caller, scope: Option<&ServerName>) -> Option<String>;

    /// The parameters of this public tool that a modern client repeats in `Mcp-Param-*` headers. `None` when
    /// the tool is unknown.
    fn mirrored(&self, caller: &Caller, scope: Option<&ServerName>, tool: &str) -> Option<Arc<[Mirrored]>>;

    /// Notifies the servers of a session that the roots of its client changed.
    fn roots_changed(&self, session: &SessionHandle);

    /// Counts how often the lists changed that `caller` sees, of all servers together or of the one in scope. Counts as long
    /// as a receiver exists.
    fn changes(&self, caller: &Caller, scope: Option<&ServerName>) -> watch::Receiver<ListChanges>;

    /// Subscribes to these resources. Resolves with the subscriptions that their servers accept in time.
    fn subscribe(&self, subscriber: Subscriber, scope: Option<ServerName>, uris: Vec<String>) -> Accepted;
}

/// What [`Gateway::settling`] returns.
pub type Settling = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// Counts of changes of the rendered lists. When a count moves, clients should list again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListChanges {
    /// Of `tools/list`.
    pub tools: u64,
    /// Of `prompts/list`.
    pub prompts: u64,
    /// Of `resources/list` and `resources/templates/list`.
    pub resources: u64,
}

/// How names and lists behave.
#[derive(Clone, Debug)]
pub struct Config {
    /// The longest wait for the first lists of all servers before names are given out. 15 s: a server started by `npx`
    /// from a warm cache is up by then, and a broken server does not hold up a rollout.
    pub names_settle: Duration,
    /// The only tools to show, by own or public name; `None` shows all (`--tools`).
    pub tools: Option<HashSet<String>>,
    /// What each principal may use; `None` allows everything.
    pub policy: Option<Vec<Rule>>,
    /// How long modern clients may keep a list, and the edge itself before a client asks for it again. 30 s: a client without
    /// an open stream is not notified of changes.
    pub fresh: Duration,
    /// The shortest pause between two listings of one server. 500 ms: real servers announce up to five changes at each start.
    pub refresh_gap: Duration,
    /// Bytes of the lists that only single sessions see, with the catalogs built from them, of all sessions together.
    /// 64 MiB: some hundred different views of a thousand tools, or some thousand views of a few dozen.
    pub view_bytes: usize,
    /// How long after a change of the policy a connection may still be opened for a call from before it: as long as a call
    /// waits for a connection. 60 s, unless the configuration of `upstream` says how long that is.
    pub late: Duration,
    /// Bytes of the lists made for principals who may not use everything, of all grants of the policy together.
    /// 128 MiB: enough for fifty different grants of a thousand large tools, or for all grants of a hundred tools. While
    /// lists change, the previous ones are held as well.
    pub policy_bytes: usize,
    /// Bounds for scanning what servers list.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            names_settle: Duration::from_secs(15),
            tools: None,
            policy: None,
            fresh: Duration::from_secs(30),
            refresh_gap: Duration::from_millis(500),
            view_bytes: 64 << 20,
            late: Duration::from_secs(60),
            policy_bytes: 128 << 20,
            limits: Limits::default(),
        }
    }
}

/// What the router counts.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    contested: Gauge,
    listings: Counter,
    listing_failures: Counter,
    session_lists_refused: Counter,
    templates_unmatched: Gauge,
    policy_denied: Counter,
    policy_entries: Gauge,
    policy_lists_refused: Counter,
}

impl Metrics {
    /// Registers under the process's prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "names_contested",
            "Names that are another server's, or look so; they are reached as <slug>__<name>",
            self.contested.clone(),
        );
        registry.register(
            "listings",
            "Times a server was asked for its lists; a steep rise means that a server announces changes all the time",
            self.listings.clone(),
        );
        registry.register(
            "listing_failures",
            "Listings that failed; see the state of each server at the admin port's /ready",
            self.listing_failures.clone(),
        );
        registry.register(
            "session_lists_refused",
            "Lists that a server changed for one session, and that found no room: the session sees those of everybody",
            self.session_lists_refused.clone(),
        );
        registry.register(
            "templates_unmatched",
            "Templates that no URI is matched against: those past a server's first 1,000",
            self.templates_unmatched.clone(),
        );
        registry.register(
            "policy_denied",
            "Calls that `policy` kept from what is, or may be, there; who was denied what is in the log at level debug",
            self.policy_denied.clone(),
        );
        registry.register(
            "policy_entries",
            "Entries of the `policy` in force; 0: there is none, and every principal may use everything",
            self.policy_entries.clone(),
        );
        registry.register(
            "policy_lists_refused",
            "Lists of a policy's entry that found no room (`limits.policy_bytes`): its principals may use nothing then",
            self.policy_lists_refused.clone(),
        );
    }
}

/// What is wrong with the lists of one server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Complaints {
    /// Whether the server was listed at least once.
    pub listed: bool,
    /// A sentence for each list that cannot be read and each item that is not shown as it came.
    pub all: Vec<String>,
}

/// The real [`Gateway`]. Cheap to clone.
#[derive(Clone)]
pub struct Router {
    shared: Arc<Shared>,
}

struct Shared {
    config: Config,
    options: CatalogOptions,
    metrics: Metrics,
    shown_uris: Arc<ShownUris>,
    drain: DrainWatch,
    settled: watch::Sender<bool>,
    list_ages: Arc<ListAges>,
    list_watchers: ListWatchers,
    resource_listeners: ResourceListeners,
    /// What single sessions see otherwise.
    overlays: SessionOverlays,
    state: Mutex<State>,
    /// What calls are routed by. Replaced as a whole, so that readers never wait for a build.
    catalog: RwLock<Arc<Catalog>>,
}

impl Router {
    /// A router without names. [`refresh`] lists the servers.
    pub fn new(config: Config, servers: Vec<Entry>, metrics: Metrics, drain: DrainWatch) -> Self {
        let options = CatalogOptions {
            tools: config.tools.clone(),
            fresh_ms: u32::try_from(config.fresh.as_millis()).unwrap_or(u32::MAX),
            limits: config.limits.clone(),
            policy_bytes: config.policy_bytes,
        };
        let policy = config.policy.clone();
        let shared = Arc::new(Shared {
            options,
            overlays: SessionOverlays::new(config.view_bytes),
            config,
            metrics,
            shown_uris: Arc::new(ShownUris::new(SEEN_URIS)),
            drain,
            settled: watch::Sender::new(servers.is_empty()),
            list_ages: Arc::default(),
            list_watchers: ListWatchers::default(),
            resource_listeners: ResourceListeners::default(),
            state: Mutex::new(State::new(servers.is_empty())),
            catalog: RwLock::default(),
        });
        shared.reconfigure(servers, policy.as_deref());
        Self { shared }
    }

    /// Serves these servers from now on, in this order. Servers that stay are undisturbed. A new server under a known name
    /// shows what the previous one listed until it is listed itself. Names are given out anew unless the servers are the
    /// same. The policy changes in the same step, so that no call sees the new servers with the old policy.
    pub fn reconfigure(&self, servers: Vec<Entry>, policy: Option<&[Rule]>) {
        let changed = self.shared.reconfigure(servers, policy);
        if changed.servers {
            refresh::settle(self);
        }
        if changed.policy {
            policy_view::revoke(self);
        }
    }

    /// What public names lead to now, for callers who may use everything.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.shared.catalog()
    }

    /// Tool globs of the policy that match no tool, each after the glob of its principals. Usually they are typing errors.
    pub fn idle_globs(&self) -> Vec<(String, String)> {
        policy_view::idle_globs(self)
    }

    /// What is wrong with the lists of a server, for its operator.
    pub fn complaints(&self, name: &ServerName) -> Complaints {
        self.shared.complaints(name)
    }
}

impl Shared {
    /// What public names lead to now.
    fn catalog(&self) -> Arc<Catalog> {
        self.catalog.read().clone()
    }

    /// The servers that are configured now.
    fn servers(&self) -> Arc<ServerSet> {
        self.catalog().shown.clone()
    }

    fn is_settled(&self) -> bool {
        *self.settled.borrow()
    }

    /// The index of a configured server.
    fn index(&self, name: &ServerName) -> Option<ServerIndex> {
        self.servers().index_of(name.as_str())
    }

    /// What `caller` may see now, without the lists of its session.
    fn catalog_for(&self, caller: &Caller) -> Arc<Catalog> {
        self.limited_for(self.catalog(), caller)
    }

    /// Routes a call once names are given out.
    fn when_settled(self: Arc<Self>, call: Call) -> Reply {
        let names = self.settling();
        self.after(call, names)
    }

    /// Waits for names, at most `names_settle`. A process that stops gives none out any more, so its calls fail at once and
    /// a load balancer can send them to another replica.
    fn settling(&self) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let (mut settled, timeout) = (self.settled.subscribe(), self.config.names_settle);
        let drain = self.drain.clone();
        async move {
            // All arms are cancel-safe: each waits for a state that stays.
            tokio::select! {
                biased; // names that are given out count also in a process that stops
                _ = settled.wait_for(|settled| *settled) => Ok(()),
                () = drain.leaving() => {
                    Err(Error::new(Kind::Draining, Blame::Edge, "this gateway is stopping; connect again"))
                }
                () = tokio::time::sleep(timeout) => {
                    let message = "the servers have not been listed yet; try again shortly";
                    Err(Error::busy(Blame::Edge, RETRY_AFTER, message))
                }
            }
        }
    }

    /// Routes a call once `ready` allows it.
    fn after(
        self: Arc<Self>,
        call: Call,
        ready: impl Future<Output = Result<(), Error>> + Send + 'static,
    ) -> Reply {
        let (responder, answer) = reply();
        let drain = self.drain.clone();
        drain.spawn(async move {
            tokio::select! {
                () = responder.cancelled() => {}
                ready = ready => match ready {
                    Ok(()) => forward(self.route(call), responder).await,
                    Err(error) => responder.fail(error),
                },
            }
        });
        answer
    }
}

/// Passes the events and the outcome of a reply on, and its cancellation back.
async fn forward(mut from: Reply, to: Responder) {
    from.follow(&to);
    loop {
        tokio::select! {
            // Both arms are cancel-safe: what `next` did not return stays queued.
            next = from.next() => match next {
                Next::Event(event) => {
                    to.event(event);
                }
                Next::Outcome(outcome) => return to.finish(outcome),
            },
            () = to.cancelled() => return,
        }
    }
}

impl Dispatch for Router {
    fn dispatch(&self, call: Call) -> Reply {
        let shared = &self.shared;
        if !shared.is_settled() {
            shared.clone().when_settled(call)
        } else if shared.waits_for_relist(&call) {
            shared.clone().after_relist(call)
        } else {
            shared.route(call)
        }
    }
}

impl Gateway for Router {
    fn server(&self, caller: &Caller, slug: &str) -> Option<ServerName> {
        let find = |servers: &ServerSet| servers.get(servers.index_of(slug)?).map(|entry| entry.name.clone());
        let catalog = self.shared.catalog_for(caller);
        let found = find(&catalog.shown);
        if found.is_none()
            && let Some(denied) = find(catalog.configured())
        {
            self.shared.denied(caller, (&denied, None));
        }
        found
    }

    fn settled(&self) -> watch::Receiver<bool> {
        self.shared.settled.subscribe()
    }

    fn settling(&self) -> Settling {
        Box::pin(self.shared.settling())
    }

    fn instructions(&self, caller: &Caller, scope: Option<&ServerName>) -> Option<String> {
        let catalog = self.shared.catalog_for(caller);
        catalog.scoped(scope)?.view.instructions().map(str::to_owned)
    }

    fn mirrored(&self, caller: &Caller, scope: Option<&ServerName>, tool: &str) -> Option<Arc<[Mirrored]>> {
        let catalog = self.shared.catalog_for(caller);
        catalog.scoped(scope)?.view.tool(tool).map(|route| route.mirrored.clone())
    }

    fn roots_changed(&self, session: &SessionHandle) {
        for (_, entry) in self.shared.catalog_for(&session.caller).shown.iter() {
            entry.server.roots_changed(session);
        }
    }

    fn changes(&self, caller: &Caller, scope: Option<&ServerName>) -> watch::Receiver<ListChanges> {
        self.shared.list_watchers.follow(caller, scope)
    }

    fn subscribe(&self, subscriber: Subscriber, scope: Option<ServerName>, uris: Vec<String>) -> Accepted {
        self.shared.clone().subscribe(subscriber, scope, uris)
    }
}

/// The error for a name that no server has.
fn unknown(what: &str, name: &str, list: &str) -> Error {
    let name = abridged(name);
    let message = format!("no server offers {what} '{name}'; {list} shows what is available");
    Error::new(Kind::InvalidParams, Blame::Downstream, message)
}

/// As much of a caller's own text as an error repeats.
fn abridged(name: &str) -> String {
    name.chars().take(NAME_CHARS).collect()
}

/// Characters of a caller's own text that an error repeats. 128: enough to recognise it.
const NAME_CHARS: usize = 128;

#[cfg(test)]
mod tests;
