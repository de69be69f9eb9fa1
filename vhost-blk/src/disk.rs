//! One disk as the rings see it: an image, a serial, and a place to complain.
//!
//! ring -> request -> **disk** -> image

use std::fmt;
use std::sync::Arc;

use layers::metrics::DiskMetrics;
use layers::{Complaints, Dest, Image, Progress, Result, Wait, WriteBatch, WritePace};
use virtio_bindings::virtio_blk::VIRTIO_BLK_ID_BYTES;

use crate::cache_switch::CacheSwitch;
use crate::zero_ranges::ZeroRange;

/// Longest serial, in bytes.
pub const SERIAL_BYTES_MAX: usize = VIRTIO_BLK_ID_BYTES as usize;

/// One disk.
#[derive(Debug)]
pub struct Disk {
    image: Image,
    name: String,
    /// Padded with zeros.
    serial: [u8; SERIAL_BYTES_MAX],
    pace: WritePace,
    cache_switch: Arc<CacheSwitch>,
    complaints: Complaints,
    metrics: Arc<DiskMetrics>,
}

impl Disk {
    /// A disk that messages call `name`. A serial longer than [`SERIAL_BYTES_MAX`] is cut.
    #[must_use]
    pub fn new(image: Image, name: String, serial: &str) -> Self {
        let mut padded = [0; SERIAL_BYTES_MAX];
        for (to, from) in padded.iter_mut().zip(serial.bytes()) {
            *to = from;
        }
        let journal = image.journal().map_or_else(Arc::default, Arc::clone);
        Self {
            metrics: Arc::new(DiskMetrics::new(name.clone(), journal)),
            image,
            name,
            serial: padded,
            pace: WritePace::default(),
            cache_switch: Arc::default(),
            complaints: Complaints::default(),
        }
    }

    /// The same disk with this switch instead of one that the process takes along.
    #[must_use]
    pub fn with_cache_switch(self, switch: CacheSwitch) -> Self {
        Self {
            cache_switch: Arc::new(switch),
            ..self
        }
    }

    /// The same disk, counted in `metrics`.
    #[must_use]
    pub fn with_metrics(self, metrics: Arc<DiskMetrics>) -> Self {
        Self { metrics, ..self }
    }

    /// For tests: the same disk with another pace.
    #[cfg(test)]
    pub(crate) fn with_pace(self, pace: WritePace) -> Self {
        Self { pace, ..self }
    }

    /// What messages call this disk: the path of its socket.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Size in bytes, a multiple of a sector.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.image.virtual_size()
    }

    /// The serial, padded with zeros.
    #[must_use]
    pub fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// What its guest does.
    #[must_use]
    pub fn metrics(&self) -> &Arc<DiskMetrics> {
        &self.metrics
    }

    /// The image behind it.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// Fills `dest` with the bytes at `offset`.
    ///
    /// # Errors
    /// As [`Image::read_at`].
    pub fn read_at(&self, offset: u64, dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        self.image.read_at(offset, dest, wait)
    }

    /// Can it be written?
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.image.is_writable()
    }

    /// Has a driver switched write caching off?
    #[must_use]
    pub fn cache_switch(&self) -> &Arc<CacheSwitch> {
        &self.cache_switch
    }

    /// How writes have gone lately.
    #[must_use]
    pub fn pace(&self) -> &WritePace {
        &self.pace
    }

    /// As [`Image::stage_write`].
    ///
    /// # Errors
    /// As [`Image::stage_write`].
    pub fn stage_write(
        &self,
        batch: &mut WriteBatch,
        offset: u64,
        data: &[u8],
        wait: Wait,
    ) -> Result<Progress> {
        self.pace
            .time(|| self.image.stage_write(batch, offset, data, wait))
    }

    /// As [`Image::stage_zeroes`] for each of `ranges`. `Pending` may leave some of them staged.
    ///
    /// # Errors
    /// As [`Image::stage_zeroes`].
    pub fn stage_zeroes(
        &self,
        batch: &mut WriteBatch,
        ranges: &[ZeroRange],
        wait: Wait,
    ) -> Result<Progress> {
        for range in ranges {
            let mut stage = || {
                self.image
                    .stage_zeroes(batch, range.offset, range.len, wait)
            };
            let staged = match wait {
                Wait::Never => self.pace.time(&mut stage),
                // A long range takes its time on a quick disk, too.
                Wait::UntilDone => stage(),
            };
            if staged? == Progress::Pending {
                return Ok(Progress::Pending);
            }
        }
        Ok(Progress::Done)
    }

    /// As [`Image::commit`].
    ///
    /// # Errors
    /// As [`Image::commit`].
    pub fn commit(&self, batch: &mut WriteBatch) -> Result<()> {
        self.pace.time(|| self.image.commit(batch))
    }

    /// As [`Image::flush`]. Blocks.
    ///
    /// # Errors
    /// As [`Image::flush`].
    pub fn flush(&self) -> Result<()> {
        self.image.flush()
    }

    /// Logs a failed or senseless request, at most one a second: a guest must not be able to
    /// fill a log.
    #[cold]
    pub fn report(&self, what: fmt::Arguments<'_>) {
        self.complaints.report(&self.name, what);
    }
}
