//! Trace files: which parts of which layers were read, in order.
//!
//! prefetch -> **trace** (bytes to records and back; no I/O but [`read_bounded`])
//!
//! Three little-endian words of 64 bits each, for the header and for every record:
//!
//! ```text
//! header: magic, 32 bits of anything | bytes of all records | checksum, 32 bits of anything
//! record: 'R', 24 bits of anything, layer (32 bits) | bytes | offset
//! ```
//!
//! The checksum is the raw CRC-32C register over the records as they are stored, whatever is in
//! their unused bits; this writer leaves those zero. Layer 0 is the bottom one; offset and bytes
//! count in the decoded layer: behind tar and zfile.
//!
//! Source: format reference 4.5, 12 (item 3).

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::limits::TRACE_RECORDS_MAX;

/// Size of the header and of each record.
const WORDS_BYTES: usize = 24;

const MAGIC: u32 = 0xC2EF_1820;
const OP_READ: u64 = b'R' as u64;
const LOW_32: u64 = 0xFFFF_FFFF;

/// Largest trace file, in bytes.
pub const TRACE_BYTES_MAX: usize = WORDS_BYTES * (1 + TRACE_RECORDS_MAX);

const OP: &str = "read trace";

/// One read that was done completely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceRecord {
    /// Number of the layer, 0 = bottom.
    pub layer: u32,
    /// First byte in the decoded layer; at most `i64::MAX`.
    pub offset: u64,
    /// How many bytes; not 0. Nothing says that the layer is that long.
    pub bytes: u64,
}

/// What a trace file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Trace {
    /// Reads, in the order in which they ended.
    pub records: Vec<TraceRecord>,
    /// Records that are no reads, of no bytes or at impossible places; replayed by nobody.
    pub ignored: usize,
    /// As stored.
    pub checksum: u32,
}

/// Do these bytes begin as a trace does? A file list does not.
#[must_use]
pub fn is_trace(bytes: &[u8]) -> bool {
    bytes.starts_with(&MAGIC.to_le_bytes())
}

impl Trace {
    /// Decodes a whole file.
    ///
    /// # Errors
    /// `Corrupt` when magic, size or checksum are wrong; `Unsupported` beyond
    /// [`TRACE_BYTES_MAX`].
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > TRACE_BYTES_MAX {
            let detail = format!("larger than {TRACE_BYTES_MAX} bytes");
            return Err(Error::new(ErrorKind::Unsupported, OP, detail));
        }
        let header = bytes.split_first_chunk().filter(|_| is_trace(bytes));
        let Some((header, records)) = header else {
            return Err(Error::corrupt(OP, "no trace header").at(0));
        };
        let [_, data_bytes, checksum] = words(header);
        let (chunks, rest) = records.as_chunks();
        if data_bytes != records.len() as u64 || !rest.is_empty() {
            let detail = format!(
                "{} bytes of records, the header says {data_bytes}, each has {WORDS_BYTES}",
                records.len()
            );
            return Err(Error::corrupt(OP, detail).at(8));
        }
        let (stored, computed) = (low_32(checksum), checksum_of(records));
        if stored != computed {
            let detail = format!("checksum: stored {stored:#010x}, computed {computed:#010x}");
            return Err(Error::corrupt(OP, detail).at(16));
        }
        let records: Vec<_> = chunks.iter().filter_map(decode).collect();
        Ok(Self {
            ignored: chunks.len() - records.len(),
            records,
            checksum: stored,
        })
    }

    /// Reads a trace file. Blocking.
    ///
    /// # Errors
    /// As [`Trace::parse`]; `NotFound` and `Io`.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = read_bounded(path, TRACE_BYTES_MAX)?;
        Self::parse(&bytes).map_err(|error| error.in_file(path.display().to_string()))
    }
}

/// The file that holds `records`.
#[must_use]
pub fn encode(records: &[TraceRecord]) -> Vec<u8> {
    let mut file = vec![0; WORDS_BYTES];
    file.reserve(records.len() * WORDS_BYTES);
    for record in records {
        let first = OP_READ | u64::from(record.layer) << 32;
        put(&mut file, [first, record.bytes, record.offset]);
    }
    let (header, records) = file.split_at_mut(WORDS_BYTES);
    let checksum = u64::from(checksum_of(records));
    let mut words = Vec::with_capacity(WORDS_BYTES);
    put(
        &mut words,
        [u64::from(MAGIC), records.len() as u64, checksum],
    );
    header.copy_from_slice(&words);
    file
}

/// Reads all of a file that has at most `bytes_max`. Blocking.
///
/// # Errors
/// `NotFound`, `Io`; `Unsupported` for a larger one.
pub(super) fn read_bounded(path: &Path, bytes_max: usize) -> Result<Vec<u8>> {
    let name = || path.display().to_string();
    let mut bytes = Vec::new();
    let read =
        File::open(path).and_then(|file| file.take(bytes_max as u64 + 1).read_to_end(&mut bytes));
    read.map_err(|source| Error::io(OP, source).in_file(name()))?;
    if bytes.len() > bytes_max {
        let detail = format!("larger than {bytes_max} bytes");
        return Err(Error::new(ErrorKind::Unsupported, OP, detail).in_file(name()));
    }
    Ok(bytes)
}

