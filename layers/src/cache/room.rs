//! How much the cache may keep, and making room for more.
//!
//! fill -> **room** -> evict
//!
//! All processes add what they keep to one counter in a mapped file. It is counted anew from the files at
//! each eviction, so a process that was killed leaves it wrong until then at most.
//!
//! Invariant: bytes are reserved before they are written, so the limit holds while the counter is right.
//!
//! Source: docs/cache.md.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::directory::Directory;
use super::evict::{self, Evicted};
use crate::audit::Audit;
use crate::config::CacheConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::io::{LockKind, RangeLock, SharedTable, free_bytes};
use crate::metrics::Metrics;

/// After an eviction, or a wait for another's, that made no room, none is tried for this time.
const FUTILE: Duration = Duration::from_secs(1);
/// Longest wait for another process that evicts.
const TURN_WAIT_MAX: Duration = Duration::from_millis(200);
/// How often it is looked whether that one is done.
const TURN_LOOK_EVERY: Duration = Duration::from_millis(5);

/// How much may be kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Most bytes of the cache.
    pub(super) bytes: u64,
    /// Bytes of the file system that stay free.
    pub(super) floor_bytes: u64,
}

impl Limits {
    pub(super) fn new(config: &CacheConfig) -> Self {
        Self {
            bytes: config.size_bytes(),
            floor_bytes: config.free_floor_mib.saturating_mul(1 << 20),
        }
    }
}

/// The room of one cache directory.
#[derive(Debug)]
pub(super) struct Room {
    pub(super) directory: Directory,
    limits: Limits,
    usage: SharedTable,
    usage_file: Arc<File>,
    /// Until when eviction is known to be futile.
    evicting: Mutex<Option<Instant>>,
    metrics: Arc<Metrics>,
    audit: Arc<Audit>,
}

impl Room {
    pub(super) fn new(
        directory: Directory,
        limits: Limits,
        metrics: &Arc<Metrics>,
        audit: &Arc<Audit>,
    ) -> Result<Self> {
        let name = directory.path().display().to_string();
        let fail = |source| Error::io("open cache directory", source).in_file(&name);
        let usage_file = Arc::new(directory.open_usage().map_err(fail)?);
        Ok(Self {
            usage: SharedTable::new(&usage_file, 4096).map_err(fail)?,
            usage_file,
            directory,
            limits,
            evicting: Mutex::default(),
            metrics: Arc::clone(metrics),
            audit: Arc::clone(audit),
        })
    }

    /// May so many bytes more be kept? Evicts for them if need be; blocks for that.
    pub(super) fn reserve(&self, bytes: u64) -> bool {
        if self.try_reserve(bytes) {
            return true;
        }
        let mut futile_until = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        if self.try_reserve(bytes) {
            return true;
        }
        if futile_until.is_some_and(|until| Instant::now() < until) {
            return false;
        }
        self.evict_in_turn(bytes, TURN_WAIT_MAX);
        let done = self.try_reserve(bytes);
        *futile_until = (!done).then(|| Instant::now() + FUTILE);
        done
    }

    /// Has the file system of `file`, which may be another than the cache's, so many bytes to spare?
    pub(super) fn leaves_floor(&self, file: &File, bytes: u64) -> bool {
        let free = free_bytes(file).unwrap_or(u64::MAX);
        free >= self.limits.floor_bytes.saturating_add(bytes)
    }

    /// Why nothing more may be kept, for the log.
    pub(super) fn why_not(&self) -> String {
        let (free, floor) = (self.free_bytes(), self.limits.floor_bytes);
        let used = self.used();
        let (limit, mib) = (self.limits.bytes, 1 << 20);
        format!(
            "{} MiB are free, and {} MiB stay free (cacheConfig.freeSpaceFloorMB); {} of {} MiB are used \
             (cacheConfig.cacheSizeGB)",
            free / mib,
            floor / mib,
            used / mib,
            limit / mib
        )
    }

