//! The end of the process: four signals to the rooms, and one completion back.
//!
//! ```text
//! Serving ──leave──▶ Leaving ──stop──▶ Stopping ──cut──▶ Cut ──────▶ Gone
//!                    not ready,        no accept,        calls       connections
//!                    still accepts     calls finish      fail now    are dropped
//! ```
//! [`Drain`] is held by `app`; every room gets a [`DrainWatch`]. Work that must be finished before the
//! process ends runs as a task of the watch ([`DrainWatch::spawn`]).

use std::future::Future;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// The side that stops the process.
#[derive(Debug, Default)]
pub struct Drain {
    watch: DrainWatch,
}

/// A room's view of the drain. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct DrainWatch {
    leaving: CancellationToken,
    stopping: CancellationToken,
    cut: CancellationToken,
    gone: CancellationToken,
    tasks: TaskTracker,
}

impl Drain {
    /// The drain of a process that serves.
    pub fn new() -> Self {
        Self::default()
    }

    /// A watch for a room.
    pub fn watch(&self) -> DrainWatch {
        self.watch.clone()
    }

    /// Runs the whole drain: not ready for `delay`, then at most `grace` for calls in flight, then the cut. Endpoints are
    /// removed asynchronously, so new connections still arrive during `delay`.
    pub async fn run(self, delay: Duration, grace: Duration) {
        let watch = &self.watch;
        watch.leaving.cancel();
        tokio::time::sleep(delay).await;
        watch.stopping.cancel();
        watch.tasks.close();
        if timeout(grace, watch.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = watch.tasks.len(), "drain ran out of time");
        }
        watch.cut.cancel();
        // The errors of calls that were cut still have to reach their callers.
        if timeout(LAST_ANSWERS, watch.tasks.wait()).await.is_ok() {
            return;
        }
        watch.gone.cancel();
        if timeout(LAST_TASKS, watch.tasks.wait()).await.is_err() {
            tracing::warn!(tasks = watch.tasks.len(), "tasks left behind");
        }
    }
}

impl DrainWatch {
    /// A watch that is polled often, as a connection does with every byte. It gets the same signals, and shares no lock with
    /// other watches.
    pub fn child(&self) -> Self {
        Self {
            leaving: self.leaving.child_token(),
            stopping: self.stopping.child_token(),
            cut: self.cut.child_token(),
            gone: self.gone.child_token(),
            tasks: self.tasks.clone(),
        }
    }

    /// Resolves when the process wants no new clients: `/ready` is 503, and answers carry `Connection: close`.
    pub async fn leaving(&self) {
        self.leaving.cancelled().await;
    }

    /// Whether the process wants no new clients.
    pub fn is_leaving(&self) -> bool {
        self.leaving.is_cancelled()
    }

    /// Resolves when listeners close and long streams end.
    pub async fn stopping(&self) {
        self.stopping.cancelled().await;
    }

    /// Whether listeners are closed.
    pub fn is_stopping(&self) -> bool {
        self.stopping.is_cancelled()
    }

    /// Resolves when calls must end with an error.
    pub async fn cut(&self) {
        self.cut.cancelled().await;
    }

    /// Whether calls must end.
    pub fn is_cut(&self) -> bool {
        self.cut.is_cancelled()
    }

    /// Resolves when connections are dropped, even if answers have not been read.
    pub async fn gone(&self) {
        self.gone.cancelled().await;
    }

    /// Runs a task that the end of the process waits for.
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }
}

/// Enough to write a last answer into sockets that accept it.
const LAST_ANSWERS: Duration = Duration::from_millis(500);
/// How long tasks have to end after everything is cut.
const LAST_TASKS: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn drain_ends_when_its_tasks_end() {
        let drain = Drain::new();
        let watch = drain.watch();
        let inner = watch.clone();
        watch.spawn(async move {
            inner.stopping().await;
            tokio::time::sleep(Duration::from_secs(3)).await;
        });
        let start = Instant::now();
        drain.run(Duration::from_secs(5), Duration::from_secs(20)).await;
        assert_eq!(start.elapsed().as_secs(), 8);
    }

    #[tokio::test(start_paused = true)]
    async fn child_watch_sees_every_stage_and_is_waited_for() {
        let drain = Drain::new();
        let child = drain.watch().child();
        let (inner, start) = (child.clone(), Instant::now());
        child.spawn(async move {
            inner.leaving().await;
            inner.stopping().await;
            inner.cut().await;
        });
        drain.run(Duration::from_secs(5), Duration::from_secs(20)).await;
        assert_eq!(start.elapsed().as_secs(), 25);
    }

    #[tokio::test(start_paused = true)]
    async fn drain_that_times_out_cuts_its_tasks() {
        let drain = Drain::new();
        let watch = drain.watch();
        let inner = watch.clone();
        watch.spawn(async move { inner.cut().await });
        let start = Instant::now();
        drain.run(Duration::ZERO, Duration::from_secs(20)).await;
        assert_eq!(start.elapsed().as_secs(), 20);
        assert!(watch.is_leaving() && watch.is_stopping());
    }
}
