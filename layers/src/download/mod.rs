//! Whole layers, fetched in the background while a disk runs.
//!
//! image -> **download** -> cache, registry
//!
//! One thread a disk: after a delay it fills `.download` in a layer's directory, checks its digest,
//! renames it to `overlaybd.commit` and lets the disk read that ([`Switch`]); then the next layer.
//!
//! Source: format reference 4.4.

mod attempt;
mod clock;
mod fill;
mod pace;
mod partial_file;
mod switch;
mod worker;

pub use switch::Switch;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use clock::{Clock, Stop};
use worker::Worker;

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
    /// The cache keeps its part of the layer in `dir`, too.
    pub cache_is_beside: bool,
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
pub struct Download {
    stop: Arc<Stop>,
}

impl Download {
    /// Starts the thread that waits, then downloads one layer after the other. `free_floor_bytes` of
    /// the layers' file system are left free. Where no thread can be had nothing is downloaded, and
    /// the log says so.
    #[must_use]
    pub fn start(
        config: &DownloadConfig,
        free_floor_bytes: u64,
        mut layers: Vec<RemoteLayer>,
        metrics: &Arc<Metrics>,
        audit: &Arc<Audit>,
    ) -> Self {
        let stop = Arc::new(Stop::default());
        layers.retain(|layer| !layer.dir.as_os_str().is_empty());
        if layers.is_empty() {
            return Self { stop };
        }
        let shared = Shared {
            clock: Arc::clone(&stop) as _,
            metrics: Arc::clone(metrics),
            audit: Arc::clone(audit),
            free_floor_bytes,
        };
        let worker = Worker::new(config, layers, shared);
        let thread = std::thread::Builder::new().name("download".to_owned());
        if let Err(error) = thread.spawn(move || worker.run()) {
            log::error!("no background download: cannot start a thread: {error}");
        }
        Self { stop }
    }
}

/// The thread ends at the next piece; it is not waited for, since its server may let it wait.
impl Drop for Download {
    fn drop(&mut self) {
        self.stop.stop();
    }
}

/// What all parts of a download use.
#[derive(Debug)]
struct Shared {
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    audit: Arc<Audit>,
    free_floor_bytes: u64,
}

impl Shared {
    fn count_bytes(&self, bytes: u64) {
        self.metrics
            .download_bytes
            .fetch_add(bytes, Ordering::Relaxed);
    }

    fn count_layer(&self) {
        self.metrics.download_layers.fetch_add(1, Ordering::Relaxed);
    }
}
