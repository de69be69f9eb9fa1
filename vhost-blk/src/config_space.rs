//! The device configuration that a driver reads: `struct virtio_blk_config`.
//!
//! Source: VirtIO 1.2 section 5.2.4 (layout, all fields little-endian).

use layers::limits::SECTOR_BYTES;

use crate::zero_ranges::{DISCARD_ALIGNMENT_SECTORS, RANGE_SECTORS_MAX, RANGES_MAX};

/// Bytes of the structure up to and including `write_zeroes_may_unmap` and its padding; the fields
/// behind that belong to features that are never offered.
const CONFIG_BYTES: usize = 60;

/// Where `writeback` is, the one field that a driver may write: 0 is write-through.
const WRITEBACK_OFFSET: u32 = 32;

/// VMMs read the fields at offset 0 or at the offset that the space has in a PCI or MMIO device.
const DEVICE_OFFSET: u32 = 0x100;

/// What `blk_size` says: the unit of all other sizes.
const LOGICAL_BLOCK_BYTES: u32 = 512;
const _: () = assert!(LOGICAL_BLOCK_BYTES as u64 == SECTOR_BYTES);

/// Physical blocks are 4 KiB: 2^3 logical ones.
const PHYSICAL_BLOCK_EXP: u8 = 3;

/// 64 KiB, the largest compressed block: shorter reads in a row may decompress one several times.
const OPT_IO_SECTORS: u32 = 128;

/// Header and status take two descriptors. A driver that makes indirect tables may use all of this
/// whatever the size of its ring; one that does not never uses more descriptors than its ring has.
/// So the largest ring on offer may set the limit, though the VMM may choose a smaller one.
const SEGMENTS_MAX: u16 = 254;

/// [`RANGES_MAX`] as a field.
#[expect(clippy::cast_possible_truncation, reason = "checked below")]
const RANGES_MAX_FIELD: u32 = RANGES_MAX as u32;
const _: () = assert!(RANGES_MAX_FIELD as usize == RANGES_MAX);

/// The configuration space of one disk, as bytes.
#[derive(Debug, Clone, Copy)]
pub struct ConfigSpace {
    /// All but `writeback`. Fields of features that the disk does not offer are zeros.
    bytes: [u8; CONFIG_BYTES],
    is_writable: bool,
}

impl ConfigSpace {
    /// Configuration of a disk of `disk_bytes` with queues of up to `queue_size` entries.
    #[must_use]
    pub fn new(disk_bytes: u64, is_writable: bool, num_queues: u16, queue_size: u16) -> Self {
        let seg_max = u32::from(queue_size.saturating_sub(2).clamp(1, SEGMENTS_MAX));
        let mut bytes = [0; CONFIG_BYTES];
        let mut put = |offset: usize, field: &[u8]| {
            for (to, from) in bytes.iter_mut().skip(offset).zip(field) {
                *to = *from;
            }
        };
        put(0, &(disk_bytes / SECTOR_BYTES).to_le_bytes()); // capacity
        put(12, &seg_max.to_le_bytes());
        put(20, &LOGICAL_BLOCK_BYTES.to_le_bytes()); // blk_size
        put(24, &[PHYSICAL_BLOCK_EXP]);
        put(26, &(1_u16 << PHYSICAL_BLOCK_EXP).to_le_bytes()); // min_io_size, logical blocks
        put(28, &OPT_IO_SECTORS.to_le_bytes());
        put(34, &num_queues.to_le_bytes());
        if is_writable {
            put(36, &RANGE_SECTORS_MAX.to_le_bytes()); // max_discard_sectors
            put(40, &RANGES_MAX_FIELD.to_le_bytes()); // max_discard_seg
            put(44, &DISCARD_ALIGNMENT_SECTORS.to_le_bytes());
            put(48, &RANGE_SECTORS_MAX.to_le_bytes()); // max_write_zeroes_sectors
            put(52, &RANGES_MAX_FIELD.to_le_bytes()); // max_write_zeroes_seg
            put(56, &[1]); // write_zeroes_may_unmap
        }
        Self { bytes, is_writable }
    }

