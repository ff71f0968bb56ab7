//! What single sessions see: the catalog, but for the servers whose connection of that very session announced changes
//! of its own. A server may show a session what it shows nobody else, a tool that is unlocked by another one, say.
//!
//! ```text
//! connection of a session ── list_changed ──▶ announced ──▶ look (its lists, over that connection)
//!                                                             │ differ from what the session saw
//!                                                             ▼
//!                                                    view of the session, list_changed to its client
//! ```
//! A look begins `refresh_gap` after the first announcement; a list, or a call of a name that nobody knows, does not wait
//! so long. Views are few and bounded in bytes; a session without one sees what everybody does.
//
// ARCHITECTURE, Names: such changes are for the session alone

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep, timeout};
use wire::mcp::method::Notice;

use super::catalog::{Catalog, Part};
use super::mend::mend;
use super::refresh::{Wanted, pause};
use super::{Listing, Router, Shared};
use crate::call::{Affinity, Call, List, Reply, SessionKey};
use crate::error::Error;

/// The views of all sessions that have one.
#[derive(Default)]
pub(super) struct Views {
    views: Mutex<HashMap<u64, Arc<View>>>,
    any: AtomicBool,
    /// Bytes of all of them.
    bytes: AtomicUsize,
}

#[derive(Default)]
struct View {
    /// Held by who looks: one at a time.
    looking: tokio::sync::Mutex<()>,
    own: Mutex<Own>,
}

#[derive(Default)]
struct Own {
    /// By server.
    parts: BTreeMap<usize, Arc<Part>>,
    built: Option<Built>,
    /// Between an announcement and the look, by server; some servers announce a change whenever they are asked.
    gaps: BTreeMap<usize, Duration>,
    /// The session is over: nothing is kept any more.
    ended: bool,
}

struct Built {
    /// What everybody saw when it was built.
    beside: Arc<Catalog>,
    catalog: Arc<Catalog>,
    bytes: usize,
}

impl View {
    fn own(&self) -> MutexGuard<'_, Own> {
        // Every state inside is valid at any point, so a poisoned lock carries no news.
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Views {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Arc<View>>> {
        self.views.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, session: u64) -> Option<Arc<View>> {
        // Nearly always there are none.
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.lock().get(&session).cloned()
    }

    /// The view of a session, and whether it is new.
    fn enter(&self, session: u64) -> (Arc<View>, bool) {
        let mut views = self.lock();
        self.any.store(true, Ordering::Release);
        let is_new = !views.contains_key(&session);
        (views.entry(session).or_default().clone(), is_new)
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }

    fn remove(&self, session: u64) {
        let mut views = self.lock();
        if let Some(view) = views.remove(&session) {
            // A call on its way may hold it still.
            let mut own = view.own();
            own.ended = true;
            own.parts.clear();
            if let Some(built) = own.built.take() {
                self.bytes.fetch_sub(built.bytes, Ordering::AcqRel);
            }
        }
        self.any.store(!views.is_empty(), Ordering::Release);
    }
}

/// Looks at what the sessions of the server at `index` announce, for as long as they say so.
pub(super) async fn follow(router: Router, index: usize, mut announcing: UnboundedReceiver<SessionKey>) {
    let leaving = router.shared.drain.clone();
    loop {
        let session = tokio::select! {
            () = leaving.leaving() => return,
            session = announcing.recv() => session,
        };
        let Some(session) = session else { return };
        let shared = router.shared.clone();
        router.shared.drain.spawn(async move {
            tokio::select! {
                () = session.ended.cancelled() => {}
                () = shared.drain.leaving() => {}
                () = shared.look_until_done(&session, index) => {}
            }
        });
    }
}

impl Shared {
    /// What the caller sees.
    pub(super) fn catalog_of(&self, affinity: &Affinity) -> Arc<Catalog> {
        let common = self.catalog();
        let Affinity::Session(session) = affinity else { return common };
        match self.views.get(session.number) {
            Some(view) => self.seen_in(&view, common),
            None => common,
        }
    }

    /// Whether a call has to wait for a look: it wants a list that may have changed, or a name that nobody knows.
    pub(super) fn looks_first(&self, call: &Call) -> bool {
        let Affinity::Session(session) = &call.affinity else { return false };
        session.announced.any() && self.is_about_what_may_have_changed(call)
    }

    /// Looks, and takes the call on its way.
    pub(super) fn when_looked(self: Arc<Self>, call: Call) -> Reply {
        let Affinity::Session(session) = call.affinity.clone() else { return self.route(call) };
        let shared = self.clone();
        self.after(call, async move {
            let all = async {
                for server in session.announced.servers() {
                    if let Some(index) = shared.index(&server) {
                        shared.look(&session, index).await;
                    }
                }
            };
            // Later than that the client is better served with what was so before.
            let _ = timeout(PATIENCE, all).await;
            Ok::<(), Error>(())
        })
    }

    async fn look_until_done(self: &Arc<Self>, session: &SessionKey, index: usize) {
        let view = self.view(session);
        loop {
            let gap = view.own().gaps.get(&index).copied();
            sleep(gap.unwrap_or(self.config.refresh_gap)).await;
            if self.look(session, index).await {
                return;
            }
        }
    }

