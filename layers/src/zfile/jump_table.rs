//! Where each compressed block of a zfile starts.
//!
//! image -> lsmt -> **zfile** -> tar -> io
//!
//! The index on disk holds the stored size of every block. A read needs the running sum, which
//! is kept in 4 bytes a block: a 64-bit base for every group of 4096 blocks, few enough to stay
//! in the CPU cache, and the 32-bit distance from it for each block.
//!
//! Invariants
//! - there is one more offset than blocks; the last is the end of the last block.
//! - offsets strictly increase, start behind header and dictionary and end before the index.
//! - a block's stored size, checksum included, is at most its size before compression plus
//!   [`ZFILE_BLOCK_GROWTH_BYTES_MAX`].
//!
//! Source: format reference 2.4 points 4 to 6, 2.5.

use super::checksum;
use super::format::{INDEX_ENTRY_BYTES, Record};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{ZFILE_BLOCK_BYTES_MAX, ZFILE_BLOCK_GROWTH_BYTES_MAX};
use crate::read_at::ReadAt;

const OP: &str = "read zfile index";

/// Blocks in a group, as a power of two.
const GROUP_SHIFT: u32 = 12;

const GROUP_MASK: usize = (1 << GROUP_SHIFT) - 1;

/// Index bytes that are read at once.
const CHUNK_BYTES: usize = 1 << 20;

// A distance inside a group never overflows 32 bits.
const _: () = assert!(
    (ZFILE_BLOCK_BYTES_MAX as u64 + ZFILE_BLOCK_GROWTH_BYTES_MAX as u64) << GROUP_SHIFT
        <= u32::MAX as u64
);

/// Block number to byte offset.
#[derive(Debug)]
pub(crate) struct JumpTable {
    bases: Vec<u64>,
    deltas: Vec<u32>,
}

impl JumpTable {
    /// Reads the index that `record` describes. Blocks until it is here.
    ///
    /// # Errors
    /// `Corrupt` when the index breaks a rule or its checksum; errors of `source`.
    pub(crate) fn load(source: &dyn ReadAt, record: &Record) -> Result<Self> {
        // `record` was checked against the size of the file: this allocates no more than that.
        let mut table = Self::with_capacity(record)?;
        let mut left = record.block_count * INDEX_ENTRY_BYTES;
        let mut offset = record.index_offset;
        let mut crc = checksum::of_record(&[]);
        let mut chunk = vec![0; usize::try_from(left).map_or(CHUNK_BYTES, |n| n.min(CHUNK_BYTES))];
        while left > 0 {
            let len = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
            let Some(bytes) = chunk.get_mut(..len) else {
                break;
            };
            source.read_exact_at(offset, bytes)?;
            crc = checksum::raw(crc, bytes);
            table.append(bytes, offset, record)?;
            offset += len as u64;
            left -= len as u64;
        }
        match record.index_crc {
            Some(stored) if stored != crc => {
                let detail = format!("checksum: stored {stored:#010x}, computed {crc:#010x}");
                Err(Error::corrupt(OP, detail).at(record.index_offset))
            }
            _ => Ok(table),
        }
    }

    /// First byte of `block`, or the end of the last block when `block` is the block count.
    #[inline]
    pub(crate) fn offset(&self, block: usize) -> Option<u64> {
        let base = self.bases.get(block >> GROUP_SHIFT)?;
        let delta = self.deltas.get(block)?;
        Some(base + u64::from(*delta))
    }

    /// Number of blocks.
    pub(crate) fn blocks(&self) -> usize {
        self.deltas.len() - 1
    }

    fn with_capacity(record: &Record) -> Result<Self> {
        let refused = |_| {
            let detail = format!("no memory for {} index entries", record.block_count);
            Error::new(ErrorKind::Unsupported, OP, detail)
        };
        let offsets = usize::try_from(record.block_count + 1)
            .map_err(|_| Error::new(ErrorKind::Unsupported, OP, "index larger than memory"))?;
        let mut table = Self {
            bases: Vec::new(),
            deltas: Vec::new(),
        };
        table.deltas.try_reserve_exact(offsets).map_err(refused)?;
        table
            .bases
            .try_reserve_exact((offsets >> GROUP_SHIFT) + 1)
            .map_err(refused)?;
        table.bases.push(record.blocks_offset());
        table.deltas.push(0);
        Ok(table)
    }

    /// Adds the index entries in `bytes`, which came from `offset`.
    fn append(&mut self, bytes: &[u8], offset: u64, record: &Record) -> Result<()> {
        let stored_min = if record.has_block_crc { 5 } else { 1 };
        let stored_max = record.block_bytes + ZFILE_BLOCK_GROWTH_BYTES_MAX;
        let (entries, _) = bytes.as_chunks::<4>();
        for (idx, entry) in entries.iter().enumerate() {
            let stored = u32::from_le_bytes(*entry);
            let place = offset + idx as u64 * INDEX_ENTRY_BYTES;
            if !(stored_min..=stored_max).contains(&stored) {
                let detail = format!(
                    "block {} of {stored} bytes, expected {stored_min} to {stored_max}",
                    self.blocks()
                );
                return Err(Error::corrupt(OP, detail).at(place));
            }
            let end = self.push(stored);
            if end > record.index_offset {
                let detail = format!(
                    "block {} ends at byte {end}, inside the index, which starts at byte {}",
                    self.blocks() - 1,
                    record.index_offset
                );
                return Err(Error::corrupt(OP, detail).at(place));
            }
        }
        Ok(())
    }

