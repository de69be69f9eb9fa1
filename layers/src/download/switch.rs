//! A layer that is read from the cache, and from its own file once that is whole.
//!
//! tar -> **switch** -> cached blob | local file
//!
//! Invariant: both have the same bytes, so a read that began before the switch may end after it.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::cache::CachedBlob;
use crate::dest::Dest;
use crate::error::Result;
use crate::io::LocalFile;
use crate::read_at::{Progress, ReadAt, Wait};

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
}

impl Switch {
    /// Reads `cached` for now.
    #[must_use]
    pub fn new(cached: Arc<CachedBlob>) -> Self {
        Self {
            name: cached.name().to_owned(),
            size: cached.size(),
            current: ArcSwap::from_pointee(Current::Cached(cached)),
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
        match &**self.current.load() {
            Current::Cached(cached) => cached.read_at(offset, dest, wait),
            Current::Local(file) => file.read_at(offset, dest, wait),
        }
    }

    fn distrust(&self, offset: u64, len: u64) -> bool {
        match &**self.current.load() {
            Current::Cached(cached) => cached.distrust(offset, len),
            Current::Local(file) => file.distrust(offset, len),
        }
    }
}
