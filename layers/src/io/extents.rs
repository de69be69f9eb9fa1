//! Where a file has data and where it has holes.
//!
//! Source: lseek(2), `SEEK_DATA` and `SEEK_HOLE`.

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
