//! The resource subscriptions at one server, grouped by isolation key: who gets the updates of which resource, over
//! whose connection.
//!
//! Pure bookkeeping; `reconciler` brings the server's state in line with it. A resource is wanted as long as at least
//! one subscriber holds it, and the server is subscribed to it once, however many there are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use wire::Message;

use crate::call::{SessionHandle, Subscription, UpdateSink};
use crate::error::Error;
use crate::upstream::key::{Key, Target};

/// The subscriptions of one server.
#[derive(Default)]
pub(in crate::upstream) struct Subscriptions {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    by_key: HashMap<Key, Arc<SubscriptionGroup>>,
    /// By the number of the connection that currently carries the group.
    by_conn: HashMap<u64, Arc<SubscriptionGroup>>,
    /// The subscriptions of legacy sessions, which live until an unsubscribe request or the session's end.
    by_session: HashMap<u64, SessionSubscriptions>,
}

/// The subscriptions of one session.
struct SessionSubscriptions {
    principal: Arc<str>,
    held: BTreeMap<String, Subscription>,
}

/// The subscriptions that share the connection of one isolation key.
pub(super) struct SubscriptionGroup {
    /// The connection that carries them.
    pub(super) target: Target,
    resources: Mutex<Resources>,
    /// Counts the changes of the set of wanted resources.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Resources {
    by_uri: BTreeMap<String, Resource>,
    last_token: u64,
}

/// One wanted resource, and its subscribers. A token identifies a subscriber, because several may have the same sink.
struct Resource {
    sinks: Vec<(u64, Arc<dyn UpdateSink>)>,
    state: watch::Sender<SubscriptionState>,
    /// How many processes in a row died when this accepted subscription was renewed.
    deaths: u8,
}

impl Resource {
    fn is_open(&self) -> bool {
        !matches!(*self.state.borrow(), SubscriptionState::Refused(_))
    }
}

/// The server's answer to a subscription.
#[derive(Clone, Debug)]
pub(super) enum SubscriptionState {
    /// None yet.
    Pending,
    /// The server accepted it.
    Active,
    /// The server refused it, or could not be asked.
    Refused(Error),
}

impl Subscriptions {
    /// Adds a subscriber. `start` is called for a group that did not exist before, to start its reconciler.
    pub(super) fn add(
        &self,
        target: Target,
        uri: &str,
        sink: Arc<dyn UpdateSink>,
        start: impl FnOnce(Arc<SubscriptionGroup>),
    ) -> (Subscription, watch::Receiver<SubscriptionState>) {
        let mut inner = self.inner.lock();
        let group = inner.by_key.entry(target.key.clone()).or_insert_with(|| {
            let (resources, changed) = (Mutex::default(), watch::Sender::default());
            let group = Arc::new(SubscriptionGroup { target, resources, changed });
            start(group.clone());
            group
        });
        // Under the lock, so that `remove_if_unused` cannot remove the group in between.
        group.add(uri, sink)
    }

    /// Removes a group in which nothing is wanted any more; `true` if it was removed.
    pub(super) fn remove_if_unused(&self, group: &SubscriptionGroup) -> bool {
        let mut inner = self.inner.lock();
        let is_unused = group.is_unused();
        if is_unused {
            inner.by_key.remove(&group.target.key);
        }
        is_unused
    }

    /// The group is on the connection of this number from now on.
    pub(super) fn attach(&self, number: u64, group: &Arc<SubscriptionGroup>) {
        self.inner.lock().by_conn.insert(number, group.clone());
    }

    /// The connection of this number no longer carries a group.
    pub(super) fn detach(&self, number: u64) {
        self.inner.lock().by_conn.remove(&number);
    }

    /// Whether the connection of this number carries wanted subscriptions.
    pub(in crate::upstream) fn are_on(&self, number: u64) -> bool {
        self.inner.lock().by_conn.get(&number).is_some_and(|group| !group.is_unused())
    }

    /// Delivers a `notifications/resources/updated` that came on the connection of this number.
    pub(in crate::upstream) fn publish(&self, number: u64, message: &Message) {
        let group = self.inner.lock().by_conn.get(&number).cloned();
        if let Some(group) = group {
            group.publish(message);
        }
    }

    /// Keeps a session's subscription; `true` if it is the first of this session.
    pub(super) fn keep(&self, session: &SessionHandle, subscription: Subscription) -> bool {
        let mut inner = self.inner.lock();
        let is_first = !inner.by_session.contains_key(&session.number);
        let kept = inner.by_session.entry(session.number).or_insert_with(|| SessionSubscriptions {
            principal: session.caller.principal().clone(),
            held: BTreeMap::new(),
        });
        let replaced = kept.held.insert(subscription.uri().to_owned(), subscription);
        drop(inner); // dropping a subscription may take other locks
        drop(replaced);
        is_first
    }

