//! Locks on byte ranges of a file, between processes.
//!
//! cache -> **range lock**
//!
//! The kernel drops the locks of a process that dies. A lock belongs to the open file description:
//! two `File`s that were opened apart exclude each other, also in one process; clones of one do not.
//!
//! Invariant: ranges that are locked through one open file at the same time are disjoint.
//!
//! Source: fcntl(2), open file description locks.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::sync::Arc;

/// Who else may have a lock on the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockKind {
    /// Others with a shared lock.
    Shared,
    /// Nobody.
    Exclusive,
}

/// A locked range; let go when dropped.
#[derive(Debug)]
pub struct RangeLock {
    file: Arc<File>,
    range: Range<u64>,
}

impl RangeLock {
    /// Locks `range` of `file` now; `None` when somebody else holds a part of it. Does not block. The
    /// range may lie beyond the end of the file. An exclusive lock needs a file that is open for writing.
    ///
    /// # Errors
    /// Those of fcntl(2), such as a file system without locks.
    pub fn try_new(
        file: &Arc<File>,
        range: Range<u64>,
        kind: LockKind,
    ) -> io::Result<Option<Self>> {
        let mut lock = describe(&range, kind_number(kind))?;
        // SAFETY: the descriptor is open and `lock` is a valid flock.
        let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) };
        if done == 0 {
            let file = Arc::clone(file);
            return Ok(Some(Self { file, range }));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            Some(libc::EAGAIN | libc::EACCES | libc::EINTR) => Ok(None),
            _ => Err(error),
        }
    }
}

impl Drop for RangeLock {
    fn drop(&mut self) {
        if let Ok(mut lock) = describe(&self.range, libc::F_UNLCK) {
            // SAFETY: as in `try_new`. Unlocking what is locked cannot fail.
            unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_OFD_SETLK, &raw mut lock) };
        }
    }
}

/// Does anybody hold a lock on a part of `range` through another open file?
///
/// # Errors
/// Those of fcntl(2).
pub fn is_locked(file: &File, range: Range<u64>) -> io::Result<bool> {
    let mut lock = describe(&range, libc::F_WRLCK)?;
    // SAFETY: the descriptor is open and `lock` is a writable flock.
    let done = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_OFD_GETLK, &raw mut lock) };
    match done {
        0 => Ok(libc::c_int::from(lock.l_type) != libc::F_UNLCK),
        _ => Err(io::Error::last_os_error()),
    }
}

fn kind_number(kind: LockKind) -> libc::c_int {
    match kind {
        LockKind::Shared => libc::F_RDLCK,
        LockKind::Exclusive => libc::F_WRLCK,
    }
}

fn describe(range: &Range<u64>, kind: libc::c_int) -> io::Result<libc::flock> {
    let invalid = |_| io::Error::from_raw_os_error(libc::EINVAL);
    // SAFETY: flock is a plain C struct, for which all zeros is a valid value.
    let mut lock: libc::flock = unsafe { std::mem::zeroed() };
    lock.l_type = libc::c_short::try_from(kind).map_err(invalid)?;
    lock.l_whence = libc::c_short::try_from(libc::SEEK_SET).map_err(invalid)?;
    lock.l_start = libc::off_t::try_from(range.start).map_err(invalid)?;
    // A length of 0 would mean everything.
    let len = range.end.saturating_sub(range.start).max(1);
    lock.l_len = libc::off_t::try_from(len).map_err(invalid)?;
    Ok(lock)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened_twice() -> (tempfile::NamedTempFile, [Arc<File>; 2]) {
        let temp = tempfile::NamedTempFile::new().unwrap();
        let open = || {
            Arc::new(
                File::options()
                    .read(true)
                    .write(true)
                    .open(temp.path())
                    .unwrap(),
            )
        };
        let files = [open(), open()];
        (temp, files)
    }

    #[test]
    fn overlapping_ranges_exclude_each_other_until_one_is_let_go() {
        let (_temp, [one, other]) = opened_twice();
        let exclusive = LockKind::Exclusive;
        let lock = RangeLock::try_new(&one, 10..20, exclusive)
            .unwrap()
            .unwrap();
        assert!(
            RangeLock::try_new(&other, 19..30, exclusive)
                .unwrap()
                .is_none()
        );
        assert!(
            RangeLock::try_new(&other, 20..30, exclusive)
                .unwrap()
                .is_some()
        );
        assert!(is_locked(&other, 0..11).unwrap());
        assert!(!is_locked(&one, 0..11).unwrap(), "one's own");
        drop(lock);
        assert!(
            RangeLock::try_new(&other, 19..30, exclusive)
                .unwrap()
                .is_some()
        );
    }

    #[test]
    fn shared_locks_stand_side_by_side() {
        let (_temp, [one, other]) = opened_twice();
        let shared = LockKind::Shared;
        let _one = RangeLock::try_new(&one, 0..1, shared).unwrap().unwrap();
        let _other = RangeLock::try_new(&other, 0..1, shared).unwrap().unwrap();
        let third = RangeLock::try_new(&other, 0..1, LockKind::Exclusive).unwrap();
        assert!(third.is_none());
    }
}
