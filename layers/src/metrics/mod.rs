//! What the process counts. Every stage that talks to a registry, a cache or a disk adds to it.
//!
//! registry, cache, download, prefetch, image -> **metrics** -> exporter, `obd why`
//!
//! Invariant: counting takes no lock and allocates nothing.

mod disk;
mod guest_waits;
mod histogram;
mod journal;
mod overlaybd;
mod page;
mod peak;
mod process;
mod text;
mod timed_source;

pub use disk::{DiskMetrics, Lane, Operation, Totals};
pub use guest_waits::{GuestWait, GuestWaits};
pub use histogram::{BOUNDS_SECONDS, Histogram, Snapshot};
pub use journal::{Cause, FetchedStory, Journal, SlowWait, Story, WaitsStory};
pub use overlaybd::Rates;
pub use page::page;
pub use peak::Peak;
pub use timed_source::TimedSource;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use crate::range_source::Urgency;

/// Counters of one process. All are bytes or events since it began, unless they say otherwise.
#[derive(Debug, Default)]
pub struct Metrics {
    /// HTTP requests for ranges of blobs, repeated ones included.
    pub registry_requests: AtomicU64,
    /// Those that had to be repeated.
    pub registry_retries: AtomicU64,
    /// Bytes of blobs that came from registries.
    pub registry_bytes: AtomicU64,
    /// Range requests under way now.
    pub registry_in_flight: AtomicU64,
    /// Tokens that were asked for.
    pub registry_tokens: AtomicU64,
    /// Reads answered from the cache.
    pub cache_hits: AtomicU64,
    /// Bytes of them.
    pub cache_hit_bytes: AtomicU64,
    /// Reads that had to wait for a fetch.
    pub cache_misses: AtomicU64,
    /// Bytes put into the cache.
    pub cache_filled_bytes: AtomicU64,
    /// Bytes that were fetched, but could not be kept: no space, or the cache is full.
    pub cache_unkept_bytes: AtomicU64,
    /// Bytes evicted by this process.
    pub cache_evicted_bytes: AtomicU64,
    /// Blocks that did not match their checksum and were dropped.
    pub cache_corrupt_blocks: AtomicU64,
    /// Reads of guests that wait for an origin; not a counter.
    pub guest_waits: GuestWaits,
    /// Bytes that background downloads have fetched or copied.
    pub download_bytes: AtomicU64,
    /// Layers that are whole on this host thanks to a background download.
    pub download_layers: AtomicU64,
    /// Bytes that prefetching has asked for.
    pub prefetch_bytes: AtomicU64,
    /// Bytes that the reads wanted which had to wait for a fetch.
    pub cache_waited_bytes: AtomicU64,
    /// How long those reads waited.
    pub cache_waits: Histogram,
    /// The longest of them lately.
    pub wait_peak: Peak,
    /// How long fetches took, from the request to the last byte taken, failed ones included.
    pub fetch_times: FetchTimes,
    /// The longest of them lately.
    pub fetch_peak: Peak,
    began: Began,
    disks: Mutex<Vec<Weak<DiskMetrics>>>,
}

/// One histogram for each urgency.
#[derive(Debug, Default)]
pub struct FetchTimes {
    guest: Histogram,
    background: Histogram,
}

impl FetchTimes {
    /// Those of one urgency.
    #[must_use]
    pub fn of(&self, urgency: Urgency) -> &Histogram {
        match urgency {
            Urgency::Guest => &self.guest,
            Urgency::Background => &self.background,
        }
    }
}

/// When the process began, as far as it matters here.
#[derive(Debug)]
struct Began(SystemTime);

impl Default for Began {
    fn default() -> Self {
        Self(SystemTime::now())
    }
}

impl Metrics {
    /// Lists a disk until the result is dropped. One whose name is taken gets another.
    pub fn disk(&self, name: &str, journal: Option<&Arc<Journal>>) -> Arc<DiskMetrics> {
        let mut disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        disks.retain(|disk| disk.strong_count() > 0);
        let live: Vec<_> = disks.iter().filter_map(Weak::upgrade).collect();
        let is_free = |name: &String| live.iter().all(|disk| disk.name() != name);
        let names = (2_u64..).map(|number| format!("{name}#{number}"));
        let name = std::iter::once(name.to_owned()).chain(names).find(is_free);
        let journal = journal.map_or_else(Arc::default, Arc::clone);
        let disk = Arc::new(DiskMetrics::new(name.unwrap_or_default(), journal));
        disks.push(Arc::downgrade(&disk));
        disk
    }

    /// The disks that are listed now, in the order in which they were.
    #[must_use]
    pub fn disks(&self) -> Vec<Arc<DiskMetrics>> {
        let disks = self.disks.lock().unwrap_or_else(PoisonError::into_inner);
        disks.iter().filter_map(Weak::upgrade).collect()
    }

    fn waited(&self, bytes: u64, time: Duration) {
        self.cache_waited_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.cache_waits.record(time);
        self.wait_peak.record(time);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_listed_while_it_lives_under_a_name_of_its_own() {
        let metrics = Metrics::default();
        let names = || -> Vec<_> {
            let disks = metrics.disks();
            disks.iter().map(|disk| disk.name().to_owned()).collect()
        };
        let first = metrics.disk("a", None);
        let second = metrics.disk("a", None);
        let third = metrics.disk("a", None);
        assert_eq!(names(), ["a", "a#2", "a#3"]);
        drop((first, second));
        assert_eq!(names(), ["a#3"]);
        let _again = metrics.disk("a", None);
        assert_eq!(names(), ["a#3", "a"]);
        drop(third);
    }
}
