//! Where bytes of a read go: a range of memory that somebody else may be writing too.
//!
//! guest request -> ring -> **destination of the read** <- image <- lsmt <- zfile
//!
//! A guest can change its memory while a read fills it, so a destination is never lent out as
//! `&[u8]` or `&mut [u8]`: the engine copies into it, zeroes it, or hands its raw pointer to the
//! kernel and to bounds-checked decoders. Nothing that was written to a destination is read back
//! by our code or put into a cache.
//!
//! Invariants
//! - `ptr .. ptr + len` is valid for writes for the lifetime `'a`.
//! - two `Dest` values made by splitting one never overlap.

use std::marker::PhantomData;
use std::ptr::NonNull;

/// A write-only byte range of length `len`, valid for `'a`.
#[derive(Debug)]
pub struct Dest<'a> {
    ptr: NonNull<u8>,
    len: usize,
    _memory: PhantomData<&'a mut [u8]>,
}

// SAFETY: the range stays valid for `'a` whichever thread writes it. Other writers of shared
// memory may interleave with ours; nothing is ever read back, so they change only the bytes.
unsafe impl Send for Dest<'_> {}

impl<'a> From<&'a mut [u8]> for Dest<'a> {
    fn from(slice: &'a mut [u8]) -> Self {
        Self {
            len: slice.len(),
            ptr: NonNull::from(slice).cast(),
            _memory: PhantomData,
        }
    }
}

impl<'a> Dest<'a> {
    /// A destination over memory that is shared with a guest or another process.
    ///
    /// # Safety
    /// `ptr .. ptr + len` must stay mapped and writable for `'a`, and no Rust reference to any of
    /// it may be used during `'a`. Other processes may write it at any time.
    #[must_use]
    pub unsafe fn from_raw(ptr: NonNull<u8>, len: usize) -> Self {
        Self {
            ptr,
            len,
            _memory: PhantomData,
        }
    }

    /// Length in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there is nothing left to fill.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The same range for a shorter time.
    pub fn reborrow(&mut self) -> Dest<'_> {
        Dest {
            ptr: self.ptr,
            len: self.len,
            _memory: PhantomData,
        }
    }

    /// Splits off and returns the first `len` bytes, or all when fewer are left.
    #[must_use]
    pub fn take_front(&mut self, len: usize) -> Dest<'a> {
        let len = len.min(self.len);
        let front = Dest {
            ptr: self.ptr,
            len,
            _memory: PhantomData,
        };
        // SAFETY: `len <= self.len`, so the result is inside the range or one past its end.
        self.ptr = unsafe { self.ptr.add(len) };
        self.len -= len;
        front
    }

    /// Copies as many bytes as fit and returns how many that were.
    pub fn copy_from(&mut self, bytes: &[u8]) -> usize {
        let len = bytes.len().min(self.len);
        // SAFETY: source and destination are valid for `len` bytes; they cannot overlap, since
        // no Rust reference to the destination may exist.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.ptr.as_ptr(), len) };
        len
    }

    /// Zeroes the whole range.
    pub fn zero(&mut self) {
        // SAFETY: the range is valid for writes of `self.len` bytes.
        unsafe { std::ptr::write_bytes(self.ptr.as_ptr(), 0, self.len) };
    }

    /// The first byte, for the kernel or a decoder that is given [`Dest::len`] as its bound.
    #[must_use]
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.ptr.as_ptr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_disjoint_and_cover_the_whole() {
        let mut bytes = [9_u8; 6];
        let mut rest = Dest::from(&mut bytes[..]);
        let mut front = rest.take_front(2);
        assert_eq!(front.copy_from(&[1, 2, 3]), 2);
        rest.take_front(3).zero();
        assert_eq!(rest.len(), 1);
        assert_eq!(rest.take_front(9).len(), 1);
        assert!(rest.is_empty());
        assert_eq!(bytes, [1, 2, 0, 0, 0, 9]);
    }
}
