//! Warnings that somebody else can provoke: at most one a second for each source of them.
//!
//! front ends -> **complaints** -> log
//!
//! A guest must not be able to fill a log.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// At most one complaint in this time.
const INTERVAL: Duration = Duration::from_secs(1);

/// The complaints about one disk.
#[derive(Debug, Default)]
pub struct Complaints {
    last: Mutex<Option<Instant>>,
    suppressed: AtomicU64,
}

impl Complaints {
    /// Logs what `name` has done, unless that was just complained about; then it is counted.
    #[cold]
    pub fn report(&self, name: &str, what: fmt::Arguments<'_>) {
        let now = Instant::now();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| now.duration_since(last) < INTERVAL) {
            self.suppressed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        *last = Some(now);
        match self.suppressed.swap(0, Ordering::Relaxed) {
            0 => log::warn!("{name}: {what}"),
            more => log::warn!("{name}: {what} (and {more} more before)"),
        }
    }
}