    /// Exactly `size` bytes from `offset`, zeros where there is no field. Offsets from 0x100 on
    /// mean the same as those from 0 on. `writeback` is the present value of that field.
    #[must_use]
    pub fn read(&self, offset: u32, size: u32, writeback: bool) -> Vec<u8> {
        let start = in_device(offset);
        let mut bytes = self.bytes;
        if let Some(byte) = bytes.get_mut(WRITEBACK_OFFSET as usize) {
            *byte = u8::from(self.is_writable && writeback);
        }
        bytes
            .into_iter()
            .chain(std::iter::repeat(0))
            .skip(start as usize)
            .take(size as usize)
            .collect()
    }

    /// What a driver that writes `bytes` at `offset` wants `writeback` to be; `None` when it writes
    /// anything else.
    #[must_use]
    pub fn parse_write(&self, offset: u32, bytes: &[u8]) -> Option<bool> {
        match bytes {
            [writeback] if self.is_writable && in_device(offset) == WRITEBACK_OFFSET => {
                Some(*writeback != 0)
            }
            _ => None,
        }
    }
}

fn in_device(offset: u32) -> u32 {
    offset.checked_sub(DEVICE_OFFSET).unwrap_or(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(is_writable: bool) -> ConfigSpace {
        ConfigSpace::new(5 << 30, is_writable, 64, 256)
    }

    #[test]
    fn every_offset_and_size_gives_exactly_the_bytes_asked_for() {
        for is_writable in [false, true] {
            let config = config(is_writable);
            let whole = config.read(0, 96, true);
            for offset in 0..96_u32 {
                for size in 0..=96 - offset {
                    let expected = &whole[offset as usize..(offset + size) as usize];
                    assert_eq!(config.read(offset, size, true), expected);
                    assert_eq!(config.read(0x100 + offset, size, true), expected);
                }
            }
        }
    }

    #[test]
    fn fields_lie_where_the_standard_puts_them() {
        let config = config(true).read(0, 60, true);
        assert_eq!(config[0..8], (10_u64 << 20).to_le_bytes());
        assert_eq!(config[8..12], [0; 4], "size_max");
        assert_eq!(config[12..16], 254_u32.to_le_bytes(), "seg_max");
        assert_eq!(config[16..20], [0; 4], "geometry");
        assert_eq!(config[20..24], 512_u32.to_le_bytes(), "blk_size");
        assert_eq!(config[24], 3, "physical_block_exp");
        assert_eq!(config[25], 0, "alignment_offset");
        assert_eq!(config[26..28], 8_u16.to_le_bytes(), "min_io_size");
        assert_eq!(config[28..32], 128_u32.to_le_bytes(), "opt_io_size");
        assert_eq!(config[32], 1, "writeback");
        assert_eq!(config[34..36], 64_u16.to_le_bytes(), "num_queues");
        for offset in [36, 48] {
            let sectors = (1_u32 << 21).to_le_bytes();
            assert_eq!(config[offset..offset + 4], sectors, "max_*_sectors");
            let segments = 16_u32.to_le_bytes();
            assert_eq!(config[offset + 4..offset + 8], segments, "max_*_seg");
        }
        assert_eq!(config[44..48], 8_u32.to_le_bytes(), "discard alignment");
        assert_eq!(config[56..], [1, 0, 0, 0], "write_zeroes_may_unmap");
    }

    #[test]
    fn a_read_only_disk_has_no_fields_for_writing() {
        let config = config(false);
        assert_eq!(config.read(36, 60, true), [0; 60]);
        assert_eq!(config.read(32, 1, true), [0]);
        assert_eq!(config.parse_write(32, &[1]), None);
    }

    #[test]
    fn only_the_cache_mode_can_be_written() {
        let config = config(true);
        assert_eq!(config.parse_write(32, &[0]), Some(false));
        assert_eq!(config.parse_write(0x120, &[1]), Some(true));
        assert_eq!(config.read(32, 1, false), [0]);
        for (offset, bytes) in [
            (31, &[0][..]),
            (33, &[0]),
            (32, &[0; 2]),
            (32, &[]),
            (0, &[0; 60]),
        ] {
            assert_eq!(config.parse_write(offset, bytes), None, "{offset}");
        }
    }

    #[test]
    fn segments_leave_room_for_header_and_status() {
        let seg_max = |queue_size| ConfigSpace::new(512, false, 1, queue_size).read(12, 4, true);
        assert_eq!(seg_max(128), 126_u32.to_le_bytes());
        assert_eq!(seg_max(1024), 254_u32.to_le_bytes());
        assert_eq!(seg_max(2), 1_u32.to_le_bytes());
    }
}
