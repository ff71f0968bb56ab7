//! From a public name to the server that has it: what the front needs to know of the servers behind.
//!
//! [`Gateway`] is the whole view: a downstream adapter dispatches calls through it and asks it what the
//! servers offer together. [`Router`] is the real one: it answers lists from the [`catalog`], kept fresh in
//! the background by [`refresh`], and routes everything else by table. It must not know of HTTP, sessions or
//! eras.

pub mod catalog;
pub mod glob;
mod granted;
mod lineup;
mod mend;
pub mod names;
mod own;
pub mod part;
pub mod policy;
mod publish;
pub mod refresh;
pub mod render;
mod route;
mod seen;
mod session;
mod subscribe;
mod template;
mod views;

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
use catalog::{Catalog, Terms};
use lineup::Lineup;
use policy::Rule;
use publish::State;
use seen::{SEEN_URIS, Seen};
use subscribe::{Ears, News};
use views::Views;

pub use lineup::Entry;
pub use subscribe::Accepted;

/// All configured servers as one. Answers the four list methods itself, routes tools, prompts, resources
/// and completions; every other method is its caller's business. What the policy denies a caller is to that caller as if
/// it were not there.
pub trait Gateway: Dispatch {
    /// The server of this slug that `caller` may use, for `/servers/{slug}/…`.
    fn server(&self, caller: &Caller, slug: &str) -> Option<ServerName>;

    /// Whether public names have been given out; before that no list is the truth.
    fn settled(&self) -> watch::Receiver<bool>;

    /// Waits for that, at most `names_settle`; fails at once where it will not come any more.
    fn settling(&self) -> Settling;

    /// What the servers (or the one in scope) tell a model about their use.
    fn instructions(&self, caller: &Caller, scope: Option<&ServerName>) -> Option<String>;

    /// The parameters of this public tool that a modern client repeats in `Mcp-Param-*` headers. `None` when
    /// the tool is unknown.
    fn mirrored(&self, caller: &Caller, scope: Option<&ServerName>, tool: &str) -> Option<Arc<[Mirrored]>>;

    /// The roots of a session's client changed, which its servers may want to hear.
    fn roots_changed(&self, session: &SessionHandle);

    /// How often the rendered lists changed that `caller` sees, of all servers together or of the one in scope. Counted
    /// while somebody has what is returned.
    fn changes(&self, caller: &Caller, scope: Option<&ServerName>) -> watch::Receiver<ListChanges>;

    /// Has `subscriber` hear of these resources, as far as their servers agree in time; resolves with those that do.
    fn subscribe(&self, subscriber: Subscriber, scope: Option<ServerName>, uris: Vec<String>) -> Accepted;
}

/// See [`Gateway::settling`].
pub type Settling = Pin<Box<dyn Future<Output = Result<(), Error>> + Send>>;

/// Counts of changes of the rendered lists; a count that moved means that clients should list again.
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
    /// The longest wait for every server's first lists before names are given out. 15 s: a server started
    /// by `npx` from a warm cache is there by then, and a rollout is not held up by one that is broken.
    pub names_settle: Duration,
    /// The only tools to show, by own or public name; `None` shows all (`--tools`).
    pub tools: Option<HashSet<String>>,
    /// What each principal may use; `None`: everything.
    pub policy: Option<Vec<Rule>>,
    /// How long modern clients may keep a list. 30 s: legacy servers announce changes, but a client without
    /// a stream to us would not hear of them.
    pub fresh: Duration,
    /// The pause between two listings of one server. 500 ms: real servers announce up to five changes at
    /// each start.
    pub refresh_gap: Duration,
    /// Bytes of the lists that single sessions see, and of the catalogs built from them, of all sessions together.
    /// 64 MiB: some hundred different views of a thousand tools, or some thousand of a few dozen.
    pub view_bytes: usize,
    /// From a changed policy to the last connection that is opened for a call from before it: as long as a call may wait
    /// for one. 60 s: enough where nobody says how long that is.
    pub late: Duration,
    /// Bytes of the lists that are made for principals who may not use everything, of all grants of the policy together.
    /// 128 MiB: as many as fifty different grants of a thousand large tools, or all of a hundred tools. While lists
    /// change those from before are held as well.
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
            "Resource templates that no URI is held against: those of a server past its first 1,000",
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
    /// Whether it was listed at all.
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
    terms: Terms,
    metrics: Metrics,
    seen: Arc<Seen>,
    drain: DrainWatch,
    settled: watch::Sender<bool>,
    news: News,
    ears: Ears,
    /// What single sessions see.
    views: Views,
    state: Mutex<State>,
    /// What calls are routed by; replaced as a whole, read without waiting.
    catalog: RwLock<Arc<Catalog>>,
}

