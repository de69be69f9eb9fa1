//! A latency histogram: fixed memory, 3 % resolution.
//!
//! Buckets double every 32 steps, from 1 ns on.

use std::time::Duration;

const STEPS: u64 = 32;
const STEP_BITS: u32 = 5;
const BUCKETS: usize = 64 * 32;

/// Counts of durations.
#[derive(Debug, Clone)]
pub struct Latencies {
    counts: Vec<u64>,
    total: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS],
            total: 0,
        }
    }
}

impl Latencies {
    /// Counts one duration.
    pub fn record(&mut self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        if let Some(count) = self.counts.get_mut(bucket(nanos)) {
            *count += 1;
            self.total += 1;
        }
    }

    /// Adds the counts of another histogram.
    pub fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(&other.counts) {
            *count += more;
        }
        self.total += other.total;
    }

    /// The duration below which `per_mille` of 1000 lie; zero when nothing was counted.
    #[must_use]
    pub fn percentile(&self, per_mille: u64) -> Duration {
        let wanted = (u128::from(self.total) * u128::from(per_mille)).div_ceil(1000);
        let mut seen = 0_u128;
        for (at, count) in self.counts.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= wanted && *count > 0 {
                return Duration::from_nanos(lower_bound(at as u64));
            }
        }
        Duration::ZERO
    }
}

fn bucket(nanos: u64) -> usize {
    if nanos < STEPS {
        return usize::try_from(nanos).unwrap_or(0);
    }
    let shift = nanos.ilog2() - STEP_BITS;
    let step = (nanos >> shift) - STEPS;
    usize::try_from(u64::from(shift + 1) * STEPS + step).unwrap_or(BUCKETS)
}

fn lower_bound(bucket: u64) -> u64 {
    if bucket < STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    (STEPS + bucket % STEPS) << shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_three_percent() {
        let mut latencies = Latencies::default();
        for nanos in 1..=100_000 {
            latencies.record(Duration::from_nanos(nanos));
        }
        for (per_mille, expected) in [(500, 50_000.0), (990, 99_000.0), (999, 99_900.0)] {
            let found = latencies.percentile(per_mille).as_secs_f64() * 1e9;
            assert!(
                (found / expected - 1.0).abs() < 0.04,
                "{per_mille}: {found}"
            );
        }
    }

    #[test]
    fn every_duration_has_a_bucket() {
        let mut latencies = Latencies::default();
        latencies.record(Duration::MAX);
        latencies.record(Duration::ZERO);
        assert_eq!(latencies.total, 2);
        assert_eq!(latencies.percentile(500), Duration::ZERO);
    }
}
