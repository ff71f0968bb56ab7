//! What the servers said last, and the catalogs made of it: built anew with each word that differs, and put in the
//! place of the one before as a whole.

use std::sync::Arc;

use super::catalog::{Catalog, GivenNames, Known, Member};
use super::granted::Access;
use super::lineup::{Entry, Lineup};
use super::mend::Fault;
use super::part::Part;
use super::policy::{Policy, Rule};
use super::refresh::LISTS_NOTHING;
use super::template::TEMPLATES;
use super::{Complaints, Shared};
use crate::call::{List, ServerName};
use crate::error::Error;

/// What catalogs are built from.
#[derive(Default)]
pub(super) struct State {
    /// As configured; calls see those of the catalog.
    pub(super) lineup: Arc<Lineup>,
    policy: Arc<Policy>,
    /// How often that changed.
    configured: u64,
    /// How often names were given out.
    given_out: u64,
    /// By the numbers of the servers.
    parts: Vec<Listing>,
    pub(super) given: Arc<GivenNames>,
    /// New servers are heard before names are given out anew, and until then nothing changes.
    waits: bool,
    /// How many changes are being told; what servers list meanwhile is put in place with the next one.
    telling: usize,
    /// Whether a server has listed meanwhile.
    listed_meanwhile: bool,
}

/// A catalog that was replaced, and the one in its place, to be told to those who follow.
pub(super) type Published = (Arc<Catalog>, Arc<Catalog>);

/// A change that is being told, in between what else there is to do. Without it changes that follow each other faster
/// than they are told would pile up, each with its lists.
pub(super) struct Telling(Arc<Shared>);

impl Drop for Telling {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.telling = state.telling.saturating_sub(1);
        let is_due = state.telling == 0 && std::mem::take(&mut state.listed_meanwhile);
        let published = if is_due && !state.waits { self.0.publish(&mut state) } else { None };
        drop(state);
        self.0.announce(published);
    }
}

/// What a new configuration brought.
#[derive(Clone, Copy, Debug)]
pub(super) struct Changed {
    pub(super) servers: bool,
    pub(super) policy: bool,
}

/// How far the listing of one server has come.
pub(super) enum Listing {
    /// Not answered yet.
    Pending,
    /// Failed at least once and never answered; how it failed first.
    Failed(Error),
    /// Not answered yet; what another server of that name said, which is shown meanwhile.
    Inherited(Arc<Part>),
    /// Answered; the latest word, also while the server is down.
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
    /// Whether each configured server has answered or failed.
    fn is_complete(&self) -> bool {
        let is_open =
            |number| matches!(self.parts.get(number), Some(Listing::Pending | Listing::Inherited(_)));
        !self.lineup.iter().any(|(number, _)| is_open(number))
    }

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
    /// The servers among these that have never listed.
    pub(super) fn unheard(&self, among: &Lineup) -> Vec<ServerName> {
        let state = self.state.lock();
        let is_heard = |number: usize| matches!(state.parts.get(number), Some(Listing::Listed(_)));
        among.iter().filter(|(number, _)| !is_heard(*number)).map(|(_, entry)| entry.name.clone()).collect()
    }

