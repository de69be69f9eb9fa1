//! How the start of one disk went: what its reads waited for.
//!
//! cache, front end -> **journal** -> one line at close, `obd why`
//!
//! Invariants
//! - memory is bounded: of the waits only the slowest are kept.
//! - a lock is taken only by a read that has waited, and only when it is one of the slowest.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Metrics;
use crate::range_source::Urgency;

/// Waits that are kept.
const SLOWEST_MAX: usize = 10;

/// Longest name of a layer that is kept, in bytes; a digest has 71.
const LAYER_NAME_MAX: usize = 128;

/// What a read waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cause {
    /// A fetch that this read asked for.
    Fetch,
    /// A fetch that somebody else had asked for: another read, prefetch, or another process.
    Shared,
    /// A block of the cache was corrupt and was fetched again.
    Corrupt,
}

/// The story of one disk. Shared by its layers.
#[derive(Debug)]
pub struct Journal {
    metrics: Arc<Metrics>,
    began: Instant,
    /// Times since `began`.
    opened: OnceLock<Duration>,
    first_fetch: OnceLock<Duration>,
    first_read: OnceLock<Duration>,
    first_answer: OnceLock<Duration>,
    layers: AtomicU64,
    layer_bytes: AtomicU64,
    guest: Fetched,
    background: Fetched,
    waits: [AtomicU64; 3],
    wait_nanos: AtomicU64,
    longest_nanos: AtomicU64,
    slowest: Slowest,
}

/// What one kind of fetches has brought.
#[derive(Debug, Default)]
struct Fetched {
    requests: AtomicU64,
    bytes: AtomicU64,
}

/// The waits that are kept, slowest first.
#[derive(Debug, Default)]
struct Slowest {
    waits: Mutex<Vec<SlowWait>>,
    /// No wait up to this time, in nanoseconds, is one of them any more.
    floor_nanos: AtomicU64,
}

/// One wait of a read.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlowWait {
    /// Digest of the layer's blob.
    pub layer: String,
    /// Byte offset in the blob.
    pub offset: u64,
    /// Bytes that the read wanted there.
    pub bytes: u64,
    /// How long it waited.
    pub seconds: f64,
    /// When it began to wait, in seconds since the image was opened.
    pub at_seconds: f64,
    /// For what.
    pub cause: Cause,
}

impl Default for Journal {
    fn default() -> Self {
        Self::new(&Arc::default())
    }
}

impl Journal {
    /// The journal of a disk that begins to be opened now. Its waits count in `metrics`, too.
    #[must_use]
    pub fn new(metrics: &Arc<Metrics>) -> Self {
        Self {
            metrics: Arc::clone(metrics),
            began: Instant::now(),
            opened: OnceLock::new(),
            first_fetch: OnceLock::new(),
            first_read: OnceLock::new(),
            first_answer: OnceLock::new(),
            layers: AtomicU64::new(0),
            layer_bytes: AtomicU64::new(0),
            guest: Fetched::default(),
            background: Fetched::default(),
            waits: Default::default(),
            wait_nanos: AtomicU64::new(0),
            longest_nanos: AtomicU64::new(0),
            slowest: Slowest::default(),
        }
    }

