//! How the start of one disk went: what its reads waited for.
//!
//! cache -> **journal** -> one line at close, `obd why`

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::range_source::Urgency;

/// What a read waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A fetch that this read asked for.
    Fetch,
    /// A fetch that somebody else had asked for: another read, prefetch, or another process.
    Shared,
    /// A block of the cache was corrupt and was fetched again.
    Corrupt,
}

/// The story of one disk. Shared by its layers.
#[derive(Debug, Default)]
pub struct Journal {
    fetched_bytes: AtomicU64,
    waits: AtomicU64,
}

impl Journal {
    /// A read of `range` of the blob `layer` had to wait this long.
    pub fn waited(&self, _layer: &str, _range: Range<u64>, _time: Duration, _cause: Cause) {
        self.waits.fetch_add(1, Ordering::Relaxed);
    }

    /// A request for this disk has brought so many bytes.
    pub fn fetched(&self, bytes: u64, _urgency: Urgency) {
        self.fetched_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that were fetched for this disk.
    #[must_use]
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes.load(Ordering::Relaxed)
    }

    /// Reads that had to wait.
    #[must_use]
    pub fn waits(&self) -> u64 {
        self.waits.load(Ordering::Relaxed)
    }
}
