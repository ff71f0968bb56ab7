//! News: which rendered lists changed, told to whoever reads them, and updates of resources, each from the server
//! that has it.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::catalog::{Catalog, Surface};
use super::lineup::Lineup;
use super::{ListChanges, Shared};
use crate::call::{List, ServerName, Subscriber, Subscribing, Subscription};

/// The counts of every view: of all servers together, and of each alone.
#[derive(Default)]
pub(super) struct News {
    all: watch::Sender<ListChanges>,
    /// Also of servers that are configured no longer, while somebody follows them.
    alone: Mutex<HashMap<ServerName, watch::Sender<ListChanges>>>,
}

impl News {
    /// There are these servers from now on.
    pub(super) fn follow_all(&self, lineup: &Lineup) {
        let mut alone = self.alone();
        alone.retain(|name, sender| sender.receiver_count() > 0 || lineup.number(name.as_str()).is_some());
        for (_, entry) in lineup.iter() {
            alone.entry(entry.name.clone()).or_default();
        }
    }

    /// Follows one view; one that does not exist never changes.
    pub(super) fn follow(&self, only: Option<&ServerName>) -> watch::Receiver<ListChanges> {
        let alone = self.alone();
        match only {
            Some(name) => alone
                .get(name)
                .map_or_else(|| watch::channel(ListChanges::default()).1, watch::Sender::subscribe),
            None => self.all.subscribe(),
        }
    }

    /// Tells those who follow a view, if what they would read differs.
    pub(super) fn announce(&self, before: &Catalog, now: &Catalog) {
        tell(&self.all, &before.all, &now.all);
        let nothing = Surface::default();
        let view = |catalog: &Catalog, name: &ServerName| {
            catalog.alone.get(catalog.lineup.number(name.as_str())?).cloned()
        };
        for (name, sender) in self.alone().iter() {
            let (before, now) = (view(before, name), view(now, name));
            tell(sender, before.as_deref().unwrap_or(&nothing), now.as_deref().unwrap_or(&nothing));
        }
    }

    fn alone(&self) -> MutexGuard<'_, HashMap<ServerName, watch::Sender<ListChanges>>> {
        // Every state inside is valid at any point, so a poisoned lock carries no news.
        self.alone.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(sender: &watch::Sender<ListChanges>, before: &Surface, now: &Surface) {
    let differs = |list: List| !before.list(list).same_items(now.list(list));
    sender.send_if_modified(|changes| {
        let old = *changes;
        changes.tools += u64::from(differs(List::Tools));
        changes.prompts += u64::from(differs(List::Prompts));
        changes.resources += u64::from(differs(List::Resources) || differs(List::Templates));
        *changes != old
    });
}

/// What [`super::Gateway::subscribe`] yields.
pub type Accepted = Pin<Box<dyn Future<Output = Vec<Subscription>> + Send>>;

impl Shared {
    /// All at once: a server that is slow costs its own resources, and not those of others.
    pub(super) fn subscribe(
        self: Arc<Self>,
        subscriber: Subscriber,
        scope: Option<ServerName>,
        uris: Vec<String>,
    ) -> Accepted {
        let mut settled = self.settled.subscribe();
        Box::pin(async move {
            let mut accepted = Vec::new();
            let all = async {
                // The sender is in `self`, so this cannot fail.
                let _ = settled.wait_for(|settled| *settled).await;
                let mut asked = self.ask_for(&subscriber, scope.as_ref(), uris);
                poll_fn(|context| {
                    asked.retain_mut(|answer| match answer.as_mut().poll(context) {
                        Poll::Pending => true,
                        Poll::Ready(answer) => {
                            accepted.extend(answer.ok());
                            false
                        }
                    });
                    if asked.is_empty() { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
            };
            // Who has not agreed by then is left out.
            let _ = timeout(ANSWERS, all).await;
            accepted
        })
    }

    fn ask_for(
        &self,
        subscriber: &Subscriber,
        scope: Option<&ServerName>,
        uris: Vec<String>,
    ) -> Vec<Subscribing> {
        let catalog = self.catalog_of(&subscriber.affinity);
        let Some((surface, only)) = self.surface(&catalog, scope) else { return Vec::new() };
        let principal = subscriber.caller.principal();
        let asked = uris.into_iter().filter_map(|uri| {
            let entry = catalog.lineup.get(self.owner(surface, only, (principal, &uri))?)?;
            Some(entry.server.subscribe(subscriber.clone(), uri))
        });
        asked.collect()
    }
}

/// What servers get to agree to subscriptions. 5 s: one that has to be started first is there by then, and a client
/// waits no longer for its acknowledgement.
const ANSWERS: Duration = Duration::from_secs(5);
