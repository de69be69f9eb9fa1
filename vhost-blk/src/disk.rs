//! One disk as the rings see it: bytes, a serial, and a place to complain.
//!
//! ring -> request -> **disk** -> image
//!
//! Invariant: `bytes` is a multiple of a sector and never changes.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use layers::limits::SECTOR_BYTES;
use layers::{Dest, Image, Progress, ReadAt, Result, Wait};
use virtio_bindings::virtio_blk::VIRTIO_BLK_ID_BYTES;

/// Longest serial, in bytes.
pub const SERIAL_BYTES_MAX: usize = VIRTIO_BLK_ID_BYTES as usize;

/// At most one complaint per disk in this time.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// A read-only disk.
#[derive(Debug)]
pub struct Disk {
    source: Box<dyn ReadAt>,
    bytes: u64,
    /// Padded with zeros.
    serial: [u8; SERIAL_BYTES_MAX],
    reports: Reports,
}

#[derive(Debug, Default)]
struct Reports {
    last: Mutex<Option<Instant>>,
    suppressed: AtomicU64,
}

impl Disk {
    /// A disk over any source of bytes. A serial longer than [`SERIAL_BYTES_MAX`] is cut; a last
    /// part of the source that is no full sector is not shown.
    #[must_use]
    pub fn new(source: Box<dyn ReadAt>, serial: &str) -> Self {
        let mut padded = [0; SERIAL_BYTES_MAX];
        for (to, from) in padded.iter_mut().zip(serial.bytes()) {
            *to = from;
        }
        Self {
            bytes: source.size() / SECTOR_BYTES * SECTOR_BYTES,
            source,
            serial: padded,
            reports: Reports::default(),
        }
    }

    /// Size in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The serial, padded with zeros.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// Fills `dest` with the bytes at `offset`.
    ///
    /// # Errors
    /// As [`ReadAt::read_at`].
    pub fn read_at(&self, offset: u64, dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        self.source.read_at(offset, dest, wait)
    }

    /// Logs a failed or senseless request, at most one a second: a guest must not be able to
    /// fill a log.
    #[cold]
    pub fn report(&self, what: fmt::Arguments<'_>) {
        let now = Instant::now();
        let mut last = self
            .reports
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| now.duration_since(last) < REPORT_INTERVAL) {
            self.reports.suppressed.fetch_add(1, Ordering::Relaxed);
            return;
        }
        *last = Some(now);
        let suppressed = self.reports.suppressed.swap(0, Ordering::Relaxed);
        log::warn!(
            "{}: {what} ({suppressed} more since the last report)",
            self.source.name()
        );
    }
}

/// An image as a source of bytes.
#[derive(Debug)]
pub struct ImageSource {
    image: Image,
    name: String,
}

impl ImageSource {
    /// An open image, to be called `config_path` in messages.
    #[must_use]
    pub fn new(image: Image, config_path: &Path) -> Self {
        Self {
            image,
            name: config_path.display().to_string(),
        }
    }
}

impl ReadAt for ImageSource {
    fn size(&self) -> u64 {
        self.image.virtual_size()
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read_at(&self, offset: u64, dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        self.image.read_at(offset, dest, wait)
    }
}
