//! Walks one descriptor chain into two lists of memory segments.
//!
//! ring -> **descriptor chain** -> request -> image
//!
//! Source: VirtIO 1.2 sections 2.7.4 (message framing), 2.7.5 (descriptor table), 2.7.5.3
//! (indirect descriptors).
//! Invariants
//! - each descriptor is copied once, then only the copy is used.
//! - at most `ring size` direct and [`INDIRECT_ENTRIES_MAX`] indirect descriptors are visited, so
//!   a loop ends.
//! - readable segments come before writable ones; neighbours in guest memory are merged.
//! - the lists are reused from chain to chain: no allocation once they have grown.

use std::fmt;

use virtio_queue::desc::split::Descriptor;
use vm_memory::{Address, GuestAddress, GuestMemoryBackend, VolatileMemory, VolatileSlice};

use crate::guest_memory::{GuestMemory, Segment};
use crate::ring::{DESCRIPTOR_BYTES, Ring};
use crate::segment_cursor::SegmentCursor;

/// Longest indirect table that is walked. A driver may make chains of `seg_max + 2` descriptors
/// in a table whatever the size of its ring.
pub const INDIRECT_ENTRIES_MAX: usize = 1024;

/// What is wrong with a chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainFault {
    /// More descriptors than the table has: it must contain a loop.
    TooLong,
    /// `next` points beyond the table.
    NextOutOfRange(u16),
    /// An indirect table inside an indirect table.
    NestedIndirect,
    /// A descriptor with both `INDIRECT` and `NEXT`.
    IndirectWithNext,
    /// An indirect table of no or broken or too many descriptors, in bytes.
    IndirectLength(u32),
    /// An indirect table outside guest memory.
    IndirectUnmapped,
    /// A segment that wraps around the end of the address space.
    AddressOverflow,
    /// A device-readable descriptor behind a device-writable one.
    ReadableAfterWritable,
}

impl fmt::Display for ChainFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => f.write_str("descriptor chain is longer than its table"),
            Self::NextOutOfRange(next) => {
                write!(f, "descriptor names {next} as next, beyond its table")
            }
            Self::NestedIndirect => f.write_str("indirect table inside an indirect table"),
            Self::IndirectWithNext => f.write_str("indirect descriptor has a next one"),
            Self::IndirectLength(len) => write!(
                f,
                "indirect table has {len} bytes, expected 1 to {INDIRECT_ENTRIES_MAX} descriptors \
                 of {DESCRIPTOR_BYTES}"
            ),
            Self::IndirectUnmapped => f.write_str("indirect table lies outside guest memory"),
            Self::AddressOverflow => f.write_str("descriptor wraps around the address space"),
            Self::ReadableAfterWritable => {
                f.write_str("device-readable descriptor behind a device-writable one")
            }
        }
    }
}

/// The segments of one chain, in order.
#[derive(Debug, Default)]
pub struct Chain {
    readable: Vec<Segment>,
    writable: Vec<Segment>,
}

impl Chain {
    /// Replaces the content by the chain that starts at descriptor `head` of `ring`.
    ///
    /// # Errors
    /// A [`ChainFault`]; the lists then hold what came before the fault.
    pub fn walk(
        &mut self,
        ring: &Ring<'_>,
        memory: &GuestMemory,
        head: u16,
    ) -> Result<(), ChainFault> {
        self.readable.clear();
        self.writable.clear();
        let Some(indirect) = self.walk_table(ring.descriptors(), head)? else {
            return Ok(());
        };
        let entries = indirect.len() as usize / DESCRIPTOR_BYTES;
        if entries == 0
            || entries > INDIRECT_ENTRIES_MAX
            || !(indirect.len() as usize).is_multiple_of(DESCRIPTOR_BYTES)
        {
            return Err(ChainFault::IndirectLength(indirect.len()));
        }
        let table = memory
            .get_slice(indirect.addr(), indirect.len() as usize)
            .map_err(|_| ChainFault::IndirectUnmapped)?;
        match self.walk_table(&table, 0)? {
            Some(_) => Err(ChainFault::NestedIndirect),
            None => Ok(()),
        }
    }

    /// Walks to the end of the chain, or to a descriptor that refers to an indirect table and so
    /// must be the last one.
    fn walk_table(
        &mut self,
        table: &VolatileSlice<'_>,
        head: u16,
    ) -> Result<Option<Descriptor>, ChainFault> {
        let entries = table.len() / DESCRIPTOR_BYTES;
        let mut index = head;
        for _ in 0..entries {
            let descriptor: Descriptor = table
                .get_ref(usize::from(index) * DESCRIPTOR_BYTES)
                .map_err(|_| ChainFault::NextOutOfRange(index))?
                .load();
            if descriptor.refers_to_indirect_table() {
                if descriptor.has_next() {
                    return Err(ChainFault::IndirectWithNext);
                }
                return Ok(Some(descriptor));
            }
            self.push(&descriptor)?;
            if !descriptor.has_next() {
                return Ok(None);
            }
            index = descriptor.next();
        }
        Err(ChainFault::TooLong)
    }

    fn push(&mut self, descriptor: &Descriptor) -> Result<(), ChainFault> {
        let list = if descriptor.is_write_only() {
            &mut self.writable
        } else if self.writable.is_empty() {
            &mut self.readable
        } else {
            return Err(ChainFault::ReadableAfterWritable);
        };
        let len = u64::from(descriptor.len());
        if len == 0 {
            return Ok(());
        }
        let address = descriptor.addr();
        address
            .checked_add(len)
            .ok_or(ChainFault::AddressOverflow)?;
        match list.last_mut() {
            Some(last) if last.address.checked_add(last.len) == Some(address) => last.len += len,
            _ => list.push(Segment { address, len }),
        }
        Ok(())
    }

    /// Device-writable segments; without the status byte once it was taken.
    #[must_use]
    pub fn writable(&self) -> &[Segment] {
        &self.writable
    }

    /// Bytes in all writable segments.
    #[must_use]
    pub fn writable_len(&self) -> u64 {
        self.writable.iter().map(|segment| segment.len).sum()
    }

    /// Cuts off the last writable byte and returns its address.
    pub fn take_last_writable(&mut self) -> Option<GuestAddress> {
        let last = self.writable.last_mut()?;
        last.len -= 1;
        let address = last.address.unchecked_add(last.len);
        if last.len == 0 {
            self.writable.pop();
        }
        Some(address)
    }

    /// Device-readable segments; without what was taken from the front.
    #[must_use]
    pub fn readable(&self) -> &[Segment] {
        &self.readable
    }

    /// Bytes in all readable segments.
    #[must_use]
    pub fn readable_len(&self) -> u64 {
        self.readable.iter().map(|segment| segment.len).sum()
    }

    /// Cuts off and returns the first `N` readable bytes, however they are cut into segments.
    ///
    /// `None` when there are fewer, or when they lie outside guest memory.
    #[must_use]
    pub fn take_readable_front<const N: usize>(&mut self, memory: &GuestMemory) -> Option<[u8; N]> {
        let mut bytes = [0_u8; N];
        SegmentCursor::new(&self.readable)
            .read(memory, &mut bytes)
            .ok()?;
        let mut taken = N as u64;
        let whole = self.readable.iter().take_while(|segment| {
            let is_taken = segment.len <= taken;
            taken -= if is_taken { segment.len } else { 0 };
            is_taken
        });
        let whole = whole.count();
        self.readable.drain(..whole);
        if let Some(first) = self.readable.first_mut() {
            first.address = first.address.unchecked_add(taken);
            first.len -= taken;
        }
        Some(bytes)
    }
}
