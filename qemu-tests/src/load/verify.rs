//! Reads a whole disk in several ways and compares every byte with a raw image.
//!
//! **verify** -> disk -> server; verify -> reference -> raw file

use std::path::Path;

use anyhow::{Result, ensure};

use super::disk::{Completions, Disk, Setup, Span};
use super::pattern::Random;
use super::reference::Reference;

const SECTOR: u64 = 512;

/// The longest read of any pass, bytes.
const MAX_READ: usize = 1 << 20;

/// The most reads in flight of any pass.
const MAX_DEPTH: usize = 32;

/// How one pass cuts the disk into reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cut {
    /// Equal reads of so many bytes.
    Equal(u64),
    /// 1 to so many sectors, so that reads start and end anywhere inside a block.
    Uneven(u64),
}

/// Each with its queue depth.
const PASSES: [(Cut, usize); 5] = [
    (Cut::Equal(4 << 10), 1),
    (Cut::Equal(4 << 10), 32),
    (Cut::Equal(128 << 10), 8),
    (Cut::Equal(1 << 20), 4),
    (Cut::Uneven(300), 16),
];

/// What was compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
pub struct Verified {
    /// Size of the disk in bytes.
    pub capacity: u64,
    /// Times every byte was compared.
    pub passes: usize,
    /// Reads over all passes.
    pub reads: u64,
}

/// Compares the disk at `socket` with the file `raw`, whole, at several sizes and depths.
///
/// The disk may be longer than the file when the rest is zeros.
///
/// # Errors
/// The first byte that differs or read that fails; a disk shorter than the file.
pub fn whole_disk(socket: &Path, raw: &Path) -> Result<Verified> {
    let mut reference = Reference::open(raw)?;
    let mut disk = Disk::connect(
        socket,
        Setup {
            completions: Completions::Interrupt,
            writable: false,
            slots: MAX_DEPTH,
            slot_bytes: MAX_READ,
        },
    )?;
    let capacity = disk.capacity()?;
    reference.check_capacity(capacity)?;
    let mut reads = 0;
    for (cut, depth) in PASSES {
        reads += one_pass(&mut disk, &mut reference, Sweep::new(cut, capacity)?, depth)?;
    }
    Ok(Verified {
        capacity,
        passes: PASSES.len(),
        reads,
    })
}

fn one_pass(
    disk: &mut Disk,
    reference: &mut Reference,
    mut sweep: Sweep,
    depth: usize,
) -> Result<u64> {
    let mut idle: Vec<usize> = (0..depth).collect();
    let mut pending = vec![None; depth];
    let mut finished = Vec::with_capacity(depth);
    let mut reads = 0;
    loop {
        while let Some(slot) = idle.pop() {
            let Some(read) = sweep.next() else {
                idle.push(slot);
                break;
            };
            reference.prepare(disk, slot)?;
            disk.submit_read(slot, read)?;
            if let Some(entry) = pending.get_mut(slot) {
                *entry = Some(read);
            }
        }
        if idle.len() == depth {
            return Ok(reads);
        }
        disk.wait(&mut finished)?;
        for done in finished.drain(..) {
            let read = pending.get_mut(done.slot).and_then(Option::take);
            let Some(read) = read else { continue };
            ensure!(
                done.status == 0,
                "read of {} at {}: error {}",
                read.len,
                read.offset,
                done.status
            );
            reference.compare(disk, done.slot, read)?;
            reads += 1;
            idle.push(done.slot);
        }
    }
}

/// Reads that together cover the disk once.
#[derive(Debug)]
struct Sweep {
    cut: Cut,
    offset: u64,
    capacity: u64,
    random: Random,
}

impl Sweep {
    fn new(cut: Cut, capacity: u64) -> Result<Self> {
        ensure!(
            capacity.is_multiple_of(SECTOR),
            "a capacity of {capacity} bytes is no whole number of sectors"
        );
        Ok(Self {
            cut,
            offset: 0,
            capacity,
            random: Random::new(0),
        })
    }
}

impl Iterator for Sweep {
    type Item = Span;

    fn next(&mut self) -> Option<Span> {
        let wanted = match self.cut {
            Cut::Equal(bytes) => bytes,
            Cut::Uneven(sectors) => (1 + self.random.below(sectors)) * SECTOR,
        };
        let len = wanted.min(self.capacity - self.offset);
        if len == 0 {
            return None;
        }
        let read = Span {
            offset: self.offset,
            len: usize::try_from(len).ok()?,
        };
        self.offset += len;
        Some(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cut_covers_the_disk_exactly_once_within_the_slot_size() {
        let capacity = 3 * (1 << 20) + 7 * SECTOR;
        for (cut, depth) in PASSES {
            assert!(depth <= MAX_DEPTH);
            let mut next = 0;
            for read in Sweep::new(cut, capacity).unwrap() {
                assert_eq!(read.offset, next, "{cut:?}");
                assert!(read.len <= MAX_READ);
                assert!(read.len > 0 && (read.len as u64).is_multiple_of(SECTOR));
                next += read.len as u64;
            }
            assert_eq!(next, capacity, "{cut:?}");
        }
    }
}
