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
    news: Option<Pin<Box<dyn Future<Output = News> + Send>>>,
}

/// What [`Changes::poll_news`] yields.
pub(in crate::front) enum News {
    /// Lists may have changed.
    Changed,
    /// The process stops.
    End,
}

impl Changes {
    pub(in crate::front) fn new(counts: watch::Receiver<ListChanges>, drain: DrainWatch) -> Self {
        Self { counts, drain, news: None }
    }

    /// The counts now; only later changes are news.
    pub(in crate::front) fn now(&mut self) -> ListChanges {
        *self.counts.borrow_and_update()
    }

    /// Ready when lists may have changed, or the process stops.
    pub(in crate::front) fn poll_news(&mut self, context: &mut Context<'_>) -> Poll<News> {
        let make = || Box::pin(news(self.counts.clone(), self.drain.clone())) as Pin<Box<_>>;
        let news = self.news.get_or_insert_with(make);
        let news = std::task::ready!(news.as_mut().poll(context));
        self.news = None;
        Poll::Ready(news)
    }
}

async fn news(mut changes: watch::Receiver<ListChanges>, drain: DrainWatch) -> News {
    tokio::select! {
        biased;
        () = drain.stopping() => News::End,
        changed = changes.changed() => match changed {
            Ok(()) => News::Changed,
            Err(_) => News::End, // the router is gone, so the process ends
        },
    }
}