    /// The disk is open. `remote_layers` are the sizes of those that are not on this host, in bytes.
    pub fn opened(&self, remote_layers: impl IntoIterator<Item = u64>) {
        self.note(&self.opened);
        for bytes in remote_layers {
            self.layers.fetch_add(1, Ordering::Relaxed);
            self.layer_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// A guest's read was taken. Only the first one counts.
    pub fn read_began(&self) {
        self.note(&self.first_read);
    }

    /// A guest's read was answered. Only the first one counts.
    pub fn read_answered(&self) {
        self.note(&self.first_answer);
    }

    fn note(&self, event: &OnceLock<Duration>) {
        event.get_or_init(|| self.began.elapsed());
    }

    /// A read of `range` of the blob `layer` had to wait this long.
    pub fn waited(&self, layer: &str, range: Range<u64>, time: Duration, cause: Cause) {
        let bytes = range.end.saturating_sub(range.start);
        self.metrics.waited(bytes, time);
        let [fetch, shared, corrupt] = &self.waits;
        let counter = match cause {
            Cause::Fetch => fetch,
            Cause::Shared => shared,
            Cause::Corrupt => corrupt,
        };
        counter.fetch_add(1, Ordering::Relaxed);
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.wait_nanos.fetch_add(nanos, Ordering::Relaxed);
        self.longest_nanos.fetch_max(nanos, Ordering::Relaxed);
        if nanos > self.slowest.floor_nanos.load(Ordering::Relaxed) {
            let at = self.began.elapsed().saturating_sub(time);
            self.slowest.keep(SlowWait {
                layer: shortened(layer),
                offset: range.start,
                bytes,
                seconds: time.as_secs_f64(),
                at_seconds: at.as_secs_f64(),
                cause,
            });
        }
    }

    /// A request for this disk has brought so many bytes.
    pub fn fetched(&self, bytes: u64, urgency: Urgency) {
        if bytes > 0 {
            self.note(&self.first_fetch);
        }
        let fetched = match urgency {
            Urgency::Guest => &self.guest,
            Urgency::Background => &self.background,
        };
        fetched.requests.fetch_add(1, Ordering::Relaxed);
        fetched.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes that were fetched for this disk.
    #[must_use]
    pub fn fetched_bytes(&self) -> u64 {
        self.fetched_bytes_for(Urgency::Guest) + self.fetched_bytes_for(Urgency::Background)
    }

    /// Bytes that were fetched for this disk and for whom.
    #[must_use]
    pub fn fetched_bytes_for(&self, urgency: Urgency) -> u64 {
        let fetched = match urgency {
            Urgency::Guest => &self.guest,
            Urgency::Background => &self.background,
        };
        fetched.bytes.load(Ordering::Relaxed)
    }

    /// Reads that had to wait.
    #[must_use]
    pub fn waits(&self) -> u64 {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        self.waits.iter().map(load).sum()
    }

    /// Layers that were not on this host when the disk was opened.
    #[must_use]
    pub fn remote_layers(&self) -> u64 {
        self.layers.load(Ordering::Relaxed)
    }

    /// How long ago a guest first read.
    #[must_use]
    pub fn since_first_read(&self) -> Option<Duration> {
        let first = self.first_read.get()?;
        Some(self.began.elapsed().saturating_sub(*first))
    }

    /// Everything so far.
    #[must_use]
    pub fn story(&self) -> Story {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let seconds = |event: &OnceLock<Duration>| event.get().map(Duration::as_secs_f64);
        let nanos = |counter| Duration::from_nanos(load(counter)).as_secs_f64();
        let fetched = |fetched: &Fetched| FetchedStory {
            requests: load(&fetched.requests),
            bytes: load(&fetched.bytes),
        };
        let [fetch, shared, corrupt] = self.waits.each_ref().map(load);
        Story {
            remote_layers: self.remote_layers(),
            remote_bytes: load(&self.layer_bytes),
            opened_seconds: seconds(&self.opened),
            first_fetch_seconds: seconds(&self.first_fetch),
            first_read_seconds: seconds(&self.first_read),
            first_answer_seconds: seconds(&self.first_answer),
            running_seconds: self.began.elapsed().as_secs_f64(),
            guest: fetched(&self.guest),
            background: fetched(&self.background),
            waits: WaitsStory {
                fetch,
                shared,
                corrupt,
                seconds: nanos(&self.wait_nanos),
                longest_seconds: nanos(&self.longest_nanos),
            },
            slowest: self.slowest.lock().clone(),
        }
    }

    /// The story in one line; `None` for a disk whose layers were all on this host.
    #[must_use]
    pub fn summary(&self) -> Option<String> {
        (self.remote_layers() > 0).then(|| self.story().summary())
    }
}

impl Slowest {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<SlowWait>> {
        self.waits.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, wait: SlowWait) {
        let mut waits = self.lock();
        let place = waits.partition_point(|other| other.seconds >= wait.seconds);
        if place >= SLOWEST_MAX {
            return;
        }
        waits.truncate(SLOWEST_MAX - 1);
        waits.insert(place, wait);
        if let (SLOWEST_MAX, Some(last)) = (waits.len(), waits.last()) {
            let floor = Duration::try_from_secs_f64(last.seconds).unwrap_or(Duration::MAX);
            let nanos = u64::try_from(floor.as_nanos()).unwrap_or(u64::MAX);
            self.floor_nanos.store(nanos, Ordering::Relaxed);
        }
    }
}

fn shortened(layer: &str) -> String {
    let end = layer.floor_char_boundary(LAYER_NAME_MAX);
    layer.get(..end).unwrap_or_default().to_owned()
}

/// A journal at one moment. Times are in seconds since the image began to be opened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Story {
    /// Layers that were not on this host.
    pub remote_layers: u64,
    /// Bytes of all of them together.
    pub remote_bytes: u64,
    /// When the image was open.
    pub opened_seconds: Option<f64>,
    /// When the first bytes came from the origin.
    pub first_fetch_seconds: Option<f64>,
    /// When a guest first read.
    pub first_read_seconds: Option<f64>,
    /// When a read of a guest was first answered.
    pub first_answer_seconds: Option<f64>,
    /// Now.
    pub running_seconds: f64,
    /// Fetched for reads and for opening the image.
    pub guest: FetchedStory,
    /// Fetched in the background.
    pub background: FetchedStory,
    /// Reads that had to wait.
    pub waits: WaitsStory,
    /// The ten slowest, slowest first.
    pub slowest: Vec<SlowWait>,
}

/// What came from the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FetchedStory {
    /// Requests.
    pub requests: u64,
    /// Bytes.
    pub bytes: u64,
}

/// Waits by their cause, and how long they took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct WaitsStory {
    /// See [`Cause::Fetch`].
    pub fetch: u64,
    /// See [`Cause::Shared`].
    pub shared: u64,
    /// See [`Cause::Corrupt`].
    pub corrupt: u64,
    /// All of them together; waits at the same time count each.
    pub seconds: f64,
    /// The longest one.
    pub longest_seconds: f64,
}