    /// Ends a session's subscription to `uri`.
    pub(super) fn release(&self, session: u64, uri: &str) {
        let released = self.inner.lock().by_session.get_mut(&session).and_then(|kept| kept.held.remove(uri));
        drop(released);
    }

    /// Ends the subscriptions of all sessions whose principal is denied.
    pub(in crate::upstream) fn release_of(&self, is_denied: impl Fn(&str) -> bool) {
        let mut inner = self.inner.lock();
        let kept = inner.by_session.values_mut().filter(|kept| is_denied(&kept.principal));
        // The sessions' entries stay: what they subscribe to later ends with them too.
        let released: Vec<_> = kept.map(|kept| std::mem::take(&mut kept.held)).collect();
        drop(inner); // dropping a subscription may take other locks
        drop(released);
    }

    /// Ends all subscriptions of a session.
    pub(super) fn release_all(&self, session: u64) {
        let released = self.inner.lock().by_session.remove(&session);
        drop(released);
    }
}

impl SubscriptionGroup {
    fn add(
        self: &Arc<Self>,
        uri: &str,
        sink: Arc<dyn UpdateSink>,
    ) -> (Subscription, watch::Receiver<SubscriptionState>) {
        let (token, state, is_new) = {
            let mut resources = self.resources.lock();
            resources.last_token += 1;
            let token = resources.last_token;
            let is_new = !resources.by_uri.contains_key(uri);
            let resource = resources.by_uri.entry(uri.to_owned()).or_insert_with(|| Resource {
                sinks: Vec::new(),
                state: watch::Sender::new(SubscriptionState::Pending),
                deaths: 0,
            });
            resource.sinks.push((token, sink));
            (token, resource.state.subscribe(), is_new)
        };
        if is_new {
            self.changed.send_modify(|changes| *changes += 1);
        }
        let guard = Guard { group: self.clone(), uri: uri.to_owned(), token };
        (Subscription::new(uri.to_owned(), guard), state)
    }

    fn remove(&self, uri: &str, token: u64) {
        let gone = {
            let mut resources = self.resources.lock();
            let Some(resource) = resources.by_uri.get_mut(uri) else { return };
            resource.sinks.retain(|(other, _)| *other != token);
            let gone = if resource.sinks.is_empty() { resources.by_uri.remove(uri) } else { None };
            // The end of a refused subscription changes nothing at the server; the end of the last one ends the group.
            gone.filter(|resource| resource.is_open() || resources.by_uri.is_empty())
        };
        if gone.is_some() {
            self.changed.send_modify(|changes| *changes += 1);
        }
    }

    /// Changes of the set of wanted resources.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Whether nothing is wanted.
    pub(super) fn is_unused(&self) -> bool {
        self.resources.lock().by_uri.is_empty()
    }

    /// The URIs that are wanted and were not refused.
    pub(super) fn wanted(&self) -> Vec<String> {
        let resources = self.resources.lock();
        resources
            .by_uri
            .iter()
            .filter(|(_, resource)| resource.is_open())
            .map(|(uri, _)| uri.clone())
            .collect()
    }

    /// Whether `uri` is wanted and was not refused.
    pub(super) fn is_open(&self, uri: &str) -> bool {
        self.resources.lock().by_uri.get(uri).is_some_and(Resource::is_open)
    }

    /// The server accepted `uri`. If it had accepted it before, on another connection or in another listen, updates
    /// may have been missed in between (`missed`): then subscribers get an update.
    pub(super) fn accepted(&self, uri: &str, missed: bool) {
        let before = {
            let mut resources = self.resources.lock();
            let Some(resource) = resources.by_uri.get_mut(uri) else { return };
            resource.deaths = 0;
            resource.state.send_replace(SubscriptionState::Active)
        };
        if missed && matches!(before, SubscriptionState::Active) {
            self.publish_changed(uri);
        }
    }

    /// The server refused `uri`; `true` if that ends the subscription. One that was accepted before stays wanted, and
    /// is renewed on the next connection.
    pub(super) fn refused(&self, uri: &str, error: &Error) -> bool {
        let resources = self.resources.lock();
        let Some(resource) = resources.by_uri.get(uri) else { return true };
        resource.state.send_if_modified(|state| {
            let is_pending = matches!(state, SubscriptionState::Pending);
            if is_pending {
                *state = SubscriptionState::Refused(error.clone());
            }
            is_pending
        })
    }

