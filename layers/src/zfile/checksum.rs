//! The raw CRC-32C register that every zfile checksum is.
//!
//! image -> lsmt -> **zfile** -> tar -> io
//!
//! It is not the textbook CRC-32C: the register is neither inverted before nor after, which is
//! what the bare `crc32` instruction of the CPU gives.
//!
//! Source: format reference 0, 2.2, 2.5; values to compare with in 11.

/// Start value for headers, trailers and the index.
const RECORD_INIT: u32 = 0;

/// Start value for the compressed bytes of a block.
const BLOCK_INIT: u32 = 100_007;

/// The register after `data`, starting from `init`.
///
/// The register of `a` followed by `b` is `raw(raw(init, a), b)`.
#[must_use]
pub(crate) fn raw(init: u32, data: &[u8]) -> u32 {
    !crc32c::crc32c_append(!init, data)
}

/// Checksum of a header, a trailer or the index.
#[must_use]
pub(crate) fn of_record(data: &[u8]) -> u32 {
    raw(RECORD_INIT, data)
}

/// Checksum of the compressed bytes of one block.
#[must_use]
pub(crate) fn of_block(data: &[u8]) -> u32 {
    raw(BLOCK_INIT, data)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_equal_those_of_the_format_reference() {
        assert_eq!(of_record(b"123456789"), 0x58E3_FA20);
        assert_eq!(of_block(b"123456789"), 0x3C9B_D4E0);
        assert_eq!(of_record(&[0; 4096]), 0);
        assert_eq!(of_block(&[0; 4096]), 0x1874_6CCD);
    }

    #[test]
    fn a_checksum_of_parts_continues_where_the_last_part_ended() {
        assert_eq!(raw(raw(0, b"1234"), b"56789"), of_record(b"123456789"));
    }
}
