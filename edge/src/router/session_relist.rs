//! Lists servers again over the own connections of sessions, when those announce a change. A server may show a session
//! what it shows nobody else, a tool that another tool unlocks, for example.
//!
//! ```text
//! a session's connection ── list_changed ──▶ announced ──▶ list the server over that connection
//!                                                            │ its lists differ from what the session saw
//!                                                            ▼
//!                                               overlay of the session, list_changed to its client
//! ```
//! Listing begins `refresh_gap` after the first announcement. A call that asks for a list, or for a name that nobody
//! knows, does not wait that long. One task for each session and server lists until no announcement is left.
//
// ARCHITECTURE, Names: such changes are for the session alone

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::refresh::{Wanted, pause};
use super::repair::repair;
use super::server_set::ServerIndex;
use super::session_overlay::{Relisted, SessionOverlay};
use super::{Entry, Router, Shared};
use crate::call::{Affinity, Call, List, Reply, ServerName, SessionHandle};
use crate::error::Error;

/// Follows what sessions of a server announce, until the server is `gone` from the configuration.
pub(super) async fn follow(
    router: Router,
    (index, name): (ServerIndex, ServerName),
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
                () = shared.relist_until_done(&session, (index, &name)) => {}
            }
        });
    }
    // The next server of this name has nothing to do with what this one announced.
    announcing.close();
    while let Ok(session) = announcing.try_recv() {
        session.pending_list_changes.forget(&name);
    }
}

impl Shared {
    /// Whether a call has to wait until what its session's connections announced is listed.
    pub(super) fn waits_for_relist(&self, call: &Call) -> bool {
        let Affinity::Session(session) = &call.affinity else { return false };
        session.pending_list_changes.any() && self.is_about_what_may_have_changed(call)
    }

    /// Lists what was announced, and then routes the call.
    pub(super) fn after_relist(self: Arc<Self>, call: Call) -> Reply {
        let Affinity::Session(session) = call.affinity.clone() else { return self.route(call) };
        let overlay = self.overlay(&session);
        // Servers that the caller may not use change nothing for this call.
        let shown = self.catalog_for(&session.caller).shown.clone();
        let announced = session.pending_list_changes.servers();
        let servers = announced.iter().filter_map(|name| shown.index_of(name.as_str()));
        // No session waits twice for a server that does not answer.
        let servers: Vec<ServerIndex> = servers.filter(|server| !overlay.is_late(*server)).collect();
        if servers.is_empty() {
            return self.route(call);
        }
        let mut relists = JoinSet::new();
        for server in servers {
            let (shared, session, overlay) = (self.clone(), session.clone(), overlay.clone());
            relists.spawn(async move {
                // After that time the previous lists serve the client better.
                if timeout(MAX_WAIT, shared.relist(&session, server)).await.is_err() {
                    overlay.set_late(server, true);
                }
            });
        }
        self.after(call, async move {
            while relists.join_next().await.is_some() {}
            Ok::<(), Error>(())
        })
    }

    async fn relist_until_done(
        self: &Arc<Self>,
        session: &SessionHandle,
        (index, name): (ServerIndex, &ServerName),
    ) {
        let overlay = self.overlay(session);
        loop {
            sleep(overlay.gap(index).unwrap_or(self.config.refresh_gap)).await;
            self.relist(session, index).await;
            if session.pending_list_changes.left(name) {
                return;
            }
        }
    }

    /// Lists over the session's own connection what that announced. Lists that cannot be read stay announced.
    async fn relist(self: &Arc<Self>, session: &SessionHandle, index: ServerIndex) {
        // Cloned, so that servers that leave are not kept alive by the whole set.
        let Some(Entry { name, server, .. }) = self.servers().get(index).cloned() else { return };
        let overlay = self.overlay(session);
        let listing = overlay.listing(index);
        let _one = listing.lock().await;
        // If this future is dropped, what was taken is announced again before the next one takes it.
        let taken = session.pending_list_changes.take(&name);
        if taken.notices().is_empty() {
            return;
        }
        let (mut lists, mut unread) = (Vec::new(), Vec::new());
        for list in Wanted::of(taken.notices()).lists() {
            match server.list(session, list).await {
                Some(Ok(items)) => {
                    let items = repair(list, items, &self.config.limits).await.0;
                    lists.push((list, self.compare_list(index, list, items)));
                }
                Some(Err(_)) => unread.push(list.changed()),
                // Without a connection of its own the session sees what everybody does.
                None => {
                    (lists, unread) = (List::ALL.map(|list| (list, Relisted::Common)).into(), Vec::new());
                    break;
                }
            }
        }
        let has_changed = self.change(session, &overlay, (index, lists));
        self.pace(&overlay, index, has_changed && unread.is_empty());
        overlay.set_late(index, !unread.is_empty());
        taken.finish(&unread);
    }

    fn pace(&self, overlay: &SessionOverlay, index: ServerIndex, has_changed: bool) {
        let least = self.config.refresh_gap;
        overlay.set_gap(index, pause(overlay.gap(index).unwrap_or(least), has_changed, least));
    }
}

/// How long a client's call waits for lists. 2 s: a server that is busy with a long call may answer no sooner than that
/// call ends.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(2);
