//! The 4096-byte record at the head and the tail of every LSMT file: bytes to struct and back.
//!
//! image -> **lsmt format** (no I/O)
//!
//! | off | size | field |
//! |---:|---:|---|
//! | 0 | 24 | magic |
//! | 24 | 4 | size of the record, 390; written, never checked |
//! | 28 | 4 | flags: bit 0 header, 1 data file, 2 sealed, 4 sparse |
//! | 32 | 8 | index offset, bytes |
//! | 40 | 8 | index size, **entries** |
//! | 48 | 8 | virtual size, bytes |
//! | 56, 93 | 37 | uuid, parent uuid |
//! | 130 | 4 | reserved, version, sub version; never checked |
//! | 134 | 256 | user tag, no terminator when full |
//!
//! Unknown flag bits, reserved fields and padding are ignored: real files hold garbage there.
//!
//! Source: format reference 1.1, 1.2.

use super::uuid::Uuid;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::USER_TAG_BYTES_MAX;

/// Size of a header or trailer block in bytes.
pub const HEADER_BYTES: usize = 4096;

const RECORD_BYTES: u32 = 390;
const MAGIC: [u8; 24] = [
    0x4C, 0x53, 0x4D, 0x54, 0x00, 0x01, 0x02, 0x00, // "LSMT" 0 1 2 0
    0x65, 0x7E, 0x63, 0xD2, 0x94, 0x44, 0x08, 0x4C, 0xA2, 0xD2, 0xC8, 0xEC, 0x4F, 0xCF, 0xAE, 0x8A,
];

const FLAG_HEADER: u32 = 1 << 0;
const FLAG_DATA_FILE: u32 = 1 << 1;
const FLAG_SEALED: u32 = 1 << 2;
const FLAG_SPARSE: u32 = 1 << 4;

/// Which of the two blocks of a sealed layer a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordKind {
    /// At byte 0. Its index fields are not used for sealed layers.
    Header,
    /// The last 4096 bytes of the file; the authority for everything but `commit`.
    Trailer,
}

/// A decoded header or trailer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Raw flag word; see the accessors.
    pub flags: u32,
    /// Where the index starts, in bytes from the start of the file.
    pub index_offset_bytes: u64,
    /// Number of 16-byte entries, padding included.
    pub index_entries: u64,
    /// Size of the disk in bytes; 0 means "inherit from the layer below".
    pub virtual_size_bytes: u64,
    /// Name of this layer.
    pub uuid: Uuid,
    /// Name of the layer below; recorded, never enforced.
    pub parent_uuid: Uuid,
    /// Free text, at most 256 bytes.
    pub user_tag: Vec<u8>,
}

impl Record {
    /// Decodes a block, checking the magic only. `None` when the magic is not there.
    #[must_use]
    pub fn decode(block: &[u8; HEADER_BYTES]) -> Option<Self> {
        let (magic, _) = block.split_first_chunk::<24>()?;
        if *magic != MAGIC {
            return None;
        }
        let tag = block.get(134..134 + USER_TAG_BYTES_MAX)?;
        let tag_len = tag
            .iter()
            .rposition(|byte| *byte != 0)
            .map_or(0, |last| last + 1);
        Some(Self {
            flags: u32_at(block, 28)?,
            index_offset_bytes: u64_at(block, 32)?,
            index_entries: u64_at(block, 40)?,
            virtual_size_bytes: u64_at(block, 48)?,
            uuid: Uuid::from_field(block.get(56..93)?),
            parent_uuid: Uuid::from_field(block.get(93..130)?),
            user_tag: tag.get(..tag_len)?.to_vec(),
        })
    }

