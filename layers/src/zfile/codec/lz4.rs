//! Raw LZ4 blocks through liblz4.
//!
//! image -> lsmt -> **zfile** -> tar -> io
//!
//! The C library is used because its output is what the C++ tools write, byte for byte, which a
//! layer digest depends on. Its functions are called with raw pointers because the destination
//! may be guest memory, over which no Rust slice may exist.
//!
//! Source: format reference 2.5; lz4.h.

use std::ffi::c_int;

use crate::dest::Dest;

/// Decodes one block into the front of `dest`; `None` when it is damaged or does not fit.
#[inline]
pub(super) fn decode(compressed: &[u8], mut dest: Dest<'_>) -> Option<usize> {
    let compressed_len = c_int::try_from(compressed.len()).ok()?;
    let capacity = c_int::try_from(dest.len()).ok()?;
    let dest_ptr = dest.as_mut_ptr().cast();
    // SAFETY: the source is readable for `compressed_len` bytes and the destination writable for
    // `capacity`; LZ4_decompress_safe stays inside both for any input. They do not overlap, as no
    // Rust reference to the destination exists.
    let len = unsafe {
        lz4_sys::LZ4_decompress_safe(
            compressed.as_ptr().cast(),
            dest_ptr,
            compressed_len,
            capacity,
        )
    };
    usize::try_from(len).ok()
}

/// Compresses `block` into the front of `out`; `None` when it does not fit.
pub(super) fn encode(block: &[u8], out: &mut [u8]) -> Option<usize> {
    let block_len = c_int::try_from(block.len()).ok()?;
    let capacity = c_int::try_from(out.len()).ok()?;
    // SAFETY: the source is readable for `block_len` bytes, the destination writable for
    // `capacity` bytes, and two slices of which one is mutable do not overlap.
    let len = unsafe {
        lz4_sys::LZ4_compress_default(
            block.as_ptr().cast(),
            out.as_mut_ptr().cast(),
            block_len,
            capacity,
        )
    };
    usize::try_from(len).ok().filter(|len| *len > 0)
}
