//! Zstd frames through libzstd, one frame a block.
//!
//! image -> lsmt -> **zfile** -> tar -> io
//!
//! Contexts are reused: at 4 KiB a fresh one costs more than the block.
//!
//! Source: format reference 2.5; zstd.h.

use std::fmt;

use zstd::zstd_safe::{CCtx, DCtx, WriteBuf};

use crate::dest::Dest;

/// The level that the C++ tools use; a zfile does not record it.
const LEVEL: i32 = 3;

/// A decoding context, made when the first block comes.
#[derive(Default)]
pub(super) struct Decoder(Option<DCtx<'static>>);

impl fmt::Debug for Decoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("zstd::Decoder")
    }
}

impl Decoder {
    /// Decodes one block into the front of `dest`; `None` when it is damaged or does not fit.
    pub(super) fn decode(&mut self, compressed: &[u8], dest: Dest<'_>) -> Option<usize> {
        let context = match &mut self.0 {
            Some(context) => context,
            empty => empty.insert(DCtx::try_create()?),
        };
        context.decompress(&mut WriteOnly(dest), compressed).ok()
    }
}

/// A compressing context, made when the first block comes.
#[derive(Default)]
pub(super) struct Encoder(Option<CCtx<'static>>);

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("zstd::Encoder")
    }
}

impl Encoder {
    /// Compresses `block` into the front of `out`; `None` when it does not fit.
    pub(super) fn encode(&mut self, block: &[u8], out: &mut [u8]) -> Option<usize> {
        let context = match &mut self.0 {
            Some(context) => context,
            empty => empty.insert(CCtx::try_create()?),
        };
        context.compress(out, block, LEVEL).ok()
    }
}

/// A destination as zstd wants it. Of what is in it nothing is ever shown as a slice.
struct WriteOnly<'a>(Dest<'a>);

// SAFETY: `as_mut_ptr` and `capacity` describe the memory that `Dest` guarantees writable, and no
// byte of it is called initialised.
unsafe impl WriteBuf for WriteOnly<'_> {
    fn as_slice(&self) -> &[u8] {
        &[]
    }

    fn capacity(&self) -> usize {
        self.0.len()
    }

    fn as_mut_ptr(&mut self) -> *mut u8 {
        self.0.as_mut_ptr()
    }

    unsafe fn filled_until(&mut self, _len: usize) {}
}
