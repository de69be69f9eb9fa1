//! How long the reads of one disk wait for an origin that does not answer.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A time that may be changed while reads go on: short while an image is opened, long when it runs.
#[derive(Debug)]
pub struct Patience {
    millis: AtomicU64,
    stage: Mutex<Stage>,
    closed: Condvar,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Somebody hears of errors.
    Opening,
    /// A guest depends on it.
    Running,
    /// Nobody reads it any more.
    Closed,
}

impl Patience {
    /// Waits this long.
    #[must_use]
    pub fn new(time: Duration) -> Self {
        let patience = Self {
            millis: AtomicU64::new(0),
            stage: Mutex::new(Stage::Opening),
            closed: Condvar::new(),
        };
        patience.set(time);
        patience
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads that begin from now on wait this long.
    pub fn set(&self, time: Duration) {
        let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        self.millis.store(millis, Ordering::Relaxed);
    }

    /// The disk is open: from now on its reads wait this long, whatever the origin says.
    pub fn run(&self, time: Duration) {
        self.set(time);
        *self.stage() = Stage::Running;
    }

    /// Nobody reads the disk any more.
    pub fn close(&self) {
        *self.stage() = Stage::Closed;
        self.closed.notify_all();
    }

    /// Waits this long while the disk runs. False when it does not.
    pub(super) fn pause(&self, time: Duration) -> bool {
        let is_running = |stage: &mut Stage| *stage == Stage::Running;
        let waited = self
            .closed
            .wait_timeout_while(self.stage(), time, is_running);
        let (stage, _) = waited.unwrap_or_else(PoisonError::into_inner);
        *stage == Stage::Running
    }

    /// When a read that begins now gives up.
    #[must_use]
    pub fn deadline(&self) -> Instant {
        const FAR: Duration = Duration::from_secs(365 * 24 * 3600);
        let wanted = Duration::from_millis(self.millis.load(Ordering::Relaxed));
        Instant::now() + wanted.min(FAR)
    }
}
