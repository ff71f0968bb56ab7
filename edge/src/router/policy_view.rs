//! A catalog as those see it who may not use everything: made of the same parts when somebody of that grant first
//! looks, once for all of them, and with the same names. It has no trace of what is denied; whoever routes by it cannot
//! but treat that as unknown.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::time::sleep;

use super::catalog::{Catalog, GivenNames, Known, Terms};
use super::lineup::Lineup;
use super::part::Part;
use super::policy::{Grant, Policy};
use super::publish::members;
use super::{Router, Shared};
use crate::call::{Caller, ServerName};

/// Who may see what of a catalog.
#[derive(Debug, Default)]
pub(super) struct Access {
    policy: Arc<Policy>,
    /// By the places of the policy's grants.
    granted: Vec<OnceLock<Arc<Catalog>>>,
    /// About the bytes of all of them, without what they share.
    held: AtomicUsize,
    /// What this one is limited to, if it is not the whole.
    grant: Option<Limited>,
}

#[derive(Clone, Debug)]
struct Limited {
    to: Arc<Grant>,
    /// All servers, which names are given out among.
    among: Arc<Lineup>,
}

impl Access {
    pub(super) fn new(policy: Arc<Policy>) -> Self {
        let granted = policy.grants().iter().map(|_| OnceLock::new()).collect();
        Self { policy, granted, ..Self::default() }
    }

    #[cfg(test)]
    pub(super) fn grants_made(&self) -> usize {
        self.granted.iter().filter_map(OnceLock::get).count()
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }
}

/// The globs of tools in the policy that are about no tool of their entry's servers, with whom the entry is about. Entries
/// with a server that has never listed are left out, for nobody knows its tools.
pub(super) fn idle_globs(router: &Router) -> Vec<(String, String)> {
    let catalog = router.catalog();
    let unheard = router.shared.unheard(&catalog.lineup);
    let parts = catalog.lineup.iter().filter_map(|(n, entry)| Some((entry, catalog.parts.get(n)?.as_ref()?)));
    let tools: Vec<_> = parts
        .flat_map(|(entry, part)| part.tools.iter().map(|tool| (entry.name.as_str(), tool.key.as_str())))
        .collect();
    let mut idle = Vec::new();
    for rule in catalog.access.policy.rules().unwrap_or_default() {
        if unheard.iter().any(|name| rule.grant.servers.has_server(name.as_str())) {
            continue;
        }
        let globs = rule.grant.idle(&tools);
        idle.extend(globs.map(|step| (rule.principals.as_str().to_owned(), step.to_string())));
    }
    idle
}

/// What principals have of servers that they may use no longer ends: news of resources at once, connections of their own
/// with the calls on them. Calls that were on their way to a connection are looked after later.
pub(super) fn revoke(router: &Router) {
    let (shared, policy) = (router.shared.clone(), router.catalog().access.policy.clone());
    router.catalog().revoke();
    shared.ears.close(&policy);
    router.shared.drain.spawn(async move {
        tokio::select! {
            () = shared.drain.leaving() => {}
            () = sleep(shared.config.late) => {
                let catalog = shared.catalog();
                // A later policy looks after itself.
                if Arc::ptr_eq(&catalog.access.policy, &policy) {
                    catalog.revoke();
                }
            }
        }
    });
}

impl Catalog {
    fn revoke(&self) {
        // A principal is looked up once, and not for each of its sessions at each server.
        let callers = RefCell::new(HashMap::<String, Caller>::new());
        for (_, entry) in self.lineup.iter() {
            entry.server.revoke(&|principal| {
                let mut callers = callers.borrow_mut();
                let caller = match callers.get(principal) {
                    Some(known) => known,
                    None => callers.entry(principal.to_owned()).or_insert_with(|| Caller::new(principal)),
                };
                !self.access.policy.allows(caller, entry.name.as_str())
            });
        }
    }

    /// What it is limited to; `None`: it is the whole.
    pub(super) fn grant(&self) -> Option<&Grant> {
        self.access.grant.as_ref().map(|limited| &*limited.to)
    }

