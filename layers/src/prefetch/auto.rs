//! Traces that nobody asked for: each boot of an image notes what it reads, for later ones.
//!
//! prefetch -> **auto** -> recorder, trace
//!
//! A trace is kept as `<cacheDir>/traces/KEY.trace`, KEY being the hash of the digests of all
//! layers. Every process writes it whole and at once, so the last one wins. A trace that turned
//! out to be good enough is left as it is.
//!
//! Invariant: the directory is bounded; what was used least recently goes first.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use sha2::{Digest, Sha256};

use super::closing::Closing;
use super::range_set::RangeSet;
use super::recorder::{Detail, Recorder};
use super::recording::write_trace;
use super::trace::{self, Trace, TraceRecord};
use crate::config::ImageConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::TRACE_RECORDS_MAX;

/// The start of a disk: what is read later says little about the next start.
const WINDOW: Duration = Duration::from_secs(180);

/// What a killed process leaves behind is at most so old.
const SAVE_EVERY: Duration = Duration::from_secs(20);

/// Most bytes of all traces.
const DIRECTORY_BYTES_MAX: u64 = 64 << 20;

const EXTENSION: &str = "trace";

/// The recording of one disk.
#[derive(Debug)]
pub(super) struct Auto {
    /// Of the trace, in its directory.
    name: String,
    recorder: Arc<Recorder>,
    closing: Arc<Closing>,
    thread: Option<JoinHandle<()>>,
}

impl Auto {
    /// `None` for an image that has no name: not all of its layers have digests.
    pub(super) fn prepare(config: &ImageConfig) -> Option<Self> {
        let digests = || config.lowers.iter().map(|lower| lower.digest.as_str());
        if config.lowers.is_empty() || digests().any(str::is_empty) {
            log::info!("automatic trace: not every layer has a digest: nothing is recorded");
            return None;
        }
        Some(Self {
            name: format!("{}.{EXTENSION}", key(digests())),
            recorder: Arc::new(Recorder::new(Detail::First)),
            closing: Arc::default(),
            thread: None,
        })
    }

    pub(super) fn recorder(&self) -> &Arc<Recorder> {
        &self.recorder
    }

    /// The disk is open. What an earlier boot left behind in `cache_dir`; `None` for the directory
    /// of a disk without remote layers, which is not recorded.
    pub(super) fn begin(&mut self, cache_dir: Option<&Path>) -> Option<PathBuf> {
        let Some(cache_dir) = cache_dir else {
            self.recorder.stop();
            return None;
        };
        let path = cache_dir.join("traces").join(&self.name);
        let known = path.is_file().then(|| path.clone());
        let saver = Saver {
            path,
            recorder: Arc::clone(&self.recorder),
            known: Vec::new(),
        };
        let closing = Arc::clone(&self.closing);
        let thread = std::thread::Builder::new().name("trace".to_owned());
        match thread.spawn(move || saver.run(&closing)) {
            Ok(thread) => self.thread = Some(thread),
            Err(error) => log::warn!("automatic trace: no thread: {error}: nothing is recorded"),
        }
        known
    }
}

