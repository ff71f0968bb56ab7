//! Notifications: counts of changed lists for whoever watches them, and subscriptions to resources, each at the server
//! that has the resource.

use std::collections::HashMap;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::timeout;
use wire::Message;

use super::policy::Policy;
use super::publish::Published;
use super::view::View;
use super::{ListChanges, Shared};
use crate::call::{Caller, List, ServerName, Subscriber, Subscribing, Subscription, UpdateSink};

/// The change counts that are watched: by caller, because a changed policy may change what a caller sees, and by
/// endpoint, of all servers together or of a single one.
#[derive(Default)]
pub(super) struct ListWatchers {
    watched: Mutex<Watched>,
}

/// A caller, and the server of the endpoint if it is that of a single server.
type Watcher = (Caller, Option<ServerName>);

#[derive(Default)]
struct Watched {
    /// May name servers that are not configured. An entry stays as long as somebody watches it.
    counts: HashMap<Watcher, watch::Sender<ListChanges>>,
    /// With so many entries, those that nobody watches are removed; so a removal rarely looks at entries in vain.
    max: usize,
}

impl ListWatchers {
    /// Watches what `caller` sees at one endpoint.
    pub(super) fn follow(&self, caller: &Caller, only: Option<&ServerName>) -> watch::Receiver<ListChanges> {
        let mut watched = self.watched.lock();
        if watched.counts.len() >= watched.max {
            watched.remove_unwatched();
        }
        watched.counts.entry((caller.clone(), only.cloned())).or_default().subscribe()
    }

    fn watchers(&self) -> Vec<Watcher> {
        let mut watched = self.watched.lock();
        watched.remove_unwatched();
        watched.counts.keys().cloned().collect()
    }

    fn notify(&self, watcher: &Watcher, changed: ListChanges) {
        if changed == ListChanges::default() {
            return;
        }
        if let Some(sender) = self.watched.lock().counts.get(watcher) {
            sender.send_modify(|changes| {
                changes.tools += changed.tools;
                changes.prompts += changed.prompts;
                changes.resources += changed.resources;
            });
        }
    }

    #[cfg(test)]
    pub(super) fn followed_by(&self) -> usize {
        self.watched.lock().counts.len()
    }
}

/// The differences between two catalogs, by the addresses of the limited catalogs and the endpoint: watchers who see the
/// same are compared once.
#[derive(Default)]
struct Compared(HashMap<(usize, usize, Option<ServerName>), ListChanges>);

impl Shared {
    /// Notifies watchers whose lists differ: the first few at once, the others in a task that gives way to calls. Must not
    /// be called under the lock of the state, because the lists of everybody who watches are made here.
    pub(super) fn notify_list_changes(self: &Arc<Self>, published: Option<Published>) {
        let Some(published) = published else { return };
        let (mut watchers, mut compared) = (self.list_watchers.watchers(), Compared::default());
        let rest = watchers.split_off(watchers.len().min(AT_ONCE));
        for watcher in watchers {
            self.list_watchers.notify(&watcher, self.changes_for(&published, &watcher, &mut compared));
        }
        if rest.is_empty() {
            return;
        }
        let (shared, guard) = (self.clone(), self.notify_guard());
        self.drain.spawn(async move {
            for watcher in rest {
                if shared.drain.is_leaving() {
                    return;
                }
                let changed = shared.changes_for(&published, &watcher, &mut compared);
                shared.list_watchers.notify(&watcher, changed);
                yield_now().await;
            }
            // Before the guard, which may publish the next catalog: two sets of lists are not held at once.
            drop((published, compared));
            drop(guard);
        });
    }

    fn changes_for(
        &self,
        Published { before, now }: &Published,
        (caller, only): &Watcher,
        compared: &mut Compared,
    ) -> ListChanges {
        let [before, now] = [before, now].map(|catalog| self.limited_for(catalog.clone(), caller));
        let seen = (Arc::as_ptr(&before).addr(), Arc::as_ptr(&now).addr(), only.clone());
        *compared.0.entry(seen).or_insert_with(|| {
            let nothing = View::default();
            let [before, now] = [&before, &now]
                .map(|catalog| catalog.scoped(only.as_ref()).map_or(&nothing, |scoped| scoped.view));
            changes_between(before, now)
        })
    }
}

impl Watched {
    fn remove_unwatched(&mut self) {
        self.counts.retain(|_, sender| sender.receiver_count() > 0);
        self.max = 2 * self.counts.len() + FEW;
    }
}

/// 1 for each list that differs.
fn changes_between(before: &View, now: &View) -> ListChanges {
    let differs = |list: List| !before.list(list).same_items(now.list(list));
    ListChanges {
        tools: differs(List::Tools).into(),
        prompts: differs(List::Prompts).into(),
        resources: (differs(List::Resources) || differs(List::Templates)).into(),
    }
}

