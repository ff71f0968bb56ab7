//! What the consumer of a call says about it: that it left, that it waits for a person, that no client waits any more.
//!
//! A call that waits for a person may wait for nobody: some clients leave a call behind when they are asked. It keeps its
//! lease as long as nobody else needs it, and can then be given up.

use tokio::time::Instant;
use wire::mcp::level::Level;

use super::Conn;
use super::mux::WireId;
use super::pending::Work;
use crate::call::Cancel;
use crate::error::{Blame, Error, Kind};
use crate::permit::Bound;

impl Cancel for Conn {
    fn cancel(&self, token: u64) {
        drop(self.cancel_in_flight(WireId::from_number(token)));
    }

    fn park(&self, token: u64) {
        let mut state = self.state.lock();
        if let Some(pending) = state.mux.get_mut(WireId::from_number(token)) {
            pending.park();
        }
    }

    fn resume(&self, token: u64, level: Option<Level>) {
        let mut state = self.state.lock();
        let Some(pending) = state.mux.get_mut(WireId::from_number(token)) else { return };
        pending.parked_since = None;
        let Work::Call { job, .. } = &pending.work else { return };
        let (level, is_alone) = (level.filter(|_| self.gets_logs(job)), job.lease.is_some());
        pending.level = level;
        if let Some(level) = level {
            self.queue_level(&mut state, level, is_alone);
        }
    }

    fn detach(&self, token: u64) {
        let mut state = self.state.lock();
        if let Some(pending) = state.mux.get_mut(WireId::from_number(token)) {
            pending.detach();
        }
    }
}

impl Conn {
    /// Since when a call has been parked; of several the longest.
    pub(in crate::upstream) fn parked_since(&self) -> Option<Instant> {
        self.state.lock().mux.iter().filter_map(|(_, pending)| pending.parked_since).min()
    }

    /// Gives up the call that has been parked since `since`, unless its client has come back. It fails; the client gets the
    /// error with its retry. The connection closes: what the process still asks or logs is of that call, and must not reach
    /// the next one that has the seat.
    pub(in crate::upstream) fn give_up_parked(&self, since: Instant) {
        let state = self.state.lock();
        if state.mux.iter().any(|(_, pending)| pending.parked_since == Some(since)) {
            self.context.permits.metrics().hit(Bound::ParkedSeat);
            self.begin_close(state, &given_up());
        }
    }
}

fn given_up() -> Error {
    let message = "the call waited too long for its client's answer, and other calls of this principal needed its \
                   process; make the call again";
    Error::new(Kind::Lost, Blame::Downstream, message)
}
