//! Writing a committed layer: header, data in ascending order, padded index, trailer.
//!
//! import | compact -> **lsmt builder** -> zfile builder -> tar writer -> file
//!
//! The bytes are those of the C++ commit: data is cut into steps of 32 KiB, each step gives an
//! entry, and neighbours of one kind and tag are joined greedily while they stay below 16383
//! sectors. The output is purely sequential; only the index is kept in memory.
//!
//! Invariants
//! - logical offsets ascend and never overlap; a call that breaks this is refused.
//! - a layer that is finished has an index that readers accept.
//!
//! Source: format reference 1.8.

use std::io::Write;

use super::format::{HEADER_BYTES, Record, RecordKind};
use super::mapping::{ENTRY_BYTES, Mapping};
use super::uuid::Uuid;
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{
    LAYER_INDEX_ENTRIES_MAX, MAPPING_SECTORS_MAX, SECTOR_BYTES, SECTOR_INVALID, USER_TAG_BYTES_MAX,
};

const OP: &str = "write layer";
const STEP_SECTORS: u64 = 64;
const PADDED_ENTRIES: usize = HEADER_BYTES / ENTRY_BYTES;

/// Most mappings whose padded index readers accept.
#[expect(
    clippy::cast_possible_truncation,
    reason = "a million fits into any usize"
)]
pub(super) const MAPPINGS_MAX: usize =
    LAYER_INDEX_ENTRIES_MAX as usize / PADDED_ENTRIES * PADDED_ENTRIES;

/// What the header and trailer of the new layer say.
#[derive(Debug, Clone, Default)]
pub struct LayerOptions {
    /// Size of the disk in bytes.
    pub virtual_size_bytes: u64,
    /// Name of the layer.
    pub uuid: Uuid,
    /// Name of the layer below.
    pub parent_uuid: Uuid,
    /// Free text, at most 256 bytes.
    pub user_tag: Vec<u8>,
}

/// What was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerSummary {
    /// Bytes of the LSMT file, before compression.
    pub file_bytes: u64,
    /// Bytes of data in it.
    pub data_bytes: u64,
    /// Index entries without padding.
    pub mappings: usize,
}

/// A layer being written to `sink`.
#[derive(Debug)]
pub struct LayerBuilder<W> {
    sink: W,
    record: Record,
    mappings: Vec<Mapping>,
    /// Where the next data sector goes in the file.
    moffset: u64,
    /// First logical sector that may still be written.
    next_offset: u64,
}

