//! What single sessions see where it differs from what everybody sees: a session's own lists of some servers, laid over
//! the common ones.
//!
//! An overlay holds only the lists that differ, and the catalog built from them and the common ones. That catalog is
//! built again when the common ones change, and shared by sessions that see the same. All of it is bounded in bytes: a
//! session for which there is no room sees what everybody does, and its client is notified. Nothing here lists a server
//! (`session_relist`).

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use wire::mcp::list::Item;

use super::Shared;
use super::catalog::{BuildScope, Catalog, GivenNames, Views, members};
use super::part::Part;
use super::server_set::{ServerIndex, ServerSet};
use crate::call::{Affinity, Caller, List, SessionHandle};

/// The overlays of all sessions that have one.
pub(super) struct SessionOverlays {
    overlays: Mutex<HashMap<u64, Arc<SessionOverlay>>>,
    /// Whether there is an overlay at all; saves the lock where there is none.
    any: AtomicBool,
    /// The catalogs of all overlays, by a hash of what they were built from.
    built: Mutex<HashMap<u64, Weak<Built>>>,
    hasher: RandomState,
    held_bytes: Arc<AtomicUsize>,
    max_bytes: usize,
}

/// The overlay of one session.
#[derive(Default)]
pub(super) struct SessionOverlay {
    state: Mutex<OverlayState>,
}

#[derive(Default)]
struct OverlayState {
    lists: OwnLists,
    /// Names that lead elsewhere for this session, or that only it knows. They do not move while it has lists of its own.
    names: Arc<GivenNames>,
    /// The servers that `lists` refer to, and the round in which their names were given out.
    servers: Arc<ServerSet>,
    naming_round: u64,
    built: Option<Arc<Built>>,
    /// The server whose lists changed last: the first to lose them if there is no room.
    newest: Option<ServerIndex>,
    relists: BTreeMap<ServerIndex, RelistState>,
    /// The session is over, and nothing is kept for it any more.
    ended: bool,
}

type OwnLists = BTreeMap<(ServerIndex, List), Arc<OwnList>>;

/// A list that a session sees otherwise than everybody.
pub(super) struct OwnList {
    items: Vec<Item>,
    _room: Room,
}

/// How listing one server for the session went.
#[derive(Default)]
struct RelistState {
    /// Held while the server is listed for the session.
    listing: Arc<tokio::sync::Mutex<()>>,
    /// The pause between an announcement and the next listing. It grows for servers that announce a change whenever they
    /// are listed.
    gap: Option<Duration>,
    /// The last listing failed, or took longer than a client waits.
    is_late: bool,
}

/// The catalog of an overlay, with what it was built from.
struct Built {
    common: Arc<Catalog>,
    lists: OwnLists,
    names_before: Arc<GivenNames>,
    names: Arc<GivenNames>,
    catalog: Arc<Catalog>,
    _room: Room,
}

/// Part of the bytes for overlays, given back on drop.
struct Room {
    bytes: usize,
    of: Arc<AtomicUsize>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl SessionOverlays {
    pub(super) fn new(max_bytes: usize) -> Self {
        Self {
            overlays: Mutex::default(),
            any: AtomicBool::default(),
            built: Mutex::default(),
            hasher: RandomState::new(),
            held_bytes: Arc::default(),
            max_bytes,
        }
    }

    pub(super) fn get(&self, session: u64) -> Option<Arc<SessionOverlay>> {
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.overlays.lock().get(&session).cloned()
    }

    /// The overlay of a session, and whether it is new.
    fn enter(&self, session: u64) -> (Arc<SessionOverlay>, bool) {
        let mut overlays = self.overlays.lock();
        self.any.store(true, Ordering::Release);
        let is_new = !overlays.contains_key(&session);
        (overlays.entry(session).or_default().clone(), is_new)
    }

    fn remove(&self, session: u64) {
        let mut overlays = self.overlays.lock();
        if let Some(overlay) = overlays.remove(&session) {
            // A call in flight may still hold the overlay.
            *overlay.state.lock() = OverlayState { ended: true, ..OverlayState::default() };
        }
        self.any.store(!overlays.is_empty(), Ordering::Release);
    }

    fn room(&self, bytes: usize) -> Option<Room> {
        let more = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.max_bytes);
        let taken = self.held_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        taken.ok().map(|_| Room { bytes, of: self.held_bytes.clone() })
    }

    /// What was built for another session from the same lists and names.
    fn built(&self, own: &OverlayState, common: &Arc<Catalog>) -> Option<Arc<Built>> {
        let built = self.built.lock().get(&self.key(own, common))?.upgrade()?;
        let is_same = built.is_over(common)
            && built.names_before == own.names
            && are_same_lists(&built.lists, &own.lists);
        is_same.then_some(built)
    }

