//! Big-endian fields of command blocks and parameter lists.
//!
//! commands, lists -> **fields**
//!
//! A field that is not wholly there reads as zero: callers check lengths first.

/// Two bytes at `at`.
pub(crate) fn be16(bytes: &[u8], at: usize) -> u16 {
    chunk(bytes, at).map_or(0, u16::from_be_bytes)
}

/// Four bytes at `at`.
pub(crate) fn be32(bytes: &[u8], at: usize) -> u32 {
    chunk(bytes, at).map_or(0, u32::from_be_bytes)
}

/// Eight bytes at `at`.
pub(crate) fn be64(bytes: &[u8], at: usize) -> u64 {
    chunk(bytes, at).map_or(0, u64::from_be_bytes)
}

fn chunk<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
