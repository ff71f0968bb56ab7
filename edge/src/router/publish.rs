//! What the servers said last, and the catalogs made of it: built anew with each word that differs, and put in the
//! place of the one before as a whole.

use std::sync::{Arc, MutexGuard, PoisonError};

use super::catalog::{Catalog, GivenNames, Member, Part, Terms};
use super::lineup::{Entry, Lineup};
use super::mend::Fault;
use super::template::TEMPLATES;
use super::{Complaints, Shared};
use crate::call::{List, ServerName};
use crate::error::Error;

/// What catalogs are built from.
#[derive(Default)]
pub(super) struct State {
    /// By the numbers of the servers.
    parts: Vec<Listing>,
    pub(super) given: Arc<GivenNames>,
    /// The servers of the last catalog.
    published: Arc<Lineup>,
}

/// How far the listing of one server has come.
pub(super) enum Listing {
    /// Not answered yet.
    Pending,
    /// Failed at least once and never answered; how it failed first.
    Failed(Error),
    /// Answered; the latest word, also while the server is down.
    Listed(Arc<Part>),
}

impl Listing {
    fn part(&self) -> Option<Arc<Part>> {
        if let Self::Listed(part) = self { Some(part.clone()) } else { None }
    }
}

impl State {
    /// What the servers offer, by their numbers.
    pub(super) fn parts(&self) -> Vec<Option<Arc<Part>>> {
        self.parts.iter().map(Listing::part).collect()
    }
}

/// The configured servers with their parts.
pub(super) fn members<'a>(lineup: &'a Lineup, parts: &'a [Option<Arc<Part>>]) -> Vec<Member<'a>> {
    let member = |(number, entry): (usize, &'a Entry)| Member {
        number,
        name: &entry.name,
        prefix: entry.prefix,
        part: parts.get(number).and_then(Option::as_deref),
    };
    lineup.iter().map(member).collect()
}

impl Shared {
    pub(super) fn lock_state(&self) -> MutexGuard<'_, State> {
        // Every state inside is valid at any point, so a poisoned lock carries no news.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The servers that have never listed.
    pub(super) fn unheard(&self) -> Vec<ServerName> {
        let (state, lineup) = (self.lock_state(), self.lineup());
        let is_heard = |number: usize| matches!(state.parts.get(number), Some(Listing::Listed(_)));
        lineup.iter().filter(|(number, _)| !is_heard(*number)).map(|(_, entry)| entry.name.clone()).collect()
    }

    /// See [`super::Router::complaints`].
    pub(super) fn complaints(&self, name: &ServerName) -> Complaints {
        let part = {
            let (state, number) = (self.lock_state(), self.index(name));
            match number.and_then(|number| state.parts.get(number)) {
                Some(Listing::Listed(part)) => part.clone(),
                Some(Listing::Failed(why)) => {
                    return Complaints { listed: false, all: vec![why.to_string()] };
                }
                Some(Listing::Pending) | None => return Complaints::default(),
            }
        };
        let mut all: Vec<String> =
            part.unread.iter().map(|(list, why)| format!("{}: {why}", list.method().as_str())).collect();
        all.extend(part.unmatched().map(|more| {
            let list = List::Templates.method().as_str();
            format!("{list}: {more} templates too many; URIs are held against the first {TEMPLATES} alone")
        }));
        for (list, faults) in &part.faults {
            all.extend(faults.first.iter().map(Fault::to_string));
            if faults.more > 0 {
                all.push(format!("{}: and {} more", list.method().as_str(), faults.more));
            }
        }
        Complaints { listed: true, all }
    }

    /// The latest word of a server.
    pub(super) fn listed(&self, number: usize, part: Part) {
        self.update(number, Listing::Listed(Arc::new(part)));
    }

    /// A server could not be listed. What it listed before stays.
    pub(super) fn failed(&self, number: usize, why: Error) {
        self.update(number, Listing::Failed(why));
    }

    /// Gives out names now, whoever has answered.
    pub(super) fn settle(&self) {
        let mut state = self.lock_state();
        if !self.is_settled() {
            self.publish(&mut state);
        }
    }

    /// See [`super::Router::reconfigure`].
    pub(super) fn reconfigure(&self, servers: Vec<Entry>) {
        let mut state = self.lock_state();
        let before = self.lineup();
        let lineup = Arc::new(before.followed_by(servers));
        for number in state.parts.len()..lineup.numbers() {
            let namesake = lineup.get(number).and_then(|entry| before.number(entry.name.as_str()));
            let known = namesake.and_then(|namesake| state.parts.get(namesake)?.part());
            state.parts.push(known.map_or(Listing::Pending, Listing::Listed));
        }
        state.given = Arc::default();
        self.news.follow_all(&lineup);
        *self.lineup.write().unwrap_or_else(PoisonError::into_inner) = lineup;
        if self.is_settled() {
            self.publish(&mut state);
        }
    }

    fn update(&self, number: usize, listing: Listing) {
        let mut state = self.lock_state();
        let lineup = self.lineup();
        // It may have been listed while the configuration changed.
        let (Some(_), Some(part)) = (lineup.get(number), state.parts.get_mut(number)) else { return };
        match (&part, &listing) {
            (Listing::Failed(_) | Listing::Listed(_), Listing::Failed(_)) => return,
            _ => *part = listing,
        }
        let is_pending = |number: usize| matches!(state.parts.get(number), Some(Listing::Pending));
        if self.is_settled() || !lineup.iter().any(|(number, _)| is_pending(number)) {
            self.publish(&mut state);
        }
    }

    fn publish(&self, state: &mut State) {
        let (parts, lineup) = (state.parts(), self.lineup());
        let given = Arc::make_mut(&mut state.given);
        let catalog = Arc::new(Catalog::build(&members(&lineup, &parts), given, &self.terms()));
        let unmatched: usize = catalog.unmatched.iter().map(|(_, more)| more).sum();
        self.metrics.templates_unmatched.set(i64::try_from(unmatched).unwrap_or(i64::MAX));
        self.metrics.contested.set(i64::try_from(catalog.contested).unwrap_or(i64::MAX));
        let before = {
            let mut current = self.catalog.write().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *current, catalog.clone())
        };
        self.tell(&before, &catalog);
        let before = (std::mem::replace(&mut state.published, lineup.clone()), before);
        // Who has read nothing has nothing to read again.
        if self.settled.send_replace(true) {
            self.news.announce((&before.0, &before.1), (&lineup, &catalog));
        }
    }

    pub(super) fn terms(&self) -> Terms {
        Terms {
            tools: self.config.tools.clone(),
            fresh_ms: u32::try_from(self.config.fresh.as_millis()).unwrap_or(u32::MAX),
            limits: self.config.limits.clone(),
        }
    }

    /// Log lines for what an operator would otherwise search for: once per change.
    fn tell(&self, before: &Catalog, now: &Catalog) {
        let lineup = self.lineup();
        let name = |server: usize| lineup.get(server).map(|entry| entry.name.to_string());
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
}
