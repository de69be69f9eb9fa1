//! A blob that is read through the cache.
//!
//! tar -> **cached blob** -> kept blob | flight -> registry
//!
//! Invariants
//! - a read of bytes that are here and verified takes no lock and allocates nothing.
//! - a read with [`Wait::Never`] never waits for the origin, nor for bytes of the media. Once a minute
//!   it notes in the mapped record that a chunk is used, which may wait for the record's page.
//!
//! Source: docs/cache.md.

mod ahead;

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::distrusted::Distrusted;
use super::fill::fill;
use super::flight::{Flights, Order, Part, Plan, Rounding, Waited};
use super::kept_blob::{KeptBlob, Look};
use super::read_ahead::{Ahead, ReadAhead};
use super::record::{BLOCK_BYTES, Layout, blocks_of};
use super::room::Room;
use super::{BlobUse, Cache, Place};
use crate::dest::Dest;
use crate::error::{Error, ErrorKind, Remote, Result};
use crate::metrics::Cause;
use crate::range_source::{RangeSource, Urgency};
use crate::read_at::{Progress, ReadAt, Wait};

/// A lone miss is rounded out to multiples of this.
const MISS_BYTES: u64 = 32 << 10;
/// Longest range of one request.
pub(super) const FLIGHT_BYTES_MAX: u64 = 2 << 20;
/// What is planned and waited for at once; bounds the buffers of a large read.
const WINDOW_BYTES: u64 = 4 << 20;
/// What opening a layer reads first: headers at its start, jump table and trailers at its end.
const HEAD_BYTES: u64 = 64 << 10;
const TAIL_BYTES: u64 = 128 << 10;
/// Slower reads of the media are put on record.
const SLOW_READ: Duration = Duration::from_millis(1);
/// With less time than this left, another fetch would only fail for want of time.
const WORTH_ANOTHER: Duration = Duration::from_secs(1);
/// Times that a range is planned anew because what was here went away meanwhile.
const ATTEMPTS_MAX: u32 = 8;

/// What all users of a blob in this process share.
#[derive(Debug)]
pub(super) struct Blob {
    pub(super) cache: Arc<Cache>,
    pub(super) digest: String,
    pub(super) layout: Layout,
    pub(super) flights: Flights,
    kept: Option<KeptBlob>,
    is_limited: bool,
    read_ahead: Mutex<ReadAhead>,
    distrusted: Mutex<Distrusted>,
    has_warned: AtomicBool,
    /// What arrived last could be kept.
    is_keeping: AtomicBool,
}

impl Blob {
    pub(super) fn new(
        cache: Arc<Cache>,
        digest: &str,
        size: u64,
        place: &Place,
        kept: Option<KeptBlob>,
    ) -> Self {
        Self {
            cache,
            digest: digest.to_owned(),
            layout: Layout { blob_bytes: size },
            flights: Flights::default(),
            is_keeping: AtomicBool::new(kept.is_some()),
            kept,
            is_limited: *place == Place::Shared,
            read_ahead: Mutex::default(),
            distrusted: Mutex::default(),
            has_warned: AtomicBool::new(false),
        }
    }

    /// What is kept here, if anything can be.
    #[inline]
    pub(super) fn kept(&self) -> Option<&KeptBlob> {
        self.kept.as_ref()
    }

    /// The limits that hold for this blob.
    pub(super) fn room(&self) -> Option<&Room> {
        self.is_limited.then_some(&self.cache.room)
    }

    /// Remembers whether it makes sense to fetch more than is asked for.
    pub(super) fn note_kept(&self, is_kept: bool) {
        self.is_keeping.store(is_kept, Ordering::Relaxed);
    }

    pub(super) fn count_damage(&self, look: Look) {
        if let Look::Corrupt(blocks) = look {
            let corrupt = &self.cache.metrics.cache_corrupt_blocks;
            corrupt.fetch_add(blocks, Ordering::Relaxed);
        }
    }

    fn is_keeping(&self) -> bool {
        self.is_keeping.load(Ordering::Relaxed)
    }

    pub(super) fn warn_unkept(&self, why: &str) {
        if !self.has_warned.swap(true, Ordering::Relaxed) {
            log::warn!("{}: read without keeping it: {why}", self.digest);
        }
    }

    fn is_present(&self, block: u64) -> bool {
        self.kept()
            .is_some_and(|kept| kept.record.is_present(block))
    }
}

/// A blob, kept as far as it was read.
#[derive(Debug)]
pub struct CachedBlob {
    blob: Arc<Blob>,
    source: Arc<dyn RangeSource>,
    wanted: BlobUse,
    checks_every_read: AtomicBool,
}

/// How a read went.
#[derive(Debug, Default)]
struct Story {
    cause: Option<Cause>,
    has_missed: bool,
}

