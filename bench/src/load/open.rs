//! The open loop: requests fall due at the times of a Poisson process, and whichever connection is free sends
//! the one that has waited longest. Its latency counts from when it was due.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::channel::Channel;
use super::{Counting, own_share, within};

/// Times at which requests are due: equal in every run, so that all sides get the same load.
pub(super) struct Schedule {
    next: Instant,
    mean: Duration,
    chance: u64,
}

impl Schedule {
    pub(super) fn new(from: Instant, rate: f64) -> Self {
        Schedule { next: from, mean: Duration::from_secs_f64(1.0 / rate), chance: 0x9E37_79B9_7F4A_7C15 }
    }

    /// When the next request is due.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    /// Takes it off the list.
    pub(super) fn advance(&mut self) {
        // xorshift64*, and an exponential pause from it
        self.chance ^= self.chance >> 12;
        self.chance ^= self.chance << 25;
        self.chance ^= self.chance >> 27;
        let uniform = (self.chance.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) as f64 / (1u64 << 53) as f64;
        self.next += self.mean.mul_f64(-(1.0 - uniform).ln());
    }
}

/// A timer of nanoseconds; the runtime's own counts milliseconds.
pub(super) struct Alarm {
    timer: TimerFd,
    /// Reads the timer's descriptor like a pipe; it becomes readable when the timer fires.
    rings: Receiver,
}

impl Alarm {
    pub(super) fn new() -> Result<Self> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        // Read like a pipe: eight bytes when it has rung.
        let rings = Receiver::from_owned_fd_unchecked(timer.as_fd().try_clone_to_owned()?)?;
        Ok(Alarm { timer, rings })
    }

    /// Returns at `due`, or at once if that has passed. Cancel-safe: the next call sets the timer anew.
    pub(super) async fn at(&self, due: Instant) -> Result<()> {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        let expiration = Expiration::OneShot(TimeSpec::from_duration(left));
        self.timer.set(expiration, TimerSetTimeFlags::empty())?;
        loop {
            self.rings.readable().await?;
            match self.rings.try_read(&mut [0; 8]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                result => return Ok(result.map(drop)?),
            }
        }
    }
}

struct Due {
    times: RefCell<VecDeque<Instant>>,
    count: Semaphore,
}

/// Sends what falls due until the window ends; what has no answer a while later has failed.
pub(super) async fn run(
    channels: Vec<Channel>,
    requests: Rc<[Vec<u8>]>,
    rate: f64,
    counted: Counting,
) -> Result<()> {
    let until = counted.borrow().until();
    let due = Rc::new(Due { times: RefCell::default(), count: Semaphore::new(0) });
    let mut loops = JoinSet::new();
    let connections = channels.len();
    for (number, channel) in channels.into_iter().enumerate() {
        let (requests, due, counted) = (requests.clone(), due.clone(), counted.clone());
        loops.spawn_local(async move {
            take_due(channel, own_share(&requests, number, connections), &due, &counted).await;
        });
    }
    let (alarm, mut schedule) = (Alarm::new()?, Schedule::new(Instant::now(), rate));
    while schedule.next() < until {
        alarm.at(schedule.next()).await?;
        due.times.borrow_mut().push_back(schedule.next());
        due.count.add_permits(1);
        schedule.advance();
    }
    due.count.close();
    finish(&mut loops, until).await;
    let mut counted = counted.borrow_mut();
    for _ in due.times.borrow_mut().drain(..) {
        counted.failed("it fell due and was never sent: the rate is more than the side can do");
    }
    Ok(())
}

async fn finish(loops: &mut JoinSet<()>, until: Instant) {
    let all = async { while loops.join_next().await.is_some() {} };
    let _ = tokio::time::timeout_at(until + PATIENCE, all).await;
}

async fn take_due<'r>(
    mut channel: Channel,
    requests: impl Iterator<Item = &'r Vec<u8>>,
    due: &Due,
    counted: &Counting,
) {
    for request in requests {
        let permit = due.count.acquire().await;
        let Some(began) = due.times.borrow_mut().pop_front() else { return };
        // Closed when the time is up; what is due is still sent.
        if let Ok(permit) = permit {
            permit.forget();
        }
        match within(channel.ask(request)).await {
            Ok(body_bytes) => counted.borrow_mut().answered_due(began, body_bytes),
            Err(error) => return counted.borrow_mut().failed(&format!("{error:#}")),
        }
    }
}

/// For the answers to what fell due at the very end.
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_schedule_keeps_its_rate() {
        let begin = Instant::now();
        let mut schedule = Schedule::new(begin, 1000.0);
        for _ in 0..10_000 {
            schedule.advance();
        }
        let length = (schedule.next() - begin).as_secs_f64();
        assert!((9.5..10.5).contains(&length), "10,000 requests at 1,000/s took {length} s");
    }

    #[tokio::test]
    async fn an_alarm_is_not_early() {
        let alarm = Alarm::new().unwrap();
        let due = Instant::now() + Duration::from_micros(300);
        alarm.at(due).await.unwrap();
        assert!(Instant::now() >= due);
        alarm.at(due).await.unwrap(); // it has passed
    }
}
