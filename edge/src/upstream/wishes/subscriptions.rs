//! Who hears of which resource over whose connection: the subscriptions of one server, by isolation key.
//!
//! Pure bookkeeping; what the server is told of it is the tender's business (`tender`). A resource is wanted as long
//! as one subscriber holds it, however many there are.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::watch;
use wire::Message;

use crate::call::{Hear, SessionHandle, Subscription};
use crate::error::Error;
use crate::upstream::pool::roster::Key;
use crate::upstream::pool::tenant::Tenant;

/// The subscriptions of one server.
#[derive(Default)]
pub(in crate::upstream) struct Subscriptions {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    by_key: HashMap<Key, Arc<Tended>>,
    /// By the number of the connection that they are on.
    by_conn: HashMap<u64, Arc<Tended>>,
    /// What legacy sessions hold, for they say by a message when they want it no more.
    by_session: HashMap<u64, Kept>,
}

/// The subscriptions of one session.
struct Kept {
    principal: Arc<str>,
    held: BTreeMap<String, Subscription>,
}

/// The subscriptions on the connection of one key.
pub(super) struct Tended {
    pub(super) key: Key,
    /// The session that the connection belongs to, if it is one's.
    pub(super) tenant: Option<Arc<Tenant>>,
    wants: Mutex<Wants>,
    /// Counts changes of what is wanted.
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Wants {
    uris: BTreeMap<String, Want>,
    last_token: u64,
}

struct Want {
    ears: Vec<(u64, Arc<dyn Hear>)>,
    standing: watch::Sender<Standing>,
    /// Processes in a row that died when they were asked for it again.
    deaths: u8,
}

impl Want {
    fn is_open(&self) -> bool {
        !matches!(*self.standing.borrow(), Standing::Refused(_))
    }
}

/// How far a subscription has come.
#[derive(Clone, Debug)]
pub(super) enum Standing {
    /// The server has not answered yet.
    Asked,
    /// The server agreed.
    Held,
    /// It did not.
    Refused(Error),
}

impl Subscriptions {
    /// Adds a subscriber. `tend` is called, once for each key, for what nobody tends yet.
    pub(super) fn add(
        &self,
        (key, tenant): (Key, Option<Arc<Tenant>>),
        uri: &str,
        ear: Arc<dyn Hear>,
        tend: impl FnOnce(Arc<Tended>),
    ) -> (Subscription, watch::Receiver<Standing>) {
        let mut inner = self.inner.lock();
        let tended = inner.by_key.entry(key).or_insert_with_key(|key| {
            let (key, wants) = (key.clone(), Mutex::default());
            let tended = Arc::new(Tended { key, tenant, wants, changed: watch::Sender::default() });
            tend(tended.clone());
            tended
        });
        // Under the lock: nobody stops tending what was just added to.
        tended.add(uri, ear)
    }

    /// Ends tending, unless something is wanted; whether it did.
    pub(super) fn forget(&self, tended: &Tended) -> bool {
        let mut inner = self.inner.lock();
        let is_unwanted = tended.is_unwanted();
        if is_unwanted {
            inner.by_key.remove(&tended.key);
        }
        is_unwanted
    }

    /// From now on they are on the connection of this number.
    pub(super) fn settle(&self, number: u64, tended: &Arc<Tended>) {
        self.inner.lock().by_conn.insert(number, tended.clone());
    }

    /// That connection is no longer used for them.
    pub(super) fn leave(&self, number: u64) {
        self.inner.lock().by_conn.remove(&number);
    }

    /// Whether somebody hears of something over this connection.
    pub(in crate::upstream) fn are_on(&self, number: u64) -> bool {
        self.inner.lock().by_conn.get(&number).is_some_and(|tended| !tended.is_unwanted())
    }

    /// A server says on the connection of this number that a resource changed.
    pub(in crate::upstream) fn updated(&self, number: u64, message: &Message) {
        let tended = self.inner.lock().by_conn.get(&number).cloned();
        if let Some(tended) = tended {
            tended.updated(message);
        }
    }

