//! The 512-byte record at both ends of a zfile: bytes to struct and back, no I/O.
//!
//! image -> lsmt -> **zfile** -> tar -> io
//!
//! ```text
//! [ header 512 ][ dictionary ][ block 0 [crc] ][ block 1 [crc] ] .. [ index: u32 a block ][ trailer 512 ]
//! ```
//!
//! Old files carry whatever was in memory in their reserved bytes, padding and unused flag bits
//! (the base layer `ext4_64` that every overlaybd install ships is one), so only named bits and
//! fields are looked at, and checksums only when [`Flags::has_checksums`] says that they are
//! meant. The digest covers all 512 bytes, its own field taken as zero.
//!
//! Flag bit 5 is "index compressed". No released writer sets it and the C++ reader does not look
//! at it, so there is no layout to follow. In a record whose checksums are meant, and so whose
//! flags are too, it is refused as unsupported; in older records it may be garbage and is ignored.
//! A dictionary is treated alike: its length is honoured as an offset, its use is refused.
//!
//! The C++ reader does not check the trailer's digest; this one does, when it is meant.
//!
//! Invariants of a decoded [`Record`]
//! - `block_bytes` is a power of two from 4096 to 65536.
//! - `block_count` is exactly `original_bytes / block_bytes`, rounded up, and within its limit.
//! - header, dictionary, blocks, index and trailer lie in this order inside the file.
//!
//! Source: format reference 2.1 to 2.5.

use super::checksum;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{ZFILE_BLOCK_BYTES_MAX, ZFILE_BLOCK_BYTES_MIN, ZFILE_BLOCKS_MAX};

/// Bytes of a header and of a trailer.
pub(crate) const RECORD_BYTES: usize = 512;

/// [`RECORD_BYTES`] as a file offset.
pub(crate) const RECORD_LEN: u64 = 512;

/// Bytes of one index entry.
pub(crate) const INDEX_ENTRY_BYTES: u64 = 4;

const MAGIC: [u8; 24] = *b"ZFile\0\x01\0tuji.yyf@Alibaba";

/// Bytes of the record in use, which its `size` field repeats.
const RECORD_SIZE_FIELD: u32 = 96;

const DIGEST_OFFSET: usize = 28;

const FLAG_HEADER: u64 = 1 << 0;
const FLAG_DATA_FILE: u64 = 1 << 1;
const FLAG_SEALED: u64 = 1 << 2;
const FLAG_HEADER_FINAL: u64 = 1 << 3;
const FLAG_CHECKSUMS: u64 = 1 << 4;
const FLAG_INDEX_COMPRESSED: u64 = 1 << 5;

const OP: &str = "read zfile header or trailer";

/// How the blocks of a zfile are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// A raw LZ4 block, without a frame.
    Lz4,
    /// One zstd frame with its content size.
    Zstd,
}

impl Algorithm {
    /// The name that command lines and reports use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }

    fn code(self) -> u8 {
        match self {
            Self::Lz4 => 1,
            Self::Zstd => 2,
        }
    }
}

/// The flag word of a record; unnamed bits may be anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flags(u64);

impl Flags {
    pub(crate) fn is_header(self) -> bool {
        self.0 & FLAG_HEADER != 0
    }

    fn is_sealed_data_file(self) -> bool {
        self.0 & (FLAG_DATA_FILE | FLAG_SEALED) == FLAG_DATA_FILE | FLAG_SEALED
    }

    pub(crate) fn is_data_file(self) -> bool {
        self.0 & FLAG_DATA_FILE != 0
    }

    /// A header that already says what the trailer says, so that the trailer is not needed.
    pub(crate) fn is_header_final(self) -> bool {
        self.0 & FLAG_HEADER_FINAL != 0
    }

    /// The digest and the index checksum are meant and must match.
    pub(crate) fn has_checksums(self) -> bool {
        self.0 & FLAG_CHECKSUMS != 0
    }
}

/// May a zfile have blocks of `bytes` bytes?
pub(crate) fn is_block_size(bytes: u32) -> bool {
    (ZFILE_BLOCK_BYTES_MIN..=ZFILE_BLOCK_BYTES_MAX).contains(&bytes) && bytes.is_power_of_two()
}

/// Which record is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// The header of a file whose index is not known yet.
    FirstHeader,
    /// The header written again over the first one.
    FinalHeader,
    /// The last 512 bytes.
    Trailer,
}

impl Role {
    fn flags(self) -> u64 {
        match self {
            Self::FirstHeader => FLAG_HEADER | FLAG_DATA_FILE | FLAG_CHECKSUMS,
            Self::FinalHeader => FLAG_HEADER | FLAG_DATA_FILE | FLAG_HEADER_FINAL | FLAG_CHECKSUMS,
            Self::Trailer => FLAG_DATA_FILE | FLAG_SEALED | FLAG_CHECKSUMS,
        }
    }
}

