//! Reads of a file on this host that say when they would have to wait.
//!
//! image -> lsmt -> zfile -> tar -> local file | upper file -> **positioned file**
//!
//! A read with [`Wait::Never`] uses `RWF_NOWAIT`: it copies from the page cache or says
//! `Pending`, and so never waits for a disk. File systems that cannot do that are told apart at
//! open: memory file systems are always ready, all others are always pending.
//!
//! Source: preadv2(2).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use crate::dest::Dest;
use crate::error::{Error, Result};
use crate::read_at::{Progress, Wait};

/// How a file answers a read that must not block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Nowait {
    /// `RWF_NOWAIT` works.
    Kernel,
    /// tmpfs and ramfs: the bytes are in memory, a plain read does not wait for a device.
    Memory,
    /// No way to know: every such read is pending.
    Unknown,
}

/// An open file and what it can do.
#[derive(Debug)]
pub(super) struct PositionedFile {
    file: File,
    name: String,
    nowait: Nowait,
}

impl PositionedFile {
    /// Asks the kernel what `file`, called `name`, can do.
    pub(super) fn new(file: File, name: String) -> Result<Self> {
        let nowait =
            probe_nowait(&file).map_err(|source| Error::io("read file", source).in_file(&name))?;
        if nowait == Nowait::Unknown {
            log::info!("{name}: its file system cannot say what is in memory: reads take longer");
        }
        Ok(Self { file, name, nowait })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Fills `dest`; the caller has checked that the file is long enough.
    pub(super) fn read_at(&self, offset: u64, dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        match (wait, self.nowait) {
            (Wait::UntilDone, _) | (Wait::Never, Nowait::Memory) => {
                self.read_blocking(offset, dest)
            }
            (Wait::Never, Nowait::Kernel) => self.read_nowait(offset, dest),
            (Wait::Never, Nowait::Unknown) => Ok(Progress::Pending),
        }
    }

    fn read_blocking(&self, mut offset: u64, mut dest: Dest<'_>) -> Result<Progress> {
        while !dest.is_empty() {
            match preadv2(&self.file, offset, &mut dest, 0) {
                Ok(0) => return Err(self.truncated(offset)),
                Ok(read) => {
                    offset += read as u64;
                    drop(dest.take_front(read));
                }
                Err(source) if source.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(self.failed(offset, source)),
            }
        }
        Ok(Progress::Done)
    }

    fn read_nowait(&self, offset: u64, mut dest: Dest<'_>) -> Result<Progress> {
        match preadv2(&self.file, offset, &mut dest, libc::RWF_NOWAIT) {
            Ok(read) if read == dest.len() => Ok(Progress::Done),
            // The rest is not in the page cache, or the file has shrunk: the blocking read tells.
            Ok(_) => Ok(Progress::Pending),
            Err(source) => match source.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR | libc::EOPNOTSUPP) => Ok(Progress::Pending),
                _ => Err(self.failed(offset, source)),
            },
        }
    }

    fn failed(&self, offset: u64, source: io::Error) -> Error {
        Error::io("read file", source)
            .in_file(&self.name)
            .at(offset)
    }

    fn truncated(&self, offset: u64) -> Error {
        Error::corrupt("read file", "the file ends here, it was longer before")
            .in_file(&self.name)
            .at(offset)
    }
}

/// Asks the kernel once whether this file knows `RWF_NOWAIT`.
fn probe_nowait(file: &File) -> io::Result<Nowait> {
    let mut byte = [0_u8; 1];
    match preadv2(file, 0, &mut Dest::from(&mut byte[..]), libc::RWF_NOWAIT) {
        Ok(_) => Ok(Nowait::Kernel),
        Err(source) => match source.raw_os_error() {
            Some(libc::EAGAIN | libc::EINTR) => Ok(Nowait::Kernel),
            Some(libc::EOPNOTSUPP | libc::ENOSYS | libc::EINVAL) => memory_or_unknown(file),
            _ => Err(source),
        },
    }
}

fn memory_or_unknown(file: &File) -> io::Result<Nowait> {
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the descriptor is open and `stat` is a writable statfs.
    let done = unsafe { libc::fstatfs(file.as_raw_fd(), stat.as_mut_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every bit pattern, zero included, is a valid statfs.
    let kind = unsafe { stat.assume_init() }.f_type;
    match kind {
        libc::TMPFS_MAGIC | RAMFS_MAGIC => Ok(Nowait::Memory),
        _ => Ok(Nowait::Unknown),
    }
}

/// linux/magic.h
const RAMFS_MAGIC: libc::__fsword_t = 0x8584_58f6;

/// One preadv2 call into `dest`; may be short.
fn preadv2(file: &File, offset: u64, dest: &mut Dest<'_>, flags: libc::c_int) -> io::Result<usize> {
    let offset =
        libc::off_t::try_from(offset).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
    let iov = libc::iovec {
        iov_base: dest.as_mut_ptr().cast(),
        iov_len: dest.len(),
    };
    // SAFETY: the descriptor is open; `iov` names memory that `dest` guarantees writable for its
    // whole length while this call runs.
    let read = unsafe { libc::preadv2(file.as_raw_fd(), &raw const iov, 1, offset, flags) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}
