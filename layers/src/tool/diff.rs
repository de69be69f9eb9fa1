//! Where two disks differ.
//!
//! obd diff -> **diff** -> image | local file
//!
//! The disks are compared a MiB at a time, on all cores, sector by sector. Where neither has data
//! nothing is read. What lies behind the end of the shorter disk is compared with zeros.

use std::fs::File;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::layer_file::{is_layer, open_layer};
use crate::config::ImageConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::image::Image;
use crate::io::{Access, LocalFile, next_data_extent, open_with_size};
use crate::limits::SECTOR_BYTES;
use crate::lsmt::{SectorRange, Stack};
use crate::read_at::ReadAt;
use crate::service::Service;

const MIB: u64 = 1 << 20;
const SECTOR: usize = 512;

/// One of the two.
#[derive(Debug)]
pub struct Disk {
    bytes: Bytes,
    size: u64,
}

#[derive(Debug)]
enum Bytes {
    Image(Image),
    Raw { data: LocalFile, extents: File },
}

/// Neighbouring MiBs that all differ somewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiffRange {
    /// The first of them, counted from 0.
    pub first_mib: u64,
    /// The last of them.
    pub last_mib: u64,
    /// Sectors in them that differ.
    pub sectors: u64,
}

/// The outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiffReport {
    /// Sizes of the two disks in bytes.
    pub sizes_bytes: [u64; 2],
    /// Where they differ, ascending.
    pub ranges: Vec<DiffRange>,
}

impl DiffReport {
    /// True when size and every sector are the same.
    #[must_use]
    pub fn is_same(&self) -> bool {
        let [one, other] = self.sizes_bytes;
        one == other && self.ranges.is_empty()
    }

    /// Number of sectors that differ.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.ranges.iter().map(|range| range.sectors).sum()
    }
}

impl Disk {
    /// Opens the image of a config, a layer file as an image of its own, or any other file as the
    /// raw bytes of a disk. Blocking; writes no result file.
    ///
    /// # Errors
    /// `Busy` for a writable layer that is being written; those of opening.
    pub fn open(path: &Path, service: &Service) -> Result<Self> {
        let image = if is_config(path)? {
            let opened = Image::open_layers(&ImageConfig::load(path)?, service, Access::Read);
            opened.map_err(|error| error.in_file(path.display().to_string()))?
        } else if is_layer(path)? {
            Image::from_layers(vec![open_layer(path)?], "")?
        } else {
            let (extents, size) = open_with_size(path)?;
            let data = LocalFile::open(path)?;
            let bytes = Bytes::Raw { data, extents };
            return Ok(Self { bytes, size });
        };
        Ok(Self {
            size: image.virtual_size(),
            bytes: Bytes::Image(image),
        })
    }

    /// True for a file that is no config and no layer: its bytes are those of the disk.
    #[must_use]
    pub fn is_raw(&self) -> bool {
        matches!(self.bytes, Bytes::Raw { .. })
    }

    /// May there be anything but zeros in this range?
    fn has_data(&self, start: u64, end: u64) -> Result<bool> {
        match &self.bytes {
            Bytes::Image(image) => {
                let range = SectorRange {
                    start: start / SECTOR_BYTES,
                    end: end / SECTOR_BYTES,
                };
                let holds_data = |stack: &Stack| {
                    let mut found = stack.index().lookup(range);
                    found.any(|mapping| !mapping.is_zeroed())
                };
                Ok(image.stack().is_none_or(holds_data))
            }
            Bytes::Raw { data, extents } => {
                let next = next_data_extent(extents, start, self.size).map_err(|source| {
                    Error::io("list extents", source)
                        .in_file(data.name())
                        .at(start)
                })?;
                Ok(next.is_some_and(|extent| extent.start < end))
            }
        }
    }

    /// Fills `chunk` with what is at `start`: zeros behind the end of the disk.
    fn read(&self, start: u64, chunk: &mut [u8]) -> Result<()> {
        let left = usize::try_from(self.size.saturating_sub(start)).unwrap_or(usize::MAX);
        let (inside, behind) = chunk.split_at_mut(left.min(chunk.len()));
        behind.fill(0);
        if inside.is_empty() {
            return Ok(());
        }
        match &self.bytes {
            Bytes::Image(image) => image.read_exact_at(start, inside),
            Bytes::Raw { data, .. } => data.read_exact_at(start, inside),
        }
    }
}

