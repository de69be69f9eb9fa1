//! The writable layer on top of a stack.
//!
//! image -> **lsmt upper** -> append layer | sparse layer -> files
//!
//! A writable layer is a pair of files. The append-only kind is a data file and a log of index
//! entries; the sparse kind is one file like the disk itself, and an empty index file that must
//! be there. Both are the C++ project's files and may change hands between the two at any time
//! when nobody has them open.
//!
//! Invariants
//! - one process writes a layer: both files are locked while they are open.
//! - all reads and writes take `&self`. The index's lock is never held across I/O; no other one is
//!   waited for with [`Wait::Never`].
//!
//! Source: format reference 1.6, 1.7.

mod append;
mod batch;
mod create;
mod gate;
mod group_flush;
mod index;
mod log;
mod open;
mod replay;
mod seal;
mod sparse;

use std::path::{Path, PathBuf};
use std::sync::RwLockReadGuard;
use std::sync::atomic::{AtomicU64, Ordering};

use append::AppendLayer;
use sparse::SparseLayer;

use super::format::Record;
use super::mapping::{Mapping, SectorRange};
use super::stack::{Stack, sector_range, take_sectors};
use super::uuid::Uuid;
use crate::dest::Dest;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{DISK_BYTES_MAX, SECTOR_BYTES};
use crate::read_at::{Progress, Wait};
use crate::write_at::WriteAt;

pub use batch::WriteBatch;
pub use create::{CreateOptions, UpperKind, create, create_raw};
pub use gate::{Gate, Pass};
pub use index::UpperIndex;
pub use open::{is_sealed_in_place, open_read_only, read_only_from_files};
pub use seal::seal;

/// Mappings that one look at the index takes along.
const LOOKUP_MAPPINGS: usize = 16;

/// A layer open for writing.
#[derive(Debug)]
pub struct Upper {
    kind: Kind,
    /// `None` for files that have no path.
    data_path: Option<PathBuf>,
    header: Record,
    virtual_size_bytes: AtomicU64,
}

#[derive(Debug)]
enum Kind {
    Append(AppendLayer),
    Sparse(SparseLayer),
}

impl Upper {
    /// Name of the layer.
    #[must_use]
    pub fn uuid(&self) -> Uuid {
        self.header.uuid
    }

    /// Which of the two kinds it is.
    #[must_use]
    pub fn kind(&self) -> UpperKind {
        match &self.kind {
            Kind::Append(_) => UpperKind::AppendOnly,
            Kind::Sparse(_) => UpperKind::Sparse,
        }
    }

    /// Size of the disk in bytes; 0 means that of the layers below.
    #[must_use]
    pub fn virtual_size_bytes(&self) -> u64 {
        self.virtual_size_bytes.load(Ordering::Acquire)
    }

    /// Where the data file is; `None` for one without a path.
    #[must_use]
    pub fn data_path(&self) -> Option<&Path> {
        self.data_path.as_deref()
    }

    /// The file that holds the data.
    #[must_use]
    pub fn data(&self) -> &dyn WriteAt {
        match &self.kind {
            Kind::Append(layer) => layer.data(),
            Kind::Sparse(layer) => layer.data(),
        }
    }

    fn index_file(&self) -> &dyn WriteAt {
        match &self.kind {
            Kind::Append(layer) => layer.index_file(),
            Kind::Sparse(layer) => layer.index_file(),
        }
    }

