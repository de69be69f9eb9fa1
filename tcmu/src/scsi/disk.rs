//! What commands may know of the disk.
//!
//! cdb, transfer ... -> **disk**

use crate::scsi::limits::BLOCK_BYTES;
use crate::scsi::sense::{Field, Sense};

/// The disk as an initiator sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disk {
    /// Logical blocks of 512 bytes.
    pub blocks: u64,
    /// May the disk be changed?
    pub is_writable: bool,
    /// Unit serial number; empty when there is none. Its hexadecimal digits make the world wide
    /// name, so two disks of a host must not have the same.
    pub serial: String,
    /// The vendor-specific designator: the device's whole `dev_config`.
    pub description: String,
    /// Most blocks of one READ, WRITE or VERIFY; 0 counts as 1.
    pub transfer_blocks_max: u32,
}

/// Whole blocks of a disk, in bytes. Never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub len: u64,
}

impl Disk {
    /// Most blocks of one READ, WRITE or VERIFY, at least 1.
    pub(crate) fn transfer_limit(&self) -> u32 {
        self.transfer_blocks_max.max(1)
    }

    /// `blocks` blocks from block `lba` on; `None` when there are none.
    ///
    /// # Errors
    /// 21/00 with the first block that is not there. Also for no blocks beyond the end.
    pub(crate) fn range(&self, lba: u64, blocks: u64) -> Result<Option<ByteRange>, Sense> {
        let end = lba.checked_add(blocks).filter(|&end| end <= self.blocks);
        let Some(end) = end else {
            return Err(Sense::lba_out_of_range(lba.max(self.blocks)));
        };
        // Fails for no disk that layers can make. On others the block is not there either.
        if end.checked_mul(BLOCK_BYTES).is_none() {
            return Err(Sense::lba_out_of_range(lba));
        }
        Ok((blocks > 0).then_some(ByteRange {
            offset: lba * BLOCK_BYTES,
            len: blocks * BLOCK_BYTES,
        }))
    }

    /// # Errors
    /// 27/00 on a read-only disk.
    pub(crate) fn check_writable(&self) -> Result<(), Sense> {
        if self.is_writable {
            Ok(())
        } else {
            Err(Sense::write_protected())
        }
    }
}

/// # Errors
/// 24/00 pointing at `field` when `blocks` is more than `limit`.
pub(crate) fn check_limit(blocks: u32, limit: u32, field: Field) -> Result<(), Sense> {
    if blocks <= limit {
        Ok(())
    } else {
        Err(Sense::invalid_field(field))
    }
}
