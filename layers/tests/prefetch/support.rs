//! What these tests share: origins that note what is fetched, disks over them, waiting.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use layers::cache::{BlobUse, Cache, CachedBlob, Patience, Place};
use layers::config::{ImageConfig, ServiceConfig};
use layers::download::Switch;
use layers::lsmt::{Layer, Stack};
use layers::prefetch::Prefetch;
use layers::range_source::{RangeSource, Sink, Urgency};
use layers::{Dest, Error, ErrorKind, Result, Service, Wait, tar, zfile};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Longer than anything here takes.
const DEADLINE: Duration = Duration::from_secs(20);

/// A file that the C++ tools wrote.
pub(crate) fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("vectors")
        .join(name)
}

/// The bytes of the three native layers, bottom first.
pub(crate) fn native_layers() -> Vec<Vec<u8>> {
    (0..3)
        .map(|number| std::fs::read(vector(&format!("native/layer{number}.obd"))).unwrap())
        .collect()
}

/// Looks again and again until `is_so`.
#[track_caller]
pub(crate) fn wait_until(what: &str, is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is_so() {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// One fetch that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fetch {
    pub(crate) range: Range<u64>,
    pub(crate) urgency: Urgency,
}

/// A blob in memory that notes what is fetched of it.
#[derive(Debug)]
pub(crate) struct Origin {
    digest: String,
    bytes: Vec<u8>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    fetches: Vec<Fetch>,
    /// Nothing in the background is answered while this is set.
    is_held: bool,
    is_broken: bool,
}

impl Origin {
    pub(crate) fn new(bytes: Vec<u8>) -> Arc<Self> {
        let hash = Sha256::digest(&bytes);
        let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        Arc::new(Self {
            digest: format!("sha256:{hex}"),
            bytes,
            state: Mutex::default(),
            changed: Condvar::new(),
        })
    }

    pub(crate) fn digest(&self) -> &str {
        &self.digest
    }

    pub(crate) fn fetches(&self) -> Vec<Fetch> {
        self.state.lock().unwrap().fetches.clone()
    }

    pub(crate) fn forget_fetches(&self) {
        self.state.lock().unwrap().fetches.clear();
    }

    /// Bytes that were fetched in the background.
    pub(crate) fn ahead(&self) -> Vec<Range<u64>> {
        let fetches = self.fetches().into_iter();
        let ahead = fetches.filter(|fetch| fetch.urgency == Urgency::Background);
        ahead.map(|fetch| fetch.range).collect()
    }

    /// From now on background requests wait; or all that wait are answered.
    pub(crate) fn hold(&self, is_held: bool) {
        self.state.lock().unwrap().is_held = is_held;
        self.changed.notify_all();
    }

    /// Answers nothing any more.
    pub(crate) fn break_down(&self) {
        self.state.lock().unwrap().is_broken = true;
    }
}

impl RangeSource for Origin {
    fn name(&self) -> &str {
        &self.digest
    }

    fn size(&self, _deadline: Instant) -> Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn fetch(
        &self,
        range: Range<u64>,
        urgency: Urgency,
        _deadline: Instant,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        let mut state = self.state.lock().unwrap();
        let fetch = Fetch {
            range: range.clone(),
            urgency,
        };
        state.fetches.push(fetch);
        while state.is_held && urgency == Urgency::Background {
            state = self.changed.wait_timeout(state, DEADLINE).unwrap().0;
        }
        if state.is_broken {
            return Err(Error::new(ErrorKind::Io, "fetch", "the origin is gone"));
        }
        drop(state);
        let at = |offset| usize::try_from(offset).unwrap();
        sink(&self.bytes[at(range.start)..at(range.end)])
    }
}

/// Directories of one host.
pub(crate) struct Host {
    pub(crate) dir: TempDir,
}

impl Host {
    pub(crate) fn new() -> Self {
        // Beside the build: on a file system with holes.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        Self { dir }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A process on this host, with a cache of that name.
    pub(crate) fn service(&self, cache: &str, prefetch: &Value) -> Service {
        let config = json!({
            "cacheConfig": { "cacheType": "file", "cacheDir": self.path(cache), "freeSpaceFloorMB": 0 },
            "prefetchConfig": prefetch,
            "enableAudit": false,
        });
        Service::new(ServiceConfig::parse(config.to_string().as_bytes()).unwrap())
    }

    /// A config over remote layers, with `more` keys.
    pub(crate) fn config(origins: &[Arc<Origin>], more: &Value) -> ImageConfig {
        let lowers: Vec<_> = origins
            .iter()
            .map(|origin| json!({ "digest": origin.digest() }))
            .collect();
        let mut config = json!({ "repoBlobUrl": "http://registry/v2/x/blobs", "lowers": lowers });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        ImageConfig::parse(config.to_string().as_bytes()).unwrap()
    }
}

/// A disk whose layers all are remote.
pub(crate) struct RemoteDisk {
    pub(crate) stack: Arc<Stack>,
    pub(crate) prefetch: Prefetch,
    pub(crate) cached: Vec<(usize, Arc<CachedBlob>)>,
}

impl RemoteDisk {
    /// Opens it as an image does; nothing is replayed yet.
    pub(crate) fn open(service: &Service, config: &ImageConfig, origins: &[Arc<Origin>]) -> Self {
        let prefetch = Prefetch::prepare(config, service).unwrap();
        let cache = Cache::open(&service.config().cache, service.metrics(), service.audit());
        let cache = cache.unwrap();
        let (mut layers, mut cached) = (Vec::new(), Vec::new());
        for (number, origin) in origins.iter().enumerate() {
            let wanted = BlobUse {
                digest: origin.digest().to_owned(),
                place: Place::Shared,
                patience: Arc::new(Patience::new(DEADLINE)),
                journal: Arc::default(),
            };
            let source = Arc::clone(origin) as Arc<dyn RangeSource>;
            let blob = Arc::new(cache.blob(source, wanted).unwrap());
            cached.push((number, Arc::clone(&blob)));
            let switch = Switch::new(blob, service.metrics(), service.audit());
            let payload = tar::unwrap(Box::new(Arc::new(switch))).unwrap();
            let decoded = prefetch.watch(number, zfile::unwrap(payload).unwrap());
            layers.push(Layer::open(decoded).unwrap());
        }
        Self {
            stack: Arc::new(Stack::new(layers).unwrap()),
            prefetch,
            cached,
        }
    }

    /// The disk is open.
    pub(crate) fn begin(&mut self) {
        self.prefetch
            .begin(&self.cached, &self.stack, &Arc::default());
    }

    pub(crate) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let dest = Dest::from(&mut bytes[..]);
        let progress = self.stack.read_at(offset, dest, Wait::UntilDone).unwrap();
        progress.expect_done("read").unwrap();
        bytes
    }

    /// The first sectors of some of the data, spread over the layers and in no order.
    pub(crate) fn places(&self, count: usize) -> Vec<u64> {
        let mappings = self.stack.index().mappings();
        let data: Vec<_> = mappings
            .iter()
            .filter(|mapping| !mapping.is_zeroed())
            .collect();
        let places: BTreeSet<_> = (0..count).map(|n| n * 7919 % data.len()).collect();
        let mut places: Vec<_> = places
            .into_iter()
            .map(|place| data[place].offset() * 512)
            .collect();
        let half = places.len() / 2;
        places.rotate_left(half);
        places
    }
}

/// Is every byte of `range` in one of `ranges`?
pub(crate) fn covers(ranges: &[Range<u64>], range: &Range<u64>) -> bool {
    let mut ranges = ranges.to_vec();
    ranges.sort_by_key(|range| range.start);
    let mut position = range.start;
    for known in ranges {
        if known.start <= position {
            position = position.max(known.end);
        }
    }
    position >= range.end
}
