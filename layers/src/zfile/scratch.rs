//! The buffers a thread needs to read zfile blocks, made once and reused for every read.
//!
//! image -> lsmt -> **zfile** -> tar -> io
//!
//! Invariant: after a thread's first read no buffer is allocated any more.

use std::cell::Cell;

use super::codec::Decoder;
use crate::limits::{ZFILE_BLOCK_BYTES_MAX, ZFILE_BLOCK_GROWTH_BYTES_MAX};

/// Most compressed bytes that one read of the source fetches.
pub(super) const RUN_BYTES_MAX: u32 = 256 << 10;

// A run holds at least one block.
const _: () = assert!(RUN_BYTES_MAX >= ZFILE_BLOCK_BYTES_MAX + ZFILE_BLOCK_GROWTH_BYTES_MAX);

/// Private memory of one thread.
#[derive(Debug)]
pub(super) struct Scratch {
    /// A run of blocks as they are stored, [`RUN_BYTES_MAX`] long. Checked and decoded from here.
    pub(super) stored: Vec<u8>,
    /// One decoded block of which the reader wants a part, [`ZFILE_BLOCK_BYTES_MAX`] long.
    pub(super) block: Vec<u8>,
    pub(super) decoder: Decoder,
}

impl Scratch {
    fn new() -> Box<Self> {
        Box::new(Self {
            stored: vec![0; RUN_BYTES_MAX as usize],
            block: vec![0; ZFILE_BLOCK_BYTES_MAX as usize],
            decoder: Decoder::default(),
        })
    }
}

thread_local! {
    static SCRATCH: Cell<Option<Box<Scratch>>> = const { Cell::new(None) };
}

/// Runs `read` with the buffers of this thread. A read inside a read (a zfile in a zfile) and a
/// read while the thread ends get buffers of their own.
#[inline]
pub(super) fn with<T>(read: impl FnOnce(&mut Scratch) -> T) -> T {
    let kept = SCRATCH.try_with(Cell::take).ok().flatten();
    let mut scratch = kept.unwrap_or_else(Scratch::new);
    let result = read(&mut scratch);
    // Fails only while the thread ends, when nobody needs the buffers any more.
    SCRATCH
        .try_with(|kept| kept.set(Some(scratch)))
        .unwrap_or_default();
    result
}