    /// Lists over the session's own connection what it announced. `false` when that has to be done again.
    async fn look(self: &Arc<Self>, session: &SessionKey, index: usize) -> bool {
        let Some(entry) = self.servers.get(index) else { return true };
        let view = self.view(session);
        let _one = view.looking.lock().await;
        // If this is given up, what was announced waits again before another look begins.
        let look = session.announced.take(&entry.name);
        if look.notices().is_empty() {
            return true;
        }
        let common = self.part(index);
        let known = view.own().parts.get(&index).cloned().unwrap_or_else(|| common.clone());
        let mut part = Part::clone(&known);
        for list in Wanted::of(look.notices()).lists() {
            match entry.server.list(session, list).await {
                Some(Ok(items)) => *part.items_mut(list) = mend(list, items, &self.config.limits).await.0,
                Some(Err(_)) => {
                    self.pause(&view, index, false);
                    return false;
                }
                // Without a connection of its own a session sees what everybody does.
                None => {
                    part = Part::clone(&common);
                    break;
                }
            }
        }
        self.pause(&view, index, !part.has_items_of(&known));
        self.change(session, &view, index, part);
        look.finish();
        true
    }

    fn pause(&self, view: &View, index: usize, brought_news: bool) {
        let (least, mut own) = (self.config.refresh_gap, view.own());
        let gap = own.gaps.entry(index).or_insert(least);
        *gap = pause(*gap, brought_news, least);
    }

    /// The session sees `part` of the server at `index` from now on, and its client is told if that is news.
    fn change(&self, session: &SessionKey, view: &View, index: usize, part: Part) {
        let before = self.catalog_of(&Affinity::Session(session.clone()));
        let is_own = !part.has_items_of(&self.part(index));
        {
            let mut own = view.own();
            let _old = if is_own && !own.ended {
                own.parts.insert(index, Arc::new(part))
            } else {
                own.parts.remove(&index)
            };
            self.forget(&mut own);
        }
        let now = self.seen_in(view, self.catalog());
        if self.views.bytes.load(Ordering::Acquire) > VIEW_BYTES {
            self.metrics.session_lists_refused.inc();
            let mut own = view.own();
            own.parts.clear();
            self.forget(&mut own);
            return;
        }
        let (Some(before), Some(now)) = (before.alone.get(index), now.alone.get(index)) else { return };
        let differs = |list| !before.list(list).same_items(now.list(list));
        for (lists, notice) in [
            (&[List::Tools][..], Notice::ToolsChanged),
            (&[List::Prompts], Notice::PromptsChanged),
            (&[List::Resources, List::Templates], Notice::ResourcesChanged),
        ] {
            if lists.iter().any(|list| differs(*list)) && !session.tell_changed(notice) {
                self.metrics.session_lists_refused.inc();
            }
        }
    }

    /// The catalog with a session's own parts in place; what is common is shared.
    fn seen_in(&self, view: &View, common: Arc<Catalog>) -> Arc<Catalog> {
        let mut own = view.own();
        if own.parts.is_empty() {
            return common;
        }
        if let Some(built) = own.built.as_ref().filter(|built| Arc::ptr_eq(&built.beside, &common)) {
            return built.catalog.clone();
        }
        self.forget(&mut own);
        let mut catalog = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let members = self.members(&state, |server| own.parts.get(&server).map(Arc::as_ref));
            // Names that only a session sees are given out for it alone.
            Catalog::build(&members, &mut state.given.clone(), &self.terms())
        };
        let shared = common.alone.iter().enumerate().filter(|(server, _)| !own.parts.contains_key(server));
        for (server, alone) in shared {
            if let Some(place) = catalog.alone.get_mut(server) {
                *place = alone.clone();
            }
        }
        let mine = own.parts.keys().filter_map(|server| catalog.alone.get(*server));
        let bytes = catalog.all.bytes() + mine.map(|alone| alone.bytes()).sum::<usize>();
        self.views.bytes.fetch_add(bytes, Ordering::AcqRel);
        let catalog = Arc::new(catalog);
        own.built = Some(Built { beside: common, catalog: catalog.clone(), bytes });
        catalog
    }

    fn forget(&self, own: &mut Own) {
        if let Some(built) = own.built.take() {
            self.views.bytes.fetch_sub(built.bytes, Ordering::AcqRel);
        }
    }

    fn view(self: &Arc<Self>, session: &SessionKey) -> Arc<View> {
        let (view, is_new) = self.views.enter(session.number);
        if is_new {
            let (shared, session) = (self.clone(), session.clone());
            self.drain.spawn(async move {
                tokio::select! {
                    () = session.ended.cancelled() => shared.views.remove(session.number),
                    () = shared.drain.leaving() => {}
                }
            });
        }
        view
    }

    /// What everybody sees of the server at `index`.
    fn part(&self, index: usize) -> Arc<Part> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.parts.get(index) {
            Some(Listing::Listed(part)) => part.clone(),
            _ => Arc::default(),
        }
    }
}

/// How long a client's call waits for a look. 2 s: a server that is busy with a long call may answer no list before.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
/// Bytes of the lists that single sessions see, of all sessions together. 64 MiB: some thousand views of servers with
/// a few dozen tools. A session that finds no room sees what everybody does.
pub(super) const VIEW_BYTES: usize = 64 * 1024 * 1024;
