//! The seam between the cache and where blobs come from.
//!
//! cache | download -> **range source** <- registry
//!
//! A source streams a range of one blob, in order, to the caller's sink; it retries and resumes by
//! itself until the deadline, and never gives the sink a byte twice or out of place.

use std::fmt;
use std::ops::Range;
use std::time::Instant;

use crate::error::Result;

/// Who waits for the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Urgency {
    /// A guest's read, or an image that is being opened.
    Guest,
    /// Nobody yet: prefetch, read-ahead, background download. Makes room for guests.
    Background,
}

/// Takes the next bytes of a range. An error ends the fetch and is what the fetch returns.
pub type Sink<'a> = dyn FnMut(&[u8]) -> Result<()> + 'a;

/// One blob at its origin.
pub trait RangeSource: Send + Sync + fmt::Debug {
    /// The blob's digest, or its URL without secrets: what messages call it.
    fn name(&self) -> &str;

    /// Size in bytes; asks the origin the first time, unless it is known. Blocks.
    ///
    /// # Errors
    /// [`Remote`](crate::ErrorKind::Remote).
    fn size(&self, deadline: Instant) -> Result<u64>;

    /// Gives every byte of `range` to `sink`, in pieces of the source's choice. Blocks until the
    /// last one, or until `deadline`.
    ///
    /// # Errors
    /// [`Remote`](crate::ErrorKind::Remote); `OutOfRange` beyond the end of the blob; those of
    /// `sink`.
    fn fetch(
        &self,
        range: Range<u64>,
        urgency: Urgency,
        deadline: Instant,
        sink: &mut Sink<'_>,
    ) -> Result<()>;
}
