//! From a public name to the server that has it: what the front needs to know of the servers behind.
//!
//! [`Gateway`] is the whole view: a downstream adapter dispatches calls through it and asks it what the
//! servers offer together. [`Router`] is the real one: it answers lists from the [`catalog`], kept fresh in
//! the background by [`refresh`], and routes everything else by table. It must not know of HTTP, sessions or
//! eras.

pub mod catalog;
mod mend;
pub mod names;
mod own;
pub mod refresh;
pub mod render;
mod route;
mod seen;
mod session;
mod subscribe;
mod template;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::watch;
use wire::Message;
use wire::limits::Limits;
use wire::mcp::method::Notice;
use wire::mcp::mirror::Mirrored;

use crate::call::{
    Call, Dispatch, List, Next, Reply, Responder, Server, ServerName, SessionKey, Subscriber, reply,
};
use crate::error::{Blame, Error, Kind};
use crate::ops::drain::DrainWatch;
use crate::permit::RETRY_AFTER;
use catalog::{Catalog, GivenNames, Member, Part, Surface, Terms};
use mend::Fault;
use names::Prefix;
use own::Views;
use seen::{SEEN_URIS, Seen};
use subscribe::News;
use template::TEMPLATES;

pub use subscribe::Accepted;

/// All configured servers as one. Answers the four list methods itself, routes tools, prompts, resources
/// and completions; every other method is its caller's business.
pub trait Gateway: Dispatch {
    /// The configured server of this slug, for `/servers/{slug}/…`.
    fn server(&self, slug: &str) -> Option<ServerName>;

    /// Whether public names have been given out; before that no list is the truth.
    fn settled(&self) -> watch::Receiver<bool>;

    /// What the servers (or the one in scope) tell a model about their use.
    fn instructions(&self, scope: Option<&ServerName>) -> Option<String>;

    /// The parameters of this public tool that a modern client repeats in `Mcp-Param-*` headers. `None` when
    /// the tool is unknown.
    fn mirrored(&self, scope: Option<&ServerName>, tool: &str) -> Option<Arc<[Mirrored]>>;

    /// Passes a notification of a session's client on to whom it concerns.
    fn notify(&self, session: &SessionKey, notice: Notice, message: &Message);

    /// How often the rendered lists changed, of all servers together or of the one in scope.
    fn changes(&self, scope: Option<&ServerName>) -> watch::Receiver<ListChanges>;

    /// Has `subscriber` hear of these resources, as far as their servers agree in time; resolves with those that do.
    fn subscribe(&self, subscriber: Subscriber, scope: Option<ServerName>, uris: Vec<String>) -> Accepted;
}

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
    /// How long modern clients may keep a list. 30 s: legacy servers announce changes, but a client without
    /// a stream to us would not hear of them.
    pub fresh: Duration,
    /// The pause between two listings of one server. 500 ms: real servers announce up to five changes at
    /// each start.
    pub refresh_gap: Duration,
    /// Bounds for scanning what servers list.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            names_settle: Duration::from_secs(15),
            tools: None,
            fresh: Duration::from_secs(30),
            refresh_gap: Duration::from_millis(500),
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
}

impl Metrics {
    /// Registers under the process's prefix.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "names_contested",
            "Names that more than one server offers; all but one of them are reached as <slug>__<name>",
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
    }
}

/// One configured server as the router sees it.
pub struct Entry {
    /// Its slug.
    pub name: ServerName,
    /// How its names become public.
    pub prefix: Prefix,
    /// Where its calls go.
    pub server: Arc<dyn Server>,
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
    servers: Vec<Entry>,
    metrics: Metrics,
    seen: Arc<Seen>,
    drain: DrainWatch,
    settled: watch::Sender<bool>,
    news: News,
    /// What single sessions see.
    views: Views,
    state: Mutex<State>,
    /// What calls are routed by; replaced as a whole, read without waiting.
    catalog: RwLock<Arc<Catalog>>,
}

/// What catalogs are built from.
struct State {
    parts: Vec<Listing>,
    given: GivenNames,
}

/// How far the listing of one server has come.
enum Listing {
    /// Not answered yet.
    Pending,
    /// Failed at least once and never answered; how it failed first.
    Failed(Error),
    /// Answered; the latest word, also while the server is down.
    Listed(Arc<Part>),
}

