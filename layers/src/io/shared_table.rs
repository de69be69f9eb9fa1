//! A table of numbers in a file that several processes read and write at once.
//!
//! cache -> **shared table**
//!
//! Invariants
//! - the mapped bytes are reached as atomics only, each always with the same width.
//! - a page that cannot be served (somebody cut the file, its disk fails) becomes zeros and poisons the
//!   table: from then on its numbers mean nothing. Look at [`SharedTable::is_poisoned`] after them.
//!
//! Source: mmap(2).

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

use super::fault_guard::FaultGuard;
use super::mapped_file::Mapping;

#[cfg(not(target_endian = "little"))]
compile_error!("shared tables are little endian");

/// A file mapped for reading and writing.
#[derive(Debug)]
pub struct SharedTable {
    // Dropped before the mapping: once the addresses are free, another mapping may get them.
    guard: FaultGuard,
    mapping: Mapping,
}

impl SharedTable {
    /// Maps the first `len` bytes of `file`. What is written to a hole may fail for want of space, which
    /// poisons the table: have the space allocated before.
    ///
    /// # Errors
    /// `InvalidInput` for no bytes; `OutOfMemory` when there is no room for a mapping or its guard.
    pub fn new(file: &File, len: u64) -> io::Result<Self> {
        let len = usize::try_from(len)
            .ok()
            .filter(|len| *len > 0)
            .ok_or(io::ErrorKind::InvalidInput)?;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let mapping = Mapping::new(file, len, protection).ok_or(io::ErrorKind::OutOfMemory)?;
        let address = mapping.start.as_ptr().addr();
        let guard = FaultGuard::new(address..address + len).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { guard, mapping })
    }

    /// The number of 8 bytes at byte `offset`; `None` outside the table or when not aligned.
    #[inline]
    #[must_use]
    pub fn u64_at(&self, offset: usize) -> Option<&AtomicU64> {
        if !offset.is_multiple_of(8) || offset.checked_add(8)? > self.mapping.len {
            return None;
        }
        // SAFETY: the place is inside the mapping.
        let place = unsafe { self.mapping.start.add(offset) };
        // SAFETY: aligned, since mappings begin at a page; valid while self is; reached by atomics only.
        Some(unsafe { AtomicU64::from_ptr(place.as_ptr().cast()) })
    }

    /// The number of 4 bytes at byte `offset`; `None` outside the table or when not aligned.
    #[inline]
    #[must_use]
    pub fn u32_at(&self, offset: usize) -> Option<&AtomicU32> {
        if !offset.is_multiple_of(4) || offset.checked_add(4)? > self.mapping.len {
            return None;
        }
        // SAFETY: the place is inside the mapping.
        let place = unsafe { self.mapping.start.add(offset) };
        // SAFETY: aligned, since mappings begin at a page; valid while self is; reached by atomics only.
        Some(unsafe { AtomicU32::from_ptr(place.as_ptr().cast()) })
    }

    /// True once any page of the table could not be served: numbers read before this call may be zeros
    /// that nobody wrote.
    #[inline]
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        fence(Ordering::Acquire);
        self.guard.is_poisoned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_of_a_file_show_the_same_numbers() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let one = SharedTable::new(&file, 4096).unwrap();
        let other = SharedTable::new(&file, 4096).unwrap();
        one.u64_at(8).unwrap().store(7, Ordering::Release);
        assert_eq!(other.u32_at(8).unwrap().load(Ordering::Acquire), 7);
        assert!(one.u64_at(4).is_none() && one.u64_at(4096).is_none());
        assert!(one.u32_at(4092).is_some() && one.u32_at(usize::MAX - 3).is_none());
    }

    #[test]
    fn a_file_cut_under_the_table_poisons_it_for_reads_and_writes() {
        for writes in [false, true] {
            let file = tempfile::tempfile().unwrap();
            file.set_len(8192).unwrap();
            let table = SharedTable::new(&file, 8192).unwrap();
            let number = table.u64_at(4096).unwrap();
            number.store(7, Ordering::Relaxed);
            assert!(!table.is_poisoned());
            file.set_len(0).unwrap();
            if writes {
                number.store(8, Ordering::Relaxed);
            } else {
                assert_eq!(number.load(Ordering::Relaxed), 0);
            }
            assert!(table.is_poisoned());
        }
    }
}
