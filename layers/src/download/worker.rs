//! The thread of a disk's download: when it begins, which layer is next, what is tried again.
//!
//! download -> **worker** -> attempt
//!
//! Invariant: whatever goes wrong, the disk goes on reading from the cache and the origin; there is
//! one line in the log for it.
//!
//! Source: format reference 4.4.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::attempt::{Job, Outcome};
use super::pace::Pace;
use super::partial_file::whole_path;
use super::{RemoteLayer, Shared};
use crate::config::DownloadConfig;
use crate::error::{Error, ErrorKind};

/// Between looks at a layer that somebody else downloads.
const TAKEN_PAUSE: Duration = Duration::from_secs(1);

/// After the first failed attempt; doubles with each further one.
const PAUSE: Duration = Duration::from_secs(5);
const PAUSE_MAX: Duration = Duration::from_secs(300);

const PIECE_BYTES_MIN: u64 = 4096;
const PIECE_BYTES_MAX: u64 = 4 << 20;

/// Whether to go on with the disk's other layers.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Layer,
    End,
}

/// A job in the queue.
#[derive(Debug)]
struct Queued {
    job: Job,
    attempts: u32,
    not_before: Instant,
    is_taken: bool,
}

/// Downloads all layers of a disk, one after the other.
#[derive(Debug)]
pub(super) struct Worker {
    config: DownloadConfig,
    shared: Shared,
    pace: Pace,
    buf: Vec<u8>,
    queue: VecDeque<Queued>,
}

impl Worker {
    pub(super) fn new(config: &DownloadConfig, layers: Vec<RemoteLayer>, shared: Shared) -> Self {
        let piece_bytes = piece_bytes(config.block_size);
        let now = shared.clock.now();
        let queued = |layer| Queued {
            job: Job::new(layer),
            attempts: 0,
            not_before: now,
            is_taken: false,
        };
        Self {
            config: config.clone(),
            pace: Pace::new(
                config,
                piece_bytes,
                shared.clock.clone(),
                shared.metrics.clone(),
            ),
            buf: Vec::new(),
            queue: layers.into_iter().map(queued).collect(),
            shared,
        }
    }

    /// Blocks until every layer is whole or given up, or until the download is to end.
    pub(super) fn run(mut self) {
        self.shared.clock.wait(delay(&self.config));
        let piece_bytes = usize::try_from(piece_bytes(self.config.block_size));
        self.buf = vec![0; piece_bytes.unwrap_or_default()];
        while let Some(mut next) = self.next() {
            if self.shared.clock.is_stopped() {
                return;
            }
            let outcome = next
                .job
                .attempt(&self.shared, &mut self.pace, &mut self.buf);
            let then = match outcome {
                Ok(outcome) => self.ended(next, outcome),
                Err(error) => self.failed(next, &error),
            };
            if then == Next::End {
                return;
            }
        }
    }

    /// The first layer in the queue that may be tried now; waits until there is one.
    fn next(&mut self) -> Option<Queued> {
        let soonest = self.queue.iter().map(|queued| queued.not_before).min()?;
        let clock = &self.shared.clock;
        let early = soonest.saturating_duration_since(clock.now());
        if !early.is_zero() {
            clock.wait(early);
        }
        let now = clock.now().max(soonest);
        let at = self
            .queue
            .iter()
            .position(|queued| queued.not_before <= now)?;
        self.queue.remove(at)
    }

    fn ended(&mut self, mut queued: Queued, outcome: Outcome) -> Next {
        let layer = &queued.job.layer;
        let (digest, path) = (&layer.digest, whole_path(&layer.dir));
        match outcome {
            Outcome::Downloaded => {
                self.shared.count_layer();
                log::info!("layer {digest} is whole on this host: {}", path.display());
            }
            Outcome::Found => log::info!("layer {digest} is read from {}", path.display()),
            Outcome::Stopped => return Next::End,
            Outcome::Taken => {
                if !queued.is_taken {
                    log::info!("layer {digest} is being downloaded by another disk or process");
                }
                queued.is_taken = true;
                queued.not_before = self.shared.clock.now() + TAKEN_PAUSE;
                self.queue.push_back(queued);
            }
            Outcome::WrongDigest(found) => {
                let detail = format!(
                    "the bytes hash to {found}: a cache, a proxy or the registry gave wrong ones"
                );
                let error = Error::new(ErrorKind::Corrupt, "download layer", detail);
                let error = error.in_file(digest.clone());
                return self.failed(queued, &error);
            }
        }
        Next::Layer
    }

    fn failed(&mut self, mut queued: Queued, error: &Error) -> Next {
        const GOES_ON: &str = "the disk goes on reading from the cache and the registry";
        let digest = &queued.job.layer.digest;
        let most = self.config.try_cnt.max(1);
        queued.attempts += 1;
        if error.kind() == ErrorKind::NoSpace {
            log::error!(
                "no space to download layer {digest} and those after it; {GOES_ON}: {error}"
            );
            return Next::End;
        }
        if queued.attempts >= most || is_for_good(error) {
            log::error!("layer {digest} is not downloaded; {GOES_ON}: {error}");
            return Next::Layer;
        }
        let pause = PAUSE
            .saturating_mul(1 << (queued.attempts - 1).min(10))
            .min(PAUSE_MAX);
        log::warn!(
            "download of layer {digest} failed, attempt {} of {most}, next in {} s; {GOES_ON}: \
             {error}",
            queued.attempts,
            pause.as_secs(),
        );
        queued.not_before = self.shared.clock.now() + pause;
        self.queue.push_back(queued);
        Next::Layer
    }
}

/// Will the next attempt fail in the same way?
fn is_for_good(error: &Error) -> bool {
    let kind = error.kind();
    matches!(
        kind,
        ErrorKind::NotFound | ErrorKind::Config | ErrorKind::Unsupported
    ) || matches!(
        error.raw_os_error(),
        Some(libc::EACCES | libc::EPERM | libc::EROFS | libc::EFBIG)
    )
}

/// A bound for the memory, and whole blocks of any file system.
fn piece_bytes(wanted: u64) -> u64 {
    wanted
        .clamp(PIECE_BYTES_MIN, PIECE_BYTES_MAX)
        .next_multiple_of(PIECE_BYTES_MIN)
}

/// Many hosts that start at the same time do not ask the registry at the same time.
fn delay(config: &DownloadConfig) -> Duration {
    let extra = match config.delay_extra {
        0 => DownloadConfig::default().delay_extra,
        extra => extra,
    };
    // Less than `extra`, as in the C++ daemon.
    let most_millis = (extra - 1).saturating_mul(1000);
    let millis = fastrand::u64(0..=most_millis);
    let most = Duration::from_secs(365 * 24 * 3600);
    Duration::from_secs(config.delay)
        .saturating_add(Duration::from_millis(millis))
        .min(most)
}

#[cfg(test)]
mod tests;
