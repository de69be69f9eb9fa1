//! How long the reads of one disk wait for an origin that does not answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A time that may be changed while reads go on: short while an image is opened, long when it runs.
#[derive(Debug)]
pub struct Patience {
    millis: AtomicU64,
}

impl Patience {
    /// Waits this long.
    #[must_use]
    pub fn new(time: Duration) -> Self {
        let patience = Self {
            millis: AtomicU64::new(0),
        };
        patience.set(time);
        patience
    }

    /// Reads that begin from now on wait this long.
    pub fn set(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }

    /// When a read that begins now gives up.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        const FAR: Duration = Duration::from_secs(365 * 24 * 3600);
        let wanted = Duration::from_millis(self.millis.load(Ordering::Relaxed));
        Instant::now() + wanted.min(FAR)
    }
}
