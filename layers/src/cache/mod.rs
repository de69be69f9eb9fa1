//! Parts of blobs that are kept on this host.
//!
//! image -> lsmt -> zfile -> tar -> **cache** -> registry
//!
//! Reads that find their bytes here copy them (`blob`, `kept_blob`); all others wait for a flight
//! (`flight`), which a thread of the `fetcher` brings (`fill`). What is kept is bounded by `room`.
//! Several processes share a directory.
//!
//! Source: format reference 7; docs/cache.md.

pub mod admin;
mod blob;
mod directory;
mod distrusted;
mod evict;
mod fetcher;
mod fill;
mod flight;
mod janitor;
mod kept_blob;
mod patience;
mod persistent_source;
mod read_ahead;
mod record;
mod room;
mod verified;

pub use blob::CachedBlob;
pub use patience::Patience;
pub use persistent_source::PersistentSource;
pub use record::decode_header;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::SystemTime;

use blob::{Blob, FLIGHT_BYTES_MAX};
use directory::{BlobFiles, Directory, is_digest};
use fetcher::Fetcher;
use kept_blob::KeptBlob;
use record::{BLOB_BYTES_MAX, Layout};
use room::{Limits, Room};

use crate::audit::Audit;
use crate::config::CacheConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::{Journal, Metrics};
use crate::range_source::RangeSource;

/// A cache directory, shared with other processes.
#[derive(Debug)]
pub struct Cache {
    metrics: Arc<Metrics>,
    audit: Arc<Audit>,
    room: Room,
    fetcher: Fetcher,
    /// Misses are rounded out to this; `None`: as suits the reads.
    refill_bytes: Option<u64>,
    /// Seconds since 1970, about.
    clock: AtomicU32,
    blobs: Mutex<HashMap<PathBuf, Weak<Blob>>>,
    janitor: janitor::Janitor,
}

/// Where the file of a blob is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// In the cache directory, under the blob's digest.
    Shared,
    /// As `.download` in a layer's own directory, out of the cache's limits.
    Layer(PathBuf),
}

/// What a cached blob is and for whom it is read.
#[derive(Debug, Clone)]
pub struct BlobUse {
    /// `sha256:...`
    pub digest: String,
    /// Where it is kept.
    pub place: Place,
    /// How long its reads wait for the origin.
    pub patience: Arc<Patience>,
    /// Whose reads they are.
    pub journal: Arc<Journal>,
}

impl Cache {
    /// Opens or creates the directory.
    ///
    /// # Errors
    /// `Io`, `NoSpace`; `Config` for a size that makes no sense.
    pub fn open(
        config: &CacheConfig,
        metrics: &Arc<Metrics>,
        audit: &Arc<Audit>,
    ) -> Result<Arc<Self>> {
        check(config)?;
        let directory = Directory::open_configured(config)?;
        let room = Room::new(directory, Limits::new(config), metrics, audit)?;
        let cache = Arc::new(Self {
            metrics: Arc::clone(metrics),
            audit: Arc::clone(audit),
            room,
            fetcher: Fetcher::new(),
            refill_bytes: config.refill_bytes.map(bounded_refill),
            clock: AtomicU32::new(0),
            blobs: Mutex::default(),
            janitor: janitor::Janitor::default(),
        });
        cache.refresh_clock();
        Ok(cache)
    }

    /// The blob behind `source` as a file. Asks the source for its size if need be; blocks. Its ends are
    /// being fetched when this returns.
    ///
    /// # Errors
    /// Those of the source, `Io`; `Config` for a digest that is none.
    pub fn blob(
        self: &Arc<Self>,
        source: Arc<dyn RangeSource>,
        wanted: BlobUse,
    ) -> Result<CachedBlob> {
        if !is_digest(&wanted.digest) {
            let detail = format!(
                "{:.80?} is not a digest such as sha256:<64 hex digits>",
                wanted.digest
            );
            return Err(Error::new(ErrorKind::Config, "open cached blob", detail));
        }
        let size = source.size(wanted.patience.deadline())?;
        let blob = self.shared_blob(&wanted, size);
        self.janitor.start(self);
        Ok(CachedBlob::new(blob, source, wanted))
    }