impl Router {
    /// A router that knows of no name yet; [`refresh`] brings them.
    pub fn new(config: Config, servers: Vec<Entry>, metrics: Metrics, drain: DrainWatch) -> Self {
        let parts = servers.iter().map(|_| Listing::Pending).collect();
        let (settled, news) = (servers.is_empty(), News::new(servers.len()));
        let shared = Shared {
            config,
            servers,
            metrics,
            seen: Arc::new(Seen::new(SEEN_URIS)),
            drain,
            settled: watch::Sender::new(settled),
            news,
            views: Views::default(),
            state: Mutex::new(State { parts, given: GivenNames::default() }),
            catalog: RwLock::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What public names lead to now.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.shared.catalog()
    }

    /// What is wrong with the lists of the server at `index`, for its operator.
    pub fn complaints(&self, index: usize) -> Complaints {
        let state = self.shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let part = match state.parts.get(index) {
            Some(Listing::Listed(part)) => part,
            Some(Listing::Failed(why)) => return Complaints { listed: false, all: vec![why.to_string()] },
            Some(Listing::Pending) | None => return Complaints { listed: false, all: Vec::new() },
        };
        let unread = part.unread.iter().map(|(list, why)| format!("{}: {why}", list.method().as_str()));
        let unmatched = part.unmatched().map(|more| {
            let list = List::Templates.method().as_str();
            format!("{list}: {more} templates too many; URIs are held against the first {TEMPLATES} alone")
        });
        let faults = part.faults.iter().map(Fault::to_string);
        Complaints { listed: true, all: unread.chain(unmatched).chain(faults).collect() }
    }
}

impl Shared {
    /// What public names lead to now.
    fn catalog(&self) -> Arc<Catalog> {
        self.catalog.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The latest word of the server at `index`.
    fn listed(&self, index: usize, part: Part) {
        self.update(index, Listing::Listed(Arc::new(part)));
    }

    /// The server at `index` could not be listed. What it listed before stays.
    fn failed(&self, index: usize, why: Error) {
        self.update(index, Listing::Failed(why));
    }

    /// Gives out names now, whoever has answered.
    fn settle(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_settled() {
            self.publish(&mut state);
        }
    }

    fn update(&self, index: usize, listing: Listing) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(part) = state.parts.get_mut(index) else { return };
        match (&part, &listing) {
            (Listing::Failed(_) | Listing::Listed(_), Listing::Failed(_)) => return,
            _ => *part = listing,
        }
        let complete = state.parts.iter().all(|part| !matches!(part, Listing::Pending));
        if self.is_settled() || complete {
            self.publish(&mut state);
        }
    }

    fn publish(&self, state: &mut State) {
        let mut given = std::mem::take(&mut state.given);
        let members = self.members(state, |_| None);
        let catalog = Arc::new(Catalog::build(&members, &mut given, &self.terms()));
        drop(members);
        state.given = given;
        let unmatched: usize = catalog.unmatched.iter().map(|(_, more)| more).sum();
        self.metrics.templates_unmatched.set(i64::try_from(unmatched).unwrap_or(i64::MAX));
        self.metrics.contested.set(i64::try_from(catalog.contested).unwrap_or(i64::MAX));
        let before = {
            let mut current = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, catalog.clone())
        };
        self.tell(&before, &catalog);
        self.announce(&before, &catalog);
    }

