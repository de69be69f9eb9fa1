//! The append-only writable layer: data in the order of the writes, and a log of what is where.
//!
//! image -> lsmt upper -> **append layer** -> files
//!
//! A write takes the next place in the data file, puts its bytes there, and becomes part of the
//! log and the index with its batch. Nothing is overwritten, so what was there before stays
//! readable until the log says otherwise.
//!
//! Invariants
//! - a mapping is in the log or the index only after its data is in the data file.
//! - space of discarded data is given back only after the discard is on the device: until then a
//!   power cut may bring the old mapping back.
//!
//! Source: format reference 1.6.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};

use super::batch::WriteBatch;
use super::group_flush::{FlushError, GroupFlush};
use super::index::UpperIndex;
use super::log::{IndexLog, entry_at};
use super::open::DATA_START;
use super::replay::{Unflushed, replay};
use crate::error::{ErrorKind, Result};
use crate::limits::{MAPPING_SECTORS_MAX, SECTOR_BYTES};
use crate::lsmt::mapping::{ENTRY_BYTES, Mapping};
use crate::write_at::WriteAt;

/// Longest mapping of a write: what the C++ code writes at once, 4 MiB.
const WRITE_BYTES_MAX: usize = 4 << 20;

/// Writes of at least a page start on a page of the data file: the kernel copies whole pages, and
/// the space of discarded ones can be given back.
const PAGE_BYTES: u64 = 4096;

/// Most discarded ranges that wait for a flush; the space of any more is not given back.
const FREED_RANGES_MAX: usize = 1 << 16;

/// Entries that are overwritten with padding in one write.
const PADDED_AT_ONCE: usize = 4096;

/// An append-only layer open for writing.
#[derive(Debug)]
pub(super) struct AppendLayer {
    data: Box<dyn WriteAt>,
    /// Where the next write goes in the data file, in bytes.
    data_end: AtomicU64,
    log: IndexLog,
    index: RwLock<UpperIndex>,
    /// Ranges of the data file whose discard is in the log.
    freed: Mutex<Vec<Range<u64>>>,
    flushes: GroupFlush,
    /// Entries that the last durable remark covers, that remark included.
    flushed_entries: AtomicU64,
}

impl AppendLayer {
    /// Replays the log and makes both files whole again after a crash. Blocking.
    ///
    /// # Errors
    /// As [`replay`]; what writing gives when there is something to mend.
    pub(super) fn open(data: Box<dyn WriteAt>, index_file: Box<dyn WriteAt>) -> Result<Self> {
        let replayed = replay(&*index_file, &*data, Unflushed::WriteAgain(&*data))?;
        let data_end = data.size().next_multiple_of(SECTOR_BYTES);
        let mends = !replayed.dropped.is_empty();
        replayed.warn_dropped(index_file.name());
        if mends {
            drop_entries(&*index_file, &replayed.dropped)?;
            // Before a remark may say that all before it is good.
            index_file.flush()?;
        }
        if data.size() != data_end {
            data.set_size(data_end)?;
        }
        let entries = replayed.entries;
        // A log that ends with the remark that all before it is durable was closed in order.
        let is_flushed = !mends && (entries == 0 || entries == replayed.durable_entries + 1);
        let layer = Self {
            data,
            data_end: AtomicU64::new(data_end),
            log: IndexLog::new(index_file, entries),
            index: RwLock::new(replayed.index),
            freed: Mutex::default(),
            flushes: GroupFlush::default(),
            flushed_entries: AtomicU64::new(if is_flushed { entries } else { 0 }),
        };
        // From here on nothing in the log needs its check any more.
        if !is_flushed {
            layer.flush()?;
        }
        Ok(layer)
    }

    pub(super) fn data(&self) -> &dyn WriteAt {
        &*self.data
    }

    pub(super) fn index_file(&self) -> &dyn WriteAt {
        self.log.file()
    }

    pub(super) fn index(&self) -> RwLockReadGuard<'_, UpperIndex> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts `data` into the data file and its mappings into `batch`.
    ///
    /// # Errors
    /// `NoSpace`, `Io`: then nothing is staged.
    pub(super) fn stage_write(
        &self,
        batch: &mut WriteBatch,
        first_sector: u64,
        data: &[u8],
    ) -> Result<()> {
        let len = data.len() as u64;
        let place = self.reserve(len);
        if let Err(error) = self.data.write_at(place, data) {
            // The place is used again unless somebody has taken the next one already.
            self.data_end
                .compare_exchange(place + len, place, Ordering::Relaxed, Ordering::Relaxed)
                .ok();
            return Err(error);
        }
        let (mut sector, mut moffset) = (first_sector, place / SECTOR_BYTES);
        for part in data.chunks(WRITE_BYTES_MAX) {
            let sectors = part.len() as u64 / SECTOR_BYTES;
            let mapping = Mapping::data(sector, sectors, moffset, 0);
            batch.push(mapping, crc32c::crc32c(part));
            sector += sectors;
            moffset += sectors;
        }
        Ok(())
    }

