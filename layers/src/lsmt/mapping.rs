//! One index entry: a run of logical sectors and where its data lies.
//!
//! image -> **lsmt mapping** (no I/O)
//!
//! Two little-endian words, the same in memory as on disk:
//!
//! ```text
//! word 0: bits 0..50 offset (logical sector), bits 50..64 length (sectors)
//! word 1: bits 0..55 moffset (sector in the blob), bit 55 zeroed, bits 56..64 tag
//! ```
//!
//! A zeroed mapping reads as zeros and hides lower layers; its moffset does not advance.
//! The tag is the layer's place in the stack, 0 = top, once indexes are merged.
//!
//! Source: format reference 1.3.

use crate::limits::{BLOB_SECTOR_MAX, MAPPING_SECTORS_MAX, SECTOR_INVALID};

/// Size of an entry on disk in bytes.
pub(crate) const ENTRY_BYTES: usize = 16;

const LENGTH_SHIFT: u32 = 50;
const ZEROED: u64 = 1 << 55;
const TAG_SHIFT: u32 = 56;

/// A half-open range of sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SectorRange {
    /// First sector.
    pub start: u64,
    /// One past the last sector.
    pub end: u64,
}

/// A packed index entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Mapping {
    word0: u64,
    word1: u64,
}

impl Mapping {
    /// The entry that fills an index up to a whole 4 KiB block.
    pub const PADDING: Self = Self {
        word0: SECTOR_INVALID,
        word1: 0,
    };

    /// A mapping to data. Every field is cut to its width; callers pass values in range.
    #[must_use]
    pub fn data(offset: u64, sectors: u64, moffset: u64, tag: u8) -> Self {
        debug_assert!(offset < SECTOR_INVALID && moffset <= BLOB_SECTOR_MAX);
        debug_assert!((1..=MAPPING_SECTORS_MAX).contains(&sectors));
        Self {
            word0: offset & SECTOR_INVALID | sectors << LENGTH_SHIFT,
            word1: moffset & BLOB_SECTOR_MAX | u64::from(tag) << TAG_SHIFT,
        }
    }

    /// A mapping that reads as zeros.
    #[must_use]
    pub fn zeroed(offset: u64, sectors: u64, moffset: u64, tag: u8) -> Self {
        let mapping = Self::data(offset, sectors, moffset, tag);
        Self {
            word1: mapping.word1 | ZEROED,
            ..mapping
        }
    }

    /// An entry that readers skip like padding, with room for a remark: 14 bits, a kind, 55 bits.
    #[must_use]
    pub(crate) fn remark(kind: u8, short: u64, value: u64) -> Self {
        Self {
            word0: SECTOR_INVALID | short << LENGTH_SHIFT,
            word1: value & BLOB_SECTOR_MAX | u64::from(kind) << TAG_SHIFT,
        }
    }

    /// Decodes an entry.
    #[must_use]
    pub fn from_bytes(bytes: [u8; ENTRY_BYTES]) -> Self {
        let both = u128::from_le_bytes(bytes);
        #[expect(clippy::cast_possible_truncation, reason = "takes the low word apart")]
        let word0 = both as u64;
        let word1 = (both >> 64) as u64;
        Self { word0, word1 }
    }