impl CachedBlob {
    pub(super) fn new(blob: Arc<Blob>, source: Arc<dyn RangeSource>, wanted: BlobUse) -> Self {
        let cached = Self {
            blob,
            source,
            wanted,
            checks_every_read: AtomicBool::new(false),
        };
        cached.fetch_ends();
        cached
    }

    /// From now on every read checks the blocks it touches, not just the first one: for a blob whose
    /// layer has no checksums of its own.
    pub fn check_every_read(&self) {
        self.checks_every_read.store(true, Ordering::Relaxed);
    }

    /// Fills `buf` if all its bytes are kept here and right; false when they are not. May wait for the
    /// host's disk, never for the origin.
    ///
    /// # Errors
    /// `OutOfRange`.
    pub fn read_if_present(&self, offset: u64, buf: &mut [u8]) -> Result<bool> {
        let range = self.range(offset, buf.len())?;
        let Some(kept) = self.blob.kept() else {
            return Ok(buf.is_empty());
        };
        let every = self.checks_every_read.load(Ordering::Relaxed);
        let now = self.blob.cache.now();
        let look = kept.read_checked(&range, Dest::from(buf), Wait::UntilDone, every, now);
        self.blob.count_damage(look);
        Ok(look == Look::Done)
    }

    /// Bytes of the blob that are kept here now.
    #[must_use]
    pub fn present_bytes(&self) -> u64 {
        self.blob
            .kept()
            .map_or(0, |kept| kept.record.present_bytes())
    }