impl<W: Write> LayerBuilder<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// `Config` for a user tag that is too long or a size that is no multiple of 512; `Io`.
    pub fn new(sink: W, options: LayerOptions) -> Result<Self> {
        if options.user_tag.len() > USER_TAG_BYTES_MAX {
            let detail = format!("the user tag is longer than {USER_TAG_BYTES_MAX} bytes");
            return Err(Error::new(ErrorKind::Config, OP, detail));
        }
        if !options.virtual_size_bytes.is_multiple_of(SECTOR_BYTES) {
            let detail = format!("size {} is no multiple of 512", options.virtual_size_bytes);
            return Err(Error::new(ErrorKind::Config, OP, detail));
        }
        let record = Record {
            flags: Record::committed_flags(RecordKind::Header),
            index_offset_bytes: 0,
            index_entries: 0,
            virtual_size_bytes: options.virtual_size_bytes,
            uuid: options.uuid,
            parent_uuid: options.parent_uuid,
            user_tag: options.user_tag,
        };
        let moffset = HEADER_BYTES as u64 / SECTOR_BYTES;
        let mut builder = Self {
            sink,
            record,
            mappings: Vec::new(),
            moffset,
            next_offset: 0,
        };
        builder.write(&builder.record.encode())?;
        Ok(builder)
    }

    /// Appends `data` (whole sectors) for the logical sectors from `offset` on. To get the bytes
    /// of the C++ tools, a run is given in pieces that are multiples of 32 KiB, the last excepted.
    ///
    /// # Errors
    /// `OutOfRange` for partial sectors, descending offsets or addresses beyond the format;
    /// `Unsupported` for more mappings than a layer has; `Io`.
    pub fn append(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        self.append_tagged(offset, data, 0)
    }

    /// As [`LayerBuilder::append`]; the entries on disk say that the data came from layer `tag`.
    ///
    /// # Errors
    /// As [`LayerBuilder::append`].
    pub fn append_tagged(&mut self, offset: u64, data: &[u8], tag: u8) -> Result<()> {
        let bytes = data.len() as u64;
        let sectors = bytes / SECTOR_BYTES;
        if !bytes.is_multiple_of(SECTOR_BYTES) {
            let detail = format!("{bytes} bytes are no whole sectors");
            return Err(Error::new(ErrorKind::OutOfRange, OP, detail));
        }
        self.check_place(offset, sectors)?;
        self.write(data)?;
        let mut left = sectors;
        while left > 0 {
            let step = left.min(STEP_SECTORS);
            self.push(Mapping::data(self.next_offset, step, self.moffset, tag))?;
            self.moffset += step;
            left -= step;
        }
        Ok(())
    }

    /// Makes `sectors` (1 to 16383) from `offset` on read as zeros and hide lower layers.
    ///
    /// # Errors
    /// As [`LayerBuilder::append`].
    pub fn append_zeroed(&mut self, offset: u64, sectors: u64, tag: u8) -> Result<()> {
        if !(1..=MAPPING_SECTORS_MAX).contains(&sectors) {
            let detail = format!("{sectors} zeroed sectors, expected 1 to {MAPPING_SECTORS_MAX}");
            return Err(Error::new(ErrorKind::OutOfRange, OP, detail));
        }
        self.check_place(offset, sectors)?;
        self.push(Mapping::zeroed(offset, sectors, self.moffset, tag))
    }

    /// Writes index and trailer and gives the sink back.
    ///
    /// # Errors
    /// `Io`.
    pub fn finish(mut self) -> Result<(W, LayerSummary)> {
        let index_offset_bytes = self.moffset * SECTOR_BYTES;
        let real = self.mappings.len();
        let padded = real.next_multiple_of(PADDED_ENTRIES);
        self.mappings.resize(padded, Mapping::PADDING);
        let mappings = std::mem::take(&mut self.mappings);
        for block in mappings.chunks(PADDED_ENTRIES) {
            let bytes: Vec<u8> = block
                .iter()
                .flat_map(|mapping| mapping.to_bytes())
                .collect();
            self.write(&bytes)?;
        }
        self.record.flags = Record::committed_flags(RecordKind::Trailer);
        self.record.index_offset_bytes = index_offset_bytes;
        self.record.index_entries = padded as u64;
        self.write(&self.record.encode())?;
        let summary = LayerSummary {
            file_bytes: index_offset_bytes + (padded * ENTRY_BYTES + HEADER_BYTES) as u64,
            data_bytes: index_offset_bytes - HEADER_BYTES as u64,
            mappings: real,
        };
        Ok((self.sink, summary))
    }

    /// Moves to `offset` when `sectors` there come after all that was written.
    fn check_place(&mut self, offset: u64, sectors: u64) -> Result<()> {
        let fits = sectors < SECTOR_INVALID && offset < SECTOR_INVALID - sectors;
        if !fits || offset < self.next_offset {
            let next = self.next_offset;
            let detail =
                format!("{sectors} sectors at sector {offset} cannot follow sector {next}");
            return Err(Error::new(ErrorKind::OutOfRange, OP, detail));
        }
        self.next_offset = offset;
        Ok(())
    }

    fn push(&mut self, next: Mapping) -> Result<()> {
        self.next_offset = next.end();
        if let Some(last) = self.mappings.last_mut()
            && let Some(joined) = join(*last, next)
        {
            *last = joined;
            return Ok(());
        }
        if self.mappings.len() == MAPPINGS_MAX {
            let detail = format!("more than {MAPPINGS_MAX} mappings, which no reader would open");
            return Err(Error::new(ErrorKind::Unsupported, OP, detail));
        }
        self.mappings.push(next);
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink
            .write_all(bytes)
            .map_err(|source| Error::io(OP, source))
    }
}

