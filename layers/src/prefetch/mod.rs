//! Fetching what a disk will read before it asks.
//!
//! image -> **prefetch** -> lsmt, cache
//!
//! Source: format reference 4.5, 4.6.

use std::sync::Arc;

use crate::cache::CachedBlob;
use crate::config::ImageConfig;
use crate::error::Result;
use crate::lsmt::Stack;
use crate::metrics::Journal;
use crate::read_at::ReadAt;
use crate::service::Service;

/// What is prefetched or recorded for one disk. Decided before its layers are opened; ends when dropped.
#[derive(Debug)]
pub struct Prefetch {}

impl Prefetch {
    /// Decides by the config and the files it names. Blocks for those.
    ///
    /// # Errors
    /// `Io` when recording was asked for and cannot be done.
    pub fn prepare(_config: &ImageConfig, _service: &Service) -> Result<Self> {
        Ok(Self {})
    }

    /// Is a trace being recorded? Then nothing is downloaded in the background.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        false
    }

    /// Watches the reads of the decoded layer `number` (0 = bottom), if they are recorded.
    #[must_use]
    pub fn watch(&self, _number: usize, decoded: Box<dyn ReadAt>) -> Box<dyn ReadAt> {
        decoded
    }

    /// The layers are open: starts the replay, if there is one. `cached` are those that are remote,
    /// by number; `stack` is the disk without its writable layer.
    pub fn begin(
        &mut self,
        _cached: &[(usize, Arc<CachedBlob>)],
        _stack: &Arc<Stack>,
        _journal: &Arc<Journal>,
    ) {
    }
}