    /// All servers that are configured, whether it shows them or not.
    pub(super) fn configured(&self) -> &Arc<Lineup> {
        self.access.grant.as_ref().map_or(&self.lineup, |limited| &limited.among)
    }

    /// The same limits for another one of the same servers.
    pub(super) fn access_like(&self) -> Access {
        Access { grant: self.access.grant.clone(), ..Access::default() }
    }

    /// Whether the policy lets a call to this server alone go by a tool's name that no list shows: one by name would have
    /// to be held against globs as that server understands it, which nobody else can know.
    pub(super) fn takes_unlisted_tools(&self) -> bool {
        self.grant().is_none_or(|grant| grant.tools.is_all())
    }

    fn limited(&self, grant: Arc<Grant>, terms: &Terms) -> Self {
        // All of them are given out by now, so this gives out none.
        let mut given = GivenNames::clone(&self.given);
        let members = members(&self.lineup, &self.parts);
        let mut known = Known { grant: Some(&grant), alone: vec![None; self.alone.len()] };
        for member in &members {
            // Who may use all of a server sees the same of it as everybody.
            let all_of = |part: &Part| {
                let mut tools = part.tools(&terms.limits).iter();
                grant.tools.is_all() || tools.all(|tool| grant.has_tool(member.name.as_str(), &tool.item.key))
            };
            if let Some(place) = known.alone.get_mut(member.number)
                && grant.servers.has_server(member.name.as_str())
                && member.part.is_none_or(all_of)
            {
                *place = self.alone.get(member.number).cloned();
            }
        }
        let catalog = Self::build(&members, &mut given, terms, known);
        let sees = |name: &ServerName| grant.servers.has_server(name.as_str());
        Self {
            lineup: Arc::new(self.lineup.limited_to(sees)),
            access: Access {
                grant: Some(Limited { to: grant.clone(), among: self.lineup.clone() }),
                ..Access::default()
            },
            parts: self.parts.clone(),
            given: self.given.clone(),
            given_out: self.given_out,
            ..catalog
        }
    }

    /// The same lists as another one's, or as those of another grant, are there once; about the bytes of what is left.
    fn share(&mut self, whole: &Self) -> usize {
        let made = whole.access.granted.iter().filter_map(OnceLock::get).map(Arc::as_ref);
        let others = std::iter::once(whole).chain(made);
        let alone = self.alone.iter_mut().enumerate().filter_map(|(place, own)| {
            // What is another one's already cannot be had.
            let own = Arc::get_mut(own)?;
            Some(own.share(others.clone().filter_map(|other| other.alone.get(place).map(Arc::as_ref))))
        });
        let alone: usize = alone.sum();
        alone + self.all.share(others.map(|other| &other.all))
    }
}

impl Shared {
    /// What `caller` may see of `catalog`.
    pub(super) fn seen_by(&self, catalog: Arc<Catalog>, caller: &Caller) -> Arc<Catalog> {
        let access = &catalog.access;
        let Some(place) = access.policy.place(caller) else { return catalog };
        match (access.policy.grants().get(place), access.granted.get(place)) {
            (Some(grant), Some(seen)) => {
                seen.get_or_init(|| Arc::new(self.limited(&catalog, (place, grant)))).clone()
            }
            // There is a place for each.
            _ => Arc::default(),
        }
    }

    /// As far as there is room for it; else nothing.
    fn limited(&self, catalog: &Catalog, (place, grant): (usize, &Arc<Grant>)) -> Catalog {
        let mut limited = catalog.limited(grant.clone(), &self.terms);
        let bytes = limited.share(catalog);
        let held = &catalog.access.held;
        let more = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.terms.policy_bytes);
        if held.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).is_ok() {
            return limited;
        }
        self.metrics.policy_lists_refused.inc();
        let principals = catalog.access.policy.principals(place);
        tracing::error!(
            principals,
            bytes,
            "no room for the lists of a `policy` entry; its principals may use nothing until there is room; raise \
             limits.policy_bytes, or let more entries allow the same"
        );
        catalog.limited(Arc::new(Grant::nothing()), &self.terms)
    }
}
