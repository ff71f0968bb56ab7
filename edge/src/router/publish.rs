//! Collects what the servers listed, and publishes a new catalog whenever that changed. A catalog replaces the previous
//! one as a whole.

use std::collections::HashSet;
use std::sync::Arc;

use super::catalog::{Basis, Catalog, GivenNames};
use super::part::Part;
use super::policy::{Policy, Rule};
use super::refresh::LISTS_NOTHING;
use super::repair::ItemDefect;
use super::server_set::{Entry, PerServer, ServerIndex, ServerSet};
use super::template::TEMPLATES;
use super::{Complaints, Shared};
use crate::call::{List, ServerName};
use crate::error::Error;

/// What catalogs are built from.
pub(super) struct State {
    /// The configured servers. Calls use those of the published catalog.
    pub(super) servers: Arc<ServerSet>,
    policy: Arc<Policy>,
    /// How often the set of servers changed.
    config_version: u64,
    /// How often names were given out anew.
    naming_round: u64,
    listings: PerServer<Listing>,
    pub(super) names: Arc<GivenNames>,
    naming: Naming,
    notifying: Notifying,
}

/// Whether public names are given out.
///
/// ```text
/// Settling ── every server has answered or failed, or `names_settle` is over ──▶ Settled
///                                                                  ▲                │ other servers are configured
///                                                                  │                ▼
///                                                                  └──────────── Resettling
/// ```
/// With the last answer, or without any server that has to answer, names are given out at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Naming {
    /// Never yet: no list is published, and calls wait.
    Settling,
    /// Each new listing is published as it comes.
    Settled,
    /// The names of servers that left are taken back; nothing else is published until the new servers have answered.
    Resettling,
}

/// Notifications of list changes that are still being sent. While there are any, new listings are published together
/// afterwards: changes that follow each other faster than clients are notified would pile up, each with its lists.
#[derive(Default)]
struct Notifying {
    in_progress: usize,
    /// A server was listed meanwhile.
    publish_next: bool,
}

/// A catalog that was replaced, and its replacement.
pub(super) struct Published {
    pub(super) before: Arc<Catalog>,
    pub(super) now: Arc<Catalog>,
}

/// Held while the clients of one change are notified. Dropping the last one publishes what was listed meanwhile.
pub(super) struct NotifyGuard(Arc<Shared>);

impl Drop for NotifyGuard {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        let notifying = &mut state.notifying;
        notifying.in_progress = notifying.in_progress.saturating_sub(1);
        let is_due = notifying.in_progress == 0 && std::mem::take(&mut notifying.publish_next);
        let is_due = is_due && state.naming == Naming::Settled;
        let published = if is_due { self.0.publish(&mut state) } else { None };
        drop(state);
        self.0.notify_list_changes(published);
    }
}

/// What a new configuration changed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changed {
    pub(super) servers: bool,
    pub(super) policy: bool,
}

/// How far the listing of one server has come.
pub(super) enum Listing {
    /// Not answered yet.
    Pending,
    /// Failed at least once and never answered; holds the first error.
    Failed(Error),
    /// Not answered yet. Shows what another server of the same name listed before.
    Inherited(Arc<Part>),
    /// Answered. Holds the latest lists, also while the server is down.
    Listed(Arc<Part>),
}

impl Listing {
    fn part(&self) -> Option<Arc<Part>> {
        match self {
            Self::Inherited(part) | Self::Listed(part) => Some(part.clone()),
            Self::Pending | Self::Failed(_) => None,
        }
    }
}

impl State {
    /// Without servers. They are added by [`Shared::reconfigure`].
    pub(super) fn new(is_settled: bool) -> Self {
        Self {
            servers: Arc::default(),
            policy: Arc::default(),
            config_version: 0,
            naming_round: 0,
            listings: PerServer::default(),
            names: Arc::default(),
            naming: if is_settled { Naming::Settled } else { Naming::Settling },
            notifying: Notifying::default(),
        }
    }

    /// Whether every configured server has answered or failed.
    fn is_complete(&self) -> bool {
        let is_open =
            |index| matches!(self.listings.get(index), Some(Listing::Pending | Listing::Inherited(_)));
        !self.servers.iter().any(|(index, _)| is_open(index))
    }

    /// What the servers offer.
    pub(super) fn parts(&self) -> PerServer<Option<Arc<Part>>> {
        self.listings.map(|(_, listing)| listing.part())
    }
}

