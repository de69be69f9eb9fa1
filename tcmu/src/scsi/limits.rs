//! What one command may ask for, in blocks of [`BLOCK_BYTES`]. VPD page B0 states the same numbers.
//!
//! transfer, unmap, write_same, vpd -> **limits**

/// Bytes of a logical block.
pub const BLOCK_BYTES: u64 = BLOCK_LEN as u64;

/// The same, of a buffer.
pub const BLOCK_LEN: usize = 512;

/// Physical blocks are 4 KiB: two to this power logical ones. Pages of the page cache and blocks
/// of a zfile are no smaller.
pub const PHYSICAL_BLOCK_EXPONENT: u8 = 3;

/// Transfers and unmapped ranges of whole pages are the cheap ones; smaller discards free nothing.
pub const GRANULARITY_BLOCKS: u16 = 1 << PHYSICAL_BLOCK_EXPONENT;

/// Most blocks of all ranges of one UNMAP: 1 GiB, which is about a hundred index entries of a layer.
pub const UNMAP_BLOCKS_MAX: u32 = 1 << 21;

/// Most ranges of one UNMAP.
pub const UNMAP_DESCRIPTORS_MAX: u32 = 256;

/// Most blocks of one WRITE SAME, unmapping or not: 64 MiB, for without UNMAP they may all have to
/// be written.
pub const WRITE_SAME_BLOCKS_MAX: u32 = 131_072;
