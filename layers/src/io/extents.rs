//! Where a file has data and where it has holes, and making holes.
//!
//! Source: lseek(2), `SEEK_DATA` and `SEEK_HOLE`; fallocate(2).

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;

/// The first extent of `file` that ends after `from`, in bytes; `None` when only a hole follows.
/// Files that cannot tell, such as block devices, are one extent. Moves the file's position.
///
/// # Errors
/// Those of lseek(2).
pub fn next_data_extent(file: &File, from: u64, size: u64) -> io::Result<Option<Range<u64>>> {
    if from >= size {
        return Ok(None);
    }
    let start = match seek(file, from, libc::SEEK_DATA) {
        Ok(start) => start,
        Err(error) => match error.raw_os_error() {
            Some(libc::ENXIO) => return Ok(None),
            Some(libc::EINVAL) => return Ok(Some(from..size)),
            _ => return Err(error),
        },
    };
    let end = seek(file, start, libc::SEEK_HOLE)?;
    Ok((start < size).then(|| start..end.min(size)))
}

/// Makes `range` read as zeros and gives its space back; the file's size stays.
///
/// # Errors
/// Those of fallocate(2): `EOPNOTSUPP` where the file system has no holes.
pub fn punch_hole(file: &File, range: &Range<u64>) -> io::Result<()> {
    let overflow = |_| io::Error::from_raw_os_error(libc::EOVERFLOW);
    let start = libc::off_t::try_from(range.start).map_err(overflow)?;
    let len = libc::off_t::try_from(range.end.saturating_sub(range.start)).map_err(overflow)?;
    let mode = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
    // SAFETY: a plain system call on an open descriptor, no memory involved.
    match unsafe { libc::fallocate(file.as_raw_fd(), mode, start, len) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Has the file system set aside space for the first `len` bytes, which are zeros then; grows the file
/// if need be. Does what it can where that is not possible.
///
/// # Errors
/// Those of fallocate(2): a full disk.
pub fn allocate(file: &File, len: u64) -> io::Result<()> {
    let len =
        libc::off_t::try_from(len).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
    // SAFETY: a plain system call on an open descriptor, no memory involved.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, len) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => Ok(()),
        _ => Err(error),
    }
}

fn seek(file: &File, from: u64, whence: libc::c_int) -> io::Result<u64> {
    let from =
        libc::off_t::try_from(from).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
    // SAFETY: a plain system call on an open descriptor, no memory involved.
    let found = unsafe { libc::lseek(file.as_raw_fd(), from, whence) };
    u64::try_from(found).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    #[test]
    fn extents_cover_all_data_of_a_sparse_file() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(b"x", 1 << 20).unwrap();
        file.set_len(4 << 20).unwrap();
        let extent = next_data_extent(&file, 0, 4 << 20).unwrap().unwrap();
        assert!(extent.contains(&(1 << 20)), "{extent:?}");
        assert_eq!(next_data_extent(&file, 4 << 20, 4 << 20).unwrap(), None);
    }
}
