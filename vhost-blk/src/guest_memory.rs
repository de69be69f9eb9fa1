//! Guest memory as the engine's destination of a read.
//!
//! ring -> descriptor chain -> request -> **guest memory** <- image
//!
//! The only file of this crate with `unsafe` code.
//!
//! Invariant: no Rust reference to guest memory exists anywhere in this crate. It is read and
//! written through `vm-memory`'s volatile slices and through [`Dest`] alone.

use std::ptr::NonNull;

use layers::Dest;
use vm_memory::{GuestAddress, GuestMemoryMmap, VolatileSlice};

/// One generation of the guest's memory map. No dirty-page log.
pub type GuestMemory = GuestMemoryMmap<()>;

/// The guest's memory map as the VMM changes it.
pub type SharedGuestMemory = vm_memory::GuestMemoryAtomic<GuestMemory>;

/// A run of guest physical memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First byte.
    pub address: GuestAddress,
    /// Bytes, never 0; may be more than 4 GiB when descriptors were merged.
    pub len: u64,
}

/// Lends `slice` to the engine as the place to put bytes.
///
/// `None` for an empty slice.
#[must_use]
pub fn destination<'m>(slice: &VolatileSlice<'m>) -> Option<Dest<'m>> {
    let len = slice.len();
    let ptr = NonNull::new(slice.ptr_guard_mut().as_ptr())?;
    if len == 0 {
        return None;
    }
    // SAFETY: a `VolatileSlice<'m>` guarantees that its range stays mapped and writable for 'm;
    // no Rust reference to guest memory is ever made (see the module's invariant); without
    // the `xen` feature of vm-memory the pointer outlives its guard.
    Some(unsafe { Dest::from_raw(ptr, len) })
}
