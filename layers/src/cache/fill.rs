//! One flight, from the origin into the buffer of those who wait, and onto the disk.
//!
//! fetcher -> **fill** -> registry, kept blob
//!
//! Whoever waits is served before the disk is: a host without space, or a disk that fails, costs the
//! cache and never the reader.
//!
//! Source: docs/cache.md.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use super::blob::Blob;
use super::flight::{Flight, Keeping};
use super::kept_blob::{KeptBlob, Look};
use super::record::BLOCK_BYTES;
use crate::dest::Dest;
use crate::error::{Error, ErrorKind, Remote, Result};
use crate::range_source::Urgency;
use crate::read_at::Wait;

/// Bytes that are written to the media at once.
const WRITE_BYTES: usize = 64 << 10;
/// A process that holds a lock and fetches nothing for this time is not waited for any more.
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);
/// How often others' progress is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Slower writes to the media are put on record.
const SLOW_WRITE: Duration = Duration::from_millis(10);

/// Does a flight, unless somebody else has begun it. Blocks.
pub(super) fn fill(blob: &Blob, flight: &Arc<Flight>) {
    let Some((urgency, deadline)) = flight.begin() else {
        return;
    };
    let mut landing = Landing {
        blob,
        flight,
        result: Err(Error::new(
            ErrorKind::Io,
            "fetch blob",
            "the fetching thread has failed",
        )),
    };
    let fill = Fill {
        blob,
        flight,
        urgency,
        deadline,
    };
    landing.result = fill.run();
}

/// Ends the flight whatever happens.
struct Landing<'a> {
    blob: &'a Blob,
    flight: &'a Arc<Flight>,
    result: Result<()>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        // Other processes may fetch these blocks from now on.
        let mut keeping = self
            .flight
            .keeping
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *keeping = Keeping::Refused;
        drop(keeping);
        let result = std::mem::replace(&mut self.result, Ok(()));
        self.blob.flights.land(self.flight, result);
    }
}

struct Fill<'a> {
    blob: &'a Blob,
    flight: &'a Arc<Flight>,
    urgency: Urgency,
    deadline: Instant,
}

