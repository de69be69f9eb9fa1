//! The memory that the kernel shares with us for one device: mailbox, command ring, data area.
//!
//! ring, data -> **region** -> /dev/uioN
//!
//! Invariants
//! - every access is inside the mapping.
//! - nothing in it is lent out as a reference: the kernel may write it at any time.
//!
//! Source: include/uapi/linux/target_core_user.h; Documentation/driver-api/uio-howto.rst.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, Ordering};

use layers::Dest;

use crate::error::Error;

/// A part of the mapping.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataRange {
    /// From the start of the mapping.
    pub offset: usize,
    /// In bytes.
    pub len: usize,
}

/// See the module's description.
#[derive(Debug)]
pub struct Region {
    ptr: NonNull<u8>,
    len: usize,
    /// `None`: plain memory.
    device: Option<File>,
}

// SAFETY: the mapping belongs to no thread; what is shared is accessed by copies and atomics.
unsafe impl Send for Region {}
// SAFETY: as above.
unsafe impl Sync for Region {}

impl Region {
    /// Opens and maps /dev/uio`number`; only one process can.
    ///
    /// # Errors
    /// When it cannot be opened or mapped.
    pub fn open(number: u32) -> Result<Self, Error> {
        let path = PathBuf::from(format!("/dev/uio{number}"));
        let size = PathBuf::from(format!("/sys/class/uio/uio{number}/maps/map0/size"));
        let fail = |op: &'static str| {
            let path = path.clone();
            move |error| Error::file(op, &path, error)
        };
        let text = fs::read_to_string(&size).map_err(fail("read the size of"))?;
        let hex = text.trim().trim_start_matches("0x");
        let len = usize::from_str_radix(hex, 16)
            .map_err(|_| fail("read the size of")(io::Error::other("not a number")))?;
        let file = File::options()
            .read(true)
            .write(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(&path)
            .map_err(fail("open"))?;
        // SAFETY: a new mapping of a file, at an address that the kernel chooses.
        let ptr = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                file.as_raw_fd(),
                0,
            )
        };
        if ptr == libc::MAP_FAILED {
            return Err(fail("map")(io::Error::last_os_error()));
        }
        let ptr = NonNull::new(ptr.cast()).ok_or_else(|| fail("map")(io::Error::other("null")))?;
        Ok(Self {
            ptr,
            len,
            device: Some(file),
        })
    }

    /// A region of plain memory, zeroed, for tests: nobody is told of anything.
    #[must_use]
    pub fn of_memory(words: usize) -> Self {
        let memory = vec![0_u64; words].into_boxed_slice();
        let len = size_of_val(&*memory);
        Self {
            ptr: NonNull::from(Box::leak(memory)).cast(),
            len,
            device: None,
        }
    }

    /// Readable when there are commands.
    #[must_use]
    pub fn device(&self) -> Option<BorrowedFd<'_>> {
        self.device.as_ref().map(AsFd::as_fd)
    }

    /// Length of the mapping in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Is there nothing?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn check(&self, range: DataRange) -> Option<NonNull<u8>> {
        let end = range.offset.checked_add(range.len)?;
        if end > self.len {
            return None;
        }
        // SAFETY: inside the mapping, as was just checked.
        Some(unsafe { self.ptr.add(range.offset) })
    }

    /// A place for the image's bytes.
    #[must_use]
    pub fn dest(&self, range: DataRange) -> Option<Dest<'_>> {
        let ptr = self.check(range)?;
        // SAFETY: inside the mapping, which lives as long as `self`; no reference to it is ever made.
        Some(unsafe { Dest::from_raw(ptr, range.len) })
    }

    /// Copies bytes out of it; `buf` is as long as `range`.
    pub fn copy_out(&self, range: DataRange, buf: &mut [u8]) -> Option<()> {
        let ptr = self.check(range)?;
        if buf.len() != range.len {
            return None;
        }
        // SAFETY: both are valid for `range.len` bytes and do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(ptr.as_ptr(), buf.as_mut_ptr(), range.len) };
        Some(())
    }

    /// Copies bytes into it; `bytes` is as long as `range`.
    pub fn copy_in(&self, range: DataRange, bytes: &[u8]) -> Option<()> {
        let ptr = self.check(range)?;
        if bytes.len() != range.len {
            return None;
        }
        // SAFETY: both are valid for `range.len` bytes and do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), ptr.as_ptr(), range.len) };
        Some(())
    }

    fn atomic(&self, offset: usize) -> Option<&AtomicU32> {
        let range = DataRange { offset, len: 4 };
        if !offset.is_multiple_of(4) {
            return None;
        }
        let ptr = self.check(range)?.cast();
        // SAFETY: inside the mapping, which begins on a page, and aligned.
        Some(unsafe { AtomicU32::from_ptr(ptr.as_ptr()) })
    }

    /// A number that the kernel writes; 0 outside of the mapping.
    #[must_use]
    pub fn load(&self, offset: usize) -> u32 {
        self.atomic(offset)
            .map_or(0, |number| number.load(Ordering::Acquire))
    }

    /// A number that the kernel reads.
    pub fn store(&self, offset: usize, number: u32) {
        if let Some(place) = self.atomic(offset) {
            place.store(number, Ordering::Release);
        }
    }

    /// Takes the news that there are commands. Blocks when there is none.
    ///
    /// # Errors
    /// When the kernel's device is gone.
    pub fn acknowledge(&self) -> io::Result<()> {
        match &self.device {
            Some(file) => (&*file).read_exact(&mut [0; 4]),
            None => Ok(()),
        }
    }

    /// Tells the kernel that there are answers.
    ///
    /// # Errors
    /// When the kernel's device is gone.
    pub fn notify(&self) -> io::Result<()> {
        match &self.device {
            Some(file) => (&*file).write_all(&[0; 4]),
            None => Ok(()),
        }
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        if self.device.is_some() {
            // SAFETY: the mapping that `open` made; nobody uses it any more.
            unsafe { libc::munmap(self.ptr.as_ptr().cast(), self.len) };
            return;
        }
        let words = NonNull::slice_from_raw_parts(self.ptr.cast::<u64>(), self.len / 8);
        // SAFETY: the box that `of_memory` leaked; nobody uses it any more.
        drop(unsafe { Box::from_raw(words.as_ptr()) });
    }
}