impl WaitsStory {
    /// Waits of every cause.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.fetch + self.shared + self.corrupt
    }
}

impl Story {
    /// For a log: one line of `key=value`, times in milliseconds, `-` for what has not happened.
    #[must_use]
    pub fn summary(&self) -> String {
        let millis = |seconds: f64| format!("{:.0}", seconds * 1000.0);
        let event = |seconds: Option<f64>| seconds.map_or_else(|| "-".to_owned(), millis);
        format!(
            "remote_layers={} remote_bytes={} opened_ms={} first_read_ms={} first_answer_ms={} \
             requests={} fetched_bytes={} background_bytes={} waits={} wait_ms={} longest_ms={}",
            self.remote_layers,
            self.remote_bytes,
            event(self.opened_seconds),
            event(self.first_read_seconds),
            event(self.first_answer_seconds),
            self.guest.requests + self.background.requests,
            self.guest.bytes + self.background.bytes,
            self.background.bytes,
            self.waits.count(),
            millis(self.waits.seconds),
            millis(self.waits.longest_seconds),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(journal: &Journal, millis: u64) {
        let time = Duration::from_millis(millis);
        let range = millis..millis + 10;
        journal.waited("sha256:ab", range, time, Cause::Fetch);
    }

    #[test]
    fn the_ten_slowest_waits_are_kept_in_order() {
        let journal = Journal::default();
        for millis in (1..=100).map(|n| n * 37 % 101) {
            wait(&journal, millis);
        }
        let story = journal.story();
        let offsets: Vec<_> = story.slowest.iter().map(|wait| wait.offset).collect();
        assert_eq!(offsets, (91..=100).rev().collect::<Vec<_>>());
        assert_eq!(story.waits.count(), 100);
        assert!((story.waits.seconds - 5.05).abs() < 1e-6);
        assert!((story.waits.longest_seconds - 0.1).abs() < 1e-6);
    }

    #[test]
    fn a_wait_that_is_not_slow_enough_takes_no_lock() {
        let journal = Journal::default();
        for millis in 10..20 {
            wait(&journal, millis);
        }
        let _held = journal.slowest.lock();
        wait(&journal, 5);
        assert_eq!(journal.waits(), 11);
    }

    #[test]
    fn waits_count_for_the_process_too() {
        let metrics = Arc::<Metrics>::default();
        let journal = Journal::new(&metrics);
        wait(&journal, 5);
        assert_eq!(metrics.cache_waits.snapshot().count(), 1);
        assert_eq!(metrics.cache_waited_bytes.load(Ordering::Relaxed), 10);
        assert!(metrics.wait_peak.micros() >= 5000);
    }

    #[test]
    fn long_names_of_layers_are_cut() {
        let journal = Journal::default();
        let time = Duration::from_secs(1);
        let name = "\u{e4}".repeat(1000);
        journal.waited(&name, 0..1, time, Cause::Shared);
        assert!(journal.story().slowest[0].layer.len() <= LAYER_NAME_MAX);
    }

    #[test]
    fn the_first_events_count_and_a_local_disk_has_no_summary() {
        let journal = Journal::default();
        journal.opened([]);
        assert_eq!(journal.summary(), None);
        journal.opened([100, 23]);
        journal.read_began();
        let first = journal.story().first_read_seconds;
        journal.read_began();
        assert_eq!(journal.story().first_read_seconds, first);
        journal.fetched(7, Urgency::Guest);
        journal.fetched(5, Urgency::Background);
        let line = journal.summary().unwrap();
        assert!(line.contains("remote_layers=2 remote_bytes=123"), "{line}");
        assert!(line.contains("first_answer_ms=- requests=2"), "{line}");
        assert!(
            line.contains("fetched_bytes=12 background_bytes=5"),
            "{line}"
        );
        assert!(!line.contains('\n'));
    }
}
