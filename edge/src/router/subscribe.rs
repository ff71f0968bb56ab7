//! News: which rendered lists changed, told to whoever reads them, and updates of resources, each from the server
//! that has it.

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

use super::catalog::Surface;
use super::policy::Policy;
use super::publish::Published;
use super::{ListChanges, Shared};
use crate::call::{Caller, List, ServerName, Subscriber, Subscribing, Subscription, UpdateSink};

/// The counts of what is followed: by principal, for a changed policy may change what one of them sees, and by view,
/// of all servers together or of one alone.
#[derive(Default)]
pub(super) struct News {
    followed: Mutex<Followed>,
}

/// Who follows, and what: all servers together, or one alone.
type Follower = (Caller, Option<ServerName>);

#[derive(Default)]
struct Followed {
    /// Also of servers that are not configured; as long as somebody follows them.
    counts: HashMap<Follower, watch::Sender<ListChanges>>,
    /// When there are as many, those that nobody follows go: then few are looked at in vain.
    most: usize,
}

impl News {
    /// Follows what `caller` sees in one view.
    pub(super) fn follow(&self, caller: &Caller, only: Option<&ServerName>) -> watch::Receiver<ListChanges> {
        let mut followed = self.followed.lock();
        if followed.counts.len() >= followed.most {
            followed.clear();
        }
        followed.counts.entry((caller.clone(), only.cloned())).or_default().subscribe()
    }

    fn followers(&self) -> Vec<Follower> {
        let mut followed = self.followed.lock();
        followed.clear();
        followed.counts.keys().cloned().collect()
    }

    fn tell(&self, follower: &Follower, differ: ListChanges) {
        if differ == ListChanges::default() {
            return;
        }
        if let Some(sender) = self.followed.lock().counts.get(follower) {
            sender.send_modify(|changes| {
                changes.tools += differ.tools;
                changes.prompts += differ.prompts;
                changes.resources += differ.resources;
            });
        }
    }

    #[cfg(test)]
    pub(super) fn followed_by(&self) -> usize {
        self.followed.lock().counts.len()
    }
}

/// What differs between two catalogs, by where what is seen of them lies in memory: those who see the same cost one
/// comparison.
#[derive(Default)]
struct Compared(HashMap<(usize, usize, Option<ServerName>), ListChanges>);

impl Shared {
    /// Tells those who follow a view, if what they would read differs. Not under the lock of the state: lists are made here
    /// for everybody who follows them, for the first few at once and for the others in between what else there is to do.
    pub(super) fn announce(self: &Arc<Self>, published: Option<Published>) {
        let Some(published) = published else { return };
        let (mut followers, mut compared) = (self.news.followers(), Compared::default());
        let rest = followers.split_off(followers.len().min(AT_ONCE));
        for follower in followers {
            self.news.tell(&follower, self.differ(&published, &follower, &mut compared));
        }
        if rest.is_empty() {
            return;
        }
        let (shared, telling) = (self.clone(), self.telling());
        self.drain.spawn(async move {
            for follower in rest {
                if shared.drain.is_leaving() {
                    return;
                }
                shared.news.tell(&follower, shared.differ(&published, &follower, &mut compared));
                yield_now().await;
            }
            drop((published, compared)); // what comes next has lists of its own
            drop(telling);
        });
    }

    fn differ(
        &self,
        published: &Published,
        (caller, only): &Follower,
        compared: &mut Compared,
    ) -> ListChanges {
        let (before, now) = published;
        let [before, now] = [before, now].map(|catalog| self.seen_by(catalog.clone(), caller));
        let view = (Arc::as_ptr(&before).addr(), Arc::as_ptr(&now).addr(), only.clone());
        *compared.0.entry(view).or_insert_with(|| {
            let nothing = Surface::default();
            let [before, now] = [&before, &now]
                .map(|catalog| catalog.sight(only.as_ref()).map_or(&nothing, |sight| sight.surface));
            differing(before, now)
        })
    }
}

