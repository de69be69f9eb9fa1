//! Has the driver of a disk switched write caching off?
//!
//! cache mode -> **cache switch** -> a file beside the socket
//!
//! A driver says it once, and nobody repeats it: a VMM that reconnects, to this process or to the
//! next one, negotiates features anew and shows its guest the switch from memory. To forget it is
//! to lie to a guest that relies on every single write. So it is kept with the disk, and in a file
//! that is there while the cache is off, until a driver switches the cache on again. A new guest
//! behind the same socket reads that the cache is off: that is only slow, and it may change it.
//!
//! The file is as lasting as it has to be: it outlives the process, and the guest does not outlive
//! the host.

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

/// The switch of one disk.
#[derive(Debug, Default)]
pub struct CacheSwitch {
    is_off: AtomicBool,
    file: Option<PathBuf>,
}

impl CacheSwitch {
    /// The switch of the disk that is served at `socket`, as it was left. Only one process may have
    /// it at a time: whoever listens at `socket`.
    #[must_use]
    pub fn beside(socket: &Path) -> Self {
        let mut file = OsString::from(socket);
        file.push(".writethrough");
        let file = PathBuf::from(file);
        let is_off = match fs::symlink_metadata(&file) {
            Ok(_) => true,
            // When in doubt it is off.
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        Self {
            is_off: AtomicBool::new(is_off),
            file: Some(file),
        }
    }

    /// Is the cache off?
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.is_off.load(Ordering::Acquire)
    }

    /// The file that is there while the cache is off; `None` when nothing outlives the process.
    #[must_use]
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// Switches the cache off or on.
    ///
    /// # Errors
    /// From the operating system; the message names the file. It is switched all the same, but the
    /// next process will not know.
    pub fn set_off(&self, off: bool) -> io::Result<()> {
        let was_off = self.is_off.swap(off, Ordering::AcqRel);
        let Some(file) = self.file().filter(|_| was_off != off) else {
            return Ok(());
        };
        let (done, expected) = if off {
            let created = OpenOptions::new().write(true).create_new(true).open(file);
            (created.map(drop), io::ErrorKind::AlreadyExists)
        } else {
            (fs::remove_file(file), io::ErrorKind::NotFound)
        };
        match done {
            Err(error) if error.kind() != expected => {
                let what = if off { "create" } else { "remove" };
                let message = format!("{what} {}: {error}", file.display());
                Err(io::Error::new(error.kind(), message))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_that_was_switched_off_stays_off_until_it_is_switched_on() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("disk.sock");
        assert!(!CacheSwitch::beside(&socket).is_off());
        for off in [true, true, false, false, true] {
            let switch = CacheSwitch::beside(&socket);
            switch.set_off(off).unwrap();
            assert_eq!(switch.is_off(), off);
            assert_eq!(CacheSwitch::beside(&socket).is_off(), off);
        }
        let other = dir.path().join("other.sock");
        assert!(!CacheSwitch::beside(&other).is_off());
    }

    #[test]
    fn a_file_that_cannot_be_made_is_an_error_that_names_it_and_the_cache_is_off() {
        let dir = tempfile::tempdir().unwrap();
        let switch = CacheSwitch::beside(&dir.path().join("gone/disk.sock"));
        assert!(!switch.is_off());
        let error = switch.set_off(true).unwrap_err().to_string();
        assert!(error.contains("disk.sock.writethrough"), "{error}");
        assert!(switch.is_off());
    }
}
