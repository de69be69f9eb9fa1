//! How long the reads of one disk wait for an origin that does not answer.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A time that may be changed while reads go on: short while an image is opened, long when it runs.
#[derive(Debug)]
pub struct Patience {
    millis: AtomicU64,
    is_running: AtomicBool,
}

impl Patience {
    /// Waits this long.
    #[must_use]
    pub fn new(time: Duration) -> Self {
        let patience = Self {
            millis: AtomicU64::new(0),
            is_running: AtomicBool::new(false),
        };
        patience.set(time);
        patience
    }

    /// Reads that begin from now on wait this long.
    pub fn set(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }

    /// The disk is open: from now on its reads wait this long, whatever the origin says.
    pub fn run(&self, time: Duration) {
        self.set(time);
        self.is_running.store(true, Ordering::Relaxed);
    }

    /// Does somebody depend on the disk who does not hear of errors?
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.is_running.load(Ordering::Relaxed)
    }

    /// When a read that begins now gives up.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        const FAR: Duration = Duration::from_secs(365 * 24 * 3600);
        let wanted = Duration::from_millis(self.millis.load(Ordering::Relaxed));
        Instant::now() + wanted.min(FAR)
    }
}