impl Shared {
    /// The servers of `among` that were never listed.
    pub(super) fn never_listed(&self, among: &ServerSet) -> Vec<ServerName> {
        let state = self.state.lock();
        let is_listed = |index| matches!(state.listings.get(index), Some(Listing::Listed(_)));
        among.iter().filter(|(index, _)| !is_listed(*index)).map(|(_, entry)| entry.name.clone()).collect()
    }

    /// What is wrong with the lists of a server.
    pub(super) fn complaints(&self, name: &ServerName) -> Complaints {
        let part = {
            let state = self.state.lock();
            let index = state.servers.index_of(name.as_str());
            match index.and_then(|index| state.listings.get(index)) {
                Some(Listing::Listed(part)) => part.clone(),
                Some(Listing::Failed(why)) => {
                    return Complaints { listed: false, all: vec![why.to_string()] };
                }
                Some(Listing::Pending | Listing::Inherited(_)) | None => return Complaints::default(),
            }
        };
        let mut all: Vec<String> = part.lists_nothing.then(|| LISTS_NOTHING.to_owned()).into_iter().collect();
        all.extend(part.unread.iter().map(|(list, why)| format!("{}: {why}", list.method().as_str())));
        all.extend(part.unmatched().map(|more| {
            let list = List::Templates.method().as_str();
            format!("{list}: {more} templates too many; URIs are matched against the first {TEMPLATES} only")
        }));
        for (list, defects) in &part.defects {
            all.extend(defects.first.iter().map(ItemDefect::to_string));
            if defects.more > 0 {
                all.push(format!("{}: and {} more", list.method().as_str(), defects.more));
            }
        }
        Complaints { listed: true, all }
    }

    /// A server was listed.
    pub(super) fn listed(self: &Arc<Self>, index: ServerIndex, part: Part) {
        self.update(index, Listing::Listed(Arc::new(part)));
    }

    /// A server could not be listed. What it listed before stays.
    pub(super) fn failed(self: &Arc<Self>, index: ServerIndex, why: Error) {
        self.update(index, Listing::Failed(why));
    }

    /// A number that changes with the set of configured servers.
    pub(super) fn config_version(&self) -> u64 {
        self.state.lock().config_version
    }

    /// Gives out names now, whether or not every server has answered; not if other servers are configured since
    /// `config_version`.
    pub(super) fn settle(self: &Arc<Self>, config_version: u64) {
        let mut state = self.state.lock();
        if state.config_version == config_version && state.naming != Naming::Settled {
            let published = self.give_out_names(&mut state);
            drop(state);
            self.notify_list_changes(published);
        }
    }

    /// Takes a new configuration; see [`super::Router::reconfigure`].
    pub(super) fn reconfigure(self: &Arc<Self>, servers: Vec<Entry>, rules: Option<&[Rule]>) -> Changed {
        let mut state = self.state.lock();
        let before = state.servers.clone();
        let servers = before.followed_by(servers);
        let is_other_policy = state.policy.rules() != rules;
        if is_other_policy {
            let entries = rules.map_or(0, <[_]>::len);
            self.metrics.policy_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
            state.policy = Arc::new(Policy::new(rules.map(<[_]>::to_vec)));
        }
        let are_others = !servers.is_equivalent(&before);
        let mut published = None;
        if are_others {
            published = self.replace_servers(&mut state, (&before, servers));
        } else if is_other_policy && state.naming == Naming::Settling {
            self.publish_without_names(&state);
        } else if is_other_policy {
            published = self.publish(&mut state); // a policy moves no name
        }
        drop(state);
        self.notify_list_changes(published);
        Changed { servers: are_others, policy: is_other_policy }
    }

    fn replace_servers(
        &self,
        state: &mut State,
        (before, servers): (&ServerSet, ServerSet),
    ) -> Option<Published> {
        state.listings.grow(servers.indexes(), |listings, index| {
            let namesake = servers.get(index).and_then(|entry| before.index_of(entry.name.as_str()));
            let part = namesake.and_then(|namesake| listings.get(namesake)?.part());
            part.map_or(Listing::Pending, Listing::Inherited)
        });
        for (index, listing) in state.listings.iter_mut() {
            if servers.get(index).is_none() {
                *listing = Listing::Pending; // it left, and frees its lists
            }
        }
        (state.servers, state.config_version) = (Arc::new(servers), state.config_version + 1);
        if state.naming == Naming::Settling {
            self.publish_without_names(state);
        }
        if state.is_complete() {
            return self.give_out_names(state);
        }
        match state.naming {
            Naming::Settling => None,
            Naming::Settled | Naming::Resettling => {
                state.naming = Naming::Resettling;
                let servers = state.servers.clone();
                Arc::make_mut(&mut state.names).retain(|owner| servers.index_of(owner.as_str()).is_some());
                self.publish(state)
            }
        }
    }