    /// Keeps a session's subscription. `true`: it is the session's first.
    pub(super) fn keep(&self, session: &SessionHandle, subscription: Subscription) -> bool {
        let mut inner = self.inner.lock();
        let is_first = !inner.by_session.contains_key(&session.number);
        let kept = inner
            .by_session
            .entry(session.number)
            .or_insert_with(|| Kept { principal: session.caller.principal().clone(), held: BTreeMap::new() });
        let before = kept.held.insert(subscription.uri().to_owned(), subscription);
        drop(inner); // the end of one that was held twice may want other locks
        drop(before);
        is_first
    }

    /// Ends a session's subscription to `uri`.
    pub(super) fn release(&self, session: u64, uri: &str) {
        let released = self.inner.lock().by_session.get_mut(&session).and_then(|kept| kept.held.remove(uri));
        drop(released);
    }

    /// Ends all subscriptions of the sessions of these principals.
    pub(in crate::upstream) fn release_of(&self, is_denied: impl Fn(&str) -> bool) {
        let mut inner = self.inner.lock();
        let kept = inner.by_session.values_mut().filter(|kept| is_denied(&kept.principal));
        // The session stays, for what it subscribes to later ends with it too.
        let released: Vec<_> = kept.map(|kept| std::mem::take(&mut kept.held)).collect();
        drop(inner); // the end of one may want other locks
        drop(released);
    }

    /// Ends all subscriptions of a session.
    pub(super) fn release_all(&self, session: u64) {
        let released = self.inner.lock().by_session.remove(&session);
        drop(released);
    }
}

impl Tended {
    fn add(self: &Arc<Self>, uri: &str, ear: Arc<dyn Hear>) -> (Subscription, watch::Receiver<Standing>) {
        let (token, standing, is_new) = {
            let mut wants = self.wants.lock();
            wants.last_token += 1;
            let token = wants.last_token;
            let is_new = !wants.uris.contains_key(uri);
            let want = wants.uris.entry(uri.to_owned()).or_insert_with(|| Want {
                ears: Vec::new(),
                standing: watch::Sender::new(Standing::Asked),
                deaths: 0,
            });
            want.ears.push((token, ear));
            (token, want.standing.subscribe(), is_new)
        };
        if is_new {
            self.changed.send_modify(|changes| *changes += 1);
        }
        let held = Held { tended: self.clone(), uri: uri.to_owned(), token };
        (Subscription::new(uri.to_owned(), held), standing)
    }

    fn remove(&self, uri: &str, token: u64) {
        let gone = {
            let mut wants = self.wants.lock();
            let Some(want) = wants.uris.get_mut(uri) else { return };
            want.ears.retain(|(other, _)| *other != token);
            let gone = if want.ears.is_empty() { wants.uris.remove(uri) } else { None };
            // The end of one that was refused is no news, but that it was the last one is.
            gone.filter(|want| want.is_open() || wants.uris.is_empty())
        };
        if gone.is_some() {
            self.changed.send_modify(|changes| *changes += 1);
        }
    }

    /// News of what is wanted.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Whether nobody wants anything.
    pub(super) fn is_unwanted(&self) -> bool {
        self.wants.lock().uris.is_empty()
    }

    /// What is wanted and was not refused.
    pub(super) fn uris(&self) -> Vec<String> {
        let wants = self.wants.lock();
        wants.uris.iter().filter(|(_, want)| want.is_open()).map(|(uri, _)| uri.clone()).collect()
    }

    /// Whether `uri` is wanted and was not refused.
    pub(super) fn is_open(&self, uri: &str) -> bool {
        self.wants.lock().uris.get(uri).is_some_and(Want::is_open)
    }

    /// The server agreed to `uri`. Where it had before, on another connection or in another listen, what came in
    /// between is unknown, and those who listen hear of it as changed if `missed`.
    pub(super) fn agreed(&self, uri: &str, missed: bool) {
        let before = {
            let mut wants = self.wants.lock();
            let Some(want) = wants.uris.get_mut(uri) else { return };
            want.deaths = 0;
            want.standing.send_replace(Standing::Held)
        };
        if missed && matches!(before, Standing::Held) {
            self.updated_anew(uri);
        }
    }

    /// The server did not agree to `uri`; whether that is the end of it. What it once agreed to stays wanted.
    pub(super) fn refused(&self, uri: &str, error: &Error) -> bool {
        let wants = self.wants.lock();
        let Some(want) = wants.uris.get(uri) else { return true };
        want.standing.send_if_modified(|standing| {
            let is_asked = matches!(standing, Standing::Asked);
            if is_asked {
                *standing = Standing::Refused(error.clone());
            }
            is_asked
        })
    }

