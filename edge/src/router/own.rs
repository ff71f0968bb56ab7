//! Looks at what sessions' own connections announce. A server may show a session what it shows nobody else, a tool that
//! is unlocked by another one, say.
//!
//! ```text
//! connection of a session ── list_changed ──▶ announced ──▶ look (its lists, over that connection)
//!                                                             │ differ from what the session saw
//!                                                             ▼
//!                                                    view of the session, list_changed to its client
//! ```
//! A look begins `refresh_gap` after the first announcement; a list, or a call of a name that nobody knows, does not wait
//! so long. One task per session and server looks until nothing waits any more.
//
// ARCHITECTURE, Names: such changes are for the session alone

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::mend::mend;
use super::refresh::{Wanted, pause};
use super::views::{Looked, View};
use super::{Entry, Router, Shared};
use crate::call::{Affinity, Call, List, Reply, ServerName, SessionHandle};
use crate::error::Error;

/// Looks at what the sessions of this server announce, for as long as they say so and it is not `gone`.
pub(super) async fn follow(
    router: Router,
    (index, name): (usize, ServerName),
    (mut announcing, gone): (UnboundedReceiver<SessionHandle>, CancellationToken),
) {
    loop {
        let session = tokio::select! {
            () = router.shared.drain.leaving() => return,
            () = gone.cancelled() => break,
            session = announcing.recv() => session,
        };
        let Some(session) = session else { return };
        let (shared, gone, name) = (router.shared.clone(), gone.clone(), name.clone());
        router.shared.drain.spawn(async move {
            tokio::select! {
                () = session.ended.cancelled() => {}
                () = shared.drain.leaving() => {}
                () = gone.cancelled() => session.pending_list_changes.forget(&name),
                () = shared.look_until_done(&session, (index, &name)) => {}
            }
        });
    }
    // What another server of that name shows is not what this one announced.
    announcing.close();
    while let Ok(session) = announcing.try_recv() {
        session.pending_list_changes.forget(&name);
    }
}

impl Shared {
    /// Whether a call has to wait for a look: it wants a list that may have changed, or a name that nobody knows.
    pub(super) fn looks_first(&self, call: &Call) -> bool {
        let Affinity::Session(session) = &call.affinity else { return false };
        session.pending_list_changes.any() && self.is_about_what_may_have_changed(call)
    }

    /// Looks, and takes the call on its way.
    pub(super) fn when_looked(self: Arc<Self>, call: Call) -> Reply {
        let Affinity::Session(session) = call.affinity.clone() else { return self.route(call) };
        let view = self.view(&session);
        // What a server says that the caller may not use changes nothing that is waited for.
        let lineup = self.catalog_for(&session.caller).lineup.clone();
        let announced = session.pending_list_changes.servers();
        let servers: Vec<usize> = announced.iter().filter_map(|name| lineup.number(name.as_str())).collect();
        // Nobody waits twice for a server that does not answer.
        let servers: Vec<usize> = servers.into_iter().filter(|server| !view.is_late(*server)).collect();
        if servers.is_empty() {
            return self.route(call);
        }
        let shared = self.clone();
        self.after(call, async move {
            let at = AtomicUsize::default();
            let all = async {
                for server in servers {
                    at.store(server, Ordering::Relaxed);
                    shared.look(&session, server).await;
                }
            };
            // Later than that the client is better served with what was so before.
            if timeout(PATIENCE, all).await.is_err() {
                view.set_late(at.load(Ordering::Relaxed), true);
            }
            Ok::<(), Error>(())
        })
    }

    async fn look_until_done(self: &Arc<Self>, session: &SessionHandle, (index, name): (usize, &ServerName)) {
        let view = self.view(session);
        loop {
            sleep(view.gap(index).unwrap_or(self.config.refresh_gap)).await;
            self.look(session, index).await;
            if session.pending_list_changes.left(name) {
                return;
            }
        }
    }

    /// Lists over the session's own connection what it announced. What cannot be read waits again.
    async fn look(self: &Arc<Self>, session: &SessionHandle, index: usize) {
        // Not the whole line-up, which would keep servers that are gone.
        let Some(Entry { name, server, .. }) = self.lineup().get(index).cloned() else { return };
        let view = self.view(session);
        let _one = view.looking.lock().await;
        // If this is given up, what was announced waits again before another look begins.
        let look = session.pending_list_changes.take(&name);
        if look.notices().is_empty() {
            return;
        }
        let (mut lists, mut unread) = (Vec::new(), Vec::new());
        for list in Wanted::of(look.notices()).lists() {
            match server.list(session, list).await {
                Some(Ok(items)) => {
                    let items = mend(list, items, &self.config.limits).await.0;
                    lists.push((list, self.looked(index, list, items)));
                }
                Some(Err(_)) => unread.push(list.changed()),
                // Without a connection of its own a session sees what everybody does.
                None => {
                    (lists, unread) = (List::ALL.map(|list| (list, Looked::Common)).into(), Vec::new());
                    break;
                }
            }
        }
        let brought_news = self.change(session, &view, (index, lists));
        self.pace(&view, index, brought_news && unread.is_empty());
        view.set_late(index, !unread.is_empty());
        look.finish(&unread);
    }

    fn pace(&self, view: &View, index: usize, brought_news: bool) {
        let least = self.config.refresh_gap;
        view.set_gap(index, pause(view.gap(index).unwrap_or(least), brought_news, least));
    }
}

/// How long a client's call waits for a look. 2 s: a server that is busy with a long call may answer no list before.
pub(super) const PATIENCE: Duration = Duration::from_secs(2);