/// What a header or trailer says about its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record {
    /// Where the index starts, in bytes.
    pub(crate) index_offset: u64,
    /// Number of blocks, which is the number of index entries.
    pub(crate) block_count: u64,
    /// Bytes before compression.
    pub(crate) original_bytes: u64,
    /// Checksum of the index, when it is meant.
    pub(crate) index_crc: Option<u32>,
    /// Bytes of every block but the last before compression.
    pub(crate) block_bytes: u32,
    pub(crate) algorithm: Algorithm,
    /// Bytes between the header and the first block.
    pub(crate) dictionary_bytes: u32,
    /// A checksum follows every block.
    pub(crate) has_block_crc: bool,
}

/// Reads the magic and flags of a record, and checks its digest when it is meant.
/// `None`: these bytes are no zfile record.
///
/// # Errors
/// `Corrupt` when the digest does not match.
pub(crate) fn identify(bytes: &[u8; RECORD_BYTES]) -> Result<Option<Flags>> {
    if !bytes.starts_with(&MAGIC) {
        return Ok(None);
    }
    let flags = Flags(u64::from_le_bytes(field(bytes, 32)));
    if flags.has_checksums() {
        let stored = u32::from_le_bytes(field(bytes, DIGEST_OFFSET));
        let computed = digest(bytes);
        if stored != computed {
            let detail = format!("digest: stored {stored:#010x}, computed {computed:#010x}");
            return Err(Error::corrupt(OP, detail));
        }
    }
    Ok(Some(flags))
}

/// Reads the magic and flags of a trailer.
///
/// # Errors
/// `Corrupt` when these bytes are not the trailer of a finished zfile.
pub(crate) fn identify_trailer(bytes: &[u8; RECORD_BYTES]) -> Result<Flags> {
    let op = "read zfile trailer";
    match identify(bytes)? {
        Some(flags) if !flags.is_header() && flags.is_sealed_data_file() => Ok(flags),
        Some(Flags(word)) => {
            let detail = format!("flags {:#x}, expected 0x6", word & 0x7);
            Err(Error::corrupt(op, detail))
        }
        None => Err(Error::corrupt(
            op,
            "no zfile magic, the file is cut short or unfinished",
        )),
    }
}

impl Record {
    /// Decodes the record in use of a file of `file_bytes` bytes.
    ///
    /// # Errors
    /// `Corrupt` when a rule of the format is broken, `Unsupported` for what no reader can do.
    pub(crate) fn decode(
        bytes: &[u8; RECORD_BYTES],
        flags: Flags,
        file_bytes: u64,
    ) -> Result<Self> {
        let checked = flags.has_checksums();
        if checked {
            refuse_unsupported(bytes, flags)?;
        }
        let record = Self {
            index_offset: u64::from_le_bytes(field(bytes, 40)),
            block_count: u64::from_le_bytes(field(bytes, 48)),
            original_bytes: u64::from_le_bytes(field(bytes, 56)),
            index_crc: checked.then(|| u32::from_le_bytes(field(bytes, 64))),
            block_bytes: u32::from_le_bytes(field(bytes, 72)),
            algorithm: decode_algorithm(u8::from_le_bytes(field(bytes, 76)))?,
            dictionary_bytes: u32::from_le_bytes(field(bytes, 84)),
            has_block_crc: u8::from_le_bytes(field(bytes, 88)) != 0,
        };
        record.check_block_size()?;
        record.check_counts()?;
        record.check_layout(file_bytes)?;
        Ok(record)
    }

    /// The bytes of this record, digest included.
    pub(crate) fn encode(&self, role: Role) -> [u8; RECORD_BYTES] {
        let mut bytes = [0; RECORD_BYTES];
        put(&mut bytes, 0, &MAGIC);
        put(&mut bytes, 24, &RECORD_SIZE_FIELD.to_le_bytes());
        put(&mut bytes, 32, &role.flags().to_le_bytes());
        put(&mut bytes, 40, &self.index_offset.to_le_bytes());
        put(&mut bytes, 48, &self.block_count.to_le_bytes());
        put(&mut bytes, 56, &self.original_bytes.to_le_bytes());
        put(&mut bytes, 64, &self.index_crc.unwrap_or(0).to_le_bytes());
        put(&mut bytes, 72, &self.block_bytes.to_le_bytes());
        put(&mut bytes, 76, &[self.algorithm.code()]);
        put(&mut bytes, 84, &self.dictionary_bytes.to_le_bytes());
        put(&mut bytes, 88, &[u8::from(self.has_block_crc)]);
        let digest = digest(&bytes);
        put(&mut bytes, DIGEST_OFFSET, &digest.to_le_bytes());
        bytes
    }

