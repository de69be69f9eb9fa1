//! A read-only file on this host: the last stage of a local layer.
//!
//! image -> lsmt -> zfile -> tar -> **local file**
//!
//! Pages that were found in memory lately are copied from a mapping of the file, which is cheaper
//! than a system call ([`mapped_file`](super::mapped_file)); all else is up to
//! [`positioned`](super::positioned).
//!
//! Invariant: `size` is the size at open; a file that shrinks later gives an
//! error, never zeros.

use std::fs::File;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use super::mapped_file::MappedFile;
use super::positioned::PositionedFile;
use crate::dest::Dest;
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::{Progress, ReadAt, Wait};

/// An open regular file or block device.
#[derive(Debug)]
pub struct LocalFile {
    file: PositionedFile,
    size: u64,
    mapped: Option<MappedFile>,
}

impl LocalFile {
    /// Opens `path` for reading.
    ///
    /// # Errors
    /// `NotFound` or `Io` from the operating system; `Config` when `path` is a directory or
    /// another thing that cannot be read at an offset.
    pub fn open(path: &Path) -> Result<Self> {
        let (file, size) = open_with_size(path)?;
        Self::from_file(file, path.display().to_string(), size)
    }

    /// Reads the first `size` bytes of `file`, which messages call `name`. The file may be written at
    /// the same time, but must not get shorter.
    ///
    /// # Errors
    /// `Io`.
    pub fn from_file(file: File, name: String, size: u64) -> Result<Self> {
        let mapped = MappedFile::new(&file, size);
        let file = PositionedFile::new(file, name)?;
        Ok(Self { file, size, mapped })
    }
}

impl ReadAt for LocalFile {
    fn size(&self) -> u64 {
        self.size
    }

    fn name(&self) -> &str {
        self.file.name()
    }

    fn read_at(&self, offset: u64, mut dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        if offset
            .checked_add(dest.len() as u64)
            .is_none_or(|end| end > self.size)
        {
            let detail = format!("{} bytes wanted, the file has {}", dest.len(), self.size);
            return Err(Error::new(ErrorKind::OutOfRange, "read file", detail)
                .in_file(self.name())
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
        let progress = self.file.read_at(offset, dest, wait)?;
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