    fn update(self: &Arc<Self>, index: ServerIndex, listing: Listing) {
        let mut state = self.state.lock();
        let is_configured = state.servers.get(index).is_some();
        // The server may have left while it was listed.
        let Some(current) = state.listings.get_mut(index).filter(|_| is_configured) else { return };
        match (&current, &listing) {
            (Listing::Failed(_) | Listing::Listed(_), Listing::Failed(_)) => return,
            // Some servers announce a change whenever they are listed; lists that are as before cost nothing more.
            (Listing::Listed(before), Listing::Listed(now)) if before == now => return,
            _ => *current = listing,
        }
        let published = match state.naming {
            Naming::Settled if state.notifying.in_progress > 0 => {
                state.notifying.publish_next = true;
                None
            }
            Naming::Settled => self.publish(&mut state),
            Naming::Settling | Naming::Resettling if state.is_complete() => self.give_out_names(&mut state),
            Naming::Settling | Naming::Resettling => None,
        };
        drop(state);
        self.notify_list_changes(published);
    }

    /// Clients are being notified of a change until the guard is dropped.
    pub(super) fn notify_guard(self: &Arc<Self>) -> NotifyGuard {
        self.state.lock().notifying.in_progress += 1;
        NotifyGuard(self.clone())
    }

    /// Gives out all names anew.
    fn give_out_names(&self, state: &mut State) -> Option<Published> {
        (state.names, state.naming) = (Arc::default(), Naming::Settled);
        state.naming_round += 1;
        self.publish(state)
    }

    fn publish(&self, state: &mut State) -> Option<Published> {
        let basis = Basis {
            servers: state.servers.clone(),
            parts: state.parts(),
            names: std::mem::take(&mut state.names),
            naming_round: state.naming_round,
        };
        let catalog = Catalog::build(basis, state.policy.clone(), &self.options);
        state.names = catalog.basis.names.clone();
        let views = &catalog.views;
        let unmatched: usize = views.unmatched.iter().map(|unmatched| unmatched.count).sum();
        self.metrics.templates_unmatched.set(i64::try_from(unmatched).unwrap_or(i64::MAX));
        self.metrics.contested.set(i64::try_from(views.contested_names).unwrap_or(i64::MAX));
        let published = self.replace(catalog);
        published.log_changes();
        // Clients that have read no list yet need not be notified.
        self.settled.send_replace(true).then_some(published)
    }

    /// Publishes the servers for calls that wait for names.
    fn publish_without_names(&self, state: &State) {
        self.replace(Catalog::without_names(state.servers.clone(), state.policy.clone()));
    }

    fn replace(&self, catalog: Catalog) -> Published {
        let now = Arc::new(catalog);
        let mut current = self.catalog.write();
        Published { before: std::mem::replace(&mut *current, now.clone()), now }
    }
}

impl Published {
    /// Logs what an operator would otherwise have to search for, once per change.
    fn log_changes(&self) {
        let (before, now) = (&self.before.views, &self.now.views);
        let name = |server| self.now.shown.get(server).map(|entry| entry.name.to_string());
        let known: HashSet<_> = before.contested_uris.iter().collect();
        for contested in now.contested_uris.iter().filter(|one| !known.contains(one)) {
            let (uri, owner, other) = (&contested.uri, name(contested.owner), name(contested.other));
            tracing::warn!(
                uri,
                owner,
                other,
                "two servers list the same URI; the other's is at /servers/<other>/mcp"
            );
        }
        let known: HashSet<_> = before.all.resources.contested_forms().collect();
        for (uri, servers) in now.all.resources.contested_forms().filter(|one| !known.contains(one)) {
            let [one, other] = servers.map(name);
            tracing::warn!(
                uri,
                one,
                other,
                "two servers list the same URI in different spellings; any other spelling leads to neither, but to a \
                 template that matches it, except at /servers/<one>/mcp and /servers/<other>/mcp"
            );
        }
        for unmatched in now.unmatched.iter().filter(|known| !before.unmatched.contains(known)) {
            let (server, more) = (name(unmatched.server), unmatched.count);
            tracing::warn!(
                server,
                more,
                "too many resource templates; URIs are matched against the first ones only"
            );
        }
        if now.contested_names != before.contested_names {
            tracing::info!(names = now.contested_names, "contested names appear as <slug>__<name>");
        }
    }
}