    /// Where the first block starts, in bytes.
    pub(crate) fn blocks_offset(&self) -> u64 {
        RECORD_LEN + u64::from(self.dictionary_bytes)
    }

    fn check_block_size(&self) -> Result<()> {
        let bytes = self.block_bytes;
        if is_block_size(bytes) {
            return Ok(());
        }
        let detail = format!(
            "block size {}, expected a power of two from {ZFILE_BLOCK_BYTES_MIN} to {ZFILE_BLOCK_BYTES_MAX}",
            self.block_bytes
        );
        Err(Error::corrupt(OP, detail))
    }

    /// Afterwards `block_count * INDEX_ENTRY_BYTES` and `block_count * block_bytes` cannot
    /// overflow.
    fn check_counts(&self) -> Result<()> {
        if self.block_count > ZFILE_BLOCKS_MAX {
            let detail = format!(
                "{} index entries, at most {ZFILE_BLOCKS_MAX} are allowed",
                self.block_count
            );
            return Err(Error::corrupt(OP, detail));
        }
        let expected = self.original_bytes.div_ceil(u64::from(self.block_bytes));
        if self.block_count != expected {
            let detail = format!(
                "{} index entries, expected {expected} for {} bytes in blocks of {}",
                self.block_count, self.original_bytes, self.block_bytes
            );
            return Err(Error::corrupt(OP, detail));
        }
        Ok(())
    }

    fn check_layout(&self, file_bytes: u64) -> Result<()> {
        if self.index_offset < self.blocks_offset() {
            let detail = format!(
                "index at byte {}, expected behind the blocks, which start at byte {}",
                self.index_offset,
                self.blocks_offset()
            );
            return Err(Error::corrupt(OP, detail));
        }
        // The trailer is there even when the header makes it superfluous: a file that ends
        // before it was cut short.
        let end =
            (self.block_count * INDEX_ENTRY_BYTES + RECORD_LEN).checked_add(self.index_offset);
        if end.is_none_or(|end| end > file_bytes) {
            let detail = format!(
                "{} index entries at byte {} and a trailer do not fit in {file_bytes} bytes",
                self.block_count, self.index_offset
            );
            return Err(Error::corrupt(OP, detail));
        }
        Ok(())
    }
}

fn refuse_unsupported(bytes: &[u8; RECORD_BYTES], Flags(word): Flags) -> Result<()> {
    let refused = |what: &str| Err(Error::new(ErrorKind::Unsupported, OP, what));
    if word & FLAG_INDEX_COMPRESSED != 0 {
        return refused("flag bit 5, a compressed index, for which no layout is defined");
    }
    if u8::from_le_bytes(field(bytes, 78)) != 0 {
        return refused("blocks that need a dictionary");
    }
    Ok(())
}

fn decode_algorithm(code: u8) -> Result<Algorithm> {
    match code {
        1 => Ok(Algorithm::Lz4),
        2 => Ok(Algorithm::Zstd),
        _ => {
            let detail = format!("compression algorithm {code}, expected 1 (lz4) or 2 (zstd)");
            Err(Error::new(ErrorKind::Unsupported, OP, detail))
        }
    }
}

/// Register over the whole record, with zeros for the digest field.
fn digest(bytes: &[u8; RECORD_BYTES]) -> u32 {
    let mut blank = *bytes;
    put(&mut blank, DIGEST_OFFSET, &[0; 4]);
    checksum::of_record(&blank)
}

#[expect(
    clippy::indexing_slicing,
    reason = "every call passes constants with at + N <= 512"
)]
fn field<const N: usize>(bytes: &[u8; RECORD_BYTES], at: usize) -> [u8; N] {
    std::array::from_fn(|idx| bytes[at + idx])
}

