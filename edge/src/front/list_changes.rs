//! Waiting for changed lists: shared by the streams of sessions and the listens of modern clients.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::watch;

use crate::ops::drain::DrainWatch;
use crate::router::ListChanges;

/// How often lists have changed, for a stream that notifies a client of it; it ends with the process.
pub(in crate::front) struct Changes {
    counts: watch::Receiver<ListChanges>,
    drain: DrainWatch,
    /// Resolves at the next change; made when it is first polled for.
    update: Option<Pin<Box<dyn Future<Output = ListUpdate> + Send>>>,
}

/// What [`Changes::poll_update`] yields.
pub(in crate::front) enum ListUpdate {
    /// Lists may have changed.
    Changed,
    /// The process stops.
    End,
}

impl Changes {
    pub(in crate::front) fn new(counts: watch::Receiver<ListChanges>, drain: DrainWatch) -> Self {
        Self { counts, drain, update: None }
    }

    /// The counts now; only later changes are news.
    pub(in crate::front) fn now(&mut self) -> ListChanges {
        *self.counts.borrow_and_update()
    }

    /// Ready when lists may have changed, or the process stops.
    pub(in crate::front) fn poll_update(&mut self, context: &mut Context<'_>) -> Poll<ListUpdate> {
        let make = || Box::pin(update(self.counts.clone(), self.drain.clone())) as Pin<Box<_>>;
        let update = self.update.get_or_insert_with(make);
        let update = std::task::ready!(update.as_mut().poll(context));
        self.update = None;
        Poll::Ready(update)
    }
}

async fn update(mut changes: watch::Receiver<ListChanges>, drain: DrainWatch) -> ListUpdate {
    tokio::select! {
        biased;
        () = drain.stopping() => ListUpdate::End,
        changed = changes.changed() => match changed {
            Ok(()) => ListUpdate::Changed,
            Err(_) => ListUpdate::End, // the router is gone, so the process ends
        },
    }
}