    /// Takes the next `len` bytes of the data file; returns where they start.
    fn reserve(&self, len: u64) -> u64 {
        let start = |end: u64| match len {
            PAGE_BYTES.. => end.next_multiple_of(PAGE_BYTES),
            _ => end,
        };
        let taken = self
            .data_end
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |end| {
                Some(start(end) + len)
            });
        start(taken.unwrap_or_else(|end| end))
    }

    /// Stages zeroes: no data, only mappings.
    pub(super) fn stage_zeroes(&self, batch: &mut WriteBatch, first_sector: u64, sectors: u64) {
        // Any place in the file will do that is there whatever becomes of the writes in flight.
        let moffset = DATA_START / SECTOR_BYTES;
        let (mut sector, end) = (first_sector, first_sector + sectors);
        while sector < end {
            let part = (end - sector).min(MAPPING_SECTORS_MAX);
            batch.push(Mapping::zeroed(sector, part, moffset, 0), 0);
            sector += part;
        }
    }

    /// Appends the batch to the log and lays it over the index.
    ///
    /// # Errors
    /// As [`IndexLog::append`]; then nothing is changed.
    pub(super) fn commit(&self, batch: &WriteBatch) -> Result<()> {
        self.log.append(batch.entries(), || {
            let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
            for staged in batch.entries() {
                let discards = staged.mapping.is_zeroed();
                index.insert(staged.mapping, |hidden| {
                    if discards && !hidden.is_zeroed() {
                        self.note_freed(hidden);
                    }
                });
            }
        })
    }

    fn note_freed(&self, hidden: Mapping) {
        let range = hidden.moffset() * SECTOR_BYTES..hidden.moffset_end() * SECTOR_BYTES;
        let mut freed = self.freed();
        if let Some(last) = freed.last_mut()
            && last.end == range.start
        {
            last.end = range.end;
        } else if freed.len() < FREED_RANGES_MAX {
            freed.push(range);
        }
    }

    /// Makes what was committed before survive a power cut, then gives discarded space back.
    ///
    /// # Errors
    /// As [`GroupFlush::run`].
    pub(super) fn flush(&self) -> Result<()> {
        let mut given_back = Vec::new();
        self.flushes.run(|| {
            let (entries, freed) = self.log.entries_and(|| std::mem::take(&mut *self.freed()));
            if entries == self.flushed_entries.load(Ordering::Relaxed) {
                return Ok(());
            }
            let flushed = self.flush_entries(entries);
            match flushed {
                Ok(()) => given_back = freed,
                Err(_) => self.freed().extend(freed),
            }
            flushed
        })?;
        self.give_back(given_back);
        Ok(())
    }

    fn flush_entries(&self, entries: u64) -> std::result::Result<(), FlushError> {
        self.data.flush().map_err(FlushError::Lost)?;
        self.log
            .append_durable(entries)
            .map_err(FlushError::Again)?;
        self.log.file().flush().map_err(FlushError::Lost)?;
        self.flushed_entries.store(entries + 1, Ordering::Relaxed);
        Ok(())
    }

    /// Brings both files to the device, whether or not the log says that there is a need.
    ///
    /// # Errors
    /// As [`GroupFlush::run`].
    pub(super) fn flush_files(&self) -> Result<()> {
        self.flushes.run(|| {
            self.data.flush().map_err(FlushError::Lost)?;
            self.log.file().flush().map_err(FlushError::Lost)
        })
    }

    fn freed(&self) -> MutexGuard<'_, Vec<Range<u64>>> {
        self.freed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Punches the whole pages of `freed`. What the file system refuses stays where it is.
    fn give_back(&self, mut freed: Vec<Range<u64>>) {
        freed.sort_unstable_by_key(|range| range.start);
        freed.dedup_by(|next, range| {
            let joins = range.end == next.start;
            if joins {
                range.end = next.end;
            }
            joins
        });
        for range in freed {
            let start = range.start.next_multiple_of(PAGE_BYTES);
            let end = range.end / PAGE_BYTES * PAGE_BYTES;
            if start >= end {
                continue;
            }
            if let Err(error) = self.data.punch_hole(start..end) {
                if error.kind() != ErrorKind::Unsupported {
                    log::warn!("space of discarded data is not given back: {error}");
                }
                return;
            }
        }
    }
}

/// Overwrites entries with padding, so that no reader meets them again.
fn drop_entries(index_file: &dyn WriteAt, runs: &[Range<u64>]) -> Result<()> {
    let padding = Mapping::PADDING.to_bytes().repeat(PADDED_AT_ONCE);
    for run in runs {
        for first in run.clone().step_by(PADDED_AT_ONCE) {
            let entries = usize::try_from(run.end - first).unwrap_or(PADDED_AT_ONCE);
            let len = entries.min(PADDED_AT_ONCE) * ENTRY_BYTES;
            index_file.write_at(entry_at(first), padding.get(..len).unwrap_or(&padding))?;
        }
    }
    Ok(())
}