    fn share(&self, own: &OverlayState, built: &Arc<Built>) {
        let mut all = self.built.lock();
        all.retain(|_, built| built.strong_count() > 0);
        all.insert(self.key(own, &built.common), Arc::downgrade(built));
    }

    /// The common catalog is part of the key, because sessions of two grants may have equal lists of their own.
    fn key(&self, own: &OverlayState, common: &Arc<Catalog>) -> u64 {
        let lists: Vec<_> = own.lists.iter().map(|(key, list)| (key, &list.items)).collect();
        self.hasher.hash_one((Arc::as_ptr(common), lists))
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Acquire)
    }
}

impl SessionOverlay {
    /// What is held while a server is listed for the session. A server that does not answer holds up no other.
    pub(super) fn listing(&self, server: ServerIndex) -> Arc<tokio::sync::Mutex<()>> {
        self.state.lock().relists.entry(server).or_default().listing.clone()
    }

    /// The pause between an announcement of a server and its next listing.
    pub(super) fn gap(&self, server: ServerIndex) -> Option<Duration> {
        self.state.lock().relists.get(&server)?.gap
    }

    pub(super) fn set_gap(&self, server: ServerIndex, gap: Duration) {
        self.state.lock().relists.entry(server).or_default().gap = Some(gap);
    }

    /// Whether calls do not wait for a listing of this server.
    pub(super) fn is_late(&self, server: ServerIndex) -> bool {
        self.state.lock().relists.get(&server).is_some_and(|relist| relist.is_late)
    }

    pub(super) fn set_late(&self, server: ServerIndex, is_late: bool) {
        self.state.lock().relists.entry(server).or_default().is_late = is_late;
    }
}

impl OverlayState {
    /// Drops the lists of a server, and returns which those were.
    fn drop_lists(&mut self, server: ServerIndex) -> Vec<List> {
        let gone: Vec<List> =
            self.lists.keys().filter(|(of, _)| *of == server).map(|(_, list)| *list).collect();
        self.lists.retain(|(of, _), _| *of != server);
        gone
    }

    /// Forgets lists and names of servers that are not configured, or named anew, since they were built. Returns the lists
    /// of servers that left.
    fn follow_servers(&mut self, common: &Catalog) -> Vec<(ServerIndex, List)> {
        let servers = common.configured();
        if self.naming_round == common.basis.naming_round && Arc::ptr_eq(&self.servers, servers) {
            return Vec::new();
        }
        let lost = self.lists.keys().filter(|(server, _)| servers.get(*server).is_none()).copied().collect();
        self.lists.retain(|(server, _), _| servers.get(*server).is_some());
        (self.names, self.built) = (Arc::default(), None);
        (self.servers, self.naming_round) = (servers.clone(), common.basis.naming_round);
        lost
    }
}

impl Built {
    fn is_over(&self, common: &Arc<Catalog>) -> bool {
        Arc::ptr_eq(&self.common, common)
    }
}

/// A list of a session's own connection, compared with what everybody sees.
pub(super) enum Relisted {
    /// It is what everybody sees.
    Common,
    /// It differs.
    Own(OwnList),
    /// It differs, and there is no room for it.
    Bound,
}

impl Shared {
    /// The catalog that the caller sees.
    pub(super) fn catalog_of(&self, caller: &Caller, affinity: &Affinity) -> Arc<Catalog> {
        let common = self.catalog_for(caller);
        let Affinity::Session(session) = affinity else { return common };
        let Some(overlay) = self.overlays.get(session.number) else { return common };
        let (catalog, lost) = self.overlaid(&overlay, common);
        self.notify_session(session, lost.into_iter().map(|(_, list)| list));
        catalog
    }

    /// The overlay of a session, which ends with the session.
    pub(super) fn overlay(self: &Arc<Self>, session: &SessionHandle) -> Arc<SessionOverlay> {
        let (overlay, is_new) = self.overlays.enter(session.number);
        if is_new {
            let (shared, session) = (self.clone(), session.clone());
            self.drain.spawn(async move {
                tokio::select! {
                    () = session.ended.cancelled() => shared.overlays.remove(session.number),
                    () = shared.drain.leaving() => {}
                }
            });
        }
        overlay
    }

    /// Compares a list of a session's own connection with what everybody sees, and takes room for it.
    pub(super) fn compare_list(&self, server: ServerIndex, list: List, items: Vec<Item>) -> Relisted {
        let common = self.catalog().basis.parts.get(server).cloned().flatten().unwrap_or_default();
        if *common.items(list) == items {
            return Relisted::Common;
        }
        match self.overlays.room(items.iter().map(Item::bytes).sum()) {
            Some(room) => Relisted::Own(OwnList { items, _room: room }),
            None => Relisted::Bound,
        }
    }

