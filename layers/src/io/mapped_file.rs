//! A file mapped into memory, for reads of pages that are surely in the page cache.
//!
//! local file -> **mapped file**
//!
//! Copying from a mapping costs less than half of `preadv2` for the few KiB of a compressed block
//! (`benches/cached_read.rs`), but touching a page that is not in memory would block the thread. So a page is read
//! through the mapping only if the file was read there by a system call in the last seconds:
//! such a page is in the page cache, unless memory is so short that it was thrown out within
//! that time; then one read waits for the disk.
//!
//! Invariants
//! - the mapping covers the file's size at open and is never written.
//! - no Rust reference to mapped memory exists: other processes may write the file.
//! - what was copied counts only when the guard saw no fault up to the end of the copy.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU8, Ordering, fence};

use super::fault_guard::FaultGuard;
use crate::dest::Dest;

/// Granularity of what is remembered; larger pages of some hosts are remembered in parts.
const PAGE_SHIFT: u32 = 12;

/// An epoch is 2^32 ns, about 4.3 s; a page is trusted in the epoch it was seen and the next.
const EPOCH_SHIFT: u32 = 32;

/// A read-only mapping of a whole file.
#[derive(Debug)]
pub(super) struct MappedFile {
    // Dropped before the mapping: once the addresses are free, another mapping may get them.
    guard: FaultGuard,
    mapping: Mapping,
    /// For each page the epoch in which it was last seen in the page cache, 0 = never.
    seen: Box<[AtomicU8]>,
}

/// The mapped addresses.
#[derive(Debug)]
pub(super) struct Mapping {
    pub(super) start: NonNull<u8>,
    pub(super) len: usize,
}

// SAFETY: the mapping belongs to no thread, and is only reached through raw copies and atomics.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps the first `len` bytes of `file`, shared with everybody else who does.
    pub(super) fn new(file: &File, len: usize, protection: libc::c_int) -> Option<Self> {
        let fd = file.as_raw_fd();
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing of ours.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                protection,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        let mapped = start != libc::MAP_FAILED;
        NonNull::new(start.cast::<u8>())
            .filter(|_| mapped)
            .map(|start| Self { start, len })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: unmaps exactly what `new` mapped; no copy can be under way, since that needs a
        // reference to self.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.len) };
    }
}

impl MappedFile {
    /// Maps `size` bytes. `None` when that cannot be done: the file is then read by system calls.
    pub(super) fn new(file: &File, size: u64) -> Option<Self> {
        let len = usize::try_from(size).ok().filter(|len| *len > 0)?;
        let mapping = Mapping::new(file, len, libc::PROT_READ)?;
        let address = mapping.start.as_ptr().addr();
        let guard = FaultGuard::new(address..address + len)?;
        // Zeroed by the kernel on first use: the marks of a large file cost what is read of it.
        let seen = Box::new_zeroed_slice(len.div_ceil(1 << PAGE_SHIFT));
        // SAFETY: all zeros is a valid AtomicU8.
        let seen = unsafe { seen.assume_init() };
        Some(Self {
            guard,
            mapping,
            seen,
        })
    }

    /// Fills `dest` from the mapping if all of it was seen in memory lately; false when it was
    /// not, or when the mapping has become unusable. The range must lie inside the file.
    #[inline]
    pub(super) fn copy_if_seen(&self, offset: u64, dest: &mut Dest<'_>) -> bool {
        let Some(pages) = self.pages(offset, dest.len()) else {
            return false;
        };
        let now = epoch();
        let trusted = |page: &AtomicU8| {
            let seen = page.load(Ordering::Relaxed);
            seen != 0 && (seen == now || following(seen) == now)
        };
        if self.guard.is_poisoned() || !pages.iter().all(trusted) {
            return false;
        }
        let Ok(offset) = usize::try_from(offset) else {
            return false;
        };
        // SAFETY: `pages` is Some, so `offset + len` is inside the mapping.
        let from = unsafe { self.mapping.start.add(offset) };
        // SAFETY: `from` is readable for `dest.len()` bytes: a page that cannot be served is
        // replaced by the guard. The destination is writable and not part of the mapping. Another
        // process writing the file at this moment changes what is copied, nothing more.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), dest.as_mut_ptr(), dest.len()) };
        // The mark must be read after the bytes: a page of zeros is only mapped once it is set.
        fence(Ordering::Acquire);
        !self.guard.is_poisoned()
    }

    /// The file was just read here by a system call: its pages are in memory.
    #[inline]
    pub(super) fn note_seen(&self, offset: u64, len: usize) {
        let now = epoch();
        for page in self.pages(offset, len).unwrap_or_default() {
            page.store(now, Ordering::Relaxed);
        }
    }

    /// The marks of the pages of a range; `None` when it is not inside the mapping.
    #[inline]
    fn pages(&self, offset: u64, len: usize) -> Option<&[AtomicU8]> {
        let offset = usize::try_from(offset).ok()?;
        let end = offset
            .checked_add(len)
            .filter(|end| *end <= self.mapping.len)?;
        self.seen
            .get(offset >> PAGE_SHIFT..end.div_ceil(1 << PAGE_SHIFT))
    }
}

/// The present epoch, 1 to 255 and round again. A mark of 255 epochs ago looks like a new one:
/// the worst that comes of it is one read that waits.
#[inline]
fn epoch() -> u8 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes one timespec; this clock always exists, and reading it is no system call.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC_COARSE, &raw mut now) };
    let nanos = now
        .tv_sec
        .wrapping_mul(1_000_000_000)
        .wrapping_add(now.tv_nsec)
        .cast_unsigned();
    u8::try_from((nanos >> EPOCH_SHIFT) % 255).unwrap_or(0) + 1
}

fn following(epoch: u8) -> u8 {
    if epoch == u8::MAX { 1 } else { epoch + 1 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::FileExt;

    fn mapped(bytes: &[u8]) -> (File, MappedFile) {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        let mapped = MappedFile::new(&file, bytes.len() as u64).unwrap();
        (file, mapped)
    }

    fn copy(mapped: &MappedFile, offset: u64, buf: &mut [u8]) -> bool {
        mapped.copy_if_seen(offset, &mut Dest::from(buf))
    }

    #[test]
    fn only_pages_that_were_seen_are_copied() {
        let (_file, mapped) = mapped(&[7; 3 * 4096]);
        let mut buf = [0; 100];
        assert!(!copy(&mapped, 4000, &mut buf));
        mapped.note_seen(4000, 100);
        assert!(copy(&mapped, 4000, &mut buf));
        assert_eq!(buf, [7; 100]);
        assert!(
            !copy(&mapped, 8150, &mut buf),
            "the third page was not seen"
        );
        assert!(!copy(&mapped, 3 * 4096 - 50, &mut buf), "beyond the end");
    }

    #[test]
    fn a_file_truncated_under_the_mapping_is_noticed_and_survived() {
        let (file, mapped) = mapped(&[7; 3 * 4096]);
        let mut buf = [0; 100];
        mapped.note_seen(0, 3 * 4096);
        assert!(copy(&mapped, 9000, &mut buf));
        file.set_len(4096).unwrap();
        assert!(!copy(&mapped, 9000, &mut buf));
        assert!(
            !copy(&mapped, 0, &mut buf),
            "a mapping that failed once is not used again"
        );
    }

    #[test]
    fn epochs_follow_each_other_round_the_clock() {
        assert_eq!(following(1), 2);
        assert_eq!(following(255), 1);
        assert!(epoch() != 0);
    }
}
