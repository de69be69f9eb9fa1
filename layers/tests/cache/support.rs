//! An origin in memory that counts, stalls and fails, and caches in temporary directories.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use layers::audit::Audit;
use layers::cache::{BlobUse, Cache, CachedBlob, Patience, Place};
use layers::config::CacheConfig;
use layers::error::Remote;
use layers::metrics::{Journal, Metrics};
use layers::range_source::{RangeSource, Sink, Urgency};
use layers::{Error, ErrorKind, ReadAt, Result};

pub(crate) const DIGEST: &str =
    "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
pub(crate) const LONG: Duration = Duration::from_secs(60);

/// Bytes that differ from block to block.
pub(crate) fn content(seed: u64, len: usize) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes);
    bytes
}

#[derive(Debug, Default)]
struct Behaviour {
    /// Each fetch stops before this byte of the blob until it is told otherwise.
    stop_at: Option<u64>,
    failures: u32,
    fetches: Vec<(Range<u64>, Urgency)>,
    waiting: u32,
}

#[derive(Debug)]
pub(crate) struct Origin {
    bytes: Mutex<Arc<Vec<u8>>>,
    size: u64,
    piece: usize,
    served: AtomicU64,
    behaviour: Mutex<Behaviour>,
    changed: Condvar,
}

impl Origin {
    pub(crate) fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self {
            size: bytes.len() as u64,
            bytes: Mutex::new(Arc::new(bytes)),
            piece: 10_000,
            served: AtomicU64::new(0),
            behaviour: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    pub(crate) fn served(&self) -> u64 {
        self.served.load(Ordering::SeqCst)
    }

    pub(crate) fn fetches(&self) -> Vec<(Range<u64>, Urgency)> {
        self.behaviour.lock().unwrap().fetches.clone()
    }

    pub(crate) fn replace(&self, bytes: Vec<u8>) {
        *self.bytes.lock().unwrap() = Arc::new(bytes);
    }

    pub(crate) fn fail_next(&self, failures: u32) {
        self.behaviour.lock().unwrap().failures = failures;
    }

    pub(crate) fn stop_at(&self, place: Option<u64>) {
        self.behaviour.lock().unwrap().stop_at = place;
        self.changed.notify_all();
    }

    /// Waits until so many fetches stand still.
    pub(crate) fn wait_until_stopped(&self, number: u32) {
        let behaviour = self.behaviour.lock().unwrap();
        let (_guard, timeout) = self
            .changed
            .wait_timeout_while(behaviour, LONG, |behaviour| behaviour.waiting < number)
            .unwrap();
        assert!(!timeout.timed_out(), "no {number} fetches came");
    }

    fn stop(&self, next: u64, deadline: Instant) -> Result<()> {
        let mut behaviour = self.behaviour.lock().unwrap();
        if behaviour.stop_at.is_none_or(|place| next < place) {
            return Ok(());
        }
        behaviour.waiting += 1;
        self.changed.notify_all();
        while behaviour.stop_at.is_some_and(|place| next >= place) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                behaviour.waiting -= 1;
                return Err(Error::new(
                    ErrorKind::Remote(Remote::TimedOut),
                    "fetch",
                    "stopped",
                ));
            }
            behaviour = self.changed.wait_timeout(behaviour, left).unwrap().0;
        }
        behaviour.waiting -= 1;
        Ok(())
    }
}

impl RangeSource for Origin {
    fn name(&self) -> &str {
        DIGEST
    }

    fn size(&self, _deadline: Instant) -> Result<u64> {
        Ok(self.size)
    }

    fn fetch(
        &self,
        range: Range<u64>,
        urgency: Urgency,
        deadline: Instant,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        {
            let mut behaviour = self.behaviour.lock().unwrap();
            behaviour.fetches.push((range.clone(), urgency));
            if behaviour.failures > 0 {
                behaviour.failures -= 1;
                return Err(Error::new(
                    ErrorKind::Remote(Remote::ServerFailed),
                    "fetch",
                    "failed",
                ));
            }
        }
        let bytes = Arc::clone(&self.bytes.lock().unwrap());
        let mut at = range.start;
        while at < range.end {
            self.stop(at, deadline)?;
            let end = range.end.min(at + self.piece as u64);
            let piece = &bytes[usize::try_from(at).unwrap()..usize::try_from(end).unwrap()];
            self.served.fetch_add(piece.len() as u64, Ordering::SeqCst);
            sink(piece)?;
            at = end;
        }
        Ok(())
    }
}

/// A cache directory and those who watch it.
pub(crate) struct Host {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) config: CacheConfig,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) journal: Arc<Journal>,
    pub(crate) patience: Arc<Patience>,
}

impl Host {
    pub(crate) fn new() -> Self {
        // Next to the build: a temporary directory may be on a file system without RWF_NOWAIT.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self {
            config: config(dir.path()),
            dir,
            metrics: Arc::default(),
            journal: Arc::default(),
            patience: Arc::new(Patience::new(LONG)),
        }
    }

    pub(crate) fn media(&self) -> PathBuf {
        self.config.dir.join(DIGEST)
    }

    pub(crate) fn record(&self) -> PathBuf {
        self.config.dir.join(format!("{DIGEST}.chunks"))
    }

    pub(crate) fn cache(&self) -> Arc<Cache> {
        Cache::open(&self.config, &self.metrics, &Arc::<Audit>::default()).unwrap()
    }

    pub(crate) fn blob(&self, cache: &Arc<Cache>, origin: &Arc<Origin>) -> CachedBlob {
        self.blob_of(cache, origin, DIGEST, Place::Shared)
    }

    pub(crate) fn blob_of(
        &self,
        cache: &Arc<Cache>,
        origin: &Arc<Origin>,
        digest: &str,
        place: Place,
    ) -> CachedBlob {
        let wanted = BlobUse {
            digest: digest.to_owned(),
            place,
            patience: Arc::clone(&self.patience),
            journal: Arc::clone(&self.journal),
        };
        cache
            .blob(Arc::clone(origin) as Arc<dyn RangeSource>, wanted)
            .unwrap()
    }
}

pub(crate) fn config(dir: &Path) -> CacheConfig {
    CacheConfig {
        dir: dir.to_owned(),
        free_floor_mib: 0,
        ..CacheConfig::default()
    }
}

/// Waits until the ends, which are fetched at open, are kept.
pub(crate) fn settle(blob: &CachedBlob) {
    let size = blob.size();
    blob.prefetch(0..size.min(65_536), Urgency::Guest).unwrap();
    blob.prefetch(size.saturating_sub(131_072)..size, Urgency::Guest)
        .unwrap();
}

/// Has everything fetched.
pub(crate) fn fill(blob: &CachedBlob) {
    blob.prefetch(0..blob.size(), Urgency::Guest).unwrap();
}

pub(crate) fn read(blob: &CachedBlob, offset: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0; len];
    blob.read_exact_at(offset, &mut buf).unwrap();
    buf
}

/// Reads everything and compares.
pub(crate) fn check_all(blob: &CachedBlob, expected: &[u8]) {
    for (number, part) in expected.chunks(300_000).enumerate() {
        let found = read(blob, number as u64 * 300_000, part.len());
        assert!(found == part, "wrong bytes in part {number}");
    }
}