    /// From now on the session sees these lists of a server. Its client is notified of those that differ from what it saw
    /// before. Returns whether any does.
    pub(super) fn change(
        &self,
        session: &SessionHandle,
        overlay: &SessionOverlay,
        (server, lists): (ServerIndex, Vec<(List, Relisted)>),
    ) -> bool {
        let before = self.catalog_of(&session.caller, &Affinity::Session(session.clone()));
        {
            let mut own = overlay.state.lock();
            if own.ended {
                return false;
            }
            own.newest = Some(server);
            for (list, relisted) in lists {
                match relisted {
                    Relisted::Own(items) => drop(own.lists.insert((server, list), Arc::new(items))),
                    Relisted::Common => drop(own.lists.remove(&(server, list))),
                    Relisted::Bound => {
                        self.metrics.session_lists_refused.inc();
                        own.lists.remove(&(server, list));
                    }
                }
            }
            own.built = None;
        }
        let (now, lost) = self.overlaid(overlay, self.catalog_for(&session.caller));
        let others = lost.into_iter().filter(|(of, _)| *of != server).map(|(_, list)| list);
        let (Some(before), Some(now)) = (before.views.alone.get(server), now.views.alone.get(server)) else {
            return false;
        };
        let differs = |list: &List| !before.list(*list).same_items(now.list(*list));
        let differing: Vec<List> = List::ALL.into_iter().filter(differs).collect();
        self.notify_session(session, differing.iter().copied().chain(others));
        !differing.is_empty()
    }

    fn notify_session(&self, session: &SessionHandle, lists: impl Iterator<Item = List>) {
        let mut notices = Vec::new();
        for notice in lists.map(List::changed) {
            if !notices.contains(&notice) {
                notices.push(notice);
            }
        }
        for notice in notices {
            if !session.tell_changed(notice) {
                self.metrics.session_lists_refused.inc();
            }
        }
    }

    /// `common` with a session's own lists in place, as far as its caller may see them; and the lists that the session
    /// lost, because their server left or there is no room.
    fn overlaid(
        &self,
        overlay: &SessionOverlay,
        common: Arc<Catalog>,
    ) -> (Arc<Catalog>, Vec<(ServerIndex, List)>) {
        let mut own = overlay.state.lock();
        let mut lost = own.follow_servers(&common);
        while let Some((first, _)) = own.lists.keys().next().copied() {
            if let Some(built) = own.built.as_ref().filter(|built| built.is_over(&common)) {
                return (built.catalog.clone(), lost);
            }
            own.built = None;
            if let Some(built) =
                self.overlays.built(&own, &common).or_else(|| self.build_overlay(&own, &common))
            {
                // Sessions that see equal lists keep one copy of them.
                (own.lists, own.names) = (built.lists.clone(), built.names.clone());
                own.built = Some(built);
                continue;
            }
            self.metrics.session_lists_refused.inc();
            let newest = own.newest.map(|newest| (newest, own.drop_lists(newest)));
            let (server, gone) =
                newest.filter(|(_, gone)| !gone.is_empty()).unwrap_or_else(|| (first, own.drop_lists(first)));
            lost.extend(gone.into_iter().map(|list| (server, list)));
        }
        own.built = None;
        own.names = Arc::default();
        (common, lost)
    }

    /// `None` if there is no room.
    fn build_overlay(&self, own: &OverlayState, common: &Arc<Catalog>) -> Option<Arc<Built>> {
        let (mut parts, given) = (common.basis.parts.clone(), &common.basis.names);
        for ((server, list), items) in &own.lists {
            let Some(part) = parts.get_mut(*server) else { continue };
            // Whether a server completes arguments is not known before it was listed.
            let part = part.get_or_insert_with(|| Arc::new(Part { completes: true, ..Part::default() }));
            Arc::make_mut(part).items_mut(*list).clone_from(&items.items);
        }
        let mut names = given.with(&own.names);
        let is_own = |server| own.lists.keys().any(|(of, _)| *of == server);
        let existing = common.views.alone.map(|(server, view)| (!is_own(server)).then(|| view.clone()));
        let scope = BuildScope { grant: common.grant(), existing };
        let members = members(common.configured(), &parts);
        let views = Views::build(&members, &mut names, &self.options, scope);
        let names = names.beyond(given);
        let mine = views.alone.iter().filter(|(server, _)| is_own(*server));
        let bytes = views.all.bytes()
            + mine.map(|(_, alone)| alone.bytes()).sum::<usize>()
            + names.bytes()
            + own.names.bytes();
        let built = Arc::new(Built {
            common: common.clone(),
            lists: own.lists.clone(),
            names_before: own.names.clone(),
            names: Arc::new(names),
            catalog: Arc::new(common.with_views(views)),
            _room: self.overlays.room(bytes)?,
        });
        self.overlays.share(own, &built);
        Some(built)
    }
}

fn are_same_lists(one: &OwnLists, other: &OwnLists) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|((key, list), (other_key, other))| {
            key == other_key && (Arc::ptr_eq(list, other) || list.items == other.items)
        })
}
