//! What single sessions see where it differs: their own lists of some servers, laid over what everybody sees.
//!
//! A view holds only the lists that differ, and the catalog built from them and the common ones; it is built again when
//! the common ones change. Sessions that were shown the same share one. All of it is bounded in bytes; a session that
//! finds no room sees what everybody does, and is told so. Nothing here lists anything.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use wire::mcp::list::Item;

use super::Shared;
use super::catalog::{Catalog, GivenNames, Known};
use super::lineup::Lineup;
use super::part::Part;
use super::publish::members;
use crate::call::{Affinity, Caller, List, SessionHandle};

/// The views of all sessions that have one.
pub(super) struct Views {
    views: Mutex<HashMap<u64, Arc<View>>>,
    any: AtomicBool,
    /// What was built, by what it was built from.
    built: Mutex<HashMap<u64, Weak<Built>>>,
    hasher: RandomState,
    bytes: Arc<AtomicUsize>,
    most_bytes: usize,
}

/// The view of one session.
#[derive(Default)]
pub(super) struct View {
    /// Held by who looks: one at a time.
    pub(super) looking: tokio::sync::Mutex<()>,
    own: Mutex<Own>,
}

#[derive(Default)]
struct Own {
    lists: OwnLists,
    /// Names that lead elsewhere for this session, or that only it knows: they do not move while it has lists of its own.
    names: Arc<GivenNames>,
    /// The servers of which these are, and how often names had been given out.
    lineup: Arc<Lineup>,
    given_out: u64,
    built: Option<Arc<Built>>,
    /// Whose lists came last.
    newest: usize,
    looks: BTreeMap<usize, Looks>,
    /// The session is over: nothing is kept any more.
    ended: bool,
}

type OwnLists = BTreeMap<(usize, List), Arc<OwnList>>;

/// One list that a session sees otherwise than everybody.
pub(super) struct OwnList {
    items: Vec<Item>,
    _room: Room,
}

/// How the looks at one server went.
#[derive(Clone, Copy, Default)]
struct Looks {
    /// Between an announcement and the look; some servers announce a change whenever they are asked.
    gap: Option<Duration>,
    /// The last one failed, or took longer than a client waits.
    is_late: bool,
}

struct Built {
    /// What everybody saw then.
    beside: Arc<Catalog>,
    lists: OwnLists,
    names_before: Arc<GivenNames>,
    names: Arc<GivenNames>,
    catalog: Arc<Catalog>,
    _room: Room,
}

/// Some of the room for views; given back by drop.
struct Room {
    bytes: usize,
    of: Arc<AtomicUsize>,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

impl Views {
    pub(super) fn new(most_bytes: usize) -> Self {
        Self {
            views: Mutex::default(),
            any: AtomicBool::default(),
            built: Mutex::default(),
            hasher: RandomState::new(),
            bytes: Arc::default(),
            most_bytes,
        }
    }

    pub(super) fn get(&self, session: u64) -> Option<Arc<View>> {
        // Nearly always there are none.
        if !self.any.load(Ordering::Acquire) {
            return None;
        }
        self.views.lock().get(&session).cloned()
    }

    /// The view of a session, and whether it is new.
    fn enter(&self, session: u64) -> (Arc<View>, bool) {
        let mut views = self.views.lock();
        self.any.store(true, Ordering::Release);
        let is_new = !views.contains_key(&session);
        (views.entry(session).or_default().clone(), is_new)
    }

    fn remove(&self, session: u64) {
        let mut views = self.views.lock();
        if let Some(view) = views.remove(&session) {
            // A call on its way may hold it still.
            *view.own.lock() = Own { ended: true, ..Own::default() };
        }
        self.any.store(!views.is_empty(), Ordering::Release);
    }

    fn room(&self, bytes: usize) -> Option<Room> {
        let more = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.most_bytes);
        let taken = self.bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        taken.ok().map(|_| Room { bytes, of: self.bytes.clone() })
    }

    /// What another session's view was built from the same.
    fn built(&self, own: &Own, common: &Arc<Catalog>) -> Option<Arc<Built>> {
        let built = self.built.lock().get(&self.key(own, common))?.upgrade()?;
        let is_same =
            built.is_beside(common) && built.names_before == own.names && same(&built.lists, &own.lists);
        is_same.then_some(built)
    }

