//! Raw access to one split virtqueue in guest memory.
//!
//! **ring** -> descriptor chain -> request -> image
//!
//! [`Ring`] is made once per batch: three address translations, then plain loads and stores.
//! It keeps no position of its own; those are in [`Queue`](crate::queue::Queue).
//!
//! Source: VirtIO 1.2 section 2.7 (split virtqueues).
//! Invariants
//! - every value read from the ring is a copy; nothing is read twice and trusted.
//! - used entries are written before the used index, the used index with `Release`.
//! - an address the guest made up gives a [`RingFault`], never a panic.

use std::fmt;
use std::sync::atomic::{Ordering, fence};

use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, VolatileSlice};

use crate::guest_memory::GuestMemory;

/// Bytes of one descriptor.
pub const DESCRIPTOR_BYTES: usize = 16;

/// `flags` and `idx` in front of the entries of either ring.
const HEADER_BYTES: usize = 4;
const AVAIL_ENTRY_BYTES: usize = 2;
const USED_ENTRY_BYTES: usize = 8;
/// `used_event` behind the available ring, `avail_event` behind the used ring.
const EVENT_BYTES: usize = 2;
const IDX_OFFSET: usize = 2;

/// Flag of the used ring: the device needs no kicks.
const USED_F_NO_NOTIFY: u16 = 1;
/// Flag of the available ring: the driver needs no calls.
const AVAIL_F_NO_INTERRUPT: u16 = 1;

/// Where the three parts of a queue lie in guest physical memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RingLayout {
    /// Entries; a power of two, or 0 while unset.
    pub size: u16,
    /// Guest physical address of the descriptor table, 16-byte aligned.
    pub desc: u64,
    /// Guest physical address of the available ring, 2-byte aligned.
    pub avail: u64,
    /// Guest physical address of the used ring, 4-byte aligned.
    pub used: u64,
}

/// Why a ring cannot be used any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingFault {
    /// A part of the ring is outside guest memory or not aligned.
    Unmapped,
    /// The driver made more entries available than the ring has.
    AvailIdxJump {
        /// Entries since the last one taken.
        entries: u16,
        /// Size of the ring.
        size: u16,
    },
    /// An available entry names a descriptor that does not exist.
    HeadOutOfRange(u16),
}

impl fmt::Display for RingFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unmapped => f.write_str("ring lies outside guest memory or is not aligned"),
            Self::AvailIdxJump { entries, size } => write!(
                f,
                "available index is {entries} entries ahead, the ring has {size}"
            ),
            Self::HeadOutOfRange(head) => {
                write!(
                    f,
                    "available entry names descriptor {head}, beyond the table"
                )
            }
        }
    }
}

/// The three parts of a queue, translated to host memory.
#[derive(Debug)]
pub struct Ring<'m> {
    size: u16,
    desc: VolatileSlice<'m>,
    avail: VolatileSlice<'m>,
    used: VolatileSlice<'m>,
}

impl<'m> Ring<'m> {
    /// Translates `layout`.
    ///
    /// # Errors
    /// [`RingFault::Unmapped`] unless each part lies inside one memory region and the size is a
    /// power of two.
    pub fn map(memory: &'m GuestMemory, layout: &RingLayout) -> Result<Self, RingFault> {
        if !layout.size.is_power_of_two() {
            return Err(RingFault::Unmapped);
        }
        let entries = usize::from(layout.size);
        let part = |address: u64, len: usize| {
            memory
                .get_slice(GuestAddress(address), len)
                .map_err(|_| RingFault::Unmapped)
        };
        Ok(Self {
            size: layout.size,
            desc: part(layout.desc, entries * DESCRIPTOR_BYTES)?,
            avail: part(
                layout.avail,
                HEADER_BYTES + entries * AVAIL_ENTRY_BYTES + EVENT_BYTES,
            )?,
            used: part(
                layout.used,
                HEADER_BYTES + entries * USED_ENTRY_BYTES + EVENT_BYTES,
            )?,
        })
    }

    /// Entries of the ring.
    #[must_use]
    pub fn size(&self) -> u16 {
        self.size
    }

