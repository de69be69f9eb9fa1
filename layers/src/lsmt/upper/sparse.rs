//! The sparse writable layer: the disk one to one in a file, and holes where nothing was written.
//!
//! image -> lsmt upper -> **sparse layer** -> file
//!
//! Sector `s` lies at byte `4096 + 512 * s`. There is no log: what has data in the file is in the
//! layer, the rest shows the layers below. The file system knows that by blocks of 4 KiB only,
//! so this layer never leaves a block half there:
//! - the first write to a part of a block brings the rest of the block up from below;
//! - zeroes become a hole where the layers below have no data, and zeros that are written where
//!   they have.
//!
//! So a disk reads the same before and after it is opened again, which the C++ code, whose files
//! these are, does not promise.
//!
//! Invariants
//! - a mapping is in the index only after its data is in the file.
//! - a block that is not wholly in the layer is filled by one thread, while nobody writes.
//!
//! Source: format reference 1.7, 12.

use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::group_flush::{FlushError, GroupFlush};
use super::index::UpperIndex;
use crate::dest::Dest;
use crate::error::{ErrorKind, Result};
use crate::limits::{MAPPING_SECTORS_MAX, SECTOR_BYTES};
use crate::lsmt::format::HEADER_BYTES;
use crate::lsmt::mapping::{Mapping, SectorRange};
use crate::lsmt::stack::Stack;
use crate::read_at::{Progress, Wait};
use crate::write_at::WriteAt;

/// Sectors of a block: what file systems tell holes from data by.
const BLOCK_SECTORS: u64 = 8;
pub(super) const BLOCK_BYTES: usize = 4096;

/// Most mappings in a block: one a sector.
const BLOCK_MAPPINGS_MAX: usize = 8;

/// First sector of the disk in the file.
const FIRST_SECTOR: u64 = HEADER_BYTES as u64 / SECTOR_BYTES;

static ZEROS: [u8; 1 << 16] = [0; 1 << 16];

/// A sparse layer open for writing.
#[derive(Debug)]
pub(super) struct SparseLayer {
    data: Box<dyn WriteAt>,
    index_file: Box<dyn WriteAt>,
    index: RwLock<UpperIndex>,
    /// Written to hold everybody else off while a block is filled, else read.
    fills: RwLock<()>,
    flushes: GroupFlush,
}

/// The mappings of a sparse data file of a disk of `disk_bytes`: its extents. Blocking.
///
/// # Errors
/// `Io`.
pub(super) fn extents(data: &dyn WriteAt, disk_bytes: u64) -> Result<UpperIndex> {
    let mut index = UpperIndex::default();
    let mut from = HEADER_BYTES as u64;
    let end = from.saturating_add(disk_bytes);
    while let Some(extent) = data.next_data_extent(from)? {
        if extent.start >= end {
            break;
        }
        let start = extent.start.max(from) / SECTOR_BYTES;
        let end = extent.end.min(end) / SECTOR_BYTES;
        insert_run(&mut index, start - FIRST_SECTOR, end.saturating_sub(start));
        from = extent.end;
    }
    Ok(index)
}

fn insert_run(index: &mut UpperIndex, first_sector: u64, sectors: u64) {
    let (mut sector, end) = (first_sector, first_sector + sectors);
    while sector < end {
        let part = (end - sector).min(MAPPING_SECTORS_MAX);
        index.insert(
            Mapping::data(sector, part, sector + FIRST_SECTOR, 0),
            |_| {},
        );
        sector += part;
    }
}