    #[inline]
    fn range(&self, offset: u64, len: usize) -> Result<Range<u64>> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.size() => Ok(offset..end),
            _ => Err(self.out_of_range(offset, len)),
        }
    }

    #[cold]
    fn out_of_range(&self, offset: u64, len: usize) -> Error {
        let detail = format!("{len} bytes wanted, the blob has {}", self.size());
        Error::new(ErrorKind::OutOfRange, "read blob", detail)
            .in_file(self.name())
            .at(offset)
    }

    /// Reads what needs a look, a fetch or a wait.
    #[cold]
    fn read_slowly(&self, range: &Range<u64>, mut dest: Dest<'_>) -> Result<Progress> {
        let began = Instant::now();
        let deadline = self.wanted.patience.deadline();
        self.blob.cache.refresh_clock();
        let mut story = Story::default();
        let mut start = range.start;
        while start < range.end {
            let window = start..range.end.min(start + WINDOW_BYTES);
            start = window.end;
            let front = dest.take_front(len_of(&window));
            self.read_window(&window, front, deadline, &mut story, 0)?;
        }
        self.tell(range, &story, began.elapsed());
        self.fetch_ahead(range, story.has_missed);
        Ok(Progress::Done)
    }

    /// Puts a read on record.
    fn tell(&self, range: &Range<u64>, story: &Story, time: Duration) {
        let metrics = &self.blob.cache.metrics;
        if let Some(cause) = story.cause {
            let journal = &self.wanted.journal;
            journal.waited(self.name(), range.clone(), time, cause);
            metrics.cache_misses.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.count_hit(range);
        if time >= SLOW_READ {
            let size = i64::try_from(range.end - range.start).unwrap_or(i64::MAX);
            let audit = &self.blob.cache.audit;
            audit.record("file:read", self.name(), range.start, size, time);
        }
    }

    #[inline]
    fn count_hit(&self, range: &Range<u64>) {
        let metrics = &self.blob.cache.metrics;
        metrics.cache_hits.fetch_add(1, Ordering::Relaxed);
        let bytes = range.end - range.start;
        metrics.cache_hit_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn read_window(
        &self,
        window: &Range<u64>,
        mut dest: Dest<'_>,
        deadline: Instant,
        story: &mut Story,
        attempt: u32,
    ) -> Result<()> {
        if self.look(window, dest.reborrow(), story) {
            return Ok(());
        }
        if attempt >= ATTEMPTS_MAX {
            let detail = "the cached copy is damaged again after it was fetched anew";
            return Err(Error::corrupt("read cached blob", detail)
                .in_file(self.name())
                .at(window.start));
        }
        story.has_missed = true;
        let plan = self.plan(
            window,
            Urgency::Guest,
            deadline,
            None,
            self.align_blocks(MISS_BYTES),
        );
        self.queue(&plan);
        for part in &plan.parts {
            let mut front = dest.take_front(len_of(&part.range));
            let Some(flight) = &part.flight else {
                self.read_window(&part.range, front, deadline, story, attempt + 1)?;
                continue;
            };
            let is_own = plan.own.iter().any(|own| Arc::ptr_eq(own, flight));
            story
                .cause
                .get_or_insert(if is_own { Cause::Fetch } else { Cause::Shared });
            match flight.wait_and_copy(&part.range, front.reborrow(), deadline) {
                Waited::Here => {}
                Waited::TooLate => return Err(self.too_late(part.range.start)),
                // Who asked for it had less patience, or another way to the origin.
                Waited::Failed(_)
                    if !is_own && attempt < ATTEMPTS_MAX && self.may_do_better(part, deadline) =>
                {
                    self.read_window(&part.range, front, deadline, story, attempt + 1)?;
                }
                Waited::Failed(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn may_do_better(&self, part: &Part, deadline: Instant) -> bool {
        part.flight.as_ref().is_some_and(|flight| {
            let is_longer = deadline > flight.order.deadline + WORTH_ANOTHER;
            is_longer || !Arc::ptr_eq(&flight.order.source, &self.source)
        })
    }

    /// Reads what is kept; true when that was everything.
    fn look(&self, range: &Range<u64>, dest: Dest<'_>, story: &mut Story) -> bool {
        let Some(kept) = self.blob.kept() else {
            return false;
        };
        let every = self.checks_every_read.load(Ordering::Relaxed);
        let now = self.blob.cache.now();
        let look = kept.read_checked(range, dest, Wait::UntilDone, every, now);
        self.blob.count_damage(look);
        if matches!(look, Look::Corrupt(_)) {
            story.cause = Some(Cause::Corrupt);
        }
        look == Look::Done
    }

    #[cold]
    fn too_late(&self, offset: u64) -> Error {
        let detail =
            "the origin has not answered in the time that reads may take (readRetrySeconds)";
        Error::new(ErrorKind::Remote(Remote::TimedOut), "read blob", detail)
            .in_file(self.name())
            .at(offset)
    }

    /// Blocks to which a miss is rounded out, unless the config says how many.
    fn align_blocks(&self, bytes: u64) -> u64 {
        let bytes = match self.blob.is_keeping() {
            true => self.blob.cache.refill_bytes.unwrap_or(bytes),
            false => BLOCK_BYTES,
        };
        (bytes / BLOCK_BYTES).max(1)
    }

    fn plan(
        &self,
        range: &Range<u64>,
        urgency: Urgency,
        deadline: Instant,
        mark: Option<u64>,
        align_blocks: u64,
    ) -> Plan {
        let order = Order {
            source: Arc::clone(&self.source),
            journal: Arc::clone(&self.wanted.journal),
            urgency,
            deadline,
        };
        let rounding = Rounding {
            align_blocks,
            blocks_max: FLIGHT_BYTES_MAX / BLOCK_BYTES,
        };
        let blob = &self.blob;
        let is_present = |block| blob.is_present(block);
        blob.flights
            .plan(blob.layout, range, &is_present, rounding, &order, mark)
    }

    fn queue(&self, plan: &Plan) {
        for flight in &plan.queue {
            let (blob, flight) = (Arc::clone(&self.blob), Arc::clone(flight));
            let urgency = match plan.own.iter().any(|own| Arc::ptr_eq(own, &flight)) {
                true => flight.order.urgency,
                // It was raised by who joined it.
                false => Urgency::Guest,
            };
            let fetcher = &self.blob.cache.fetcher;
            let key = Arc::as_ptr(&blob).addr();
            fetcher.submit(key, urgency, Box::new(move || fill(&blob, &flight)));
        }
    }
}

impl ReadAt for CachedBlob {
    fn size(&self) -> u64 {
        self.blob.layout.blob_bytes
    }

    fn name(&self) -> &str {
        &self.blob.digest
    }

    fn read_at(&self, offset: u64, mut dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        let range = self.range(offset, dest.len())?;
        if range.is_empty() {
            return Ok(Progress::Done);
        }
        if let Some(kept) = self.blob.kept() {
            let now = self.blob.cache.now();
            let every = self.checks_every_read.load(Ordering::Relaxed);
            let look = match every {
                false => kept.read_verified(offset, dest.reborrow(), wait, now),
                true if wait == Wait::Never => {
                    kept.read_checked(&range, dest.reborrow(), wait, true, now)
                }
                true => Look::Missing,
            };
            if look == Look::Done {
                self.count_hit(&range);
                return Ok(Progress::Done);
            }
            self.blob.count_damage(look);
        }
        match wait {
            Wait::Never => Ok(Progress::Pending),
            Wait::UntilDone => self.read_slowly(&range, dest),
        }
    }

    fn distrust(&self, offset: u64, len: u64) -> bool {
        let end = offset.saturating_add(len).min(self.size());
        let blocks = blocks_of(&(offset.min(end)..end));
        let distrusted = &self.blob.distrusted;
        let mut distrusted = distrusted.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = distrusted.add(&blocks, Instant::now());
        for blocks in &fresh {
            self.blob.flights.refuse(blocks);
            if let Some(kept) = self.blob.kept() {
                kept.drop_blocks(blocks);
            }
        }
        !fresh.is_empty()
    }
}

fn len_of(range: &Range<u64>) -> usize {
    usize::try_from(range.end - range.start).unwrap_or(usize::MAX)
}
