//! One sealed or committed layer: header, trailer and index read and checked.
//!
//! image -> **lsmt layer** (at open) -> zfile
//!
//! Invariants
//! - every mapping's data lies inside the source.
//! - nothing is allocated on the word of a count that was not checked against the file size.
//!
//! Source: format reference 1.4.

use super::format::{HEADER_BYTES, Record, RecordKind};
use super::index_file::parse_entries;
use super::mapping::{ENTRY_BYTES, Mapping};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{LAYER_INDEX_ENTRIES_MAX, SECTOR_BYTES};
use crate::read_at::ReadAt;

const BLOCK: u64 = HEADER_BYTES as u64;

/// A layer whose bytes and rules were checked, not yet stacked.
#[derive(Debug)]
pub struct Layer {
    source: Box<dyn ReadAt>,
    header: Record,
    trailer: Record,
    mappings: Vec<Mapping>,
}

impl Layer {
    /// Reads and checks header, trailer and index. Blocking.
    ///
    /// # Errors
    /// `Corrupt` for anything that breaks a rule of the format, `Config` for the data file of a
    /// writable layer, `Unsupported` for an index beyond the limit, and what reading `source` gives.
    pub fn open(source: Box<dyn ReadAt>) -> Result<Self> {
        let name = source.name().to_owned();
        let (header, trailer, mappings) =
            read_layer(&*source).map_err(|error| error.in_file(name))?;
        Ok(Self {
            source,
            header,
            trailer,
            mappings,
        })
    }

    /// A layer whose parts were read and checked elsewhere: a writable one that is only read.
    #[must_use]
    pub(crate) fn from_parts(
        source: Box<dyn ReadAt>,
        header: Record,
        trailer: Record,
        mappings: Vec<Mapping>,
    ) -> Self {
        Self {
            source,
            header,
            trailer,
            mappings,
        }
    }

    /// The record at the start of the file.
    #[must_use]
    pub fn header(&self) -> &Record {
        &self.header
    }

    /// The record at the end of the file: virtual size and uuids come from here.
    #[must_use]
    pub fn trailer(&self) -> &Record {
        &self.trailer
    }

    /// Sorted mappings, tags cleared.
    #[must_use]
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// Bytes of the disk that this layer has data for.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.bytes_where(false)
    }

    /// Bytes of the disk that read as zeros and hide lower layers.
    #[must_use]
    pub fn zeroed_bytes(&self) -> u64 {
        self.bytes_where(true)
    }

    fn bytes_where(&self, zeroed: bool) -> u64 {
        let mappings = self.mappings.iter();
        let chosen = mappings.filter(|mapping| mapping.is_zeroed() == zeroed);
        chosen.map(|mapping| mapping.sectors() * SECTOR_BYTES).sum()
    }

    /// The decoded layer bytes.
    #[must_use]
    pub fn source(&self) -> &dyn ReadAt {
        &*self.source
    }

    /// Takes the layer apart for stacking.
    #[must_use]
    pub fn into_parts(self) -> (Box<dyn ReadAt>, Vec<Mapping>) {
        (self.source, self.mappings)
    }
}

fn read_layer(source: &dyn ReadAt) -> Result<(Record, Record, Vec<Mapping>)> {
    let size = source.size();
    let too_short = || {
        let detail = format!("{size} bytes are too few for a header and a trailer");
        Error::corrupt("open layer", detail)
    };
    if size < BLOCK {
        return Err(too_short());
    }
    let header = read_record(source, 0, RecordKind::Header)?;
    let trailer_at = size - BLOCK;
    let trailer = match trailer_at < BLOCK {
        true => Err(too_short()),
        false => read_record(source, trailer_at, RecordKind::Trailer),
    };
    let trailer = trailer.map_err(|error| explain_missing_trailer(error, &header))?;
    let index_bytes = check_index_place(&trailer, trailer_at)?;
    let mut index = vec![0_u8; index_bytes];
    source.read_exact_at(trailer.index_offset_bytes, &mut index)?;
    let mappings = parse_entries(&index, trailer.index_offset_bytes)?;
    Ok((header, trailer, mappings))
}

fn read_record(source: &dyn ReadAt, at: u64, kind: RecordKind) -> Result<Record> {
    let op = match kind {
        RecordKind::Header => "read layer header",
        RecordKind::Trailer => "read layer trailer",
    };
    let mut block = [0_u8; HEADER_BYTES];
    source.read_exact_at(at, &mut block)?;
    let record = Record::decode(&block).ok_or_else(|| {
        let (found, _) = block.split_at(8);
        let detail = format!("expected the LSMT magic 4c534d5400010200.., found {found:02x?}");
        Error::corrupt(op, detail).at(at)
    })?;
    record
        .check_sealed_flags(kind)
        .map_err(|error| error.at(at))?;
    Ok(record)
}

/// Without a trailer, the data file of a writable layer is most likely just that.
fn explain_missing_trailer(error: Error, header: &Record) -> Error {
    if error.kind() != ErrorKind::Corrupt || header.check_unsealed_flags(true).is_err() {
        return error;
    }
    let detail = "no trailer: a writable layer that was never sealed, or one that lost its end";
    Error::new(ErrorKind::Config, "open layer", detail)
}

/// Does a sealed layer end where `source` does? The header of one that was sealed in place, which
/// is `header`, does not tell.
///
/// # Errors
/// Those of reading.
pub(crate) fn is_sealed(source: &dyn ReadAt, header: &Record) -> Result<bool> {
    let end = source.size().checked_sub(BLOCK);
    let Some(at) = end.filter(|at| *at >= BLOCK) else {
        return Ok(false);
    };
    let mut block = [0_u8; HEADER_BYTES];
    source.read_exact_at(at, &mut block)?;
    Ok(Record::decode(&block).is_some_and(|trailer| {
        trailer.check_sealed_flags(RecordKind::Trailer).is_ok() && trailer.uuid == header.uuid
    }))
}

/// Checks the index's size and place; returns its length in bytes.
fn check_index_place(trailer: &Record, trailer_at: u64) -> Result<usize> {
    const OP: &str = "read layer trailer";
    let entries = trailer.index_entries;
    if entries > LAYER_INDEX_ENTRIES_MAX {
        let detail = format!("{entries} index entries, at most {LAYER_INDEX_ENTRIES_MAX} allowed");
        return Err(Error::new(ErrorKind::Unsupported, OP, detail).at(trailer_at));
    }
    let bytes = entries * ENTRY_BYTES as u64;
    let offset = trailer.index_offset_bytes;
    if offset < BLOCK || offset.checked_add(bytes).is_none_or(|end| end > trailer_at) {
        let detail = format!(
            "index of {entries} entries at byte {offset} does not fit between header and trailer \
             at byte {trailer_at}"
        );
        return Err(Error::corrupt(OP, detail).at(trailer_at));
    }
    usize::try_from(bytes).map_err(|_| Error::corrupt(OP, "index too large for this host"))
}
