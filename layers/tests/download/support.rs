//! A blob in memory, a layer of it, and disks that download it.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use layers::audit::Audit;
use layers::cache::{BlobUse, Cache, Patience, Place};
use layers::config::{CacheConfig, DownloadConfig};
use layers::download::{Download, RemoteLayer, Switch};
use layers::metrics::Metrics;
use layers::range_source::{RangeSource, Sink, Urgency};
use layers::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};

/// No step of a test takes longer, on however busy a machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) const PIECE: usize = 256 << 10;

/// The same bytes for the same length, in every process.
pub(crate) fn content(len: usize) -> Vec<u8> {
    let mut state = len as u64 | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(99);
        bytes.extend_from_slice(&(state >> 8).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// A gate that a source's requests pass one by one.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    open: Mutex<Option<usize>>,
    changed: Condvar,
}

impl Gate {
    /// Lets so many requests pass from now on.
    pub(crate) fn admit(&self, count: usize) {
        *self.open.lock().unwrap() = Some(count);
        self.changed.notify_all();
    }

    fn pass(&self) {
        let open = self.open.lock().unwrap();
        let (mut open, timeout) = self
            .changed
            .wait_timeout_while(open, DEADLINE, |open| *open == Some(0))
            .unwrap();
        assert!(!timeout.timed_out(), "nobody opened the gate");
        if let Some(count) = &mut *open {
            *count -= 1;
        }
    }
}

/// A registry of one blob.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) digest: String,
    pub(crate) bytes: Vec<u8>,
    /// What requests of downloads pass; the cache's do not.
    pub(crate) gate: Gate,
    /// What reads of guests pass.
    pub(crate) guests: Gate,
    asked: Mutex<Vec<Range<u64>>>,
    /// Bytes that downloads were given.
    pub(crate) given: AtomicU64,
}

impl Origin {
    pub(crate) fn new(bytes: Vec<u8>) -> Arc<Self> {
        let hash = Sha256::digest(&bytes);
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Arc::new(Self {
            digest: format!("sha256:{hex}"),
            bytes,
            gate: Gate::default(),
            guests: Gate::default(),
            asked: Mutex::default(),
            given: AtomicU64::new(0),
        })
    }

    /// Waits until downloads have asked so many times.
    pub(crate) fn wait_for_requests(&self, count: usize) {
        let deadline = Instant::now() + DEADLINE;
        while self.asked().len() < count {
            assert!(Instant::now() < deadline, "no download asked");
            std::thread::yield_now();
        }
    }

    /// What downloads asked for.
    pub(crate) fn asked(&self) -> Vec<Range<u64>> {
        self.asked.lock().unwrap().clone()
    }
}

impl RangeSource for Origin {
    fn name(&self) -> &str {
        &self.digest
    }

    fn size(&self, _: Instant) -> Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn fetch(
        &self,
        range: Range<u64>,
        urgency: Urgency,
        _: Instant,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        let part = usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap();
        let Some(bytes) = self.bytes.get(part) else {
            return Err(Error::new(
                ErrorKind::OutOfRange,
                "fetch blob",
                "beyond its end",
            ));
        };
        if urgency == Urgency::Guest {
            self.guests.pass();
        }
        bytes.chunks(9000).try_for_each(sink)
    }
}

/// The origin as one download has it. Tells when the download has let go of it.
#[derive(Debug)]
struct Lent {
    origin: Arc<Origin>,
    _gone: Sender<()>,
}

impl RangeSource for Lent {
    fn name(&self) -> &str {
        self.origin.name()
    }

    fn size(&self, deadline: Instant) -> Result<u64> {
        self.origin.size(deadline)
    }

    fn fetch(
        &self,
        range: Range<u64>,
        urgency: Urgency,
        deadline: Instant,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        let origin = &self.origin;
        origin.asked.lock().unwrap().push(range.clone());
        origin.gate.pass();
        origin.fetch(range, urgency, deadline, &mut |bytes| {
            origin
                .given
                .fetch_add(bytes.len() as u64, Ordering::Relaxed);
            sink(bytes)
        })
    }
}

/// A disk of one layer.
pub(crate) struct Disk {
    pub(crate) switch: Arc<Switch>,
    pub(crate) metrics: Arc<Metrics>,
    download: Option<Download>,
    gone: Receiver<()>,
}

/// Starts at once; one attempt.
pub(crate) fn config() -> DownloadConfig {
    DownloadConfig {
        enable: true,
        delay: 0,
        delay_extra: 1,
        max_mib_per_second: 0,
        try_cnt: 1,
        ..DownloadConfig::default()
    }
}

impl Disk {
    /// Starts the download of the blob to `dir`, with a cache of its own in `cache`.
    pub(crate) fn start(
        origin: &Arc<Origin>,
        dir: &Path,
        cache: &Path,
        config: &DownloadConfig,
    ) -> Self {
        Self::audited(origin, dir, cache, config, &Arc::default())
    }

    pub(crate) fn audited(
        origin: &Arc<Origin>,
        dir: &Path,
        cache: &Path,
        config: &DownloadConfig,
        audit: &Arc<Audit>,
    ) -> Self {
        let metrics = Arc::new(Metrics::default());
        let settings = CacheConfig {
            dir: cache.to_owned(),
            free_floor_mib: 0,
            ..CacheConfig::default()
        };
        let wanted = BlobUse {
            digest: origin.digest.clone(),
            place: Place::Shared,
            patience: Arc::new(Patience::new(DEADLINE)),
            journal: Arc::default(),
        };
        let cache = Cache::open(&settings, &metrics, audit).unwrap();
        let cached = Arc::new(cache.blob(Arc::clone(origin) as _, wanted).unwrap());
        let switch = Arc::new(Switch::new(Arc::clone(&cached), &metrics, audit));
        let (sender, gone) = channel();
        let layer = RemoteLayer {
            dir: dir.to_owned(),
            cache_is_beside: false,
            digest: origin.digest.clone(),
            size: origin.bytes.len() as u64,
            source: Arc::new(Lent {
                origin: Arc::clone(origin),
                _gone: sender,
            }),
            switch: Arc::clone(&switch),
            cached,
        };
        Self {
            download: Some(Download::start(config, 0, vec![layer], &metrics, audit)),
            switch,
            metrics,
            gone,
        }
    }

    /// Waits until the download is done or has given up.
    #[track_caller]
    pub(crate) fn wait(&self) {
        let ended = self.gone.recv_timeout(DEADLINE);
        assert_eq!(ended, Err(RecvTimeoutError::Disconnected), "it did not end");
    }

    /// Closes the disk; its reads may go on.
    pub(crate) fn close(&mut self) {
        drop(self.download.take());
    }
}

/// A directory for a layer and one for a cache, where files may have holes.
pub(crate) struct Room {
    _root: tempfile::TempDir,
    pub(crate) dir: PathBuf,
    pub(crate) cache: PathBuf,
}

pub(crate) fn room() -> Room {
    let root = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (dir, cache) = (root.path().join("fs"), root.path().join("cache"));
    std::fs::create_dir(&dir).unwrap();
    std::fs::create_dir(&cache).unwrap();
    Room {
        _root: root,
        dir,
        cache,
    }
}

pub(crate) fn whole(dir: &Path) -> PathBuf {
    dir.join("overlaybd.commit")
}

pub(crate) fn partial(dir: &Path) -> PathBuf {
    dir.join(".download")
}

/// For what other threads do all the time.
pub(crate) fn wait_until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
}