impl SparseLayer {
    /// Reads where the file has data. `index_file` is not used, but belongs to the layer.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub(super) fn open(
        data: Box<dyn WriteAt>,
        index_file: Box<dyn WriteAt>,
        disk_bytes: u64,
    ) -> Result<Self> {
        let size = HEADER_BYTES as u64 + disk_bytes;
        if data.size() > size {
            // Somebody died while sealing or growing it.
            data.set_size(size)?;
        }
        let index = extents(&*data, disk_bytes)?;
        Ok(Self {
            data,
            index_file,
            index: RwLock::new(index),
            fills: RwLock::default(),
            flushes: GroupFlush::default(),
        })
    }

    pub(super) fn data(&self) -> &dyn WriteAt {
        &*self.data
    }

    pub(super) fn index_file(&self) -> &dyn WriteAt {
        &*self.index_file
    }

    pub(super) fn index(&self) -> RwLockReadGuard<'_, UpperIndex> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, UpperIndex> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes `data`; with [`Wait::Never`] `Pending` when a block must be filled with bytes from
    /// below that are not in memory, or somebody else is just filling one.
    ///
    /// # Errors
    /// `NoSpace`, `Io`; from the layers below.
    pub(super) fn write(
        &self,
        below: Option<&Stack>,
        first_sector: u64,
        mut data: &[u8],
        wait: Wait,
    ) -> Result<Progress> {
        let mut sector = first_sector;
        while !data.is_empty() {
            let in_block = sector % BLOCK_SECTORS;
            let whole = data.len() / BLOCK_BYTES * BLOCK_BYTES;
            let len = match (in_block, whole) {
                (0, 1..) => whole,
                _ => bytes(BLOCK_SECTORS - in_block).min(data.len()),
            };
            let (part, rest) = data.split_at_checked(len).unwrap_or((data, &[]));
            let done = if len == whole && in_block == 0 {
                self.write_sectors(sector, part, wait)?
            } else {
                self.write_part_of_block(below, sector, part, wait)?
            };
            if done == Progress::Pending {
                return Ok(Progress::Pending);
            }
            sector += part.len() as u64 / SECTOR_BYTES;
            data = rest;
        }
        Ok(Progress::Done)
    }

    /// Keeps fills out; `None` when that would have to wait.
    fn no_fill(&self, wait: Wait) -> Option<RwLockReadGuard<'_, ()>> {
        match wait {
            Wait::UntilDone => Some(self.fills.read().unwrap_or_else(PoisonError::into_inner)),
            Wait::Never => self.fills.try_read().ok(),
        }
    }

    /// Keeps everybody else out; `None` when that would have to wait.
    fn alone(&self, wait: Wait) -> Option<RwLockWriteGuard<'_, ()>> {
        match wait {
            Wait::UntilDone => Some(self.fills.write().unwrap_or_else(PoisonError::into_inner)),
            Wait::Never => self.fills.try_write().ok(),
        }
    }

    fn write_sectors(&self, sector: u64, data: &[u8], wait: Wait) -> Result<Progress> {
        let Some(_no_fill) = self.no_fill(wait) else {
            return Ok(Progress::Pending);
        };
        self.put(sector, data)?;
        Ok(Progress::Done)
    }

    fn put(&self, sector: u64, data: &[u8]) -> Result<()> {
        let sectors = data.len() as u64 / SECTOR_BYTES;
        if let Err(error) = self.data.write_at(in_file(sector), data) {
            self.punch_unwritten(sector, sector + sectors);
            return Err(error);
        }
        if !self.has_all(sector, sectors) {
            insert_run(&mut self.index_mut(), sector, sectors);
        }
        Ok(())
    }

    /// After a write that failed: blocks that it has left in the file, and that are not in the
    /// layer, would be in the layer after the next open.
    fn punch_unwritten(&self, start: u64, end: u64) {
        let mut at = start;
        while at < end {
            let mut found = [Mapping::PADDING; 1];
            let range = SectorRange { start: at, end };
            let (gap_end, next) = match self.index().lookup(range, &mut found) {
                0 => (end, end),
                _ => (found[0].offset(), found[0].end()),
            };
            let first = at.next_multiple_of(BLOCK_SECTORS);
            let last = gap_end / BLOCK_SECTORS * BLOCK_SECTORS;
            if first < last
                && let Err(error) = self.data.punch_hole(in_file(first)..in_file(last))
            {
                log::warn!("a part of a failed write may show after the next open: {error}");
            }
            at = next;
        }
    }

    /// Are all these sectors in the layer?
    fn has_all(&self, sector: u64, sectors: u64) -> bool {
        let (mut at, end) = (sector, sector + sectors);
        let index = self.index();
        while at < end {
            let mut found = [Mapping::PADDING; 1];
            if index.lookup(SectorRange { start: at, end }, &mut found) == 0 {
                return false;
            }
            let [mapping] = found;
            if mapping.offset() != at {
                return false;
            }
            at = mapping.end();
        }
        true
    }

    fn write_part_of_block(
        &self,
        below: Option<&Stack>,
        sector: u64,
        data: &[u8],
        wait: Wait,
    ) -> Result<Progress> {
        let first = sector / BLOCK_SECTORS * BLOCK_SECTORS;
        let disk_end = (self.data.size() / SECTOR_BYTES).saturating_sub(FIRST_SECTOR);
        let sectors = BLOCK_SECTORS.min(disk_end.saturating_sub(first));
        {
            let Some(_no_fill) = self.no_fill(wait) else {
                return Ok(Progress::Pending);
            };
            if self.has_all(first, sectors) {
                self.put(sector, data)?;
                return Ok(Progress::Done);
            }
        }
        let mut block = [0; BLOCK_BYTES];
        let Some(block) = block.get_mut(..bytes(sectors)) else {
            return Ok(Progress::Done);
        };
        if let Some(below) = below {
            // They do not change: read before anybody is held off.
            let dest = Dest::from(&mut *block);
            if below.read_at(first * SECTOR_BYTES, dest, wait)? == Progress::Pending {
                return Ok(Progress::Pending);
            }
        }
        let Some(_alone) = self.alone(wait) else {
            return Ok(Progress::Pending);
        };
        self.read_own(first, block)?;
        let start = bytes(sector - first);
        if let Some(part) = block.get_mut(start..start + data.len()) {
            part.copy_from_slice(data);
        }
        self.put(first, block)?;
        Ok(Progress::Done)
    }

    /// Lays the sectors that are in the layer over `block`.
    fn read_own(&self, first: u64, block: &mut [u8]) -> Result<()> {
        let mut found = [Mapping::PADDING; BLOCK_MAPPINGS_MAX];
        let range = SectorRange {
            start: first,
            end: first + block.len() as u64 / SECTOR_BYTES,
        };
        let count = self.index().lookup(range, &mut found);
        for mapping in found.iter().take(count) {
            let start = bytes(mapping.offset() - first);
            if let Some(part) = block.get_mut(start..start + bytes(mapping.sectors())) {
                self.data
                    .read_exact_at(mapping.moffset() * SECTOR_BYTES, part)?;
            }
        }
        Ok(())
    }

    /// Writes zeroes. Blocking.
    ///
    /// # Errors
    /// `NoSpace`, `Io`; from the layers below.
    pub(super) fn write_zeroes(
        &self,
        below: Option<&Stack>,
        first_sector: u64,
        sectors: u64,
    ) -> Result<()> {
        let end = first_sector + sectors;
        let whole_start = first_sector.next_multiple_of(BLOCK_SECTORS).min(end);
        let whole_end = (end / BLOCK_SECTORS * BLOCK_SECTORS).max(whole_start);
        self.zero_part_of_block(below, first_sector, whole_start)?;
        self.zero_part_of_block(below, whole_end, end)?;
        let mut at = whole_start;
        for data in data_runs(below, whole_start, whole_end) {
            self.make_hole(at, data.start)?;
            self.write_zeros(data)?;
            at = data.end;
        }
        self.make_hole(at, whole_end)
    }

    fn zero_part_of_block(&self, below: Option<&Stack>, start: u64, end: u64) -> Result<()> {
        let range = SectorRange { start, end };
        if start == end {
            return Ok(());
        }
        let is_hole = self.index().lookup(range, &mut [Mapping::PADDING]) == 0
            && data_runs(below, start, end).next().is_none();
        if is_hole {
            return Ok(());
        }
        let zeros = ZEROS.get(..bytes(end - start)).unwrap_or_default();
        self.write(below, start, zeros, Wait::UntilDone)?
            .expect_done("write zeroes")
    }

    fn write_zeros(&self, range: SectorRange) -> Result<()> {
        let mut at = range.start;
        while at < range.end {
            let sectors = (range.end - at).min(ZEROS.len() as u64 / SECTOR_BYTES);
            let zeros = ZEROS.get(..bytes(sectors)).unwrap_or_default();
            self.write_sectors(at, zeros, Wait::UntilDone)?
                .expect_done("write zeroes")?;
            at += sectors;
        }
        Ok(())
    }

    /// Takes whole blocks out of the layer; nothing below them has data.
    fn make_hole(&self, start: u64, end: u64) -> Result<()> {
        if start >= end {
            return Ok(());
        }
        let range = SectorRange { start, end };
        let mut hidden = Vec::new();
        let punched = {
            let _no_fill = self.no_fill(Wait::UntilDone);
            // In this order: a write that comes between is zeroed in the file and still in the
            // index, and that reads the same now and after the next open.
            self.index_mut()
                .remove(range, |mapping| hidden.push(mapping));
            self.data.punch_hole(in_file(start)..in_file(end))
        };
        match punched {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::Unsupported => self.write_zeros(range),
            Err(error) => {
                let mut index = self.index_mut();
                for mapping in hidden {
                    index.insert(mapping, |_| {});
                }
                Err(error)
            }
        }
    }

    /// Makes what was written before survive a power cut.
    ///
    /// # Errors
    /// As [`GroupFlush::run`].
    pub(super) fn flush(&self) -> Result<()> {
        self.flushes
            .run(|| self.data.flush().map_err(FlushError::Lost))
    }
}

/// First byte of a sector in the file.
fn in_file(sector: u64) -> u64 {
    (sector + FIRST_SECTOR) * SECTOR_BYTES
}

fn bytes(sectors: u64) -> usize {
    usize::try_from(sectors * SECTOR_BYTES).unwrap_or(usize::MAX)
}

/// The whole blocks of `start..end` in which the layers below have data, in runs.
fn data_runs(below: Option<&Stack>, start: u64, end: u64) -> impl Iterator<Item = SectorRange> {
    let mappings = below.into_iter().flat_map(move |below| {
        below
            .index()
            .lookup(SectorRange { start, end })
            .filter(|mapping| !mapping.is_zeroed())
    });
    let mut covered = start;
    mappings.filter_map(move |mapping| {
        let block_start = mapping.offset() / BLOCK_SECTORS * BLOCK_SECTORS;
        let run = SectorRange {
            start: block_start.max(covered),
            end: mapping.end().next_multiple_of(BLOCK_SECTORS).min(end),
        };
        covered = covered.max(run.end);
        (run.start < run.end).then_some(run)
    })
}
