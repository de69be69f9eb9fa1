//! Fetching what a disk will read before it asks.
//!
//! image -> **prefetch** -> lsmt, cache
//!
//! What will be read is known from a trace that was recorded on purpose, from one that an earlier
//! boot left behind, or from a list of files:
//!
//! ```text
//! source -> trace ------------------> plan -> replay -> cache
//!        -> file_list -> ext4 --------^
//! recorder -> recording | auto -> trace
//! ```
//!
//! Invariants
//! - opening a disk never waits for a prefetch, and no failure of one is a failure of the disk.
//! - a disk with nothing to record pays nothing for it.
//!
//! Source: format reference 4.2, 4.5, 4.6; docs/prefetch.md.

mod auto;
mod closing;
mod ext4;
mod file_list;
mod plan;
mod range_set;
mod recorder;
mod recording;
mod replay;
mod source;
mod summary;
mod trace;

pub use ext4::Ext4;
pub use file_list::{FileList, FileListEntry};
pub use summary::LayerReads;
pub use trace::{TRACE_BYTES_MAX, Trace, TraceRecord, encode, is_trace};

use std::path::PathBuf;
use std::sync::Arc;

use auto::Auto;
use closing::Closing;
use plan::Plan;
use recorder::Recorder;
use recording::Recording;
use replay::Fetching;
use source::{Contents, Source};

use crate::cache::CachedBlob;
use crate::config::ImageConfig;
use crate::error::Result;
use crate::lsmt::Stack;
use crate::metrics::Journal;
use crate::read_at::ReadAt;
use crate::service::Service;

/// What is prefetched or recorded for one disk. Decided before its layers are opened; ends when dropped.
#[derive(Debug)]
pub struct Prefetch {
    service: Service,
    replay: Option<Source>,
    record: Record,
    closing: Arc<Closing>,
}

/// Which reads are noted, and for whom.
#[derive(Debug)]
enum Record {
    Nothing,
    /// Because the caller asked for a trace.
    Asked(Recording),
    /// For later boots of this image.
    Auto(Auto),
}

impl Prefetch {
    /// Neither records nor replays.
    #[must_use]
    pub fn none(service: &Service) -> Self {
        Self {
            service: service.clone(),
            replay: None,
            record: Record::Nothing,
            closing: Arc::default(),
        }
    }

    /// Decides by the config and the files it names. Blocks for those.
    ///
    /// # Errors
    /// `Busy` or `Io` when recording was asked for and cannot be done.
    pub fn prepare(config: &ImageConfig, service: &Service) -> Result<Self> {
        let mut prefetch = Self::none(service);
        let trace = &config.record_trace_path;
        if config.acceleration_layer && !config.lowers.is_empty() {
            prefetch.replay = Source::of_acceleration_layer(config);
        } else if trace.as_os_str().is_empty() {
            if service.config().prefetch.auto
                && let Some(auto) = Auto::prepare(config)
            {
                prefetch.record = Record::Auto(auto);
            }
        } else {
            match trace.metadata() {
                Ok(metadata) if !metadata.is_file() => {
                    log::warn!("recordTracePath {} is not a regular file", trace.display());
                }
                Ok(metadata) if metadata.len() == 0 => {
                    prefetch.record = Record::Asked(Recording::prepare(trace)?);
                }
                Ok(_) => prefetch.replay = Some(Source::File(trace.clone())),
                Err(error) => {
                    let shown = trace.display();
                    log::warn!("recordTracePath {shown}: {error}: nothing is recorded or replayed");
                }
            }
        }
        Ok(prefetch)
    }

    /// Is a trace being recorded on purpose? Then nothing is downloaded in the background.
    #[must_use]
    pub fn is_recording(&self) -> bool {
        matches!(self.record, Record::Asked(_))
    }

    fn recorder(&self) -> Option<&Arc<Recorder>> {
        match &self.record {
            Record::Nothing => None,
            Record::Asked(recording) => Some(recording.recorder()),
            Record::Auto(auto) => Some(auto.recorder()),
        }
    }

    /// Watches the reads of the decoded layer `number` (0 = bottom), if they are recorded.
    #[must_use]
    pub fn watch(&self, number: usize, decoded: Box<dyn ReadAt>) -> Box<dyn ReadAt> {
        match (self.recorder(), u32::try_from(number)) {
            (Some(recorder), Ok(number)) => Box::new(recorder.watch(number, decoded)),
            _ => decoded,
        }
    }

    /// The layers are open: starts the replay, if there is one. `cached` are those that are remote,
    /// by number; `stack` is the disk without its writable layer.
    pub fn begin(
        &mut self,
        cached: &[(usize, Arc<CachedBlob>)],
        stack: &Arc<Stack>,
        _journal: &Arc<Journal>,
    ) {
        match &mut self.record {
            Record::Nothing => {}
            Record::Asked(recording) => recording.begin(),
            Record::Auto(auto) => {
                let directory = (!cached.is_empty()).then(|| cache_directory(&self.service));
                self.replay = auto.begin(directory.as_deref()).map(Source::File);
            }
        }
        let Some(source) = self.replay.take() else {
            return;
        };
        if cached.is_empty() {
            log::debug!("{}: all layers are on this host", source.name());
            return;
        }
        let fetching = Fetching {
            cached: cached.iter().cloned().collect(),
            concurrency: self.service.config().prefetch.concurrency,
            closing: Arc::clone(&self.closing),
            metrics: Arc::clone(self.service.metrics()),
        };
        let (service, stack) = (self.service.clone(), Arc::clone(stack));
        let replay = move || replay(&source, &service, stack, &fetching);
        let thread = std::thread::Builder::new().name("prefetch".to_owned());
        if let Err(error) = thread.spawn(replay) {
            log::warn!("prefetch: no thread: {error}: nothing is prefetched");
        }
    }
}

/// Where the cache of this process really is, which need not be where it was asked for.
fn cache_directory(service: &Service) -> PathBuf {
    match service.remote() {
        Ok(remote) => remote.cache.path().to_owned(),
        Err(_) => service.config().cache.dir.clone(),
    }
}

impl Drop for Prefetch {
    fn drop(&mut self) {
        self.closing.close();
    }
}

/// Reads `source` and fetches what it names. Blocks until that is done.
fn replay(source: &Source, service: &Service, stack: Arc<Stack>, fetching: &Fetching) {
    let name = source.name();
    let wanted = match source.load(service) {
        Ok(Contents::Trace(trace)) => source::stored_of_trace(&trace, &stack, fetching),
        Ok(Contents::List(list)) => file_list::stored(&list, &name, &stack, fetching)
            .unwrap_or_else(|error| {
                log::warn!("prefetch of {name}: {error}");
                Vec::new()
            }),
        Err(error) => {
            log::warn!("{error}: nothing is prefetched");
            return;
        }
    };
    // The disk may be closed, or its layers change, long before the last request ends.
    drop(stack);
    fetching.run(&name, Plan::new(wanted));
}
