//! What the process counts. Every stage that talks to a registry, a cache or a disk adds to it.
//!
//! registry, cache, download, prefetch, image -> **metrics** -> exporter, `obd why`
//!
//! Invariant: counting takes no lock and allocates nothing.

mod guest_waits;
mod journal;

pub use guest_waits::{GuestWait, GuestWaits};
pub use journal::{Cause, Journal};

use std::sync::atomic::AtomicU64;

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
}
