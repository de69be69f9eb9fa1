//! Do guests wait for an origin just now?
//!
//! switch -> **guest waits** -> download
//!
//! Source: design of the download: what is fetched for nobody makes room for what somebody waits for.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A wait that was shorter had its bytes on this host: it tells nothing about the network.
const LOCAL: Duration = Duration::from_millis(2);

/// Guests' reads that wait, and when the last one ended.
#[derive(Debug)]
pub struct GuestWaits {
    began: Instant,
    under_way: AtomicUsize,
    /// Milliseconds after `began`, plus one; 0 = there was none yet.
    last_end: AtomicU64,
}

impl Default for GuestWaits {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            under_way: AtomicUsize::new(0),
            last_end: AtomicU64::new(0),
        }
    }
}

impl GuestWaits {
    /// A read begins to wait; it ends when what is returned is dropped.
    pub fn enter(&self) -> GuestWait<'_> {
        self.under_way.fetch_add(1, Ordering::Relaxed);
        GuestWait {
            waits: self,
            since: Instant::now(),
        }
    }

    /// Does no read wait at `now`, and did none that waited for an origin end less than `time` before?
    #[must_use]
    pub fn is_quiet(&self, now: Instant, time: Duration) -> bool {
        if self.under_way.load(Ordering::Relaxed) > 0 {
            return false;
        }
        match self.last_end.load(Ordering::Relaxed).checked_sub(1) {
            None => true,
            Some(end) => u128::from(end) + time.as_millis() <= u128::from(self.millis(now)),
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        let passed = now.saturating_duration_since(self.began);
        u64::try_from(passed.as_millis()).unwrap_or(u64::MAX - 1)
    }
}

/// One read that waits.
#[derive(Debug)]
#[must_use]
pub struct GuestWait<'a> {
    waits: &'a GuestWaits,
    since: Instant,
}

impl Drop for GuestWait<'_> {
    fn drop(&mut self) {
        let now = Instant::now();
        if now.saturating_duration_since(self.since) >= LOCAL {
            let end = self.waits.millis(now) + 1;
            self.waits.last_end.fetch_max(end, Ordering::Relaxed);
        }
        self.waits.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATELY: Duration = Duration::from_millis(200);

    #[test]
    fn it_is_quiet_until_somebody_waits() {
        let waits = GuestWaits::default();
        assert!(waits.is_quiet(Instant::now(), LATELY));
        let wait = waits.enter();
        assert!(!waits.is_quiet(Instant::now(), LATELY));
        assert!(!waits.is_quiet(Instant::now() + 2 * LATELY, LATELY));
        drop(wait);
    }

    #[test]
    fn a_wait_for_an_origin_is_remembered_for_a_while_a_short_one_is_not() {
        let waits = GuestWaits::default();
        let wait = |since| GuestWait {
            waits: &waits,
            since,
        };
        waits.under_way.store(2, Ordering::Relaxed);
        drop(wait(Instant::now()));
        assert!(waits.last_end.load(Ordering::Relaxed) == 0);
        drop(wait(waits.began.checked_sub(LATELY).unwrap()));
        let now = Instant::now();
        assert!(!waits.is_quiet(now, LATELY));
        assert!(waits.is_quiet(now + LATELY, LATELY));
    }
}