    /// See [`super::Router::complaints`].
    pub(super) fn complaints(&self, name: &ServerName) -> Complaints {
        let part = {
            let state = self.state.lock();
            let number = state.lineup.number(name.as_str());
            match number.and_then(|number| state.parts.get(number)) {
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
        for (list, faults) in &part.faults {
            all.extend(faults.first.iter().map(Fault::to_string));
            if faults.more > 0 {
                all.push(format!("{}: and {} more", list.method().as_str(), faults.more));
            }
        }
        Complaints { listed: true, all }
    }

    /// The latest word of a server.
    pub(super) fn listed(self: &Arc<Self>, number: usize, part: Part) {
        self.update(number, Listing::Listed(Arc::new(part)));
    }

    /// A server could not be listed. What it listed before stays.
    pub(super) fn failed(self: &Arc<Self>, number: usize, why: Error) {
        self.update(number, Listing::Failed(why));
    }

    /// The servers as they are configured now, as a number.
    pub(super) fn configured(&self) -> u64 {
        self.state.lock().configured
    }

    /// Gives out names now, whoever has answered; unless other servers are configured by now.
    pub(super) fn settle(self: &Arc<Self>, configured: u64) {
        let mut state = self.state.lock();
        if state.configured == configured && (!self.is_settled() || state.waits) {
            let published = self.give_out(&mut state);
            drop(state);
            self.announce(published);
        }
    }

    /// See [`super::Router::reconfigure`].
    pub(super) fn reconfigure(self: &Arc<Self>, servers: Vec<Entry>, rules: Option<&[Rule]>) -> Changed {
        let mut state = self.state.lock();
        let before = state.lineup.clone();
        let lineup = before.followed_by(servers);
        let is_other_policy = state.policy.rules() != rules;
        if is_other_policy {
            let entries = rules.map_or(0, <[_]>::len);
            self.metrics.policy_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
            state.policy = Arc::new(Policy::new(rules.map(<[_]>::to_vec)));
        }
        let are_others = !lineup.says_same(&before);
        let mut published = None;
        if are_others {
            published = self.place(&mut state, (&before, lineup));
        } else if is_other_policy && self.is_settled() {
            published = self.publish(&mut state); // what principals may use is no matter of names
        } else if is_other_policy {
            self.replace_unsettled(&state);
        }
        drop(state);
        self.announce(published);
        Changed { servers: are_others, policy: is_other_policy }
    }

    /// There are other servers now.
    fn place(&self, state: &mut State, (before, lineup): (&Lineup, Lineup)) -> Option<Published> {
        for number in state.parts.len()..lineup.numbers() {
            let namesake = lineup.get(number).and_then(|entry| before.number(entry.name.as_str()));
            let known = namesake.and_then(|namesake| state.parts.get(namesake)?.part());
            state.parts.push(known.map_or(Listing::Pending, Listing::Inherited));
        }
        for (number, part) in state.parts.iter_mut().enumerate() {
            if lineup.get(number).is_none() {
                *part = Listing::Pending; // nobody asks for it again
            }
        }
        (state.lineup, state.configured) = (Arc::new(lineup), state.configured + 1);
        if !self.is_settled() {
            // What is known of names counts only when they are given out.
            self.replace_unsettled(state);
        }
        if state.is_complete() {
            return self.give_out(state);
        }
        if self.is_settled() {
            // Who is gone is gone now; who is new is heard before names are given out anew.
            state.waits = true;
            let lineup = state.lineup.clone();
            Arc::make_mut(&mut state.given).retain(|owner| lineup.number(owner.as_str()).is_some());
            return self.publish(state);
        }
        None
    }

    fn update(self: &Arc<Self>, number: usize, listing: Listing) {
        let mut state = self.state.lock();
        let is_configured = state.lineup.get(number).is_some();
        // It may have been listed while the configuration changed.
        let Some(part) = state.parts.get_mut(number).filter(|_| is_configured) else { return };
        match (&part, &listing) {
            (Listing::Failed(_) | Listing::Listed(_), Listing::Failed(_)) => return,
            // Some servers announce changes whenever they are asked; nobody pays for what is as it was.
            (Listing::Listed(before), Listing::Listed(now)) if before == now => return,
            _ => *part = listing,
        }
        let published = if !state.waits && self.is_settled() {
            state.listed_meanwhile = state.telling > 0;
            if state.listed_meanwhile { None } else { self.publish(&mut state) }
        } else if state.is_complete() {
            self.give_out(&mut state)
        } else {
            None
        };
        drop(state);
        self.announce(published);
    }

    /// A change is being told from now on, until what this returns is dropped.
    pub(super) fn telling(self: &Arc<Self>) -> Telling {
        self.state.lock().telling += 1;
        Telling(self.clone())
    }

    /// Gives out all names anew.
    fn give_out(&self, state: &mut State) -> Option<Published> {
        (state.given, state.waits, state.given_out) = (Arc::default(), false, state.given_out + 1);
        self.publish(state)
    }

    fn publish(&self, state: &mut State) -> Option<Published> {
        let (parts, lineup) = (state.parts(), state.lineup.clone());
        let given = Arc::make_mut(&mut state.given);
        let catalog = Catalog::build(&members(&lineup, &parts), given, &self.terms, Known::default());
        let unmatched: usize = catalog.unmatched.iter().map(|(_, more)| more).sum();
        self.metrics.templates_unmatched.set(i64::try_from(unmatched).unwrap_or(i64::MAX));
        self.metrics.contested.set(i64::try_from(catalog.contested).unwrap_or(i64::MAX));
        let (given, given_out) = (state.given.clone(), state.given_out);
        let access = Access::new(state.policy.clone());
        let (before, catalog) = self.replace(Catalog { lineup, access, parts, given, given_out, ..catalog });
        self.tell(&before, &catalog);
        // Who has read nothing has nothing to read again.
        self.settled.send_replace(true).then_some((before, catalog))
    }

    /// What calls see that wait for names: the servers.
    fn replace_unsettled(&self, state: &State) {
        let (lineup, access) = (state.lineup.clone(), Access::new(state.policy.clone()));
        self.replace(Catalog { lineup, access, ..Catalog::default() });
    }

    /// The catalog before, and the one that is in its place now.
    fn replace(&self, catalog: Catalog) -> (Arc<Catalog>, Arc<Catalog>) {
        let catalog = Arc::new(catalog);
        let mut current = self.catalog.write();
        (std::mem::replace(&mut *current, catalog.clone()), catalog)
    }

    /// Log lines for what an operator would otherwise search for: once per change.
    fn tell(&self, before: &Catalog, now: &Catalog) {
        let name = |server: usize| now.lineup.get(server).map(|entry| entry.name.to_string());
        for doubled in now.doubled.iter().filter(|doubled| !before.doubled.contains(doubled)) {
            let (uri, owner, other) = doubled;
            let (owner, other) = (name(*owner), name(*other));
            tracing::warn!(
                uri,
                owner,
                other,
                "two servers list the same URI; the other's is at /servers/<other>/mcp"
            );
        }
        for (server, more) in now.unmatched.iter().filter(|more| !before.unmatched.contains(more)) {
            let server = name(*server);
            tracing::warn!(
                server,
                more,
                "too many resource templates; URIs are matched against the first ones only"
            );
        }
        if now.contested != before.contested {
            tracing::info!(names = now.contested, "contested names appear as <slug>__<name>");
        }
    }
}
