//! The catalogs of callers who may not use everything. Each grant of the policy has one, made when the first of its
//! callers looks, from the same parts and with the same names as everybody's. It holds no trace of what is denied, so
//! whoever routes by it treats that as unknown.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::time::sleep;

use super::catalog::{BuildScope, Catalog, CatalogOptions, GivenNames, Views};
use super::part::Part;
use super::policy::{Grant, Policy};
use super::server_set::{PerServer, ServerSet};
use super::{Router, Shared};
use crate::call::{Caller, ServerName};

/// Who may see what of a catalog.
#[derive(Debug, Default)]
pub(super) struct Access {
    policy: Arc<Policy>,
    /// The catalogs of the policy's grants, in their order.
    limited: Vec<OnceLock<Arc<Catalog>>>,
    /// About the bytes of all of them, without what they share.
    held_bytes: AtomicUsize,
    /// What this catalog is limited to; `None` if it shows everything.
    grant: Option<Arc<Grant>>,
}

impl Access {
    /// Of the catalog that shows everything.
    pub(super) fn new(policy: Arc<Policy>) -> Self {
        let limited = policy.grants().iter().map(|_| OnceLock::new()).collect();
        Self { policy, limited, ..Self::default() }
    }

    /// Of a catalog limited to `grant`.
    fn limited_to(grant: Option<Arc<Grant>>) -> Self {
        Self { grant, ..Self::default() }
    }

    #[cfg(test)]
    pub(super) fn grants_made(&self) -> usize {
        self.limited.iter().filter_map(OnceLock::get).count()
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.held_bytes.load(Ordering::Acquire)
    }
}

/// The tool globs of the policy that match no tool of their entry's servers, each after the principals of its entry.
/// Entries with a server that was never listed are left out, because its tools are not known.
pub(super) fn idle_globs(router: &Router) -> Vec<(String, String)> {
    let catalog = router.catalog();
    let never_listed = router.shared.never_listed(&catalog.shown);
    let parts = &catalog.basis.parts;
    let parts = catalog.shown.iter().filter_map(|(index, entry)| Some((entry, parts.get(index)?.as_ref()?)));
    let tools: Vec<_> = parts
        .flat_map(|(entry, part)| part.tools.iter().map(|tool| (entry.name.as_str(), tool.key.as_str())))
        .collect();
    let mut idle = Vec::new();
    for rule in catalog.access.policy.rules().unwrap_or_default() {
        if never_listed.iter().any(|name| rule.grant.servers.has_server(name.as_str())) {
            continue;
        }
        let globs = rule.grant.idle(&tools);
        idle.extend(globs.map(|step| (rule.principals.as_str().to_owned(), step.to_string())));
    }
    idle
}

/// Ends what principals have of servers that a changed policy denies them: updates of resources at once, connections of
/// their own when their last call ends. Calls that were waiting for a connection are looked after once none can wait any more.
pub(super) fn revoke(router: &Router) {
    let (shared, policy) = (router.shared.clone(), router.catalog().access.policy.clone());
    router.catalog().revoke_denied();
    shared.resource_listeners.close_denied(&policy);
    router.shared.drain.spawn(async move {
        tokio::select! {
            () = shared.drain.leaving() => {}
            () = sleep(shared.config.late) => {
                let catalog = shared.catalog();
                // A later policy has a task of its own.
                if Arc::ptr_eq(&catalog.access.policy, &policy) {
                    catalog.revoke_denied();
                }
            }
        }
    });
}

impl Catalog {
    fn revoke_denied(&self) {
        // Each principal is looked up once, not once for each of its sessions at each server.
        let callers = RefCell::new(HashMap::<String, Caller>::new());
        for (_, entry) in self.shown.iter() {
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

    /// What the catalog is limited to; `None` if it shows everything.
    pub(super) fn grant(&self) -> Option<&Grant> {
        self.access.grant.as_deref()
    }

    /// All configured servers, whether the catalog shows them or not.
    pub(super) fn configured(&self) -> &Arc<ServerSet> {
        &self.basis.servers
    }

    /// The same servers and limits with other views.
    pub(super) fn with_views(&self, views: Views) -> Self {
        let access = Access::limited_to(self.access.grant.clone());
        Self { basis: self.basis.clone(), shown: self.shown.clone(), access, views }
    }

    /// Whether a call at the endpoint of one server may name a tool that no list shows. Where the policy decides by the
    /// name of a tool it may not: only the server knows what it takes the name for.
    pub(super) fn takes_unlisted_tools(&self) -> bool {
        self.grant().is_none_or(|grant| grant.tools.is_all())
    }

    fn limited(&self, grant: Arc<Grant>, options: &CatalogOptions) -> Self {
        // All names are given out by now, so this gives out none.
        let mut names = GivenNames::clone(&self.basis.names);
        let members = self.basis.members();
        let existing = PerServer::filled(self.views.alone.len(), || None);
        let mut scope = BuildScope { grant: Some(&grant), existing };
        for member in &members {
            // Who may use all of a server sees the same of it as everybody.
            let allows_all = |part: &Part| {
                let mut tools = part.tools(&options.limits).iter();
                grant.tools.is_all() || tools.all(|tool| grant.has_tool(member.name.as_str(), &tool.item.key))
            };
            if let Some(existing) = scope.existing.get_mut(member.index)
                && grant.servers.has_server(member.name.as_str())
                && member.part.is_none_or(allows_all)
            {
                *existing = self.views.alone.get(member.index).cloned();
            }
        }
        let views = Views::build(&members, &mut names, options, scope);
        let is_allowed = |name: &ServerName| grant.servers.has_server(name.as_str());
        let shown = Arc::new(self.shown.filtered(is_allowed));
        Self { basis: self.basis.clone(), shown, access: Access::limited_to(Some(grant)), views }
    }

    /// Lets equal lists of everybody's catalog and of the other grants share memory. Returns about the bytes that are not
    /// shared.
    fn share(&mut self, whole: &Self) -> usize {
        let made = whole.access.limited.iter().filter_map(OnceLock::get).map(Arc::as_ref);
        let others = std::iter::once(whole).chain(made).map(|catalog| &catalog.views);
        let alone = self.views.alone.iter_mut().filter_map(|(index, own)| {
            // A view that is shared already needs nothing.
            let own = Arc::get_mut(own)?;
            Some(own.share(others.clone().filter_map(|other| other.alone.get(index).map(Arc::as_ref))))
        });
        let alone: usize = alone.sum();
        alone + self.views.all.share(others.map(|other| &other.all))
    }
}

impl Shared {
    /// What `caller` may see of `catalog`, which shows everything.
    pub(super) fn limited_for(&self, catalog: Arc<Catalog>, caller: &Caller) -> Arc<Catalog> {
        let access = &catalog.access;
        let Some(place) = access.policy.place(caller) else { return catalog };
        match (access.policy.grants().get(place), access.limited.get(place)) {
            (Some(grant), Some(limited)) => {
                limited.get_or_init(|| Arc::new(self.limited(&catalog, (place, grant)))).clone()
            }
            // Each grant has its place.
            _ => Arc::default(),
        }
    }

    /// The catalog of a grant; an empty one if there is no room for its lists.
    fn limited(&self, catalog: &Catalog, (place, grant): (usize, &Arc<Grant>)) -> Catalog {
        let mut limited = catalog.limited(grant.clone(), &self.options);
        let bytes = limited.share(catalog);
        let held = &catalog.access.held_bytes;
        let more = |held: usize| held.checked_add(bytes).filter(|held| *held <= self.options.policy_bytes);
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
        catalog.limited(Arc::new(Grant::nothing()), &self.options)
    }
}
