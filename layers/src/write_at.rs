//! The seam below the write path: a file of a writable layer.
//!
//! image -> lsmt upper -> **file**
//!
//! Whoever tests what a lost, torn or refused write does to a layer puts another implementation
//! here.

use std::ops::Range;

use crate::error::Result;
use crate::read_at::ReadAt;

/// A file that many threads read and write at once, and that grows.
///
/// [`ReadAt::size`] is its size now. All calls block until the kernel has the bytes; only
/// [`WriteAt::flush`] waits for the device.
pub trait WriteAt: ReadAt {
    /// Writes all of `data` at `offset`, which may be beyond the end.
    ///
    /// # Errors
    /// `NoSpace`, `Io`. Any part of `data` may have been written then.
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()>;

    /// Cuts or grows the file to `size` bytes; what is new reads as zeros.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    fn set_size(&self, size: u64) -> Result<()>;

    /// Makes `range` read as zeros and gives its space back, if the file system can do that.
    ///
    /// # Errors
    /// `Unsupported` when it cannot; `Io`.
    fn punch_hole(&self, range: Range<u64>) -> Result<()>;

    /// What was written before survives a power cut once this returns: fdatasync.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    fn flush(&self) -> Result<()>;

    /// The first extent with data that ends after `from`; `None` when only a hole follows.
    ///
    /// # Errors
    /// `Io`.
    fn next_data_extent(&self, from: u64) -> Result<Option<Range<u64>>>;
}
