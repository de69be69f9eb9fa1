//! The data of a command, front to back, wherever in the data area its parts lie.
//!
//! execute -> **data** -> ring region

use layers::{Dest, Image, Progress, Result, Wait};

use crate::ring::{DataRange, Region};
use crate::scsi::ByteRange;

/// What is left of a command's data.
#[derive(Debug, Clone)]
pub(crate) struct Data<'a> {
    region: &'a Region,
    parts: &'a [DataRange],
    /// Bytes of the first part that were taken.
    taken: usize,
}

impl<'a> Data<'a> {
    /// All of it.
    #[must_use]
    pub(crate) fn new(region: &'a Region, parts: &'a [DataRange]) -> Self {
        Self {
            region,
            parts,
            taken: 0,
        }
    }

    /// Bytes that are left.
    #[must_use]
    pub(crate) fn len(&self) -> u64 {
        let all: u64 = self.parts.iter().map(|part| part.len as u64).sum();
        all - self.taken as u64
    }

    /// Takes the next part, up to `most` bytes of it; `None` at the end.
    fn next(&mut self, most: usize) -> Option<DataRange> {
        loop {
            let (first, rest) = self.parts.split_first()?;
            let left = first.len - self.taken;
            if left == 0 {
                self.parts = rest;
                self.taken = 0;
                continue;
            }
            let range = DataRange {
                offset: first.offset + self.taken,
                len: left.min(most),
            };
            self.taken += range.len;
            return Some(range);
        }
    }

    /// Copies the next bytes out of the data area; returns how many there were.
    pub(crate) fn copy_out(&mut self, buf: &mut [u8]) -> usize {
        let mut copied = 0;
        while let Some(rest) = buf.get_mut(copied..).filter(|rest| !rest.is_empty()) {
            let Some(range) = self.next(rest.len()) else {
                break;
            };
            let front = rest.get_mut(..range.len).unwrap_or_default();
            if self.region.copy_out(range, front).is_none() {
                break;
            }
            copied += range.len;
        }
        copied
    }

    /// Copies `bytes` into the data area, as far as there is room.
    pub(crate) fn copy_in(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let Some(range) = self.next(bytes.len()) else {
                return;
            };
            let (front, rest) = bytes.split_at(range.len);
            if self.region.copy_in(range, front).is_none() {
                return;
            }
            bytes = rest;
        }
    }

    /// Fills it with the image's bytes at `range`, as far as there is room. `Pending` may leave a part of
    /// it filled.
    ///
    /// # Errors
    /// As [`Image::read_at`].
    pub(crate) fn fill_from(
        mut self,
        image: &Image,
        range: ByteRange,
        wait: Wait,
    ) -> Result<Progress> {
        let mut offset = range.offset;
        let end = range.offset + range.len;
        while offset < end {
            let most = usize::try_from(end - offset).unwrap_or(usize::MAX);
            let part = self.next(most);
            let Some((part, dest)) = part.and_then(|part| Some((part, self.dest(part)?))) else {
                break;
            };
            if image.read_at(offset, dest, wait)? == Progress::Pending {
                return Ok(Progress::Pending);
            }
            offset += part.len as u64;
        }
        Ok(Progress::Done)
    }

    fn dest(&self, range: DataRange) -> Option<Dest<'a>> {
        self.region.dest(range)
    }
}