    /// The descriptor table.
    #[must_use]
    pub fn descriptors(&self) -> &VolatileSlice<'m> {
        &self.desc
    }

    fn slot(&self, position: u16) -> usize {
        usize::from(position & (self.size - 1))
    }

    /// The driver's available index; what it made available before is visible after this.
    ///
    /// # Errors
    /// [`RingFault::Unmapped`] when the ring is not aligned.
    pub fn avail_idx(&self) -> Result<u16, RingFault> {
        load_u16(&self.avail, IDX_OFFSET, Ordering::Acquire)
    }

    /// Descriptor index at `position` of the available ring.
    ///
    /// # Errors
    /// [`RingFault::HeadOutOfRange`] when there is no such descriptor.
    pub fn avail_head(&self, position: u16) -> Result<u16, RingFault> {
        let offset = HEADER_BYTES + self.slot(position) * AVAIL_ENTRY_BYTES;
        let head = load_u16(&self.avail, offset, Ordering::Relaxed)?;
        if head < self.size {
            Ok(head)
        } else {
            Err(RingFault::HeadOutOfRange(head))
        }
    }

    /// Writes one used entry; invisible to the driver until [`Ring::store_used_idx`].
    ///
    /// # Errors
    /// [`RingFault::Unmapped`] when the ring is not aligned.
    pub fn put_used(&self, position: u16, head: u16, written: u32) -> Result<(), RingFault> {
        let offset = HEADER_BYTES + self.slot(position) * USED_ENTRY_BYTES;
        let id = u32::from(head).to_le();
        self.used
            .store(id, offset, Ordering::Relaxed)
            .and_then(|()| {
                self.used
                    .store(written.to_le(), offset + 4, Ordering::Relaxed)
            })
            .map_err(|_| RingFault::Unmapped)
    }

    /// Shows all used entries before `idx` to the driver.
    ///
    /// # Errors
    /// [`RingFault::Unmapped`] when the ring is not aligned.
    pub fn store_used_idx(&self, idx: u16) -> Result<(), RingFault> {
        store_u16(&self.used, IDX_OFFSET, idx, Ordering::Release)
    }

    /// Does the driver want to be told that the used index went from `old` to `new`?
    ///
    /// `old` is the index at the last call, `None` for the first one.
    ///
    /// # Errors
    /// [`RingFault::Unmapped`] when the ring is not aligned.
    pub fn wants_call(
        &self,
        event_idx: bool,
        old: Option<u16>,
        new: u16,
    ) -> Result<bool, RingFault> {
        // The used index must be visible before the driver's wish is read, else both sides may
        // miss each other.
        fence(Ordering::SeqCst);
        if !event_idx {
            let flags = load_u16(&self.avail, 0, Ordering::Relaxed)?;
            return Ok(flags & AVAIL_F_NO_INTERRUPT == 0);
        }
        let Some(old) = old else { return Ok(true) };
        let offset = HEADER_BYTES + usize::from(self.size) * AVAIL_ENTRY_BYTES;
        let event = load_u16(&self.avail, offset, Ordering::Relaxed)?;
        Ok(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old))
    }

    /// Asks the driver not to kick. With `EVENT_IDX` nothing is written: an event index that is
    /// not moved on is already passed.
    ///
    /// # Errors
    /// [`RingFault::Unmapped`] when the ring is not aligned.
    pub fn suppress_kicks(&self, event_idx: bool) -> Result<(), RingFault> {
        if event_idx {
            return Ok(());
        }
        store_u16(&self.used, 0, USED_F_NO_NOTIFY, Ordering::Relaxed)
    }

    /// Asks the driver to kick for the entry at `next_avail`, and says whether it is already
    /// there (then a kick may never come).
    ///
    /// # Errors
    /// [`RingFault::Unmapped`] when the ring is not aligned.
    pub fn request_kick(&self, event_idx: bool, next_avail: u16) -> Result<bool, RingFault> {
        if event_idx {
            let offset = HEADER_BYTES + usize::from(self.size) * USED_ENTRY_BYTES;
            store_u16(&self.used, offset, next_avail, Ordering::Relaxed)?;
        } else {
            store_u16(&self.used, 0, 0, Ordering::Relaxed)?;
        }
        // The wish must be visible before the available index is read, else both sides may miss
        // each other.
        fence(Ordering::SeqCst);
        Ok(self.avail_idx()? != next_avail)
    }
}

fn load_u16(part: &VolatileSlice<'_>, offset: usize, order: Ordering) -> Result<u16, RingFault> {
    part.load(offset, order)
        .map(u16::from_le)
        .map_err(|_| RingFault::Unmapped)
}

fn store_u16(
    part: &VolatileSlice<'_>,
    offset: usize,
    value: u16,
    order: Ordering,
) -> Result<(), RingFault> {
    part.store(value.to_le(), offset, order)
        .map_err(|_| RingFault::Unmapped)
}