    fn share(&self, own: &Own, built: &Arc<Built>) {
        let mut all = self.built.lock();
        all.retain(|_, built| built.strong_count() > 0);
        all.insert(self.key(own, &built.beside), Arc::downgrade(built));
    }

    /// Sessions of two grants may have the same lists of their own, beside what differs.
    fn key(&self, own: &Own, common: &Arc<Catalog>) -> u64 {
        let lists: Vec<_> = own.lists.iter().map(|(key, list)| (key, &list.items)).collect();
        self.hasher.hash_one((Arc::as_ptr(common), lists))
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes.load(Ordering::Acquire)
    }
}

impl View {
    /// Between an announcement of a server and the next look at it.
    pub(super) fn gap(&self, server: usize) -> Option<Duration> {
        self.own.lock().looks.get(&server)?.gap
    }

    pub(super) fn set_gap(&self, server: usize, gap: Duration) {
        self.own.lock().looks.entry(server).or_default().gap = Some(gap);
    }

    /// Whether clients do not wait for a look at this server.
    pub(super) fn is_late(&self, server: usize) -> bool {
        self.own.lock().looks.get(&server).is_some_and(|looks| looks.is_late)
    }

    pub(super) fn set_late(&self, server: usize, is_late: bool) {
        self.own.lock().looks.entry(server).or_default().is_late = is_late;
    }
}

impl Own {
    /// Takes away what it has of a server.
    fn drop_lists(&mut self, server: usize) -> Vec<List> {
        let gone: Vec<List> =
            self.lists.keys().filter(|(of, _)| *of == server).map(|(_, list)| *list).collect();
        self.lists.retain(|(of, _), _| *of != server);
        gone
    }
}

impl Built {
    fn is_beside(&self, common: &Arc<Catalog>) -> bool {
        Arc::ptr_eq(&self.beside, common)
    }
}

/// What a look brought of one list.
pub(super) enum Looked {
    /// What everybody sees.
    Common,
    Own(OwnList),
    /// Something else, for which there is no room.
    NoRoom,
}

impl Shared {
    /// What the caller sees.
    pub(super) fn catalog_of(&self, caller: &Caller, affinity: &Affinity) -> Arc<Catalog> {
        let common = self.catalog_for(caller);
        let Affinity::Session(session) = affinity else { return common };
        let Some(view) = self.views.get(session.number) else { return common };
        let (catalog, lost) = self.seen_in(&view, common);
        self.tell_lists(session, lost.into_iter().map(|(_, list)| list));
        catalog
    }