impl Drop for Auto {
    fn drop(&mut self) {
        self.closing.close();
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// A name for the image that these layers make.
fn key<'a>(digests: impl Iterator<Item = &'a str>) -> String {
    let mut hash = Sha256::new();
    for digest in digests {
        hash.update(digest);
        hash.update("\n");
    }
    hash.finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// Writes what the recorder has noted.
struct Saver {
    path: PathBuf,
    recorder: Arc<Recorder>,
    /// The trace of earlier boots.
    known: Vec<TraceRecord>,
}

impl Saver {
    fn run(mut self, closing: &Closing) {
        self.load();
        let begun = Instant::now();
        let mut saved = 0;
        loop {
            let left = WINDOW.saturating_sub(begun.elapsed());
            let is_closed = closing.wait(left.min(SAVE_EVERY));
            let is_over = begun.elapsed() >= WINDOW;
            if is_closed || is_over {
                self.recorder.stop();
            }
            let records = self.recorder.records_from(0);
            if records.len() > saved || is_over {
                saved = records.len();
                if let Err(error) = self.save(&records, is_over) {
                    log::warn!("automatic trace: {error}: it is not kept");
                    self.recorder.stop();
                    return;
                }
            }
            if is_closed || is_over {
                return;
            }
        }
    }

    /// Reads the trace of earlier boots, and marks it as used.
    fn load(&mut self) {
        match Trace::load(&self.path) {
            Ok(trace) => {
                self.known = trace.records;
                let file = std::fs::File::options().write(true).open(&self.path);
                // Only the order in which traces are thrown away depends on it.
                drop(file.and_then(|file| file.set_modified(SystemTime::now())));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => log::warn!("automatic trace: {error}: recorded anew"),
        }
    }

    fn save(&self, records: &[TraceRecord], is_whole: bool) -> Result<()> {
        let Some(better) = better_trace(&self.known, records, is_whole) else {
            return Ok(());
        };
        let bytes = trace::encode(&better);
        let directory = self.path.parent().unwrap_or(Path::new("."));
        std::fs::create_dir_all(directory).map_err(|source| {
            Error::io("make directory", source).in_file(directory.display().to_string())
        })?;
        write_trace(&self.path, &bytes)?;
        prune(directory, DIRECTORY_BYTES_MAX);
        log::debug!(
            "automatic trace {}: {} places",
            self.path.display(),
            better.len()
        );
        Ok(())
    }
}

/// The bytes that records name, by layer.
#[derive(Default)]
struct Places(HashMap<u32, RangeSet>);

impl Places {
    fn of(records: &[TraceRecord]) -> Self {
        let mut places = Self::default();
        for record in records {
            places.insert(record);
        }
        places
    }

    /// The parts that are new.
    fn insert(&mut self, record: &TraceRecord) -> Vec<TraceRecord> {
        let layer = record.layer;
        let range = record.offset..record.offset.saturating_add(record.bytes);
        let new = self.0.entry(layer).or_default().insert(range);
        let part = |part: std::ops::Range<u64>| TraceRecord {
            layer,
            offset: part.start,
            bytes: part.end - part.start,
        };
        new.into_iter().map(part).collect()
    }

    fn bytes(&self) -> u64 {
        self.0.values().map(RangeSet::bytes).sum()
    }
}

/// What to replay next time after a boot that had `known` and read `fresh`; `None` when `known` is
/// good enough: it lacks a fifth of what was read at most. One of which three quarters were of no
/// use to a boot that was watched to the end is given up for what that boot read.
fn better_trace(
    known: &[TraceRecord],
    fresh: &[TraceRecord],
    is_whole: bool,
) -> Option<Vec<TraceRecord>> {
    let (known_bytes, read_bytes) = (Places::of(known).bytes(), Places::of(fresh).bytes());
    let mut both = Places::of(known);
    let missed: Vec<_> = fresh
        .iter()
        .flat_map(|record| both.insert(record))
        .collect();
    let missed_bytes = both.bytes() - known_bytes;
    if u128::from(missed_bytes) * 5 <= u128::from(read_bytes) {
        return None;
    }
    let useless_bytes = both.bytes() - read_bytes;
    if is_whole && u128::from(useless_bytes) * 4 > u128::from(known_bytes) * 3 {
        return Some(fresh.to_vec());
    }
    let all = known.iter().copied().chain(missed);
    Some(all.take(TRACE_RECORDS_MAX).collect())
}

/// Removes the traces used least recently until the others have at most `bytes_max`.
fn prune(directory: &Path, bytes_max: u64) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    let mut traces: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            let metadata = path.symlink_metadata().ok()?;
            let is_trace = metadata.is_file() && path.extension()? == EXTENSION;
            is_trace.then_some((metadata.modified().ok()?, metadata.len(), path))
        })
        .collect();
    traces.sort();
    let mut total: u64 = traces.iter().map(|(_, bytes, _)| bytes).sum();
    for (_, bytes, path) in traces {
        if total <= bytes_max {
            return;
        }
        // Another process may have been faster.
        drop(std::fs::remove_file(path));
        total -= bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(parts: &[(u64, u64)]) -> Vec<TraceRecord> {
        let record = |(offset, bytes): &(u64, u64)| TraceRecord {
            layer: 0,
            offset: *offset,
            bytes: *bytes,
        };
        parts.iter().map(record).collect()
    }

    #[test]
    fn a_trace_that_lacks_a_fifth_of_what_was_read_is_good_enough() {
        let known = records(&[(0, 80)]);
        assert_eq!(better_trace(&known, &records(&[(0, 100)]), true), None);
        let better = better_trace(&known, &records(&[(0, 101)]), true);
        assert_eq!(better, Some(records(&[(0, 80), (80, 21)])));
        assert_eq!(better_trace(&known, &[], true), None);
        let first = records(&[(7, 1)]);
        assert_eq!(better_trace(&[], &first, false), Some(first));
    }

    #[test]
    fn a_trace_of_no_use_is_given_up_only_after_a_boot_that_was_watched_to_the_end() {
        let (known, fresh) = (records(&[(0, 100)]), records(&[(90, 90)]));
        let union = records(&[(0, 100), (100, 80)]);
        assert_eq!(better_trace(&known, &fresh, false), Some(union));
        assert_eq!(better_trace(&known, &fresh, true), Some(fresh));
        let fresh = records(&[(75, 100)]);
        let union = records(&[(0, 100), (100, 75)]);
        assert_eq!(better_trace(&known, &fresh, true), Some(union));
    }

    #[test]
    fn the_key_depends_on_every_digest_and_their_order() {
        let keys = [
            key(["a", "b"].into_iter()),
            key(["b", "a"].into_iter()),
            key(["ab"].into_iter()),
            key(["a", "b", ""].into_iter()),
        ];
        for (number, one) in keys.iter().enumerate() {
            assert_eq!(one.len(), 64);
            assert!(!keys[..number].contains(one));
        }
    }

    #[test]
    fn the_oldest_traces_go_first_and_other_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        for (age, name) in [(3, "c.trace"), (1, "a.trace"), (2, "b.trace"), (9, "note")] {
            let path = dir.path().join(name);
            std::fs::write(&path, [0; 10]).unwrap();
            let file = std::fs::File::options().write(true).open(path).unwrap();
            let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 - age);
            file.set_modified(time).unwrap();
        }
        prune(dir.path(), 20);
        let exists = |name: &str| dir.path().join(name).exists();
        assert!(!exists("c.trace") && exists("a.trace") && exists("b.trace") && exists("note"));
    }
}
