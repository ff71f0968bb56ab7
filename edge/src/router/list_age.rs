//! How old the lists of each server are. Many servers never announce that a list changed, and none can while it has no
//! connection, when it is deployed anew for example. So who lists has the servers read again whose lists are older than
//! clients may keep them; and who uses a name that nobody knows, at once: another replica may have shown it.
//!
//! ```text
//! call ── lists, or uses an unknown name ──▶ too old? ── wanted ──▶ refresh reads ── finished ──▶ route
//! ```
//! A call waits for this 2 s at most, and not at all for a server that took longer the last time. Clients are notified
//! when those lists come.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::route::ScopedView;
use super::server_set::ServerIndex;
use super::session_relist::MAX_WAIT;
use crate::call::{Call, Reply};
use crate::upstream::Changes;

/// The ages of the lists of all servers that are read in the background.
#[derive(Default)]
pub(super) struct ListAges(Mutex<HashMap<ServerIndex, Arc<ListAge>>>);

impl ListAges {
    /// Makes the age of a server's lists known, as long as its guard exists.
    pub(super) fn add(self: &Arc<Self>, index: ServerIndex, changes: watch::Receiver<Changes>) -> Guard {
        let age = Arc::new(ListAge { state: watch::Sender::default(), changes });
        self.0.lock().insert(index, age.clone());
        Guard { all: self.clone(), index, age }
    }
}

/// The age of the lists of a server that is still configured.
pub(super) struct Guard {
    all: Arc<ListAges>,
    index: ServerIndex,
    age: Arc<ListAge>,
}

impl std::ops::Deref for Guard {
    type Target = ListAge;

    fn deref(&self) -> &ListAge {
        &self.age
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.all.0.lock().remove(&self.index);
    }
}

/// The age of the lists of one server.
pub(super) struct ListAge {
    state: watch::Sender<State>,
    changes: watch::Receiver<Changes>,
}

#[derive(Clone, Copy, Default)]
struct State {
    /// How many readings have ended.
    readings: u64,
    /// When the last one began, and when the next one may.
    last: Option<(Instant, Instant)>,
    /// When a newer one was first asked for.
    wanted: Option<Instant>,
    /// The last one took longer than a call waits.
    is_slow: bool,
}

impl ListAge {
    /// A reading that began at `began` has ended, and the next one begins at `next` or later.
    pub(super) fn finished(&self, began: Instant, next: Instant) {
        self.state.send_modify(|state| {
            *state = State {
                readings: state.readings + 1,
                last: Some((began, next)),
                wanted: None,
                is_slow: began.elapsed() > MAX_WAIT,
            };
        });
    }

    /// Waits until newer lists are wanted.
    pub(super) async fn wanted(&self) {
        // The sender is ours, so this cannot fail.
        let _ = self.state.subscribe().wait_for(|state| state.wanted.is_some()).await;
    }

    /// Has lists read again that are `older` than this `now`. Returns what a call has to wait for, if anything.
    fn renew(&self, now: Instant, older: Duration) -> Option<impl Future<Output = ()> + Send + use<>> {
        let is_due =
            |state: &State| state.last.is_some_and(|(began, next)| began + older <= now && next <= now);
        let state = *self.state.borrow(); // nearly always that is all: every list comes here
        // Lists of a server that is down are read when it is back.
        if (state.wanted.is_none() && !is_due(&state)) || self.changes.borrow().down {
            return None;
        }
        self.state.send_if_modified(|state| {
            let is_new = state.wanted.is_none() && is_due(state);
            if is_new {
                state.wanted = Some(now);
            }
            is_new
        });
        let (mut state, before) = (self.state.subscribe(), *self.state.borrow());
        let until = before.wanted? + MAX_WAIT;
        let wait = async move {
            let _ = timeout_at(until, state.wait_for(|state| state.readings != before.readings)).await;
        };
        (until > now && !before.is_slow).then_some(wait)
    }
}

impl Shared {
    /// Has the servers of an endpoint read again whose lists are `older` than this. Returns what a call has to wait for, if
    /// anything.
    pub(super) fn renew(
        &self,
        scoped: &ScopedView<'_>,
        older: Duration,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let servers = scoped.catalog.shown.iter().map(|(index, _)| index);
        let in_scope = servers.filter(|index| scoped.only.is_none_or(|only| only == *index));
        let (now, ages) = (Instant::now(), self.list_ages.0.lock());
        let waits: Vec<_> = in_scope.filter_map(|index| ages.get(&index)?.renew(now, older)).collect();
        drop(ages);
        (!waits.is_empty()).then_some(async move {
            // All wait at the same time: each has its deadline already.
            for wait in waits {
                wait.await;
            }
        })
    }

    /// Routes a call when lists were renewed.
    pub(super) fn after_renewal(
        self: Arc<Self>,
        call: Call,
        renewed: impl Future<Output = ()> + Send + 'static,
    ) -> Reply {
        self.after(call, async move {
            renewed.await;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRESH: Duration = Duration::from_secs(30);

    fn age() -> (Guard, watch::Sender<Changes>) {
        let (sender, changes) = watch::channel(Changes::default());
        (Arc::new(ListAges::default()).add(ServerIndex::new(0), changes), sender)
    }

    fn renew(age: &ListAge, older: Duration) -> Option<impl Future<Output = ()> + Send + use<>> {
        age.renew(Instant::now(), older)
    }

    #[tokio::test(start_paused = true)]
    async fn lists_are_wanted_anew_when_they_are_too_old() {
        let (age, _changes) = age();
        assert!(renew(&age, FRESH).is_none(), "the first reading is under way");
        let now = Instant::now();
        age.finished(now, now + Duration::from_secs(1));
        assert!(renew(&age, FRESH).is_none(), "they are new");
        assert!(renew(&age, Duration::ZERO).is_none(), "the server has its pause");
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(renew(&age, FRESH).is_none());
        let wait = renew(&age, Duration::ZERO).expect("an unknown name is a reason");
        age.wanted().await;
        let now = Instant::now();
        age.finished(now, now + Duration::from_secs(1));
        wait.await;
        assert_eq!(now, Instant::now(), "it waited for the reading alone");
        tokio::time::advance(FRESH).await;
        assert!(renew(&age, FRESH).is_some(), "they are old again");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_wait_neither_long_nor_twice_nor_for_a_server_that_is_down() {
        let (age, changes) = age();
        let now = Instant::now();
        age.finished(now, now);
        tokio::time::advance(FRESH).await;
        let began = Instant::now();
        renew(&age, FRESH).unwrap().await;
        assert_eq!(began.elapsed(), MAX_WAIT);
        assert!(renew(&age, FRESH).is_none(), "the same reading is not waited for again");
        tokio::time::advance(MAX_WAIT).await;
        age.finished(began, began);
        tokio::time::advance(FRESH).await;
        assert!(renew(&age, FRESH).is_none(), "the last reading took too long");
        age.wanted().await;
        age.finished(Instant::now(), Instant::now());
        tokio::time::advance(FRESH).await;
        changes.send_modify(|changes| changes.down = true);
        assert!(renew(&age, FRESH).is_none());
        assert!(age.state.borrow().wanted.is_none(), "it is read when it is back");
        changes.send_modify(|changes| changes.down = false);
        assert!(renew(&age, FRESH).is_some());
    }
}