    /// The view of a session, which ends with it.
    pub(super) fn view(self: &Arc<Self>, session: &SessionHandle) -> Arc<View> {
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

    /// Compares what a look brought with what everybody sees, and finds room for it.
    pub(super) fn looked(&self, server: usize, list: List, items: Vec<Item>) -> Looked {
        let common = self.catalog().parts.get(server).cloned().flatten().unwrap_or_default();
        if *common.items(list) == items {
            return Looked::Common;
        }
        match self.views.room(items.iter().map(Item::bytes).sum()) {
            Some(room) => Looked::Own(OwnList { items, _room: room }),
            None => Looked::NoRoom,
        }
    }

    /// From now on the session sees these lists of a server; its client is told of what differs. `false` when nothing
    /// does.
    pub(super) fn change(
        &self,
        session: &SessionHandle,
        view: &View,
        (server, lists): (usize, Vec<(List, Looked)>),
    ) -> bool {
        let before = self.catalog_of(&session.caller, &Affinity::Session(session.clone()));
        {
            let mut own = view.own.lock();
            if own.ended {
                return false;
            }
            own.newest = server;
            for (list, looked) in lists {
                match looked {
                    Looked::Own(items) => drop(own.lists.insert((server, list), Arc::new(items))),
                    Looked::Common => drop(own.lists.remove(&(server, list))),
                    Looked::NoRoom => {
                        self.metrics.session_lists_refused.inc();
                        own.lists.remove(&(server, list));
                    }
                }
            }
            own.built = None;
        }
        let (now, lost) = self.seen_in(view, self.catalog_for(&session.caller));
        let others = lost.into_iter().filter(|(of, _)| *of != server).map(|(_, list)| list);
        let (Some(before), Some(now)) = (before.alone.get(server), now.alone.get(server)) else {
            return false;
        };
        let differs = |list: &List| !before.list(*list).same_items(now.list(*list));
        let differing: Vec<List> = List::ALL.into_iter().filter(differs).collect();
        self.tell_lists(session, differing.iter().copied().chain(others));
        !differing.is_empty()
    }

    fn tell_lists(&self, session: &SessionHandle, lists: impl Iterator<Item = List>) {
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

    /// The catalog with a session's own lists in place, as far as its client may see them, and the lists that it had to
    /// lose for want of room.
    fn seen_in(&self, view: &View, common: Arc<Catalog>) -> (Arc<Catalog>, Vec<(usize, List)>) {
        let (mut own, mut lost) = (view.own.lock(), Vec::new());
        let configured = common.configured();
        if own.given_out != common.given_out || !Arc::ptr_eq(&own.lineup, configured) {
            lost.extend(own.lists.keys().filter(|(server, _)| configured.get(*server).is_none()).copied());
            own.lists.retain(|(server, _), _| configured.get(*server).is_some());
            (own.names, own.built) = (Arc::default(), None);
            (own.lineup, own.given_out) = (configured.clone(), common.given_out);
        }
        while let Some((first, _)) = own.lists.keys().next().copied() {
            if let Some(built) = own.built.as_ref().filter(|built| built.is_beside(&common)) {
                return (built.catalog.clone(), lost);
            }
            own.built = None;
            if let Some(built) = self.views.built(&own, &common).or_else(|| self.build(&own, &common)) {
                // Of lists that several sessions see alike one copy stays.
                (own.lists, own.names) = (built.lists.clone(), built.names.clone());
                own.built = Some(built);
                continue;
            }
            self.metrics.session_lists_refused.inc();
            let newest = own.newest;
            let gone = own.drop_lists(newest);
            let (server, gone) =
                if gone.is_empty() { (first, own.drop_lists(first)) } else { (newest, gone) };
            lost.extend(gone.into_iter().map(|list| (server, list)));
        }
        own.built = None;
        own.names = Arc::default();
        (common, lost)
    }

    fn build(&self, own: &Own, common: &Arc<Catalog>) -> Option<Arc<Built>> {
        let (mut parts, given, lineup) = (common.parts.clone(), &common.given, common.configured());
        for ((server, list), items) in &own.lists {
            let Some(part) = parts.get_mut(*server) else { continue };
            // Whether one completes that nobody has listed is not known.
            let part = part.get_or_insert_with(|| Arc::new(Part { completes: true, ..Part::default() }));
            Arc::make_mut(part).items_mut(*list).clone_from(&items.items);
        }
        let mut names = given.with(&own.names);
        let is_own = |server: usize| own.lists.keys().any(|(of, _)| *of == server);
        let alone = common.alone.iter().enumerate();
        let alone = alone.map(|(server, alone)| (!is_own(server)).then(|| alone.clone())).collect();
        let known = Known { grant: common.grant(), alone };
        let mut catalog = Catalog::build(&members(lineup, &parts), &mut names, &self.terms, known);
        let mine = catalog.alone.iter().enumerate().filter(|(server, _)| is_own(*server));
        (catalog.lineup, catalog.access) = (common.lineup.clone(), common.access_like());
        let names = names.beyond(given);
        let bytes = catalog.all.bytes()
            + mine.map(|(_, alone)| alone.bytes()).sum::<usize>()
            + names.bytes()
            + own.names.bytes();
        let built = Arc::new(Built {
            beside: common.clone(),
            lists: own.lists.clone(),
            names_before: own.names.clone(),
            names: Arc::new(names),
            catalog: Arc::new(catalog),
            _room: self.views.room(bytes)?,
        });
        self.views.share(own, &built);
        Some(built)
    }
}

fn same(one: &OwnLists, other: &OwnLists) -> bool {
    one.len() == other.len()
        && one.iter().zip(other).all(|((key, list), (other_key, other))| {
            key == other_key && (Arc::ptr_eq(list, other) || list.items == other.items)
        })
}
