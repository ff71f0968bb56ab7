//! How fast the machine is just now: a count in a register, timed once a millisecond.
//!
//! In the load's own thread and by that thread's own clock, so that what waits for a core is not taken for a slow one.
//! It costs two thousandths of the thread.

use std::hint::black_box;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Counting;

/// Feels it until what comes back is dropped.
pub(super) fn feel(counted: &Counting) -> JoinSet<()> {
    let (mut task, counted) = (JoinSet::new(), counted.clone());
    task.spawn_local(async move {
        let mut ticks = interval(BEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            // A kernel without this clock leaves nothing out.
            let Ok(took) = beat() else { return };
            counted.borrow_mut().slices.beat(Instant::now(), took);
        }
    });
    task
}

fn beat() -> nix::Result<Duration> {
    let own_time = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map(Duration::from);
    let begun = own_time()?;
    let mut number = black_box(0x9E37_79B9_7F4A_7C15_u64);
    for _ in 0..ROUNDS {
        // xorshift64
        number ^= number << 13;
        number ^= number >> 7;
        number ^= number << 17;
    }
    black_box(number);
    Ok(own_time()?.saturating_sub(begun))
}

/// As fine as the runtime's timer.
const BEAT: Duration = Duration::from_millis(1);
/// One to two microseconds: many times what reading the clock takes.
const ROUNDS: u32 = 500;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_beat_takes_time() {
        assert!(beat().unwrap() > Duration::ZERO);
    }
}