    /// Encodes the entry.
    #[must_use]
    pub fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        (u128::from(self.word1) << 64 | u128::from(self.word0)).to_le_bytes()
    }

    /// First logical sector.
    #[must_use]
    pub fn offset(self) -> u64 {
        self.word0 & SECTOR_INVALID
    }

    /// Number of sectors, 0 to 16383; no valid entry has 0.
    #[must_use]
    pub fn sectors(self) -> u64 {
        self.word0 >> LENGTH_SHIFT
    }

    /// One past the last logical sector.
    #[must_use]
    pub fn end(self) -> u64 {
        self.offset() + self.sectors()
    }

    /// First sector of the data inside the blob.
    #[must_use]
    pub fn moffset(self) -> u64 {
        self.word1 & BLOB_SECTOR_MAX
    }

    /// One past the last data sector; the moffset itself for a zeroed mapping.
    #[must_use]
    pub fn moffset_end(self) -> u64 {
        if self.is_zeroed() {
            self.moffset()
        } else {
            self.moffset() + self.sectors()
        }
    }

    /// True when the range reads as zeros.
    #[must_use]
    pub fn is_zeroed(self) -> bool {
        self.word1 & ZEROED != 0
    }

    /// True for an entry that only fills space.
    #[must_use]
    pub fn is_padding(self) -> bool {
        self.offset() == SECTOR_INVALID
    }

    /// The layer this mapping belongs to.
    #[must_use]
    pub fn tag(self) -> u8 {
        let [.., tag] = self.word1.to_le_bytes();
        tag
    }

    /// The same mapping in another layer.
    #[must_use]
    pub fn with_tag(self, tag: u8) -> Self {
        let word1 = self.word1 & !(u64::from(u8::MAX) << TAG_SHIFT) | u64::from(tag) << TAG_SHIFT;
        Self { word1, ..self }
    }

    /// The logical sectors covered.
    #[must_use]
    pub fn range(self) -> SectorRange {
        SectorRange {
            start: self.offset(),
            end: self.end(),
        }
    }

    /// The part inside `range`, or `None` when they do not meet. Data moffsets advance with the
    /// cut, zeroed ones stay.
    #[must_use]
    pub fn trimmed(self, range: SectorRange) -> Option<Self> {
        let start = self.offset().max(range.start);
        let end = self.end().min(range.end);
        if start >= end {
            return None;
        }
        let advance = if self.is_zeroed() {
            0
        } else {
            start - self.offset()
        };
        Some(Self {
            word0: start | (end - start) << LENGTH_SHIFT,
            // Cannot carry into the zeroed bit: moffset + sectors was checked at load.
            word1: self.word1 + advance,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn golden_bytes_of_a_padding_entry() {
        let bytes = [
            0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        ];
        assert_eq!(Mapping::PADDING.to_bytes(), bytes);
        assert!(Mapping::from_bytes(bytes).is_padding());
    }

    #[test]
    fn golden_packing_of_the_reference_example() {
        let mapping = Mapping::data(8, 1048, 10, 0);
        assert_eq!(mapping.word0, 1048 << 50 | 8);
        assert_eq!(mapping.word1, 10);
    }

    #[test]
    fn every_field_survives_the_round_trip_at_its_limits() {
        let mapping = Mapping::zeroed(
            SECTOR_INVALID - 1,
            MAPPING_SECTORS_MAX,
            BLOB_SECTOR_MAX,
            255,
        );
        let again = Mapping::from_bytes(mapping.to_bytes());
        assert_eq!(again, mapping);
        assert_eq!(again.offset(), SECTOR_INVALID - 1);
        assert_eq!(again.sectors(), MAPPING_SECTORS_MAX);
        assert_eq!(again.moffset(), BLOB_SECTOR_MAX);
        assert!(again.is_zeroed());
        assert_eq!(again.tag(), 255);
        assert_eq!(again.with_tag(3).tag(), 3);
        assert_eq!(again.with_tag(3).moffset(), BLOB_SECTOR_MAX);
    }

    #[test]
    fn trimming_the_front_advances_data_but_not_zeroes() {
        let range = SectorRange { start: 12, end: 14 };
        let data = Mapping::data(10, 10, 100, 1).trimmed(range).unwrap();
        assert_eq!(data, Mapping::data(12, 2, 102, 1));
        let zero = Mapping::zeroed(10, 10, 100, 1).trimmed(range).unwrap();
        assert_eq!(zero, Mapping::zeroed(12, 2, 100, 1));
        assert_eq!(Mapping::data(0, 12, 8, 0).trimmed(range), None);
        assert_eq!(Mapping::data(14, 1, 8, 0).trimmed(range), None);
    }
}
