//! The device configuration that a driver reads: `struct virtio_blk_config`.
//!
//! Source: VirtIO 1.2 section 5.2.4 (layout, all fields little-endian).

use layers::limits::SECTOR_BYTES;

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

/// The configuration space of one disk, as bytes.
#[derive(Debug, Clone, Copy)]
pub struct ConfigSpace {
    /// Fields up to and including `num_queues`; all behind that belongs to features that are not
    /// offered and reads as zeros.
    bytes: [u8; 36],
}

impl ConfigSpace {
    /// Configuration of a disk of `disk_bytes` with queues of up to `queue_size` entries.
    #[must_use]
    pub fn new(disk_bytes: u64, num_queues: u16, queue_size: u16) -> Self {
        let seg_max = u32::from(queue_size.saturating_sub(2).clamp(1, SEGMENTS_MAX));
        let mut bytes = [0; 36];
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
        Self { bytes }
    }

    /// Exactly `size` bytes from `offset`, zeros where there is no field. Offsets from 0x100 on
    /// mean the same as those from 0 on.
    #[must_use]
    pub fn read(&self, offset: u32, size: u32) -> Vec<u8> {
        let start = offset.checked_sub(DEVICE_OFFSET).unwrap_or(offset);
        self.bytes
            .iter()
            .copied()
            .chain(std::iter::repeat(0))
            .skip(start as usize)
            .take(size as usize)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offset_and_size_gives_exactly_the_bytes_asked_for() {
        let config = ConfigSpace::new(5 << 30, 64, 256);
        let whole = config.read(0, 96);
        for offset in 0..96_u32 {
            for size in 0..=96 - offset {
                let expected = &whole[offset as usize..(offset + size) as usize];
                assert_eq!(config.read(offset, size), expected);
                assert_eq!(config.read(0x100 + offset, size), expected);
            }
        }
    }

    #[test]
    fn fields_lie_where_the_standard_puts_them() {
        let config = ConfigSpace::new(5 << 30, 64, 256).read(0, 60);
        assert_eq!(config[0..8], (10_u64 << 20).to_le_bytes());
        assert_eq!(config[8..12], [0; 4], "size_max");
        assert_eq!(config[12..16], 254_u32.to_le_bytes(), "seg_max");
        assert_eq!(config[16..20], [0; 4], "geometry");
        assert_eq!(config[20..24], 512_u32.to_le_bytes(), "blk_size");
        assert_eq!(config[24], 3, "physical_block_exp");
        assert_eq!(config[25], 0, "alignment_offset");
        assert_eq!(config[26..28], 8_u16.to_le_bytes(), "min_io_size");
        assert_eq!(config[28..32], 128_u32.to_le_bytes(), "opt_io_size");
        assert_eq!(config[34..36], 64_u16.to_le_bytes(), "num_queues");
        assert_eq!(config[36..], [0; 24]);
    }

    #[test]
    fn segments_leave_room_for_header_and_status() {
        let seg_max = |queue_size| ConfigSpace::new(512, 1, queue_size).read(12, 4);
        assert_eq!(seg_max(128), 126_u32.to_le_bytes());
        assert_eq!(seg_max(1024), 254_u32.to_le_bytes());
        assert_eq!(seg_max(2), 1_u32.to_le_bytes());
    }
}
