//! Changes on their way into the index log.
//!
//! image -> **lsmt write batch** (no I/O)

use crate::lsmt::mapping::Mapping;

/// Writes that are in the data file and not yet in the log. Reused from batch to batch.
#[derive(Debug, Default)]
pub struct WriteBatch {
    pub(super) entries: Vec<Mapping>,
    /// CRC-32C over every entry and the CRC-32C of its data.
    pub(super) checksum: u32,
}

impl WriteBatch {
    /// True when there is nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds an entry whose data (none for zeroes) has the CRC-32C `data_checksum`.
    pub(super) fn push(&mut self, entry: Mapping, data_checksum: u32) {
        self.checksum = crc32c::crc32c_append(self.checksum, &entry.to_bytes());
        self.checksum = crc32c::crc32c_append(self.checksum, &data_checksum.to_le_bytes());
        self.entries.push(entry);
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
        self.checksum = 0;
    }
}