    fn index(&self) -> RwLockReadGuard<'_, UpperIndex> {
        match &self.kind {
            Kind::Append(layer) => layer.index(),
            Kind::Sparse(layer) => layer.index(),
        }
    }

    /// Was nothing written to it?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index().is_empty()
    }

    /// A copy of the index: sorted mappings, tags 0.
    #[must_use]
    pub fn mappings(&self) -> Vec<Mapping> {
        self.index().iter().collect()
    }

    /// Makes the disk larger, in the files too; it survives a power cut from then on. Blocking.
    ///
    /// # Errors
    /// `Config` for a size that is smaller or no multiple of 512; `NoSpace`, `Io`.
    pub fn grow(&self, bytes: u64) -> Result<()> {
        const OP: &str = "resize layer";
        let now = self.virtual_size_bytes();
        if bytes < now || bytes > DISK_BYTES_MAX || !bytes.is_multiple_of(SECTOR_BYTES) {
            let detail = format!("{bytes} is less than {now}, too large, or no multiple of 512");
            return Err(Error::new(ErrorKind::Config, OP, detail).in_file(self.data().name()));
        }
        if let Kind::Sparse(layer) = &self.kind {
            self.data().set_size(open::DATA_START + bytes)?;
            // A file that is shorter than its header says counts as cut short.
            layer.flush()?;
        }
        open::write_virtual_size(self.data(), bytes)?;
        if self.kind() == UpperKind::AppendOnly {
            open::write_virtual_size(self.index_file(), bytes)?;
        }
        match &self.kind {
            Kind::Append(layer) => layer.flush_files()?,
            Kind::Sparse(layer) => layer.flush()?,
        }
        self.virtual_size_bytes.store(bytes, Ordering::Release);
        Ok(())
    }

    /// Fills `dest` with the bytes at `offset_bytes`, those that are not in this layer from
    /// `below`.
    ///
    /// # Errors
    /// As [`Stack::read_at`].
    pub fn read_at(
        &self,
        below: Option<&Stack>,
        offset_bytes: u64,
        mut dest: Dest<'_>,
        wait: Wait,
    ) -> Result<Progress> {
        let mut range = sector_range(offset_bytes, dest.len())?;
        loop {
            let mut found = [Mapping::PADDING; LOOKUP_MAPPINGS];
            let count = self.index().lookup(range, &mut found);
            for mapping in found.iter().take(count) {
                let gap = take_sectors(&mut dest, mapping.offset() - range.start);
                let part = take_sectors(&mut dest, mapping.sectors());
                if read_below(below, range.start, gap, wait)? == Progress::Pending
                    || self.read_mapping(*mapping, part, wait)? == Progress::Pending
                {
                    return Ok(Progress::Pending);
                }
                range.start = mapping.end();
            }
            if count < LOOKUP_MAPPINGS {
                return read_below(below, range.start, dest, wait);
            }
        }
    }

    fn read_mapping(&self, mapping: Mapping, mut dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        if mapping.is_zeroed() {
            dest.zero();
            return Ok(Progress::Done);
        }
        self.data()
            .read_at(mapping.moffset() * SECTOR_BYTES, dest, wait)
    }

    /// See [`Image::stage_write`](crate::Image::stage_write).
    ///
    /// # Errors
    /// `NoSpace`, `Io`: of an append-only layer nothing is staged then, of a sparse one a part may
    /// be written. From `below` when a block must be filled.
    pub fn stage_write(
        &self,
        below: Option<&Stack>,
        batch: &mut WriteBatch,
        range: SectorRange,
        data: &[u8],
        wait: Wait,
    ) -> Result<Progress> {
        match &self.kind {
            Kind::Append(layer) => {
                layer.stage_write(batch, range.start, data)?;
                Ok(Progress::Done)
            }
            Kind::Sparse(layer) => layer.write(below, range.start, data, wait),
        }
    }

    /// See [`Image::stage_zeroes`](crate::Image::stage_zeroes).
    ///
    /// # Errors
    /// As [`Upper::stage_write`].
    pub fn stage_zeroes(
        &self,
        below: Option<&Stack>,
        batch: &mut WriteBatch,
        range: SectorRange,
        wait: Wait,
    ) -> Result<Progress> {
        let sectors = range.end - range.start;
        match (&self.kind, wait) {
            (Kind::Append(layer), _) => layer.stage_zeroes(batch, range.start, sectors),
            // Holes are made by the file system, which may take its time.
            (Kind::Sparse(_), Wait::Never) => return Ok(Progress::Pending),
            (Kind::Sparse(layer), Wait::UntilDone) => {
                layer.write_zeroes(below, range.start, sectors)?;
            }
        }
        Ok(Progress::Done)
    }

    /// See [`Image::commit`](crate::Image::commit).
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn commit(&self, batch: &WriteBatch) -> Result<()> {
        match &self.kind {
            Kind::Append(layer) if !batch.entries().is_empty() => layer.commit(batch),
            Kind::Append(_) | Kind::Sparse(_) => Ok(()),
        }
    }

    /// See [`Image::flush`](crate::Image::flush).
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub fn flush(&self) -> Result<()> {
        match &self.kind {
            Kind::Append(layer) => layer.flush(),
            Kind::Sparse(layer) => layer.flush(),
        }
    }
}

fn read_below(
    below: Option<&Stack>,
    sector: u64,
    mut dest: Dest<'_>,
    wait: Wait,
) -> Result<Progress> {
    match below {
        _ if dest.is_empty() => Ok(Progress::Done),
        Some(below) => below.read_at(sector * SECTOR_BYTES, dest, wait),
        None => {
            dest.zero();
            Ok(Progress::Done)
        }
    }
}