    /// The same for all that was not answered.
    pub(super) fn refuse_all(&self, error: &Error) {
        for uri in self.uris() {
            self.refused(&uri, error);
        }
    }

    /// The process died when it was asked for `uri`: refused, or given up if it was agreed to before and others died of it
    /// too. Whether it was given up.
    pub(super) fn died(&self, uri: &str, error: &Error) -> bool {
        if self.refused(uri, error) {
            return false;
        }
        let lost = {
            let mut wants = self.wants.lock();
            let Some(want) = wants.uris.get_mut(uri) else { return false };
            want.deaths += 1;
            if want.deaths < MOST_DEATHS {
                return false;
            }
            wants.uris.remove(uri)
        };
        each_once(lost.iter().flat_map(|want| &want.ears)).iter().for_each(|ear| ear.lost());
        true
    }

    /// Whether a process may have died of something that is wanted.
    pub(super) fn is_deadly(&self) -> bool {
        self.wants.lock().uris.values().any(|want| want.deaths > 0)
    }

    /// Whether somebody waits for the server's answer.
    pub(super) fn is_awaited(&self) -> bool {
        self.wants.lock().uris.values().any(|want| matches!(*want.standing.borrow(), Standing::Asked))
    }

    /// Tells everybody who wants to hear of the resource that `message` names, each once.
    pub(super) fn updated(&self, message: &Message) {
        let Some(uri) = message.param("uri").and_then(|uri| uri.as_str()) else { return };
        let ears = {
            let wants = self.wants.lock();
            each_once(covering(&uri).filter_map(|own| wants.uris.get(own)).flat_map(|want| &want.ears))
        };
        ears.iter().for_each(|ear| ear.updated(message));
    }

    /// Tells everybody, each once, that nothing more will be heard.
    pub(super) fn lose(&self) {
        let wants = std::mem::take(&mut self.wants.lock().uris);
        let ears = each_once(wants.values().flat_map(|want| &want.ears));
        ears.iter().for_each(|ear| ear.lost());
    }

    fn updated_anew(&self, uri: &str) {
        if let Some(message) = super::listen::updated(uri) {
            self.updated(&message);
        }
    }
}

/// Whoever hears of several of these hears once.
fn each_once<'a>(ears: impl Iterator<Item = &'a (u64, Arc<dyn Hear>)>) -> Vec<Arc<dyn Hear>> {
    let mut once: Vec<Arc<dyn Hear>> = Vec::new();
    for (_, ear) in ears {
        if !once.iter().any(|other| Arc::ptr_eq(other, ear)) {
            once.push(ear.clone());
        }
    }
    once
}

/// The URIs whose subscribers hear of a change of `uri`: itself, and those it is within.
// MCP 2025-11-25 server/resources, Subscriptions; 2026-07-28 basic/patterns/subscriptions: a sub-resource may be
// named where its parent was subscribed to
fn covering(uri: &str) -> impl Iterator<Item = &str> {
    let above = uri.match_indices('/').flat_map(|(at, _)| [uri.get(..at), uri.get(..=at)]);
    above.flatten().filter(move |above| above.len() < uri.len()).chain([uri])
}

/// One subscriber of one resource.
struct Held {
    tended: Arc<Tended>,
    uri: String,
    token: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.tended.remove(&self.uri, self.token);
    }
}

/// Processes that die of one subscription before it is given up. 3: one may have died by chance, and on a shared one
/// others lose their calls each time.
const MOST_DEATHS: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_news_of_all_that_it_is_within() {
        let all: Vec<_> = covering("a://b/c").collect();
        assert_eq!(all, ["a:", "a:/", "a:/", "a://", "a://b", "a://b/", "a://b/c"]);
        assert_eq!(covering("x").collect::<Vec<_>>(), ["x"]);
        assert_eq!(covering("x/").collect::<Vec<_>>(), ["x", "x/"]);
        assert_eq!(covering("ü/é").collect::<Vec<_>>(), ["ü", "ü/", "ü/é"]);
    }
}