impl Followed {
    fn clear(&mut self) {
        self.counts.retain(|_, sender| sender.receiver_count() > 0);
        self.most = 2 * self.counts.len() + FEW;
    }
}

/// 1 for each list that differs.
fn differing(before: &Surface, now: &Surface) -> ListChanges {
    let differs = |list: List| !before.list(list).same_items(now.list(list));
    ListChanges {
        tools: differs(List::Tools).into(),
        prompts: differs(List::Prompts).into(),
        resources: (differs(List::Resources) || differs(List::Templates)).into(),
    }
}

/// Followers that are told at once. 8: lists of a thousand large tools take some milliseconds for each.
const AT_ONCE: usize = 8;
/// Counts that are kept without a look at who follows them. 64: a page of memory.
const FEW: usize = 64;

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
        let catalog = self.catalog_of(&subscriber.caller, &subscriber.affinity);
        let Some(sight) = catalog.sight(scope) else {
            uris.iter().for_each(|uri| self.note_denied_resource(&subscriber.caller, &catalog, (scope, uri)));
            return Vec::new();
        };
        let principal = subscriber.caller.principal();
        let mut subscribers = HashMap::new();
        let asked = uris.into_iter().filter_map(|uri| {
            let Some(number) = self.owner(&sight, (principal, &uri)) else {
                self.note_denied_resource(&subscriber.caller, &catalog, (scope, &uri));
                return None;
            };
            let entry = catalog.lineup.get(number)?;
            let subscriber: &Subscriber = subscribers.entry(number).or_insert_with(|| {
                let ear = self.ears.lend((&subscriber.caller, &entry.name), subscriber.sink.clone());
                Subscriber { sink: ear, ..subscriber.clone() }
            });
            // A policy that changed in between has closed the ears it knew of.
            self.catalog_for(&subscriber.caller).lineup.get(number)?;
            Some(entry.server.subscribe(subscriber.clone(), uri))
        });
        asked.collect()
    }
}

/// Who hears of resources, until their servers are denied them.
#[derive(Default)]
pub(super) struct Ears {
    lent: Mutex<Vec<Weak<Ear>>>,
}

/// What one subscriber hears of one server.
struct Ear {
    caller: Caller,
    server: ServerName,
    to: Arc<dyn UpdateSink>,
    /// Nothing more is heard.
    is_deaf: AtomicBool,
}

impl UpdateSink for Ear {
    fn updated(&self, message: &Message) {
        if !self.is_deaf.load(Ordering::Acquire) {
            self.to.updated(message);
        }
    }

    fn lost(&self) {
        self.to.lost();
    }
}

impl Ears {
    fn lend(&self, (caller, server): (&Caller, &ServerName), to: Arc<dyn UpdateSink>) -> Arc<dyn UpdateSink> {
        let (caller, server) = (caller.clone(), server.clone());
        let ear = Arc::new(Ear { caller, server, to, is_deaf: AtomicBool::new(false) });
        let mut lent = self.lent.lock();
        if lent.len() == lent.capacity() {
            lent.retain(|ear| ear.strong_count() > 0);
        }
        lent.push(Arc::downgrade(&ear));
        ear
    }

    /// Whoever hears of a server that `policy` denies them hears no more, and is told so.
    pub(super) fn close(&self, policy: &Policy) {
        let is_denied = |ear: &Arc<Ear>| !policy.allows(&ear.caller, ear.server.as_str());
        let denied: Vec<_> = self.lent.lock().iter().filter_map(Weak::upgrade).filter(is_denied).collect();
        for ear in denied {
            if !ear.is_deaf.swap(true, Ordering::AcqRel) {
                ear.lost();
            }
        }
    }
}

/// What servers get to agree to subscriptions. 5 s: one that has to be started first is there by then, and a client
/// waits no longer for its acknowledgement.
const ANSWERS: Duration = Duration::from_secs(5);