/// No layer format and hardly any disk starts with a brace.
fn is_config(path: &Path) -> Result<bool> {
    let file = LocalFile::open(path)?;
    let mut start = [0; 64];
    let len = usize::try_from(file.size()).unwrap_or(usize::MAX);
    let start = start.split_at_mut(len.min(64)).0;
    file.read_exact_at(0, start)?;
    let first = start.iter().find(|byte| !byte.is_ascii_whitespace());
    Ok(first == Some(&b'{'))
}

/// Compares two disks. `report` is told the bytes compared so far and in all. Blocking.
///
/// # Errors
/// The first failed read.
pub fn diff(one: &Disk, other: &Disk, report: &mut dyn FnMut(u64, u64)) -> Result<DiffReport> {
    let size = one.size.max(other.size);
    let comparison = Comparison {
        disks: [one, other],
        size,
        next_mib: AtomicU64::new(0),
        failed: AtomicBool::new(false),
        found: Mutex::default(),
    };
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let outcome = std::thread::scope(|scope| {
        // Without one of these threads the others do its part.
        let start =
            || std::thread::Builder::new().spawn_scoped(scope, || comparison.run(&mut |_| {}));
        let others: Vec<_> = (1..cpus).filter_map(|_| start().ok()).collect();
        let mine = comparison.run(&mut |done| report(done, size));
        let panicked = |_| {
            Err(Error::new(
                ErrorKind::Io,
                "compare disks",
                "a thread panicked",
            ))
        };
        others
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(panicked))
            .fold(mine, Result::and)
    });
    outcome?;
    let found = comparison.found.into_inner();
    Ok(DiffReport {
        sizes_bytes: [one.size, other.size],
        ranges: joined(found.unwrap_or_else(PoisonError::into_inner)),
    })
}

struct Comparison<'a> {
    disks: [&'a Disk; 2],
    size: u64,
    next_mib: AtomicU64,
    failed: AtomicBool,
    /// Numbers of the MiBs that differ, and in how many sectors.
    found: Mutex<Vec<(u64, u64)>>,
}

impl Comparison<'_> {
    /// Compares MiBs that no other thread has taken until none is left or one has failed.
    fn run(&self, done: &mut dyn FnMut(u64)) -> Result<()> {
        let mut chunks = [vec![0; 1 << 20], vec![0; 1 << 20]];
        while !self.failed.load(Ordering::Relaxed) {
            let mib = self.next_mib.fetch_add(1, Ordering::Relaxed);
            let start = mib.saturating_mul(MIB);
            if start >= self.size {
                break;
            }
            let sectors = self.compare(start, &mut chunks).inspect_err(|_| {
                self.failed.store(true, Ordering::Relaxed);
            })?;
            if sectors > 0 {
                let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
                found.push((mib, sectors));
            }
            done((start + MIB).min(self.size));
        }
        Ok(())
    }

    fn compare(&self, start: u64, chunks: &mut [Vec<u8>; 2]) -> Result<u64> {
        let end = start + MIB;
        let [one, other] = self.disks;
        if !one.has_data(start, end)? && !other.has_data(start, end)? {
            return Ok(0);
        }
        let [left, right] = chunks;
        one.read(start, left)?;
        other.read(start, right)?;
        if left == right {
            return Ok(0);
        }
        let (left, _) = left.as_chunks::<SECTOR>();
        let (right, _) = right.as_chunks::<SECTOR>();
        Ok(left
            .iter()
            .zip(right)
            .filter(|(one, other)| one != other)
            .count() as u64)
    }
}

fn joined(mut found: Vec<(u64, u64)>) -> Vec<DiffRange> {
    found.sort_unstable();
    let mut ranges: Vec<DiffRange> = Vec::new();
    for (mib, sectors) in found {
        match ranges.last_mut() {
            Some(last) if last.last_mib + 1 == mib => {
                last.last_mib = mib;
                last.sectors += sectors;
            }
            _ => ranges.push(DiffRange {
                first_mib: mib,
                last_mib: mib,
                sectors,
            }),
        }
    }
    ranges
}
