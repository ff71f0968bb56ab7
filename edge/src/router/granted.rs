//! A catalog as those see it who may not use everything: made of the same parts when somebody of that grant first
//! looks, once for all of them, and with the same names. It has no trace of what is denied; whoever routes by it cannot
//! but treat that as unknown.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::sleep;

use super::Router;
use super::catalog::{Catalog, GivenNames, Terms};
use super::lineup::Lineup;
use super::policy::{Grant, Policy};
use super::publish::members;
use crate::call::{Caller, ServerName};

/// Who may see what of a catalog.
#[derive(Debug, Default)]
pub(super) struct Access {
    policy: Arc<Policy>,
    /// By the places of the policy's grants.
    granted: Vec<OnceLock<Arc<Catalog>>>,
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
        Self { policy, granted, grant: None }
    }
}

/// What principals have of servers that they may use no longer ends: news of resources at once, connections of their own
/// with the calls on them. Calls that were on their way to a connection are looked after later.
pub(super) fn take_back(router: &Router) {
    let (shared, policy) = (router.shared.clone(), router.catalog().access.policy.clone());
    router.catalog().take_back();
    shared.ears.close(&policy);
    router.shared.drain.spawn(async move {
        tokio::select! {
            () = shared.drain.leaving() => {}
            () = sleep(LATE) => {
                let catalog = shared.catalog();
                // A later policy looks after itself.
                if Arc::ptr_eq(&catalog.access.policy, &policy) {
                    catalog.take_back();
                }
            }
        }
    });
}

/// From a changed policy to the last connection that is opened for a call from before it. 60 s: a call waits for a slot, a
/// connection and a handshake for less.
const LATE: Duration = Duration::from_secs(60);

impl Catalog {
    fn take_back(&self) {
        for (_, entry) in self.lineup.iter() {
            let may_use =
                |principal: &str| self.access.policy.allows(&Caller::new(principal), entry.name.as_str());
            entry.server.take_back(&|principal| !may_use(principal));
        }
    }

    /// What `caller` may see of it.
    pub(super) fn seen_by(self: Arc<Self>, caller: &Caller, terms: &Terms) -> Arc<Self> {
        let Some(place) = self.access.policy.place(caller) else { return self };
        let (grants, seen) = (self.access.policy.grants(), &self.access.granted);
        match (grants.get(place), seen.get(place)) {
            (Some(grant), Some(seen)) => {
                seen.get_or_init(|| Arc::new(self.limited(grant.clone(), terms))).clone()
            }
            // There is a place for each.
            _ => Arc::default(),
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
        let catalog = Self::build(&members, &mut given, terms, Some(&grant));
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
}