    /// A file was made that may take so many bytes.
    pub(super) fn charge(&self, bytes: u64) {
        if let Some(counter) = self.counter() {
            counter.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// What was reserved is not kept.
    pub(super) fn release(&self, bytes: u64) {
        self.subtract(bytes);
    }

    /// Evicts if there is more than there should be. Blocks.
    pub(super) fn check(&self) {
        if self.used() > self.limits.bytes || self.free_bytes() < self.limits.floor_bytes {
            let _evicting = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
            // Another process that evicts does this one's work.
            self.evict_in_turn(0, Duration::ZERO);
        }
    }

    /// Counts all files, unless another process counts or evicts. Blocks.
    pub(super) fn recount(&self) {
        let _evicting = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        // Two that correct the counter at once would correct it twice.
        let turn = RangeLock::try_new(&self.usage_file, 0..1, LockKind::Exclusive);
        let Ok(Some(_turn)) = turn else { return };
        let before = self.used();
        if let Ok(total) = evict::count(&self.directory) {
            self.correct(before, total);
        }
    }

    /// Bytes that the cache takes on the disk, by the counter.
    pub(super) fn used(&self) -> u64 {
        self.counter()
            .map_or(0, |counter| counter.load(Ordering::Relaxed))
    }

    /// What was kept while the files were counted is counted twice at most, never left out.
    fn correct(&self, before: u64, total: u64) {
        if let Some(counter) = self.counter() {
            counter.fetch_add(total.wrapping_sub(before), Ordering::Relaxed);
        }
    }

    fn counter(&self) -> Option<&AtomicU64> {
        self.usage.u64_at(0).filter(|_| !self.usage.is_poisoned())
    }

    fn try_reserve(&self, bytes: u64) -> bool {
        let Some(counter) = self.counter() else {
            return false;
        };
        let after = counter
            .fetch_add(bytes, Ordering::Relaxed)
            .saturating_add(bytes);
        let wanted_free = self.limits.floor_bytes.saturating_add(bytes);
        if after <= self.limits.bytes && self.free_bytes() >= wanted_free {
            return true;
        }
        self.subtract(bytes);
        false
    }

    fn subtract(&self, bytes: u64) {
        if let Some(counter) = self.counter() {
            let mut used = counter.load(Ordering::Relaxed);
            while let Err(now) = counter.compare_exchange_weak(
                used,
                used.saturating_sub(bytes),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                used = now;
            }
        }
    }

    fn free_bytes(&self) -> u64 {
        free_bytes(self.directory.handle()).unwrap_or(u64::MAX)
    }

    /// Evicts when no other process does; otherwise waits for that a little.
    fn evict_in_turn(&self, wanted: u64, patience: Duration) {
        let deadline = Instant::now() + patience;
        loop {
            match RangeLock::try_new(&self.usage_file, 0..1, LockKind::Exclusive) {
                Ok(Some(_turn)) => {
                    if let Err(error) = self.evict(wanted) {
                        log::warn!("evict from {}: {error}", self.directory.path().display());
                    }
                    return;
                }
                // The kernel tells nobody when such a lock is free again.
                Ok(None) if Instant::now() < deadline => std::thread::park_timeout(TURN_LOOK_EVERY),
                _ => return,
            }
        }
    }

    /// Evicts down to the limits, if need be, and counts all files.
    ///
    /// # Errors
    /// `Busy` while another process evicts; `Io`.
    pub(super) fn evict_now(&self) -> Result<u64> {
        let _evicting = self.evicting.lock().unwrap_or_else(PoisonError::into_inner);
        let fail = |source| Error::io("evict from cache", source);
        let turn = RangeLock::try_new(&self.usage_file, 0..1, LockKind::Exclusive).map_err(fail)?;
        if turn.is_none() {
            let detail = "another process evicts from it at this moment";
            return Err(Error::new(ErrorKind::Busy, "evict from cache", detail));
        }
        self.evict(0).map(|evicted| evicted.bytes).map_err(fail)
    }

    /// Brings the cache below its limits, with `wanted` bytes to spare.
    pub(super) fn evict(&self, wanted: u64) -> io::Result<Evicted> {
        let began = Instant::now();
        let before = self.used();
        let free = self.free_bytes();
        let correct = |total| self.correct(before, total);
        let evicted = evict::evict(&self.directory, self.limits, free, wanted, &correct)?;
        self.subtract(evicted.bytes);
        let bytes = &self.metrics.cache_evicted_bytes;
        bytes.fetch_add(evicted.bytes, Ordering::Relaxed);
        let path = self.directory.path().display().to_string();
        let size = i64::try_from(evicted.bytes).unwrap_or(i64::MAX);
        self.audit
            .record("eviction", &path, 0, size, began.elapsed());
        Ok(evicted)
    }
}