    /// Refuses everything that is still pending.
    pub(super) fn refuse_all(&self, error: &Error) {
        for uri in self.wanted() {
            self.refused(&uri, error);
        }
    }

    /// The process died when it was asked for `uri`. A pending subscription is refused; one that was accepted before
    /// is given up once several processes in a row died of it. `true` if it was given up.
    pub(super) fn died(&self, uri: &str, error: &Error) -> bool {
        if self.refused(uri, error) {
            return false;
        }
        let lost = {
            let mut resources = self.resources.lock();
            let Some(resource) = resources.by_uri.get_mut(uri) else { return false };
            resource.deaths += 1;
            if resource.deaths < DEATHS_MAX {
                return false;
            }
            resources.by_uri.remove(uri)
        };
        distinct(lost.iter().flat_map(|resource| &resource.sinks)).iter().for_each(|sink| sink.lost());
        true
    }

    /// Whether a process may have died of a wanted subscription.
    pub(super) fn has_killed(&self) -> bool {
        self.resources.lock().by_uri.values().any(|resource| resource.deaths > 0)
    }

    /// Whether a subscriber waits for the server's answer.
    pub(super) fn has_pending(&self) -> bool {
        self.resources
            .lock()
            .by_uri
            .values()
            .any(|resource| matches!(*resource.state.borrow(), SubscriptionState::Pending))
    }

    /// Delivers an update to every sink that subscribed to its resource or to one that contains it, once per sink.
    pub(super) fn publish(&self, message: &Message) {
        let Some(uri) = message.param("uri").and_then(|uri| uri.as_str()) else { return };
        let sinks = {
            let resources = self.resources.lock();
            distinct(
                covering(&uri)
                    .filter_map(|own| resources.by_uri.get(own))
                    .flat_map(|resource| &resource.sinks),
            )
        };
        sinks.iter().for_each(|sink| sink.updated(message));
    }

    /// Ends all subscriptions, and notifies every sink once that no more updates will come.
    pub(super) fn end_all(&self) {
        let resources = std::mem::take(&mut self.resources.lock().by_uri);
        let sinks = distinct(resources.values().flat_map(|resource| &resource.sinks));
        sinks.iter().for_each(|sink| sink.lost());
    }

    fn publish_changed(&self, uri: &str) {
        if let Some(message) = super::server_listen::update_notification(uri) {
            self.publish(&message);
        }
    }
}

/// The sinks of these subscribers, each once.
fn distinct<'a>(sinks: impl Iterator<Item = &'a (u64, Arc<dyn UpdateSink>)>) -> Vec<Arc<dyn UpdateSink>> {
    let mut distinct: Vec<Arc<dyn UpdateSink>> = Vec::new();
    for (_, sink) in sinks {
        if !distinct.iter().any(|other| Arc::ptr_eq(other, sink)) {
            distinct.push(sink.clone());
        }
    }
    distinct
}

/// The URIs whose subscribers get an update of `uri`: itself, and those that contain it.
// MCP 2025-11-25 server/resources, Subscriptions; 2026-07-28 basic/patterns/subscriptions: a sub-resource may be
// named where its parent was subscribed to
fn covering(uri: &str) -> impl Iterator<Item = &str> {
    let above = uri.match_indices('/').flat_map(|(at, _)| [uri.get(..at), uri.get(..=at)]);
    above.flatten().filter(move |above| above.len() < uri.len()).chain([uri])
}

/// One subscriber of one resource. Dropping it unsubscribes.
struct Guard {
    group: Arc<SubscriptionGroup>,
    uri: String,
    token: u64,
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.group.remove(&self.uri, self.token);
    }
}

/// Processes in a row that may die of one subscription before it is given up. 3: one may die by chance, but on a shared
/// process every death fails the calls of others.
const DEATHS_MAX: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn update_covers_the_uris_that_contain_its_resource() {
        let all: Vec<_> = covering("a://b/c").collect();
        assert_eq!(all, ["a:", "a:/", "a:/", "a://", "a://b", "a://b/", "a://b/c"]);
        assert_eq!(covering("x").collect::<Vec<_>>(), ["x"]);
        assert_eq!(covering("x/").collect::<Vec<_>>(), ["x", "x/"]);
        assert_eq!(covering("ü/é").collect::<Vec<_>>(), ["ü", "ü/", "ü/é"]);
    }
}
