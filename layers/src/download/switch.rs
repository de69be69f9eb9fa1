//! A layer that is read from the cache, and from its own file once that is whole.
//!
//! tar -> **switch** -> cached blob | local file
//!
//! Invariants
//! - both have the same bytes, so a read that began before the switch may end after it;
//! - neither a read nor the switch ever waits for the other; the cached blob goes with its last read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;

use crate::audit::Audit;
use crate::cache::CachedBlob;
use crate::dest::Dest;
use crate::error::Result;
use crate::io::LocalFile;
use crate::metrics::Metrics;
use crate::read_at::{Progress, ReadAt, Wait};

/// Reads of the layer's own file that take so long are audited, as in the C++ daemon.
const SLOW: Duration = Duration::from_millis(10);

#[derive(Debug)]
enum Current {
    Cached(Arc<CachedBlob>),
    Local(LocalFile),
}

/// See the module's description.
#[derive(Debug)]
pub struct Switch {
    current: ArcSwap<Current>,
    name: String,
    size: u64,
    metrics: Arc<Metrics>,
    audit: Arc<Audit>,
}

impl Switch {
    /// Reads `cached` for now.
    #[must_use]
    pub fn new(cached: Arc<CachedBlob>, metrics: &Arc<Metrics>, audit: &Arc<Audit>) -> Self {
        Self {
            name: cached.name().to_owned(),
            size: cached.size(),
            current: ArcSwap::from_pointee(Current::Cached(cached)),
            metrics: Arc::clone(metrics),
            audit: Arc::clone(audit),
        }
    }

    /// Reads that begin from now on use `file`, which holds the same bytes.
    pub fn switch_to(&self, file: LocalFile) {
        self.current.store(Arc::new(Current::Local(file)));
    }

    /// Is the layer's own file read?
    #[must_use]
    pub fn is_local(&self) -> bool {
        matches!(**self.current.load(), Current::Local(_))
    }

    fn read_local(&self, file: &LocalFile, offset: u64, dest: Dest<'_>) -> Result<Progress> {
        let (started, len) = (Instant::now(), dest.len());
        let read = file.read_at(offset, dest, Wait::UntilDone);
        let latency = started.elapsed();
        if latency >= SLOW {
            let size = match &read {
                Ok(_) => i64::try_from(len).unwrap_or(i64::MAX),
                Err(_) => -1,
            };
            let (event, path) = ("file:pread", file.name());
            self.audit.record(event, path, offset, size, latency);
        }
        read
    }
}

/// A switch shared by a disk that reads it and a download that switches it.
impl ReadAt for Arc<Switch> {
    fn size(&self) -> u64 {
        self.size
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read_at(&self, offset: u64, dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        match (&**self.current.load(), wait) {
            (Current::Cached(cached), Wait::Never) => cached.read_at(offset, dest, wait),
            (Current::Cached(cached), Wait::UntilDone) => {
                // The download makes room for it.
                let _waits = self.metrics.guest_waits.enter();
                cached.read_at(offset, dest, wait)
            }
            (Current::Local(file), Wait::Never) => file.read_at(offset, dest, wait),
            (Current::Local(file), Wait::UntilDone) => self.read_local(file, offset, dest),
        }
    }

    fn distrust(&self, offset: u64, len: u64) -> bool {
        match &**self.current.load() {
            Current::Cached(cached) => cached.distrust(offset, len),
            Current::Local(file) => file.distrust(offset, len),
        }
    }
}
