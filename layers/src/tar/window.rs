//! The payload of a tar as a file of its own.
//!
//! image -> lsmt -> zfile -> **tar** -> io
//!
//! Invariant: the window lies inside its source; nothing beyond the member is ever read.
//!
//! Source: format reference 3.1.

use std::ops::Range;

use super::header::Member;
use crate::dest::Dest;
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::{Progress, ReadAt, Wait};

/// A part of another file, read from its own offset 0.
#[derive(Debug)]
pub(super) struct Window {
    source: Box<dyn ReadAt>,
    member: Member,
    name: String,
}

impl Window {
    /// `member` was found in `source`, so it lies inside it.
    pub(super) fn new(source: Box<dyn ReadAt>, member: Member) -> Self {
        // Offsets in error messages of the stages above count from the payload.
        let name = format!(
            "{} (tar payload from byte {})",
            source.name(),
            member.offset
        );
        Self {
            source,
            member,
            name,
        }
    }
}

impl ReadAt for Window {
    fn size(&self) -> u64 {
        self.member.bytes
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read_at(&self, offset: u64, dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        if offset
            .checked_add(dest.len() as u64)
            .is_none_or(|end| end > self.member.bytes)
        {
            let detail = format!(
                "{} bytes wanted, the payload has {}",
                dest.len(),
                self.member.bytes
            );
            return Err(
                Error::new(ErrorKind::OutOfRange, "read tar payload", detail)
                    .in_file(&self.name)
                    .at(offset),
            );
        }
        self.source.read_at(self.member.offset + offset, dest, wait)
    }

    fn distrust(&self, offset: u64, len: u64) -> bool {
        self.source.distrust(self.member.offset + offset, len)
    }

    fn stored_range(&self, range: Range<u64>) -> Range<u64> {
        let start = self.member.offset;
        self.source
            .stored_range(start + range.start..start + range.end)
    }
}