impl Router {
    /// A router that knows of no name yet; [`refresh`] brings them.
    pub fn new(config: Config, servers: Vec<Entry>, metrics: Metrics, drain: DrainWatch) -> Self {
        let terms = Terms {
            tools: config.tools.clone(),
            fresh_ms: u32::try_from(config.fresh.as_millis()).unwrap_or(u32::MAX),
            limits: config.limits.clone(),
            policy_bytes: config.policy_bytes,
        };
        let policy = config.policy.clone();
        let shared = Arc::new(Shared {
            terms,
            views: Views::new(config.view_bytes),
            config,
            metrics,
            seen: Arc::new(Seen::new(SEEN_URIS)),
            drain,
            settled: watch::Sender::new(servers.is_empty()),
            news: News::default(),
            ears: Ears::default(),
            state: Mutex::default(),
            catalog: RwLock::default(),
        });
        shared.reconfigure(servers, policy.as_deref());
        Self { shared }
    }

    /// Serves these servers from now on, in this order. Whoever was there before goes on undisturbed; a server that is
    /// another one under its name shows what that one did until it is listed. Names are given out anew, unless they are
    /// the same servers. With them comes what principals may use of them, so that no call sees one without the other.
    pub fn reconfigure(&self, servers: Vec<Entry>, policy: Option<&[Rule]>) {
        let changed = self.shared.reconfigure(servers, policy);
        if changed.servers {
            refresh::settle(self);
        }
        if changed.policy {
            granted::revoke(self);
        }
    }

    /// What public names lead to now.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.shared.catalog()
    }

    /// Globs of tools in the policy that fit none, each after the glob of its principals: slips, as a rule.
    pub fn idle_globs(&self) -> Vec<(String, String)> {
        granted::idle_globs(self)
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

    /// The servers that calls may reach now.
    fn lineup(&self) -> Arc<Lineup> {
        self.catalog().lineup.clone()
    }

    fn is_settled(&self) -> bool {
        *self.settled.borrow()
    }

    /// The number of a configured server.
    fn index(&self, name: &ServerName) -> Option<usize> {
        self.lineup().number(name.as_str())
    }

    /// What `caller` sees now, unless it is a session that sees something else.
    fn catalog_for(&self, caller: &Caller) -> Arc<Catalog> {
        self.seen_by(self.catalog(), caller)
    }

    /// Names are not given out yet: the call waits for them.
    fn when_settled(self: Arc<Self>, call: Call) -> Reply {
        let names = self.settling();
        self.after(call, names)
    }

    /// Names, at most `names_settle` from now. A process that leaves gives none out any more: nobody has to wait for
    /// them in vain, and a call that came by a load balancer may go to another replica.
    fn settling(&self) -> impl Future<Output = Result<(), Error>> + Send + use<> {
        let (mut settled, timeout) = (self.settled.subscribe(), self.config.names_settle);
        let drain = self.drain.clone();
        async move {
            // All arms are cancel-safe: each waits for something that stays as it is.
            tokio::select! {
                biased; // what has come counts in a process that leaves, too
                _ = settled.wait_for(|settled| *settled) => Ok(()),
                () = drain.leaving() => {
                    Err(Error::new(Kind::Draining, Blame::Edge, "this gateway is stopping; connect again"))
                }
                () = tokio::time::sleep(timeout) => {
                    let message = "the servers have not told their names yet; try again shortly";
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

/// Passes a reply on, both ways.
async fn forward(mut from: Reply, to: Responder) {
    from.follow_reader(&to);
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
        } else if shared.looks_first(&call) {
            shared.clone().when_looked(call)
        } else {
            shared.route(call)
        }
    }
}

impl Gateway for Router {
    fn server(&self, caller: &Caller, slug: &str) -> Option<ServerName> {
        let of = |lineup: &Lineup| lineup.get(lineup.number(slug)?).map(|entry| entry.name.clone());
        let catalog = self.shared.catalog_for(caller);
        let found = of(&catalog.lineup);
        if found.is_none()
            && let Some(denied) = of(catalog.configured())
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
        catalog.sight(scope)?.surface.instructions().map(str::to_owned)
    }

    fn mirrored(&self, caller: &Caller, scope: Option<&ServerName>, tool: &str) -> Option<Arc<[Mirrored]>> {
        let catalog = self.shared.catalog_for(caller);
        catalog.sight(scope)?.surface.tool(tool).map(|route| route.mirrored.clone())
    }

    fn roots_changed(&self, session: &SessionHandle) {
        for (_, entry) in self.shared.catalog_for(&session.caller).lineup.iter() {
            entry.server.roots_changed(session);
        }
    }

    fn changes(&self, caller: &Caller, scope: Option<&ServerName>) -> watch::Receiver<ListChanges> {
        self.shared.news.follow(caller, scope)
    }

    fn subscribe(&self, subscriber: Subscriber, scope: Option<ServerName>, uris: Vec<String>) -> Accepted {
        self.shared.clone().subscribe(subscriber, scope, uris)
    }
}

/// The caller named something that no server has.
fn unknown(what: &str, name: &str, list: &str) -> Error {
    let name = abridged(name);
    let message = format!("no server offers {what} '{name}'; {list} shows what there is");
    Error::new(Kind::InvalidParams, Blame::Downstream, message)
}

/// As much of a caller's own word as is repeated.
fn abridged(name: &str) -> String {
    name.chars().take(NAME_CHARS).collect()
}

/// Characters of a caller's own word that an error repeats: enough to recognise it.
const NAME_CHARS: usize = 128;

#[cfg(test)]
mod tests;