    /// The blob that others in this process read, or a new one.
    fn shared_blob(self: &Arc<Self>, wanted: &BlobUse, size: u64) -> Arc<Blob> {
        let mut place = wanted.place.clone();
        let mut files = self.files(&wanted.digest, &place);
        if let Place::Layer(dir) = &place
            && !is_writable(dir)
        {
            log::warn!(
                "{}: not writable; its layer is kept in {}",
                dir.display(),
                self.path().display()
            );
            place = Place::Shared;
            files = self.files(&wanted.digest, &place);
        }
        let mut blobs = self.blobs.lock().unwrap_or_else(PoisonError::into_inner);
        let fits =
            |blob: &Arc<Blob>| blob.layout.blob_bytes == size && blob.digest == wanted.digest;
        if let Some(blob) = blobs.get(&files.media).and_then(Weak::upgrade).filter(fits) {
            return blob;
        }
        blobs.retain(|_, blob| blob.strong_count() > 0);
        let is_new = !files.record.exists();
        let kept = open_kept(&files, size, &wanted.digest);
        if is_new && kept.is_some() && place == Place::Shared {
            self.room.charge(Layout { blob_bytes: size }.record_bytes());
        }
        let blob = Arc::new(Blob::new(
            Arc::clone(self),
            &wanted.digest,
            size,
            &place,
            kept,
        ));
        blobs.insert(files.media, Arc::downgrade(&blob));
        blob
    }

    fn files(&self, digest: &str, place: &Place) -> BlobFiles {
        match place {
            Place::Shared => self.room.directory.blob(digest),
            Place::Layer(dir) => BlobFiles::beside_layer(dir),
        }
    }

    /// Where blobs are kept.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.room.directory.path()
    }

    /// Seconds since 1970; up to ten seconds ago.
    #[inline]
    fn now(&self) -> u32 {
        self.clock.load(Ordering::Relaxed)
    }

    fn refresh_clock(&self) {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.map_or(0, |time| time.as_secs());
        let seconds = u32::try_from(seconds).unwrap_or(u32::MAX);
        self.clock.store(seconds, Ordering::Relaxed);
    }
}

fn check(config: &CacheConfig) -> Result<()> {
    let refuse = |detail: String| Err(Error::new(ErrorKind::Config, "open cache", detail));
    if config.size_bytes() == 0 {
        return refuse("cacheSizeGB or cacheSizeMB is 0: a cache needs room".to_owned());
    }
    match config.refill_bytes {
        Some(bytes) if !bytes.is_power_of_two() || bytes < 4096 => refuse(format!(
            "refillSize {bytes}: expected a power of two from 4096 on"
        )),
        _ => Ok(()),
    }
}

/// The C++ daemon takes any size; a request here has a bound.
fn bounded_refill(bytes: u64) -> u64 {
    if bytes > FLIGHT_BYTES_MAX {
        log::warn!("refillSize {bytes}: {FLIGHT_BYTES_MAX} is used, the most of one request");
    }
    bytes.min(FLIGHT_BYTES_MAX)
}

/// The files of a blob; `None`, with a warning, when nothing can be kept of it.
fn open_kept(files: &BlobFiles, size: u64, digest: &str) -> Option<KeptBlob> {
    if size == 0 {
        return None;
    }
    if size > BLOB_BYTES_MAX {
        log::warn!("{digest}: {size} bytes are too many to be cached");
        return None;
    }
    let opened = KeptBlob::open(files, Layout { blob_bytes: size }, digest);
    opened
        .map_err(|error| log::warn!("{error}: {digest} is read without keeping it"))
        .ok()
}

fn is_writable(dir: &Path) -> bool {
    tempfile::tempfile_in(dir).is_ok()
}
