//! A read-only file on this host: the last stage of a local layer.
//!
//! image -> lsmt -> zfile -> tar -> **local file**
//!
//! A read with [`Wait::Never`] uses `RWF_NOWAIT`: it copies from the page cache or says
//! `Pending`, and so never waits for a disk. Pages that were found there lately are copied from a
//! mapping of the file, which is cheaper ([`mapped_file`](super::mapped_file)). File systems that cannot do that are told apart at
//! open: memory file systems are always ready, all others are always pending.
//!
//! Source: preadv2(2). Invariant: `size` is the size at open; a file that shrinks later gives an
//! error, never zeros.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::mapped_file::MappedFile;
use crate::dest::Dest;
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::{Progress, ReadAt, Wait};

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

/// An open regular file or block device.
#[derive(Debug)]
pub struct LocalFile {
    file: File,
    name: String,
    size: u64,
    nowait: Nowait,
    mapped: Option<MappedFile>,
}

impl LocalFile {
    /// Opens `path` for reading.
    ///
    /// # Errors
    /// `NotFound` or `Io` from the operating system; `Config` when `path` is a directory or
    /// another thing that cannot be read at an offset.
    pub fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let (file, size) = open_with_size(path)?;
        let nowait =
            probe_nowait(&file).map_err(|source| Error::io("read file", source).in_file(&name))?;
        if nowait == Nowait::Unknown {
            log::info!("{name}: its file system cannot say what is in memory: reads take longer");
        }
        let mapped = MappedFile::new(&file, size);
        Ok(Self {
            file,
            name,
            size,
            nowait,
            mapped,
        })
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
        let detail = format!(
            "the file ends here, it had {} bytes when it was opened",
            self.size
        );
        Error::corrupt("read file", detail)
            .in_file(&self.name)
            .at(offset)
    }
}

impl ReadAt for LocalFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read_at(&self, offset: u64, mut dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        if offset
            .checked_add(dest.len() as u64)
            .is_none_or(|end| end > self.size)
        {
            let detail = format!("{} bytes wanted, the file has {}", dest.len(), self.size);
            return Err(Error::new(ErrorKind::OutOfRange, "read file", detail)
                .in_file(&self.name)
                .at(offset));
        }
        if dest.is_empty() {
            return Ok(Progress::Done);
        }
        let mapped = self.mapped.as_ref();
        if wait == Wait::Never
            && mapped.is_some_and(|mapped| mapped.copy_if_seen(offset, &mut dest))
        {
            return Ok(Progress::Done);
        }
        let len = dest.len();
        let progress = match (wait, self.nowait) {
            (Wait::UntilDone, _) | (Wait::Never, Nowait::Memory) => {
                self.read_blocking(offset, dest)
            }
            (Wait::Never, Nowait::Kernel) => self.read_nowait(offset, dest),
            (Wait::Never, Nowait::Unknown) => Ok(Progress::Pending),
        }?;
        if let (Progress::Done, Some(mapped)) = (progress, mapped) {
            mapped.note_seen(offset, len);
        }
        Ok(progress)
    }
}

/// Opens a regular file or block device for reading and tells its size in bytes.
///
/// # Errors
/// As [`LocalFile::open`].
pub fn open_with_size(path: &Path) -> Result<(File, u64)> {
    let name = path.display().to_string();
    let fail = |source| Error::io("open file", source).in_file(&name);
    // O_NONBLOCK: opening a FIFO by mistake must not wait for its writer.
    let mut options = File::options();
    let file = options
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(fail)?;
    let metadata = file.metadata().map_err(fail)?;
    if metadata.is_file() {
        return Ok((file, metadata.len()));
    }
    if is_block_device(&metadata) {
        let size = io::Seek::seek(&mut &file, io::SeekFrom::End(0)).map_err(fail)?;
        return Ok((file, size));
    }
    let what = if metadata.is_dir() {
        "a directory"
    } else {
        "something else"
    };
    let detail = format!("expected a regular file or block device, found {what}");
    Err(Error::new(ErrorKind::Config, "open file", detail).in_file(name))
}

fn is_block_device(metadata: &std::fs::Metadata) -> bool {
    std::os::unix::fs::FileTypeExt::is_block_device(&metadata.file_type())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn file_of(bytes: &[u8]) -> (tempfile::NamedTempFile, LocalFile) {
        // Next to the build: a temporary directory may be on a file system without RWF_NOWAIT.
        let temp = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        std::fs::write(temp.path(), bytes).unwrap();
        let file = LocalFile::open(temp.path()).unwrap();
        (temp, file)
    }

    #[test]
    fn a_cached_file_is_read_without_waiting() {
        let (_temp, file) = file_of(b"0123456789");
        let mut buf = [0_u8; 4];
        let progress = file
            .read_at(3, Dest::from(&mut buf[..]), Wait::Never)
            .unwrap();
        assert_eq!(progress, Progress::Done);
        assert_eq!(&buf, b"3456");
        file.read_exact_at(6, &mut buf).unwrap();
        assert_eq!(&buf, b"6789");
    }

    #[test]
    fn a_read_past_the_end_is_out_of_range() {
        let (_temp, file) = file_of(b"0123456789");
        let error = file.read_exact_at(8, &mut [0; 4]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
        let error = file.read_exact_at(u64::MAX, &mut [0; 4]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
    }

    #[test]
    fn a_file_that_shrinks_after_open_gives_an_error_not_zeros() {
        let (temp, file) = file_of(&[7; 8192]);
        temp.as_file().set_len(100).unwrap();
        let error = file.read_exact_at(4096, &mut [0; 4]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    #[test]
    fn a_file_that_shrinks_after_it_was_read_gives_an_error_not_zeros_or_a_signal() {
        let (temp, file) = file_of(&[7; 8192]);
        let mut buf = [0; 4];
        file.read_exact_at(4096, &mut buf).unwrap();
        assert_eq!(
            file.read_at(4096, Dest::from(&mut buf[..]), Wait::Never)
                .unwrap(),
            Progress::Done
        );
        temp.as_file().set_len(100).unwrap();
        let progress = file.read_at(4096, Dest::from(&mut buf[..]), Wait::Never);
        assert!(
            matches!(progress, Ok(Progress::Pending) | Err(_)),
            "{progress:?}"
        );
        assert_eq!(
            file.read_exact_at(4096, &mut buf).unwrap_err().kind(),
            ErrorKind::Corrupt
        );
    }

    #[test]
    fn a_directory_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let error = LocalFile::open(dir.path()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("found a directory"), "{error}");
    }

    #[test]
    fn a_missing_file_is_not_found() {
        let error = LocalFile::open(Path::new("/nonexistent/layer")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
    }
}
