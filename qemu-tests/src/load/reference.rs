//! The raw file that says what a disk must deliver.
//!
//! verify, measure -> **reference** -> raw file
//!
//! Invariant: a disk may be longer than the raw file only by zeros.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::disk::{Disk, Span};

/// What a slot holds before a read that will be compared.
const POISON: u8 = 0xa5;

/// A raw disk image and room for one read of each side.
#[derive(Debug)]
pub struct Reference {
    file: File,
    size: u64,
    expected: Vec<u8>,
    found: Vec<u8>,
}

impl Reference {
    /// Opens the raw image at `path`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
        let size = file.metadata()?.len();
        Ok(Self {
            file,
            size,
            expected: Vec::new(),
            found: Vec::new(),
        })
    }

    /// Size of the raw image in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Makes `slot` ready for a read whose bytes [`Reference::compare`] will judge.
    ///
    /// # Errors
    /// The slot is in flight.
    pub fn prepare(&self, disk: &Disk, slot: usize) -> Result<()> {
        disk.fill_slot(slot, POISON)
    }

    /// Compares what `read` left in `slot` with the raw image.
    ///
    /// # Errors
    /// The bytes differ; the message names the first byte that does.
    pub fn compare(&mut self, disk: &Disk, slot: usize, read: Span) -> Result<()> {
        self.found.resize(read.len, 0);
        self.expected.resize(read.len, 0);
        disk.copy_from_slot(slot, &mut self.found)?;
        let inside = self.size.saturating_sub(read.offset).min(read.len as u64);
        let (data, beyond) = self
            .expected
            .split_at_mut_checked(usize::try_from(inside)?)
            .context("more data than the read is long")?;
        self.file.read_exact_at(data, read.offset)?;
        beyond.fill(0);
        if self.found == self.expected {
            return Ok(());
        }
        let mut bytes = self.found.iter().zip(&self.expected).enumerate();
        let differs = bytes.find(|(_, (found, expected))| found != expected);
        let (at, (found, expected)) = differs.context("equal after all")?;
        bail!(
            "byte {} is {found:#04x}, expected {expected:#04x} (read of {} at {})",
            read.offset + at as u64,
            read.len,
            read.offset
        );
    }

    /// Checks that a disk of `capacity` bytes can hold the image.
    ///
    /// # Errors
    /// It is shorter.
    pub fn check_capacity(&self, capacity: u64) -> Result<()> {
        ensure!(
            capacity >= self.size,
            "the disk has {capacity} bytes, the raw image {}",
            self.size
        );
        Ok(())
    }
}