/// Both as one mapping, when `next` goes on where `last` ends.
fn join(last: Mapping, next: Mapping) -> Option<Mapping> {
    let sectors = last.sectors() + next.sectors();
    let joins = last.end() == next.offset()
        && last.moffset_end() == next.moffset()
        && last.is_zeroed() == next.is_zeroed()
        && last.tag() == next.tag()
        && sectors < MAPPING_SECTORS_MAX;
    let make = match last.is_zeroed() {
        true => Mapping::zeroed,
        false => Mapping::data,
    };
    joins.then(|| make(last.offset(), sectors, last.moffset(), last.tag()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::MemoryFile;
    use crate::lsmt::Layer;

    fn build(runs: &[(u64, usize)]) -> Vec<u8> {
        let options = LayerOptions {
            virtual_size_bytes: 1 << 30,
            ..LayerOptions::default()
        };
        let mut builder = LayerBuilder::new(Vec::new(), options).unwrap();
        for (offset, sectors) in runs {
            builder.append(*offset, &vec![7; sectors * 512]).unwrap();
        }
        builder.finish().unwrap().0
    }

    #[test]
    fn a_long_run_becomes_entries_of_16320_sectors() {
        let bytes = build(&[(0, 16320), (16320, 16320), (32640, 3)]);
        let layer = Layer::open(Box::new(MemoryFile::new("built", bytes))).unwrap();
        let lengths: Vec<_> = layer
            .mappings()
            .iter()
            .map(|mapping| mapping.sectors())
            .collect();
        // 16320 + 64 would pass the limit, 16320 + 3 does not.
        assert_eq!(lengths, [16320, 16323]);
        assert_eq!(layer.trailer().index_entries, 256);
    }

    #[test]
    fn a_layer_without_data_has_no_index_and_opens() {
        let bytes = build(&[]);
        assert_eq!(bytes.len(), 2 * HEADER_BYTES);
        let layer = Layer::open(Box::new(MemoryFile::new("built", bytes))).unwrap();
        assert!(layer.mappings().is_empty());
    }

    #[test]
    fn descending_offsets_and_partial_sectors_are_refused() {
        let mut builder = LayerBuilder::new(Vec::new(), LayerOptions::default()).unwrap();
        builder.append(8, &[0; 512]).unwrap();
        assert!(builder.append(8, &[0; 512]).is_err());
        assert!(builder.append(9, &[0; 100]).is_err());
        assert!(builder.append(u64::MAX, &[0; 512]).is_err());
        assert!(builder.append(9, &[0; 512]).is_ok());
    }

    #[test]
    fn zeroed_runs_and_tags_are_joined_with_their_like_only() {
        let mut builder = LayerBuilder::new(Vec::new(), LayerOptions::default()).unwrap();
        builder.append_zeroed(0, 10, 0).unwrap();
        builder.append_zeroed(10, 6, 0).unwrap();
        builder.append_tagged(16, &[1; 512], 0).unwrap();
        builder.append_tagged(17, &[1; 512], 1).unwrap();
        builder.append_zeroed(18, 16383, 1).unwrap();
        builder.append_zeroed(18 + 16383, 1, 1).unwrap();
        assert_eq!(
            builder.mappings,
            [
                Mapping::zeroed(0, 16, 8, 0),
                Mapping::data(16, 1, 8, 0),
                Mapping::data(17, 1, 9, 1),
                Mapping::zeroed(18, 16383, 10, 1),
                Mapping::zeroed(18 + 16383, 1, 10, 1),
            ]
        );
    }

    #[test]
    fn a_layer_with_more_mappings_than_readers_accept_is_refused() {
        let mut builder = LayerBuilder::new(std::io::sink(), LayerOptions::default()).unwrap();
        for mapping in 0..MAPPINGS_MAX as u64 {
            builder.append_zeroed(mapping * 2, 1, 0).unwrap();
        }
        let error = builder.append_zeroed(1 << 30, 1, 0).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}