    /// Adds a block and returns where it ends.
    fn push(&mut self, stored: u32) -> u64 {
        let base = self.bases.last().copied().unwrap_or(0);
        let delta = self.deltas.last().copied().unwrap_or(0) + stored;
        let end = base + u64::from(delta);
        if self.deltas.len() & GROUP_MASK == 0 {
            self.bases.push(end);
            self.deltas.push(0);
        } else {
            self.deltas.push(delta);
        }
        end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dest::Dest;
    use crate::error::Result;
    use crate::read_at::{Progress, Wait};
    use crate::zfile::format::Algorithm;

    /// A file of which only the index is there.
    #[derive(Debug)]
    struct IndexOnly {
        offset: u64,
        index: Vec<u8>,
    }

    impl ReadAt for IndexOnly {
        fn size(&self) -> u64 {
            self.offset + self.index.len() as u64 + 512
        }

        fn name(&self) -> &str {
            "index only"
        }

        fn read_at(&self, offset: u64, mut dest: Dest<'_>, _wait: Wait) -> Result<Progress> {
            let start = usize::try_from(offset - self.offset).unwrap();
            dest.copy_from(&self.index[start..start + dest.len()]);
            Ok(Progress::Done)
        }
    }

    fn file_of(stored_sizes: &[u32]) -> (IndexOnly, Record) {
        let index: Vec<u8> = stored_sizes
            .iter()
            .flat_map(|size| size.to_le_bytes())
            .collect();
        let blocks_bytes: u64 = stored_sizes.iter().map(|size| u64::from(*size)).sum();
        let record = Record {
            index_offset: 512 + 7 + blocks_bytes,
            block_count: stored_sizes.len() as u64,
            original_bytes: stored_sizes.len() as u64 * 65536,
            index_crc: Some(checksum::of_record(&index)),
            block_bytes: 65536,
            algorithm: Algorithm::Lz4,
            dictionary_bytes: 7,
            has_block_crc: true,
        };
        let offset = record.index_offset;
        (IndexOnly { offset, index }, record)
    }

    fn fault(stored_sizes: &[u32], change: impl FnOnce(&mut Record)) -> String {
        let (mut source, mut record) = file_of(stored_sizes);
        record.index_crc = None;
        change(&mut record);
        source.offset = record.index_offset;
        JumpTable::load(&source, &record).unwrap_err().to_string()
    }

    #[test]
    fn offsets_equal_running_sums_over_many_groups_chunks_and_gigabytes() {
        let stored_sizes: Vec<u32> = (0..600_001_u32).map(|n| 5 + n % 66_047).collect();
        let (source, record) = file_of(&stored_sizes);
        let table = JumpTable::load(&source, &record).unwrap();
        assert_eq!(table.blocks(), stored_sizes.len());
        let mut expected = 519;
        for (block, size) in stored_sizes.iter().enumerate() {
            assert_eq!(table.offset(block), Some(expected), "block {block}");
            expected += u64::from(*size);
        }
        assert!(expected > u64::from(u32::MAX));
        assert_eq!(table.offset(stored_sizes.len()), Some(expected));
        assert_eq!(table.offset(stored_sizes.len() + 1), None);
    }

    #[test]
    fn an_exact_number_of_groups_has_its_last_offset() {
        let (source, record) = file_of(&[100; 8192]);
        let table = JumpTable::load(&source, &record).unwrap();
        assert_eq!(table.offset(8192), Some(519 + 819_200));
        assert_eq!(table.offset(8193), None);
    }

    #[test]
    fn stored_sizes_out_of_range_are_corrupt() {
        for size in [0, 4, 65536 + 517, u32::MAX] {
            let fault = fault(&[100, size, 100], |record| record.index_offset = 1 << 40);
            assert!(
                fault.contains(&format!("block 1 of {size} bytes")),
                "{fault}"
            );
        }
        let without_crc = |record: &mut Record| record.has_block_crc = false;
        assert!(fault(&[1, 0], without_crc).contains("block 1 of 0 bytes, expected 1 to"));
    }

    #[test]
    fn blocks_that_reach_into_the_index_are_corrupt() {
        let fault = fault(&[100, 100], |record| record.index_offset -= 1);
        assert!(
            fault.contains("block 1 ends at byte 719, inside the index"),
            "{fault}"
        );
    }

    #[test]
    fn a_wrong_checksum_is_corrupt_only_when_it_is_meant() {
        let (source, mut record) = file_of(&[100; 10]);
        record.index_crc = record.index_crc.map(|crc| crc ^ 1);
        let error = JumpTable::load(&source, &record).unwrap_err();
        assert!(error.to_string().contains("checksum: stored 0x"), "{error}");
        assert_eq!(error.offset(), Some(record.index_offset));
        record.index_crc = None;
        assert!(JumpTable::load(&source, &record).is_ok());
    }
}