/// Watchers that are notified at once. 8: making the lists of a thousand large tools takes some milliseconds for each.
const AT_ONCE: usize = 8;
/// Entries that are kept without looking for unwatched ones. 64: a page of memory.
const FEW: usize = 64;

/// What [`super::Gateway::subscribe`] returns.
pub type Accepted = Pin<Box<dyn Future<Output = Vec<Subscription>> + Send>>;

impl Shared {
    /// Subscribes to all resources at once, so that a slow server delays its own resources only.
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
                let mut requests = self.request_subscriptions(&subscriber, scope.as_ref(), uris);
                poll_fn(|context| {
                    requests.retain_mut(|answer| match answer.as_mut().poll(context) {
                        Poll::Pending => true,
                        Poll::Ready(answer) => {
                            accepted.extend(answer.ok());
                            false
                        }
                    });
                    if requests.is_empty() { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
            };
            // Resources whose servers have not answered by then are left out.
            let _ = timeout(SUBSCRIBE_TIMEOUT, all).await;
            accepted
        })
    }

    fn request_subscriptions(
        &self,
        subscriber: &Subscriber,
        scope: Option<&ServerName>,
        uris: Vec<String>,
    ) -> Vec<Subscribing> {
        let catalog = self.catalog_of(&subscriber.caller, &subscriber.affinity);
        let Some(scoped) = catalog.scoped(scope) else {
            uris.iter().for_each(|uri| self.note_denied_resource(&subscriber.caller, &catalog, (scope, uri)));
            return Vec::new();
        };
        let principal = subscriber.caller.principal();
        let mut subscribers = HashMap::new();
        let requests = uris.into_iter().filter_map(|uri| {
            let Some(owner) = self.owner(&scoped, (principal, &uri)) else {
                self.note_denied_resource(&subscriber.caller, &catalog, (scope, &uri));
                return None;
            };
            let entry = catalog.shown.get(owner.server)?;
            let subscriber: &Subscriber = subscribers.entry(owner.server).or_insert_with(|| {
                let listener = (&subscriber.caller, &entry.name);
                let sink = self.resource_listeners.add(listener, subscriber.sink.clone());
                Subscriber { sink, ..subscriber.clone() }
            });
            // A policy that changed in between has closed only the listeners it knew of.
            self.catalog_for(&subscriber.caller).shown.get(owner.server)?;
            Some(match owner.listed {
                None => entry.server.subscribe(subscriber.clone(), uri),
                Some(listed) => {
                    let subscribing = entry.server.subscribe(subscriber.clone(), listed.to_owned());
                    Box::pin(async move { Ok(Subscription::new(uri, subscribing.await?)) })
                }
            })
        });
        requests.collect()
    }
}

/// Whoever is notified of resource updates, until the policy denies them the server.
#[derive(Default)]
pub(super) struct ResourceListeners {
    all: Mutex<Vec<Weak<ResourceListener>>>,
}

/// Passes the updates of one server on to one subscriber.
struct ResourceListener {
    caller: Caller,
    server: ServerName,
    to: Arc<dyn UpdateSink>,
    /// Nothing more is passed on.
    is_closed: AtomicBool,
}

impl UpdateSink for ResourceListener {
    fn updated(&self, message: &Message) {
        if !self.is_closed.load(Ordering::Acquire) {
            self.to.updated(message);
        }
    }

    fn lost(&self) {
        self.to.lost();
    }
}

impl ResourceListeners {
    fn add(&self, (caller, server): (&Caller, &ServerName), to: Arc<dyn UpdateSink>) -> Arc<dyn UpdateSink> {
        let (caller, server) = (caller.clone(), server.clone());
        let listener = Arc::new(ResourceListener { caller, server, to, is_closed: AtomicBool::new(false) });
        let mut all = self.all.lock();
        if all.len() == all.capacity() {
            all.retain(|listener| listener.strong_count() > 0);
        }
        all.push(Arc::downgrade(&listener));
        listener
    }

    /// Ends the listeners whose server `policy` denies them, and reports their subscriptions as lost.
    pub(super) fn close_denied(&self, policy: &Policy) {
        let is_denied =
            |listener: &Arc<ResourceListener>| !policy.allows(&listener.caller, listener.server.as_str());
        let denied: Vec<_> = self.all.lock().iter().filter_map(Weak::upgrade).filter(is_denied).collect();
        for listener in denied {
            if !listener.is_closed.swap(true, Ordering::AcqRel) {
                listener.lost();
            }
        }
    }
}

/// How long servers have to accept subscriptions. 5 s: a server that has to be started first is up by then, and a client
/// waits no longer for its acknowledgement.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(5);
