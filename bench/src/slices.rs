//! The time of a measurement in slices, so that those can be left out in which the machine was not itself.
//!
//! A shared machine slows down now and then, for some ten milliseconds at a time and tenfold, whatever runs on it (a
//! loop that only counts shows it). Such moments are a few per cent of the time, which is more than a p99 looks away
//! from: it would be a figure of the machine alone. So the load feels the machine's pulse ([`crate::load`]) and leaves
//! slices out by that, never by how answers came in them. It is not blind to the side: one that keeps every core busy
//! makes the load switch so often that a few beats are slow, and loses about twice as many slices as others.

use std::time::Duration;

use tokio::time::Instant;

use crate::stat::Histogram;

/// See the module.
pub(crate) struct Slices {
    from: Instant,
    until: Instant,
    slices: Vec<Slice>,
}

#[derive(Clone, Default)]
struct Slice {
    /// By the bucket of its latency, each answer.
    answers: Vec<u16>,
    body_bytes: u64,
    /// How long one small piece of work took each time, in nanoseconds.
    beats: Vec<u64>,
}

/// What was not left out.
pub(crate) struct Kept {
    pub(crate) latencies: Histogram,
    pub(crate) body_bytes: u64,
    pub(crate) time: Duration,
    /// Of the whole time, the share that was left out.
    pub(crate) left_out: f64,
}

impl Slices {
    pub(crate) fn new(from: Instant, length: Duration) -> Slices {
        let count = length.as_nanos().div_ceil(SLICE.as_nanos()).max(1);
        let slices = vec![Slice::default(); usize::try_from(count).unwrap_or(usize::MAX)];
        Slices { from, until: from + length, slices }
    }

    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// An answer that belongs to this time; it counts if that is in the window.
    pub(crate) fn answer(&mut self, at: Instant, latency: Duration, body_bytes: usize) {
        if let Some(slice) = self.at(at) {
            slice.answers.push(Histogram::bucket(latency));
            slice.body_bytes += body_bytes as u64;
        }
    }

    /// How long the piece of work took at this time.
    pub(crate) fn beat(&mut self, at: Instant, took: Duration) {
        if let Some(slice) = self.at(at) {
            slice.beats.push(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX));
        }
    }

    fn at(&mut self, at: Instant) -> Option<&mut Slice> {
        let since = at.checked_duration_since(self.from).filter(|_| at < self.until)?;
        self.slices.get_mut(usize::try_from(since.as_nanos() / SLICE.as_nanos()).ok()?)
    }

    pub(crate) fn kept(&self) -> Kept {
        let (mut latencies, mut body_bytes, mut time) = (Histogram::default(), 0, Duration::ZERO);
        let all = self.until - self.from;
        let mut rest = all;
        for (slice, disturbed) in self.slices.iter().zip(self.disturbed()) {
            let length = rest.min(SLICE);
            rest -= length;
            if !disturbed {
                slice.answers.iter().for_each(|bucket| latencies.add(*bucket));
                body_bytes += slice.body_bytes;
                time += length;
            }
        }
        Kept { latencies, body_bytes, time, left_out: 1.0 - time.as_secs_f64() / all.as_secs_f64() }
    }

    /// The slices in which the machine was slow; the one before, whose last answers came in them; and after them twice as
    /// many as they were, until what waited is done with. None when hardly any would remain: then the machine is like
    /// that, and the figures are what it does.
    fn disturbed(&self) -> Vec<bool> {
        let mut all: Vec<u64> = self.slices.iter().flat_map(|slice| slice.beats.iter().copied()).collect();
        all.sort_unstable();
        let usual = all.get(all.len() / 2).copied().unwrap_or_default();
        let mut disturbed = vec![false; self.slices.len()];
        let mut in_a_row = 0;
        for (number, slice) in self.slices.iter().enumerate() {
            let slow = slice.beats.iter().filter(|beat| **beat > usual * SLOW).count();
            // A fifth: it may begin or end in mid-slice, and a single beat may have an interrupt in it.
            if slow > 0 && slow * 5 >= slice.beats.len() {
                in_a_row += 1;
                let (first, last) = (number.saturating_sub(1), number + 2 * in_a_row);
                let reach = disturbed.iter_mut().take(last + 1).skip(first);
                reach.for_each(|disturbed| *disturbed = true);
            } else {
                in_a_row = 0;
            }
        }
        let kept = disturbed.iter().filter(|disturbed| !**disturbed).count();
        if kept * 10 < disturbed.len() {
            disturbed.fill(false);
        }
        disturbed
    }
}

/// A slow moment takes two or three, and a second has fifty.
const SLICE: Duration = Duration::from_millis(20);
/// A slow moment is nine times as slow at its heart and four times where it ends; caches make no difference to a count in a
/// register, switches of threads do in single beats.
const SLOW: u64 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten slices with twenty beats and one answer each; slow in those named.
    fn slices(slow: &[u32]) -> Slices {
        let from = Instant::now();
        let mut slices = Slices::new(from, SLICE * 10);
        for slice in 0..10 {
            let begins = from + SLICE * slice;
            for beat in 0..20 {
                let took = if slow.contains(&slice) { 15_000 } else { 1_500 + 50 * u64::from(beat) };
                slices.beat(begins + Duration::from_millis(1) * beat, Duration::from_nanos(took));
            }
            slices.answer(begins, Duration::from_micros(u64::from(slice) + 1), 100);
        }
        slices
    }

    #[test]
    fn a_slow_moment_goes_with_its_neighbours() {
        assert_eq!(slices(&[4]).disturbed(), [3, 4, 5, 6].map_in(10));
        assert_eq!(slices(&[2, 3]).disturbed(), [1, 2, 3, 4, 5, 6, 7].map_in(10));
        assert_eq!(slices(&[0]).disturbed(), [0, 1, 2].map_in(10));
        assert_eq!(slices(&[9]).disturbed(), [8, 9].map_in(10));
        let kept = slices(&[4]).kept();
        assert_eq!((kept.latencies.total(), kept.body_bytes, kept.time), (6, 600, SLICE * 6));
        assert!((kept.left_out - 0.4).abs() < 1e-9);
    }

    #[test]
    fn a_machine_that_is_itself_keeps_all() {
        assert_eq!(slices(&[]).kept().left_out, 0.0);
        // One beat with an interrupt in it is no slow moment.
        let mut one = slices(&[]);
        let at = one.from;
        one.beat(at, Duration::from_millis(1));
        assert_eq!(one.kept().left_out, 0.0);
        // Nor is a load that did not get to feel anything, which may be the side's own doing.
        let mut none = slices(&[]);
        none.slices[5].beats.clear();
        assert_eq!(none.kept().left_out, 0.0);
    }

    #[test]
    fn what_is_slow_all_the_time_is_measured_as_it_is() {
        assert_eq!(slices(&[1, 4, 7]).kept().left_out, 0.0);
    }

    #[test]
    fn what_lies_outside_does_not_count() {
        let mut slices = slices(&[]);
        let (from, until) = (slices.from, slices.until);
        slices.answer(from - Duration::from_nanos(1), SLICE, 1);
        slices.answer(until, SLICE, 1);
        assert_eq!(slices.kept().latencies.total(), 10);
    }

    trait MapIn {
        fn map_in(self, count: usize) -> Vec<bool>;
    }

    impl<const N: usize> MapIn for [usize; N] {
        fn map_in(self, count: usize) -> Vec<bool> {
            (0..count).map(|number| self.contains(&number)).collect()
        }
    }
}
