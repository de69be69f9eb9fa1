//! One of the two files of a writable layer on this host.
//!
//! image -> lsmt upper -> **upper file**
//!
//! Invariants
//! - who writes a layer holds an exclusive lock on both its files, who reads it a shared one, so
//!   that two processes never write one layer and nobody commits one that changes.
//! - `size` counts every byte that was written through this value.
//!
//! Source: pwrite(2), flock(2), fallocate(2).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use super::extents;
use super::positioned::PositionedFile;
use crate::dest::Dest;
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::{Progress, ReadAt, Wait};
use crate::write_at::WriteAt;

/// What a layer is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Many may read at once.
    Read,
    /// One may write, and nobody else read.
    Write,
}

/// An open file of a writable layer.
#[derive(Debug)]
pub struct UpperFile {
    file: PositionedFile,
    size: AtomicU64,
    block_bytes: u64,
    locked: bool,
}

impl UpperFile {
    /// Opens an existing regular file.
    ///
    /// # Errors
    /// `NotFound`, `Io`; `Config` when it is not a regular file.
    pub fn open(path: &Path, access: Access) -> Result<Self> {
        let name = path.display().to_string();
        let fail = |source| Error::io("open file", source).in_file(&name);
        // O_NONBLOCK: opening a FIFO by mistake must not wait for its reader.
        let file = File::options()
            .read(true)
            .write(access == Access::Write)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)
            .map_err(fail)?;
        let metadata = file.metadata().map_err(fail)?;
        if !metadata.is_file() {
            let detail = "expected a regular file";
            return Err(Error::new(ErrorKind::Config, "open file", detail).in_file(name));
        }
        Ok(Self {
            file: PositionedFile::new(file, name)?,
            size: AtomicU64::new(metadata.len()),
            block_bytes: metadata.blksize(),
            locked: false,
        })
    }

    /// As [`UpperFile::open`], and holds the layer's lock while this value lives.
    ///
    /// # Errors
    /// As [`UpperFile::open`]; `Busy` when somebody else holds the lock.
    pub fn open_locked(path: &Path, access: Access) -> Result<Self> {
        let mut opened = Self::open(path, access)?;
        let locked = match access {
            Access::Read => opened.file.file().try_lock_shared(),
            Access::Write => opened.file.file().try_lock(),
        };
        match locked {
            Ok(()) => {
                opened.locked = true;
                Ok(opened)
            }
            Err(std::fs::TryLockError::WouldBlock) => {
                let detail =
                    "in use: another process writes or reads this layer (lslocks shows which)";
                Err(Error::new(ErrorKind::Busy, "lock layer", detail).in_file(opened.name()))
            }
            Err(std::fs::TryLockError::Error(source)) => {
                Err(Error::io("lock layer", source).in_file(opened.name()))
            }
        }
    }

    /// What the file system allocates at a time, in bytes.
    #[must_use]
    pub fn block_bytes(&self) -> u64 {
        self.block_bytes
    }

    fn failed(&self, op: &'static str, offset: u64, source: io::Error) -> Error {
        Error::io(op, source).in_file(self.name()).at(offset)
    }
}

impl Drop for UpperFile {
    fn drop(&mut self) {
        if self.locked {
            // Closing is not enough: a child process that is just being started may share it.
            drop(self.file.file().unlock());
        }
    }
}

impl ReadAt for UpperFile {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn name(&self) -> &str {
        self.file.name()
    }

    fn read_at(&self, offset: u64, dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        if offset
            .checked_add(dest.len() as u64)
            .is_none_or(|end| end > self.size())
        {
            let detail = format!("{} bytes wanted, the file has {}", dest.len(), self.size());
            return Err(Error::new(ErrorKind::OutOfRange, "read file", detail)
                .in_file(self.name())
                .at(offset));
        }
        if dest.is_empty() {
            return Ok(Progress::Done);
        }
        self.file.read_at(offset, dest, wait)
    }
}

impl WriteAt for UpperFile {
    fn write_at(&self, offset: u64, data: &[u8]) -> Result<()> {
        let written = self.file.file().write_all_at(data, offset);
        // A write that failed may have made the file longer, too.
        let end = match &written {
            Ok(()) => offset + data.len() as u64,
            Err(_) => self.file.file().metadata().map_or(0, |now| now.len()),
        };
        self.size.fetch_max(end, Ordering::AcqRel);
        written.map_err(|source| self.failed("write file", offset, source))
    }

    fn set_size(&self, size: u64) -> Result<()> {
        self.file
            .file()
            .set_len(size)
            .map_err(|source| self.failed("resize file", size, source))?;
        self.size.store(size, Ordering::Release);
        Ok(())
    }

    fn punch_hole(&self, range: Range<u64>) -> Result<()> {
        extents::punch_hole(self.file.file(), &range).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::ENOSYS) => {
                    let detail = "the file system has no holes";
                    Error::new(ErrorKind::Unsupported, "punch hole", detail)
                        .in_file(self.name())
                        .at(range.start)
                }
                _ => self.failed("punch hole", range.start, source),
            }
        })
    }

    fn flush(&self) -> Result<()> {
        self.file
            .file()
            .sync_data()
            .map_err(|source| Error::io("flush file", source).in_file(self.name()))
    }

    fn next_data_extent(&self, from: u64) -> Result<Option<Range<u64>>> {
        extents::next_data_extent(self.file.file(), from, self.size())
            .map_err(|source| self.failed("list extents", from, source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_that_is_written_is_refused_to_everybody_else() {
        let temp = tempfile::NamedTempFile::new().unwrap();
        let writer = UpperFile::open_locked(temp.path(), Access::Write).unwrap();
        for access in [Access::Read, Access::Write] {
            let error = UpperFile::open_locked(temp.path(), access).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Busy);
        }
        drop(writer);
        let _reader = UpperFile::open_locked(temp.path(), Access::Read).unwrap();
        UpperFile::open_locked(temp.path(), Access::Read).unwrap();
        let error = UpperFile::open_locked(temp.path(), Access::Write).unwrap_err();
        assert!(error.to_string().contains("another process"), "{error}");
    }

    #[test]
    fn the_size_follows_writes_and_a_punched_hole_reads_as_zeros() {
        let temp = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let file = UpperFile::open(temp.path(), Access::Write).unwrap();
        file.write_at(8192, &[7; 8192]).unwrap();
        assert_eq!(file.size(), 16384);
        file.punch_hole(8192..12288).unwrap();
        let mut bytes = [1; 16384];
        file.read_exact_at(0, &mut bytes).unwrap();
        assert!(bytes[..12288].iter().all(|byte| *byte == 0));
        assert!(bytes[12288..].iter().all(|byte| *byte == 7));
        assert_eq!(file.next_data_extent(0).unwrap(), Some(12288..16384));
    }
}
