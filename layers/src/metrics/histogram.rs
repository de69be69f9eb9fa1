//! How long things take: counts in buckets of fixed bounds.
//!
//! whoever waited -> **histogram** -> page
//!
//! Invariant: recording takes no lock; the count of a snapshot is the sum of its buckets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of the buckets in seconds, inclusive; one more bucket takes the rest.
pub const BOUNDS_SECONDS: [f64; 16] = [
    0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
];

const BUCKETS: usize = BOUNDS_SECONDS.len() + 1;

/// A histogram of times. For things that take longer than a lookup: a record costs some tens of
/// nanoseconds.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_nanos: AtomicU64,
}

/// A histogram at one moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Snapshot {
    /// Times in each bucket alone, shortest first; the last one has no upper bound.
    pub counts: [u64; BUCKETS],
    /// Sum of all times in seconds.
    pub sum_seconds: f64,
}

impl Histogram {
    /// Counts one time.
    pub fn record(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let fits = |bound: &f64| seconds <= *bound;
        let place = BOUNDS_SECONDS.iter().position(fits);
        if let Some(bucket) = self.buckets.get(place.unwrap_or(BUCKETS - 1)) {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.sum_nanos.fetch_add(nanos, Ordering::Relaxed);
    }

    /// What was counted so far.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let nanos = self.sum_nanos.load(Ordering::Relaxed);
        Snapshot {
            counts: self
                .buckets
                .each_ref()
                .map(|bucket| bucket.load(Ordering::Relaxed)),
            sum_seconds: Duration::from_nanos(nanos).as_secs_f64(),
        }
    }
}

impl Snapshot {
    /// All times.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_on_a_bound_belongs_to_the_bucket_below_it() {
        let histogram = Histogram::default();
        for micros in [0, 500, 501, 60_000_000, 60_000_001] {
            histogram.record(Duration::from_micros(micros));
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.counts[..2], [2, 1]);
        assert_eq!(snapshot.counts[15..], [1, 1]);
        assert_eq!(snapshot.count(), 5);
        assert!((snapshot.sum_seconds - 120.001_002).abs() < 1e-9);
    }
}
