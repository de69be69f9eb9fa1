//! How much room a file system has.
//!
//! Source: statvfs(3).

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Bytes that an unprivileged process may still write to the file system of `file`.
///
/// # Errors
/// Those of statvfs(3).
pub fn free_bytes(file: &File) -> io::Result<u64> {
    let mut stat = std::mem::MaybeUninit::<libc::statvfs>::zeroed();
    // SAFETY: the descriptor is open and `stat` is a writable statvfs.
    let done = unsafe { libc::fstatvfs(file.as_raw_fd(), stat.as_mut_ptr()) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: every bit pattern, zero included, is a valid statvfs.
    let stat = unsafe { stat.assume_init() };
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_has_free_space_like_its_files() {
        let directory = File::open(std::env::temp_dir()).unwrap();
        assert!(free_bytes(&directory).unwrap() > 0);
    }
}
