//! How fast a download may go: the operator's limit, and guests first.
//!
//! download -> **pace** -> clock, metrics
//!
//! Invariant: however busy the guests are, a download makes progress, so that it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::clock::Clock;
use crate::config::DownloadConfig;
use crate::metrics::Metrics;

/// Longest request. A guest's read that comes meanwhile shares the network with it.
const REQUEST_BYTES_MAX: u64 = 4 << 20;

/// A guest that waited so short a time ago will read on.
const QUIET: Duration = Duration::from_millis(200);

/// Longest wait for guests before a piece is fetched nevertheless.
const PATIENCE: Duration = Duration::from_secs(1);

/// Longest wait for guests between two pieces of a request under way: its server waits, too.
const PATIENCE_IN_REQUEST: Duration = Duration::from_millis(200);

/// How often guests are looked at.
const STEP: Duration = Duration::from_millis(20);

/// What was not used of the limit so long ago may be used now.
const BURST: Duration = Duration::from_millis(100);

/// The pace of one disk's download.
#[derive(Debug)]
pub(super) struct Pace {
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    bytes_per_second: Option<u64>,
    piece_bytes: u64,
    request_bytes: u64,
    /// When everything so far was due at the operator's limit.
    due: Instant,
}

impl Pace {
    pub(super) fn new(
        config: &DownloadConfig,
        piece_bytes: u64,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        let limit = u64::try_from(config.max_mib_per_second).unwrap_or(0);
        Self {
            bytes_per_second: (limit > 0).then(|| limit.saturating_mul(1 << 20)),
            piece_bytes,
            request_bytes: piece_bytes,
            due: clock.now(),
            clock,
            metrics,
        }
    }

    /// Bytes that the next request should ask for at most; at least a piece.
    pub(super) fn request_bytes(&self) -> u64 {
        let limit = self.bytes_per_second.map_or(u64::MAX, |rate| rate / 4);
        self.request_bytes.min(limit).max(self.piece_bytes)
    }

    /// Waits until guests let go, and until `bytes` more are due. Or until the download is to end.
    pub(super) fn wait_for(&mut self, bytes: u64) {
        self.request_bytes = match self.wait_for_guests(PATIENCE) {
            true => self.piece_bytes,
            false => (self.request_bytes * 2).min(REQUEST_BYTES_MAX.max(self.piece_bytes)),
        };
        let Some(rate) = self.bytes_per_second else {
            return;
        };
        let now = self.clock.now();
        let ahead = self.due.saturating_duration_since(now);
        if !ahead.is_zero() && !self.clock.is_stopped() {
            self.clock.wait(ahead);
        }
        let unused = now.checked_sub(BURST).unwrap_or(now);
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(rate);
        let time = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        self.due = self.due.max(unused) + time.min(Duration::from_secs(3600));
    }

    /// Between two pieces of a request.
    pub(super) fn wait_in_request(&self) {
        self.wait_for_guests(PATIENCE_IN_REQUEST);
    }

    /// True if there were any.
    fn wait_for_guests(&self, longest: Duration) -> bool {
        let guests = &self.metrics.guest_waits;
        let mut left = longest;
        while !guests.is_quiet(self.clock.now(), QUIET) {
            if left.is_zero() || self.clock.is_stopped() {
                return true;
            }
            let step = left.min(STEP);
            self.clock.wait(step);
            left -= step;
        }
        left < longest
    }
}

#[cfg(test)]
mod tests {
    use super::super::clock::tests::Virtual;
    use super::*;

    const PIECE: u64 = 256 << 10;

    fn pace(mib_per_second: i64) -> (Pace, Arc<Virtual>, Arc<Metrics>) {
        let config = DownloadConfig {
            max_mib_per_second: mib_per_second,
            ..DownloadConfig::default()
        };
        let clock = Arc::new(Virtual::default());
        let metrics = Arc::new(Metrics::default());
        let pace = Pace::new(
            &config,
            PIECE,
            Arc::clone(&clock) as _,
            Arc::clone(&metrics),
        );
        (pace, clock, metrics)
    }

    #[test]
    fn the_limit_holds_over_any_longer_time() {
        for limit in [1, 7, 100] {
            let (mut pace, clock, _) = pace(limit);
            let total = 64 << 20;
            let mut moved = 0;
            while moved < total {
                let bytes = pace.request_bytes();
                pace.wait_for(bytes);
                moved += bytes;
            }
            pace.wait_for(0);
            let wanted = moved as f64 / (limit << 20) as f64;
            let took = clock.passed().as_secs_f64();
            assert!(
                took >= wanted - 0.11 && took <= wanted + 0.01,
                "{took} {wanted}"
            );
        }
    }

    #[test]
    fn time_that_was_not_used_is_not_made_up_for() {
        let (mut pace, clock, _) = pace(1);
        clock.wait(Duration::from_secs(1000));
        for _ in 0..8 {
            pace.wait_for(1 << 20);
        }
        pace.wait_for(0);
        assert!(clock.passed() >= Duration::from_millis(1_007_900));
    }

    #[test]
    fn no_limit_waits_for_nothing() {
        for none in [0, -1, i64::MIN] {
            let (mut pace, clock, _) = pace(none);
            (0..1000).for_each(|_| pace.wait_for(4 << 20));
            assert_eq!(clock.passed(), Duration::ZERO);
        }
    }

    #[test]
    fn requests_grow_while_no_guest_waits_and_shrink_when_one_does() {
        let (mut pace, _, metrics) = pace(0);
        assert_eq!(pace.request_bytes(), PIECE);
        (0..9).for_each(|_| pace.wait_for(PIECE));
        assert_eq!(pace.request_bytes(), REQUEST_BYTES_MAX);
        let guest = metrics.guest_waits.enter();
        pace.wait_for(PIECE);
        assert_eq!(pace.request_bytes(), PIECE);
        drop(guest);
    }

    #[test]
    fn a_guest_that_never_stops_leaves_a_piece_a_second() {
        let (mut pace, clock, metrics) = pace(0);
        let guest = metrics.guest_waits.enter();
        for _ in 0..10 {
            assert_eq!(pace.request_bytes(), PIECE);
            pace.wait_for(PIECE);
        }
        assert_eq!(clock.passed(), 10 * PATIENCE);
        drop(guest);
    }
}
