//! A file without a name, and giving it one.
//!
//! output file -> **unnamed file**
//!
//! Whatever becomes of the process that writes it, a file that was never named is gone with it.
//!
//! Source: open(2), `O_TMPFILE`; linkat(2).

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Makes a file in `directory` with the permissions `mode`, less the umask. `None` where the file
/// system has no such files, or nothing could name them later.
///
/// # Errors
/// Those of open(2).
pub(super) fn create(directory: &Path, mode: u32) -> io::Result<Option<File>> {
    let opened = File::options()
        .read(true)
        .write(true)
        .mode(mode)
        .custom_flags(libc::O_TMPFILE)
        .open(directory);
    match opened {
        Ok(file) => Ok(path_of(&file).exists().then_some(file)),
        Err(error) => match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL) => Ok(None),
            _ => Err(error),
        },
    }
}

/// Names the file `path`, where nothing may be yet.
///
/// # Errors
/// Those of linkat(2): `AlreadyExists`.
pub(super) fn link(file: &File, path: &Path) -> io::Result<()> {
    let from = CString::new(path_of(file).as_os_str().as_bytes())?;
    let to = CString::new(path.as_os_str().as_bytes())?;
    let (here, follow) = (libc::AT_FDCWD, libc::AT_SYMLINK_FOLLOW);
    // SAFETY: both strings end with a NUL and live through the call.
    match unsafe { libc::linkat(here, from.as_ptr(), here, to.as_ptr(), follow) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A link to the open file.
fn path_of(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}