#[expect(
    clippy::indexing_slicing,
    reason = "every call passes constants with at + value.len() <= 512"
)]
fn put(bytes: &mut [u8; RECORD_BYTES], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE_BYTES: u64 = 1_000_000;

    fn record() -> Record {
        Record {
            index_offset: 900_000,
            block_count: 300,
            original_bytes: 299 * 4096 + 1,
            index_crc: Some(0x1234_5678),
            block_bytes: 4096,
            algorithm: Algorithm::Zstd,
            dictionary_bytes: 0,
            has_block_crc: true,
        }
    }

    /// Decodes a trailer with `value` at `at`; its digest is right, or not meant.
    fn decode_changed(at: usize, value: &[u8], checked: bool) -> Result<Record> {
        let mut bytes = record().encode(Role::Trailer);
        put(&mut bytes, at, value);
        if checked {
            let digest = digest(&bytes);
            put(&mut bytes, DIGEST_OFFSET, &digest.to_le_bytes());
        } else {
            bytes[32] &= !(1 << 4);
        }
        let flags = identify(&bytes)?.unwrap();
        Record::decode(&bytes, flags, FILE_BYTES)
    }

    fn fault(at: usize, value: &[u8]) -> Error {
        decode_changed(at, value, true).unwrap_err()
    }

    #[test]
    fn a_record_decodes_to_what_was_encoded() {
        for role in [Role::FirstHeader, Role::FinalHeader, Role::Trailer] {
            let bytes = record().encode(role);
            let flags = identify(&bytes).unwrap().unwrap();
            assert_eq!(Record::decode(&bytes, flags, FILE_BYTES).unwrap(), record());
            assert_eq!(flags.is_header(), role != Role::Trailer);
            assert_eq!(flags.is_header_final(), role == Role::FinalHeader);
            assert_eq!(identify_trailer(&bytes).is_ok(), role == Role::Trailer);
        }
    }

    #[test]
    fn block_sizes_that_no_writer_makes_are_corrupt() {
        for bytes in [0_u32, 1, 512, 2048, 4095, 12288, 131_072, 1 << 31] {
            let error = fault(72, &bytes.to_le_bytes());
            assert_eq!(error.kind(), ErrorKind::Corrupt);
            assert!(
                error.to_string().contains(&format!("block size {bytes},")),
                "{error}"
            );
        }
    }

    #[test]
    fn algorithms_that_nobody_reads_are_unsupported() {
        for code in [0, 3, 255] {
            let error = fault(76, &[code]);
            assert_eq!(error.kind(), ErrorKind::Unsupported);
        }
    }

    #[test]
    fn block_counts_that_do_not_match_the_size_are_corrupt() {
        for count in [0, 299, 301, u64::MAX] {
            assert_eq!(fault(48, &count.to_le_bytes()).kind(), ErrorKind::Corrupt);
        }
        for bytes in [0, 299 * 4096, 300 * 4096 + 1, u64::MAX] {
            assert_eq!(
                fault(56, &u64::to_le_bytes(bytes)).kind(),
                ErrorKind::Corrupt
            );
        }
        assert!(decode_changed(56, &u64::to_le_bytes(300 * 4096), true).is_ok());
    }

    #[test]
    fn more_blocks_than_the_limit_are_corrupt() {
        let mut too_many = record();
        too_many.block_count = ZFILE_BLOCKS_MAX + 1;
        too_many.original_bytes = too_many.block_count * 4096;
        let bytes = too_many.encode(Role::Trailer);
        let flags = identify(&bytes).unwrap().unwrap();
        let error = Record::decode(&bytes, flags, u64::MAX).unwrap_err();
        assert!(error.to_string().contains("at most 1000000000"), "{error}");
    }

    #[test]
    fn an_index_outside_of_the_file_or_before_the_blocks_is_corrupt() {
        let last = FILE_BYTES - 512 - 300 * 4;
        assert!(decode_changed(40, &last.to_le_bytes(), true).is_ok());
        for offset in [0, 511, last + 1, FILE_BYTES, u64::MAX] {
            assert_eq!(fault(40, &offset.to_le_bytes()).kind(), ErrorKind::Corrupt);
        }
        assert_eq!(
            fault(84, &900_000_u32.to_le_bytes()).kind(),
            ErrorKind::Corrupt
        );
    }

    #[test]
    fn a_dictionary_is_an_offset_of_the_first_block() {
        let shifted = decode_changed(84, &1000_u32.to_le_bytes(), true).unwrap();
        assert_eq!(shifted.blocks_offset(), 1512);
    }

    #[test]
    fn a_compressed_index_or_a_needed_dictionary_is_refused_when_flags_are_meant() {
        for (at, value) in [(32, 0x36), (78, 1)] {
            let error = fault(at, &[value]);
            assert_eq!(error.kind(), ErrorKind::Unsupported);
            assert!(decode_changed(at, &[value], false).is_ok());
        }
    }

    #[test]
    fn garbage_in_bytes_that_say_nothing_is_ignored() {
        for (at, len) in [(24, 4), (33, 7), (68, 4), (77, 1), (79, 5), (89, 423)] {
            assert_eq!(
                decode_changed(at, &vec![0xA5; len], true).unwrap(),
                record()
            );
        }
        let unchecked = decode_changed(DIGEST_OFFSET, &[0xA5; 4], false).unwrap();
        assert_eq!(unchecked.index_crc, None);
    }

    #[test]
    fn a_wrong_digest_says_what_was_stored_and_what_computed() {
        let mut bytes = record().encode(Role::Trailer);
        bytes[511] = 1;
        let text = identify(&bytes).unwrap_err().to_string();
        assert!(
            text.contains("digest: stored 0x") && text.contains("computed 0x"),
            "{text}"
        );
    }
}
