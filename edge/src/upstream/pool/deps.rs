//! What a pool needs from outside.

use std::sync::Arc;

use tokio_util::task::TaskTracker;

use crate::ops::drain::DrainWatch;
use crate::permit::Permits;
use crate::seal::Sealer;
use crate::upstream::link::Dial;
use crate::upstream::metrics::ServerMetrics;

/// What a pool shares with the rest of the process.
pub struct Environment {
    /// Bounds of calls and bytes.
    pub permits: Permits,
    /// The end of the process.
    pub drain: DrainWatch,
    /// Seals the ids of tasks, so that each replica knows where a task runs.
    pub sealer: Sealer,
}

/// What a pool works with.
pub(in crate::upstream) struct PoolDeps {
    pub(in crate::upstream) environment: Environment,
    pub(in crate::upstream) dial: Arc<dyn Dial>,
    pub(in crate::upstream) metrics: Arc<ServerMetrics>,
    /// All tasks of the pool; the keeper waits for them at the end.
    pub(in crate::upstream) tasks: TaskTracker,
}