    /// Encodes the record, zero padded. A user tag over 256 bytes is cut; callers refuse it first.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut block = [0_u8; HEADER_BYTES];
        let uuid = self.uuid.to_string();
        let parent = self.parent_uuid.to_string();
        let tag = self
            .user_tag
            .get(..USER_TAG_BYTES_MAX)
            .unwrap_or(&self.user_tag);
        put(&mut block, 0, &MAGIC);
        put(&mut block, 24, &RECORD_BYTES.to_le_bytes());
        put(&mut block, 28, &self.flags.to_le_bytes());
        put(&mut block, 32, &self.index_offset_bytes.to_le_bytes());
        put(&mut block, 40, &self.index_entries.to_le_bytes());
        put(&mut block, 48, &self.virtual_size_bytes.to_le_bytes());
        put(&mut block, 56, uuid.as_bytes());
        put(&mut block, 93, parent.as_bytes());
        put(&mut block, 132, &[1, 1]);
        put(&mut block, 134, tag);
        block
    }

    /// Flag word of a committed layer's header or trailer.
    #[must_use]
    pub fn committed_flags(kind: RecordKind) -> u32 {
        match kind {
            RecordKind::Header => FLAG_HEADER | FLAG_DATA_FILE | FLAG_SEALED,
            RecordKind::Trailer => FLAG_DATA_FILE | FLAG_SEALED,
        }
    }

    /// Flag word of the header of a writable layer's file.
    #[must_use]
    pub fn writable_flags(is_data_file: bool, is_sparse: bool) -> u32 {
        let data = if is_data_file { FLAG_DATA_FILE } else { 0 };
        let sparse = if is_sparse { FLAG_SPARSE } else { 0 };
        FLAG_HEADER | data | sparse
    }

    /// Flag word of the trailer of a layer that is sealed in place.
    #[must_use]
    pub fn sealed_trailer_flags(&self) -> u32 {
        FLAG_DATA_FILE | FLAG_SEALED | self.flags & FLAG_SPARSE
    }

    /// Checks the flag bits that the header of a writable layer's file must have.
    ///
    /// # Errors
    /// `Config` when it is another kind of file.
    pub fn check_unsealed_flags(&self, want_data_file: bool) -> Result<()> {
        let flags = self.flags;
        let refuse = |what: &str| {
            let detail = format!("flags {flags:#x} are those of {what}");
            Err(Error::new(ErrorKind::Config, "read layer header", detail))
        };
        if flags & FLAG_HEADER == 0 {
            return refuse("a trailer");
        }
        match (want_data_file, flags & FLAG_DATA_FILE != 0) {
            (true, false) => refuse("an index file, a data file is wanted"),
            (false, true) => refuse("a data file, an index file is wanted"),
            _ if flags & FLAG_SEALED != 0 => refuse("a committed layer, which cannot be written"),
            _ => Ok(()),
        }
    }

    /// Checks the flag bits a sealed layer must have in this place.
    ///
    /// # Errors
    /// `Corrupt`, saying which bit is wrong.
    pub fn check_sealed_flags(&self, kind: RecordKind) -> Result<()> {
        let (op, want_header, what) = match kind {
            RecordKind::Header => ("read layer header", true, "a header"),
            RecordKind::Trailer => ("read layer trailer", false, "a trailer"),
        };
        let flags = self.flags;
        if (flags & FLAG_HEADER != 0) != want_header {
            return Err(Error::corrupt(
                op,
                format!("flags {flags:#x} are not those of {what}"),
            ));
        }
        if flags & FLAG_DATA_FILE == 0 {
            let detail = format!("flags {flags:#x} are those of an index file, not of a data file");
            return Err(Error::corrupt(op, detail));
        }
        if kind == RecordKind::Trailer && flags & FLAG_SEALED == 0 {
            let detail = format!("flags {flags:#x} lack the sealed bit");
            return Err(Error::corrupt(op, detail));
        }
        Ok(())
    }

    /// True for a sparse writable layer, sealed or not.
    #[must_use]
    pub fn is_sparse(&self) -> bool {
        self.flags & FLAG_SPARSE != 0
    }
}

/// True if `block`, the first bytes of a file, starts an LSMT file.
#[must_use]
pub fn is_lsmt(block: &[u8]) -> bool {
    block.starts_with(&MAGIC)
}

fn u32_at(block: &[u8], at: usize) -> Option<u32> {
    block
        .get(at..)?
        .first_chunk()
        .map(|bytes| u32::from_le_bytes(*bytes))
}

fn u64_at(block: &[u8], at: usize) -> Option<u64> {
    block
        .get(at..)?
        .first_chunk()
        .map(|bytes| u64::from_le_bytes(*bytes))
}

fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = block.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record() -> Record {
        Record {
            flags: Record::committed_flags(RecordKind::Trailer),
            index_offset_bytes: 8192,
            index_entries: 256,
            virtual_size_bytes: 1 << 30,
            uuid: Uuid::parse("aaaaaaaa-0000-4000-8000-000000000001").unwrap(),
            parent_uuid: Uuid::NIL,
            user_tag: b"layer0".to_vec(),
        }
    }

    #[test]
    fn encode_and_decode_are_inverse() {
        assert_eq!(Record::decode(&record().encode()), Some(record()));
        let full = Record {
            user_tag: vec![b'x'; 256],
            ..record()
        };
        assert_eq!(Record::decode(&full.encode()), Some(full));
    }

    #[test]
    fn golden_bytes_stand_where_the_reference_says() {
        let block = record().encode();
        assert_eq!(block[..8], [0x4C, 0x53, 0x4D, 0x54, 0, 1, 2, 0]);
        assert_eq!(block[24..28], [0x86, 1, 0, 0]);
        assert_eq!(block[28], 0x06);
        assert_eq!(&block[56..93], b"AAAAAAAA-0000-4000-8000-000000000001\0");
        assert_eq!(&block[93..130], b"00000000-0000-0000-0000-000000000000\0");
        assert_eq!(block[130..134], [0, 0, 1, 1]);
        assert_eq!(&block[134..140], b"layer0");
        assert!(block[390..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn a_changed_magic_is_not_a_record() {
        for bit in 0..24 * 8 {
            let mut block = record().encode();
            block[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(&block), None);
        }
    }

    #[test]
    fn a_header_is_no_trailer_and_an_unsealed_file_no_layer() {
        let trailer = record();
        assert!(trailer.check_sealed_flags(RecordKind::Trailer).is_ok());
        assert!(trailer.check_sealed_flags(RecordKind::Header).is_err());
        let unsealed = Record {
            flags: 0x02,
            ..record()
        };
        assert!(unsealed.check_sealed_flags(RecordKind::Trailer).is_err());
        let index = Record {
            flags: 0x01,
            ..record()
        };
        assert!(index.check_sealed_flags(RecordKind::Header).is_err());
        let garbage_bits = Record {
            flags: 0xa464_0b46,
            ..record()
        };
        assert!(garbage_bits.check_sealed_flags(RecordKind::Trailer).is_ok());
    }
}