impl Fill<'_> {
    fn run(&self) -> Result<()> {
        let kept = self.blob.kept();
        if let Some(kept) = kept {
            self.lock(kept);
        }
        loop {
            if let Some(kept) = kept {
                self.take_present(kept);
            }
            let start = self.position();
            if start >= self.flight.bytes.end {
                return Ok(());
            }
            let is_missing = |block: &u64| kept.is_none_or(|kept| !kept.record.is_present(*block));
            let first = start / BLOCK_BYTES;
            // The first one is fetched even if it says to be present: it could not be read.
            let last = (first + 1..self.flight.blocks.end)
                .take_while(is_missing)
                .last();
            let blocks = first..last.unwrap_or(first) + 1;
            self.fetch(kept, blocks)?;
        }
    }

    /// Where in the blob the next byte belongs; a multiple of the block, or the flight's end.
    fn position(&self) -> u64 {
        self.flight.bytes.start + self.flight.arrived()
    }

    /// Locks the flight's blocks against other processes. Takes what those fetch meanwhile.
    fn lock(&self, kept: &KeptBlob) {
        let mut patience = Instant::now() + LOCK_WAIT_MAX;
        loop {
            if self.try_lock(kept) {
                return;
            }
            let before = self.position();
            self.take_present(kept);
            let now = Instant::now();
            if self.position() > before {
                patience = now + LOCK_WAIT_MAX;
            }
            if self.position() >= self.flight.bytes.end
                || now >= patience.min(self.flight.deadline())
            {
                return;
            }
            self.flight.pause(LOOK_EVERY);
        }
    }

    /// True when it is decided whether what arrives is kept.
    fn try_lock(&self, kept: &KeptBlob) -> bool {
        let mut keeping = self
            .flight
            .keeping
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !matches!(*keeping, Keeping::Unlocked) {
            return true;
        }
        match kept.record.lock_blocks(&self.flight.blocks) {
            Ok(Some(lock)) => {
                *keeping = Keeping::Locked { _lock: lock };
                true
            }
            Ok(None) => false,
            Err(error) => {
                self.blob.warn_unkept(&error.to_string());
                true
            }
        }
    }

    /// Puts what is kept at the flight's position into its buffer.
    fn take_present(&self, kept: &KeptBlob) {
        let mut buf = [0_u8; 4096];
        loop {
            let start = self.position();
            let block = start / BLOCK_BYTES;
            if start >= self.flight.bytes.end || !kept.record.is_present(block) {
                return;
            }
            let bytes = kept.layout().bytes(&(block..block + 1));
            let len = usize::try_from(bytes.end - bytes.start).unwrap_or_default();
            let Some(buf) = buf.get_mut(..len) else {
                return;
            };
            let now = self.blob.cache.now();
            let dest = Dest::from(&mut *buf);
            let look = kept.read_checked(&bytes, dest, Wait::UntilDone, false, now);
            self.blob.count_damage(look);
            if look != Look::Done {
                return;
            }
            if !self.flight.append(buf) {
                return;
            }
        }
    }

    fn fetch(&self, kept: Option<&KeptBlob>, blocks: Range<u64>) -> Result<()> {
        let layout = self.blob.layout;
        let range = layout.bytes(&blocks);
        let wanted = range.end - range.start;
        let order = &self.flight.order;
        let mut staged = Staged {
            first: blocks.start,
            bytes: Vec::with_capacity(WRITE_BYTES * 2),
        };
        let mut arrived = 0_u64;
        let fetched =
            order
                .source
                .fetch(range.clone(), self.urgency, self.deadline, &mut |bytes| {
                    arrived += bytes.len() as u64;
                    if arrived > wanted || !self.flight.append(bytes) {
                        return Err(self.bad_answer("more", &range));
                    }
                    staged.bytes.extend_from_slice(bytes);
                    if staged.bytes.len() >= WRITE_BYTES {
                        self.keep(kept, &mut staged, false);
                    }
                    Ok(())
                });
        self.keep(kept, &mut staged, arrived == wanted);
        order.journal.fetched(arrived.min(wanted), self.urgency);
        fetched?;
        match arrived == wanted {
            true => Ok(()),
            false => Err(self.bad_answer("fewer", &range)),
        }
    }

    fn bad_answer(&self, what: &str, range: &Range<u64>) -> Error {
        let detail = format!(
            "the origin gave {what} than the {} bytes asked for",
            range.end - range.start
        );
        Error::new(ErrorKind::Remote(Remote::BadAnswer), "fetch blob", detail)
            .in_file(&self.blob.digest)
            .at(range.start)
    }

    /// Writes the whole blocks that are staged to the media; with `is_end` all of them.
    fn keep(&self, kept: Option<&KeptBlob>, staged: &mut Staged, is_end: bool) {
        let whole = match is_end {
            true => staged.bytes.len(),
            false => staged.bytes.len() / 4096 * 4096,
        };
        let Some(bytes) = staged.bytes.get(..whole).filter(|bytes| !bytes.is_empty()) else {
            return;
        };
        let len = bytes.len() as u64;
        let metrics = &self.blob.cache.metrics;
        let is_kept = kept.is_some_and(|kept| self.write(kept, staged.first, bytes));
        self.blob.note_kept(is_kept);
        let counter = match is_kept {
            true => &metrics.cache_filled_bytes,
            false => &metrics.cache_unkept_bytes,
        };
        counter.fetch_add(len, Ordering::Relaxed);
        staged.first += len.div_ceil(BLOCK_BYTES);
        staged.bytes.drain(..whole);
    }

    /// True when the blocks are kept.
    fn write(&self, kept: &KeptBlob, first: u64, bytes: &[u8]) -> bool {
        let keeping = self
            .flight
            .keeping
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !matches!(*keeping, Keeping::Locked { .. }) || !kept.record.is_usable() {
            return false;
        }
        let len = (bytes.len() as u64).next_multiple_of(BLOCK_BYTES);
        let room = self.blob.room();
        let has_room = match room {
            Some(room) => room.reserve(len),
            None => self.blob.cache.room.leaves_floor(kept.media(), len),
        };
        if !has_room {
            self.blob.warn_unkept(&self.blob.cache.room.why_not());
            return false;
        }
        let began = Instant::now();
        let written = kept.keep(first, bytes, self.blob.cache.now(), self.flight.marker);
        let time = began.elapsed();
        if time >= SLOW_WRITE || written.is_err() {
            let size = match &written {
                Ok(()) => i64::try_from(bytes.len()).unwrap_or(i64::MAX),
                Err(_) => -1,
            };
            let audit = &self.blob.cache.audit;
            audit.record(
                "file:write",
                &self.blob.digest,
                first * BLOCK_BYTES,
                size,
                time,
            );
        }
        if let Err(error) = &written {
            if let Some(room) = room {
                room.release(len);
            }
            self.blob.warn_unkept(&error.to_string());
        }
        drop(keeping);
        written.is_ok()
    }
}

/// Bytes that have arrived and are not written yet.
struct Staged {
    /// The block with which they begin.
    first: u64,
    bytes: Vec<u8>,
}
