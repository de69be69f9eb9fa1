//! Data that a command brings back without the disk.
//!
//! inquiry, mode, capacity, luns -> **reply** -> dispatch

/// Data-in of a command, cut to its allocation length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// At most 64 KiB; may be empty.
    pub bytes: Vec<u8>,
}

impl Reply {
    /// The first `allocation_len` bytes of `bytes`, or all there are.
    pub(crate) fn cut(mut bytes: Vec<u8>, allocation_len: u32) -> Self {
        bytes.truncate(usize::try_from(allocation_len).unwrap_or(usize::MAX));
        Self { bytes }
    }
}