fn decode(bytes: &[u8; WORDS_BYTES]) -> Option<TraceRecord> {
    let [first, bytes, offset] = words(bytes);
    let is_read = first & 0xFF == OP_READ;
    let is_possible = bytes > 0 && i64::try_from(offset).is_ok();
    (is_read && is_possible).then(|| TraceRecord {
        layer: low_32(first >> 32),
        offset,
        bytes,
    })
}

fn words(bytes: &[u8; WORDS_BYTES]) -> [u64; 3] {
    let mut words = [0; 3];
    for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_le_bytes(*bytes);
    }
    words
}

fn put(file: &mut Vec<u8>, words: [u64; 3]) {
    file.extend(words.into_iter().flat_map(u64::to_le_bytes));
}

fn low_32(word: u64) -> u32 {
    u32::try_from(word & LOW_32).unwrap_or_default()
}

/// The bare CRC-32C register, inverted neither before nor after.
fn checksum_of(bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!0, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RECORDED: &[u8] = include_bytes!("../../vectors/trace/full.trace");

    fn record(layer: u32, offset: u64, bytes: u64) -> TraceRecord {
        TraceRecord {
            layer,
            offset,
            bytes,
        }
    }

    #[test]
    fn a_trace_that_the_cpp_daemon_recorded_is_read() {
        let trace = Trace::parse(RECORDED).unwrap();
        let expected = [
            record(0, 0, 4096),
            record(1, 0, 4096),
            record(2, 0, 4096),
            record(0, 0x3E_4800, 4096),
            record(1, 0x20_2000, 4096),
            record(2, 0x22_2000, 4096),
            record(0, 0x3E_3800, 4096),
            record(1, 0x20_1000, 4096),
            record(2, 0x22_1000, 4096),
            record(2, 0x1000, 4096),
            record(2, 0x2000, 0x1_0000),
            record(2, 0x1000, 4096),
        ];
        assert_eq!(trace.records, expected);
        assert_eq!((trace.ignored, trace.checksum), (0, 0xB0EE_361D));
    }

    #[test]
    fn what_is_written_is_that_trace_but_for_the_garbage_in_it() {
        let mut clean = RECORDED.to_vec();
        for words in clean.chunks_exact_mut(24) {
            words[1..4].fill(0);
        }
        clean[..4].copy_from_slice(&RECORDED[..4]);
        clean[4..8].fill(0);
        let checksum = checksum_of(&clean[24..]);
        clean[16..20].copy_from_slice(&checksum.to_le_bytes());
        clean[20..24].fill(0);
        assert_eq!(encode(&Trace::parse(RECORDED).unwrap().records), clean);
    }

    #[test]
    fn golden_bytes_of_one_record() {
        let expected = [
            0x20, 0x18, 0xEF, 0xC2, 0, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, GOLDEN[0], GOLDEN[1],
            GOLDEN[2], GOLDEN[3], 0, 0, 0, 0, b'R', 0, 0, 0, 2, 0, 0, 0, 0, 0x10, 0, 0, 0, 0, 0, 0,
            0, 0x20, 0, 0, 1, 0, 0, 0,
        ];
        assert_eq!(encode(&[record(2, 0x1_0000_2000, 0x1000)]), expected);
    }

    /// Computed bit by bit with another program.
    const GOLDEN: [u8; 4] = [0xD1, 0x2B, 0xB3, 0x03];

    #[test]
    fn every_flipped_bit_but_those_of_unused_header_bits_is_found() {
        for bit in 0..RECORDED.len() * 8 {
            let mut flipped = RECORDED.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let unused = matches!(bit / 8, 4..8 | 20..24);
            assert_eq!(Trace::parse(&flipped).is_ok(), unused, "bit {bit}");
        }
    }

    #[test]
    fn every_shorter_or_longer_file_is_refused() {
        for len in 0..RECORDED.len() {
            let error = Trace::parse(&RECORDED[..len]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{len}");
        }
        let longer = [RECORDED, &[0; 24]].concat();
        assert!(Trace::parse(&longer).is_err());
        let error = Trace::parse(&vec![0; TRACE_BYTES_MAX + 1]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    #[test]
    fn writes_empty_reads_and_negative_offsets_are_ignored() {
        let mut file = encode(&[
            record(0, 0, 1),
            record(1, 0, 0),
            record(2, 1 << 63, 1),
            record(3, 7, 7),
        ]);
        file[24] = b'W';
        let checksum = checksum_of(&file[24..]);
        file[16..20].copy_from_slice(&checksum.to_le_bytes());
        let trace = Trace::parse(&file).unwrap();
        assert_eq!((trace.records, trace.ignored), (vec![record(3, 7, 7)], 3));
    }

    #[test]
    fn a_file_that_is_too_large_is_not_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [1; 11]).unwrap();
        assert_eq!(read_bounded(file.path(), 11).unwrap(), [1; 11]);
        let error = read_bounded(file.path(), 10).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }

    proptest! {
        #[test]
        fn records_survive_the_round_trip(
            parts in prop::collection::vec((any::<u32>(), 0_u64..1 << 63, 1_u64..), 0..50)
        ) {
            let records: Vec<_> = parts.into_iter().map(|(l, o, b)| record(l, o, b)).collect();
            let file = encode(&records);
            prop_assert_eq!(file.len(), 24 + 24 * records.len());
            prop_assert_eq!(Trace::parse(&file).unwrap().records, records);
        }
    }
}
