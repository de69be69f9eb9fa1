//! The seam between the stages of the read path.
//!
//! image -> lsmt -> zfile -> tar -> (cache -> registry | local file): each stage owns the next
//! one and reads it through [`ReadAt`].
//!
//! A read comes in two flavours, so that a ring thread is never blocked by a disk or a network:
//! with [`Wait::Never`] it either finishes now or says [`Progress::Pending`]; with
//! [`Wait::UntilDone`] it blocks and never says `Pending`.

use std::fmt;
use std::ops::Range;

use crate::dest::Dest;
use crate::error::{Error, ErrorKind, Result};

/// May the read block the calling thread?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Finish only if every byte is on this host and in memory.
    Never,
    /// Block until the bytes are here or the read has failed.
    UntilDone,
}

/// How far a read got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Progress {
    /// Every byte of the destination is right.
    Done,
    /// Only with [`Wait::Never`]: the bytes are not in memory. The destination may hold part of
    /// them; repeat the whole read with [`Wait::UntilDone`] on a thread that may block.
    Pending,
}

impl Progress {
    /// The end of something that was done with [`Wait::UntilDone`].
    ///
    /// # Errors
    /// `Io` for [`Progress::Pending`], which only a broken source says then.
    pub fn expect_done(self, op: &'static str) -> Result<()> {
        match self {
            Self::Done => Ok(()),
            Self::Pending => Err(Error::new(
                ErrorKind::Io,
                op,
                "pending after waiting until done",
            )),
        }
    }
}

/// A file-like source of immutable bytes that many threads read at once.
pub trait ReadAt: Send + Sync + fmt::Debug {
    /// Size in bytes.
    fn size(&self) -> u64;

    /// The file path or blob digest that error messages name.
    fn name(&self) -> &str;

    /// Fills `dest` completely with the bytes at `offset`.
    ///
    /// # Errors
    /// [`OutOfRange`](crate::ErrorKind::OutOfRange) when the range ends beyond [`ReadAt::size`];
    /// [`Corrupt`](crate::ErrorKind::Corrupt) and [`Io`](crate::ErrorKind::Io) from below.
    fn read_at(&self, offset: u64, dest: Dest<'_>, wait: Wait) -> Result<Progress>;

    /// What was read here turned out to be wrong (a checksum above failed): drops the copies of it
    /// that can be fetched again. True when a repeated read may give other bytes. May block.
    fn distrust(&self, _offset: u64, _len: u64) -> bool {
        false
    }

    /// Does it check what it reads against checksums inside the file?
    fn is_checked(&self) -> bool {
        false
    }

    /// Where in the blob at the bottom of the read path the bytes of `range` are stored.
    fn stored_range(&self, range: Range<u64>) -> Range<u64> {
        range
    }

    /// Fills a slice, blocking. For opening files and for tools.
    ///
    /// # Errors
    /// As [`ReadAt::read_at`].
    fn read_exact_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let progress = self.read_at(offset, Dest::from(buf), Wait::UntilDone)?;
        progress
            .expect_done("read file")
            .map_err(|error| error.in_file(self.name()).at(offset))
    }
}