    /// The servers with their parts; `own` of a server goes before what everybody sees of it.
    fn members<'a>(&'a self, state: &'a State, own: impl Fn(usize) -> Option<&'a Part>) -> Vec<Member<'a>> {
        let entries = self.servers.iter().zip(&state.parts).enumerate();
        let member = |(server, (entry, listing)): (usize, (&'a Entry, &'a Listing))| {
            let common = if let Listing::Listed(part) = listing { Some(part.as_ref()) } else { None };
            Member { name: &entry.name, prefix: entry.prefix, part: own(server).or(common) }
        };
        entries.map(member).collect()
    }

    fn terms(&self) -> Terms {
        Terms {
            tools: self.config.tools.clone(),
            fresh_ms: u32::try_from(self.config.fresh.as_millis()).unwrap_or(u32::MAX),
            limits: self.config.limits.clone(),
        }
    }

    /// Log lines for what an operator would otherwise search for: once per change.
    fn tell(&self, before: &Catalog, now: &Catalog) {
        let name = |server: usize| self.servers.get(server).map(|entry| entry.name.to_string());
        for doubled in now.doubled.iter().filter(|doubled| !before.doubled.contains(doubled)) {
            let (uri, owner, other) = doubled;
            let (owner, other) = (name(*owner), name(*other));
            tracing::warn!(
                uri,
                owner,
                other,
                "two servers list one URI; the other's is at /servers/<other>/mcp"
            );
        }
        for (server, more) in now.unmatched.iter().filter(|more| !before.unmatched.contains(more)) {
            let server = name(*server);
            tracing::warn!(
                server,
                more,
                "too many resource templates; URIs are held against the first alone"
            );
        }
        if now.contested != before.contested {
            tracing::info!(names = now.contested, "contested names appear as <slug>__<name>");
        }
    }

    /// Tells those who have read something, if what they would read differs.
    fn announce(&self, before: &Catalog, now: &Catalog) {
        if self.settled.send_replace(true) {
            self.news.announce(before, now);
        }
    }

    fn is_settled(&self) -> bool {
        *self.settled.borrow()
    }

    /// The index of a configured server.
    fn index(&self, name: &ServerName) -> Option<usize> {
        self.servers.iter().position(|entry| entry.name == *name)
    }

    /// The view a call may use, and the index of the only server it may reach.
    fn surface<'c>(
        &self,
        catalog: &'c Catalog,
        scope: Option<&ServerName>,
    ) -> Option<(&'c Surface, Option<usize>)> {
        let Some(scope) = scope else { return Some((&catalog.all, None)) };
        let index = self.index(scope)?;
        Some((catalog.alone.get(index)?.as_ref(), Some(index)))
    }

    /// Names are not given out yet: the call waits for them, at most `names_settle`.
    fn when_settled(self: Arc<Self>, call: Call) -> Reply {
        let (mut settled, patience) = (self.settled.subscribe(), self.config.names_settle);
        self.after(call, async move {
            let names = settled.wait_for(|settled| *settled);
            let message = "the servers have not told their names yet; try again shortly";
            let names = tokio::time::timeout(patience, names).await;
            names.map(|_| ()).map_err(|_| Error::busy(Blame::Edge, RETRY_AFTER, message))
        })
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
    fn server(&self, slug: &str) -> Option<ServerName> {
        self.shared.servers.iter().find(|entry| entry.name.as_str() == slug).map(|entry| entry.name.clone())
    }

    fn settled(&self) -> watch::Receiver<bool> {
        self.shared.settled.subscribe()
    }

    fn instructions(&self, scope: Option<&ServerName>) -> Option<String> {
        let catalog = self.shared.catalog();
        let (surface, _) = self.shared.surface(&catalog, scope)?;
        surface.instructions().map(str::to_owned)
    }

    fn mirrored(&self, scope: Option<&ServerName>, tool: &str) -> Option<Arc<[Mirrored]>> {
        let catalog = self.shared.catalog();
        let (surface, _) = self.shared.surface(&catalog, scope)?;
        surface.tool(tool).map(|route| route.mirrored.clone())
    }

    fn notify(&self, session: &SessionKey, notice: Notice, message: &Message) {
        for entry in &self.shared.servers {
            entry.server.notify(session, notice, message);
        }
    }

    fn changes(&self, scope: Option<&ServerName>) -> watch::Receiver<ListChanges> {
        self.shared.news.follow(scope.and_then(|scope| self.shared.index(scope)))
    }

    fn subscribe(&self, subscriber: Subscriber, scope: Option<ServerName>, uris: Vec<String>) -> Accepted {
        self.shared.clone().subscribe(subscriber, scope, uris)
    }
}

/// The caller named something that no server has.
fn unknown(what: &str, name: &str, list: &str) -> Error {
    let name: String = name.chars().take(NAME_CHARS).collect();
    let message = format!("no server offers {what} '{name}'; {list} shows what there is");
    Error::new(Kind::InvalidParams, Blame::Downstream, message)
}

/// Characters of a caller's own word that an error repeats: enough to recognise it.
const NAME_CHARS: usize = 128;

#[cfg(test)]
mod tests;
