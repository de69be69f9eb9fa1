//! Copies bytes between private memory and the scattered memory of one request.
//!
//! ring -> descriptor chain -> **segment cursor** <-> answer
//!
//! Invariant: a byte of the guest is copied once, and only the copy is looked at.

use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};

use crate::guest_memory::{GuestMemory, Segment};
use crate::status::Status;

/// A position in a list of segments, which moves from front to back.
#[derive(Debug)]
pub struct SegmentCursor<'s> {
    segments: &'s [Segment],
    /// Bytes of the first segment that the cursor has passed.
    passed: usize,
}

impl<'s> SegmentCursor<'s> {
    /// At the first byte of `segments`.
    #[must_use]
    pub fn new(segments: &'s [Segment]) -> Self {
        Self {
            segments,
            passed: 0,
        }
    }

    /// Passes the next run of up to `len_max` bytes: where it is, and how long. `None` at the end.
    fn advance(&mut self, len_max: usize) -> Option<(GuestAddress, usize)> {
        let (segment, rest) = self.segments.split_first()?;
        let segment_len = usize::try_from(segment.len).unwrap_or(usize::MAX);
        let address = segment.address.unchecked_add(self.passed as u64);
        let len = segment_len.saturating_sub(self.passed).min(len_max);
        self.passed += len;
        if self.passed == segment_len {
            self.segments = rest;
            self.passed = 0;
        }
        Some((address, len))
    }

    /// Copies `bytes` to the segments.
    ///
    /// # Errors
    /// [`Status::IoError`] when the segments are shorter or lie outside guest memory; some bytes
    /// may have been copied then.
    pub fn write(&mut self, memory: &GuestMemory, mut bytes: &[u8]) -> Result<(), Status> {
        while !bytes.is_empty() {
            let (address, len) = self.advance(bytes.len()).ok_or(Status::IoError)?;
            let (now, later) = bytes.split_at_checked(len).ok_or(Status::IoError)?;
            memory
                .write_slice(now, address)
                .map_err(|_| Status::IoError)?;
            bytes = later;
        }
        Ok(())
    }

    /// Fills `bytes` from the segments.
    ///
    /// # Errors
    /// As [`SegmentCursor::write`].
    pub fn read(&mut self, memory: &GuestMemory, mut bytes: &mut [u8]) -> Result<(), Status> {
        while !bytes.is_empty() {
            let (address, len) = self.advance(bytes.len()).ok_or(Status::IoError)?;
            let (now, later) = bytes.split_at_mut_checked(len).ok_or(Status::IoError)?;
            memory
                .read_slice(now, address)
                .map_err(|_| Status::IoError)?;
            bytes = later;
        }
        Ok(())
    }
}

/// Does every segment lie in guest memory?
#[must_use]
pub fn is_mapped(memory: &GuestMemory, segments: &[Segment]) -> bool {
    segments.iter().all(|segment| {
        usize::try_from(segment.len)
            .is_ok_and(|len| GuestMemoryBackend::check_range(memory, segment.address, len))
    })
}
