//! Figures: a histogram of latencies, and the median and spread of runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::load::Counted;
use crate::slices::Kept;

/// Counts of latencies in buckets that are 1/64 of their value wide, so that a percentile is right to 1.6 %.
pub(crate) struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

/// What one measurement came to; latencies in microseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    pub(crate) requests: u64,
    pub(crate) with_warm_up: u64,
    pub(crate) failed: u64,
    pub(crate) first_failure: Option<String>,
    pub(crate) per_second: f64,
    /// Of bodies.
    pub(crate) bytes_per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p90_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) p999_us: f64,
    /// The share of the time that is in no figure but the two counts after the first, because the machine was slow in it.
    pub(crate) left_out: f64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { counts: vec![0; (u64::BITS as usize + 1) * STEPS as usize], total: 0 }
    }
}

impl Histogram {
    /// The bucket of a latency.
    pub(crate) fn bucket(latency: Duration) -> u16 {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        u16::try_from(bucket(nanos)).unwrap_or(u16::MAX)
    }

    /// One more in this bucket.
    pub(crate) fn add(&mut self, bucket: u16) {
        if let Some(count) = self.counts.get_mut(usize::from(bucket)) {
            *count += 1;
        }
        self.total += 1;
    }

    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    /// The latency that this share of all requests kept below, in microseconds.
    pub(crate) fn percentile_us(&self, share: f64) -> f64 {
        let wanted = (self.total as f64 * share).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return top(bucket) as f64 / 1000.0;
            }
        }
        0.0
    }
}

/// Values below `STEPS` have a bucket each; above, every power of two is cut into `STEPS` of them.
fn bucket(nanos: u64) -> usize {
    if nanos < STEPS {
        return nanos as usize;
    }
    let shift = u64::from(nanos.ilog2()) - u64::from(STEPS.ilog2());
    ((shift + 1) * STEPS + (nanos >> shift) - STEPS) as usize
}

/// The first value above the bucket.
fn top(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket + 1;
    }
    let shift = bucket / STEPS - 1;
    (bucket % STEPS + STEPS + 1) << shift
}

const STEPS: u64 = 64;

impl Outcome {
    pub(crate) fn new(counted: &Counted) -> Outcome {
        let Kept { latencies, body_bytes, time, left_out } = counted.slices.kept();
        Outcome {
            requests: latencies.total(),
            with_warm_up: counted.with_warm_up,
            failed: counted.failed,
            first_failure: counted.first_failure.clone(),
            per_second: latencies.total() as f64 / time.as_secs_f64(),
            bytes_per_second: body_bytes as f64 / time.as_secs_f64(),
            p50_us: latencies.percentile_us(0.5),
            p90_us: latencies.percentile_us(0.9),
            p99_us: latencies.percentile_us(0.99),
            p999_us: latencies.percentile_us(0.999),
            left_out,
        }
    }
}

/// The middle of some figures, and how far they lie apart.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Median {
    pub(crate) median: f64,
    pub(crate) least: f64,
    pub(crate) most: f64,
}

impl Median {
    /// Of at least one figure; zero otherwise.
    pub(crate) fn of(figures: impl Iterator<Item = f64>) -> Median {
        let mut figures: Vec<f64> = figures.collect();
        figures.sort_by(f64::total_cmp);
        let at = |index: usize| figures.get(index).copied().unwrap_or_default();
        let (middle, odd) = (figures.len() / 2, figures.len() % 2 == 1);
        let median = if odd { at(middle) } else { (at(middle.saturating_sub(1)) + at(middle)) / 2.0 };
        Median { median, least: at(0), most: at(figures.len().saturating_sub(1)) }
    }

    /// From least to most, in per cent of the median.
    pub(crate) fn spread_percent(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.most - self.least) / self.median * 100.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_what_falls_into_it() {
        for nanos in [0, 1, 63, 64, 65, 127, 128, 1_000, 123_456, 10_000_000_000, u64::from(u32::MAX)] {
            let top = top(bucket(nanos));
            assert!(nanos < top, "{nanos} is not below {top}");
            assert!(top - nanos <= nanos / 64 + 1, "{top} is too far above {nanos}");
        }
    }

    #[test]
    fn percentiles_are_those_of_the_data() {
        let mut histogram = Histogram::default();
        for micros in 1..=1000 {
            histogram.add(Histogram::bucket(Duration::from_micros(micros)));
        }
        for (share, expected) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0)] {
            let found = histogram.percentile_us(share);
            assert!((found - expected).abs() < expected * 0.02, "{found} for {expected}");
        }
    }

    #[test]
    fn the_median_is_in_the_middle() {
        let median = Median::of([3.0, 1.0, 2.0].into_iter());
        assert_eq!((median.median, median.least, median.most), (2.0, 1.0, 3.0));
        assert_eq!(Median::of([1.0, 2.0].into_iter()).median, 1.5);
        assert_eq!(median.spread_percent(), 100.0);
    }
}
