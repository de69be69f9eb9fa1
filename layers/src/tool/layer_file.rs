//! Opening a file for what it is.
//!
//! tool -> **layer file** -> lsmt -> zfile -> tar -> io
//!
//! Source: format reference 1.2, 3.1 (detection order).

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::io::LocalFile;
use crate::lsmt::{HEADER_BYTES, Layer, Record, RecordKind, Uuid, is_lsmt};
use crate::read_at::ReadAt;
use crate::tar;
use crate::zfile::{self, ZFile};

const BLOCK: u64 = HEADER_BYTES as u64;

/// A file of a writable layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WritablePart {
    /// The data file of an append-only layer.
    AppendData(Uuid),
    /// The index file of an append-only layer.
    AppendIndex(Uuid),
    /// The data file of a sparse layer, whose index file says nothing.
    SparseData,
    /// An empty file, as the index file of a sparse layer is.
    Empty,
}

/// Opens a sealed or committed layer, wrapped or not.
///
/// # Errors
/// As [`Layer::open`]; `Config` for the data file of a writable layer.
pub(super) fn open_layer(path: &Path) -> Result<Layer> {
    if let Some(WritablePart::AppendData(_) | WritablePart::SparseData) = writable_part(path)? {
        let detail = "the data file of a writable layer that was never sealed";
        let error = Error::new(ErrorKind::Config, "open layer", detail);
        return Err(error.in_file(path.display().to_string()));
    }
    Layer::open(unzip(tar::unwrap(Box::new(LocalFile::open(path)?))?)?)
}

/// The decoded bytes of a zfile, and any other payload as it is.
pub(super) fn unzip(payload: Box<dyn ReadAt>) -> Result<Box<dyn ReadAt>> {
    match zfile::detect(&*payload)? {
        true => Ok(Box::new(ZFile::open(payload)?)),
        false => Ok(payload),
    }
}

/// True when `source` has an LSMT header.
pub(super) fn starts_a_layer(source: &dyn ReadAt) -> Result<bool> {
    let mut magic = [0; 24];
    if source.size() < BLOCK {
        return Ok(false);
    }
    source.read_exact_at(0, &mut magic)?;
    Ok(is_lsmt(&magic))
}

/// Which file of a writable layer `path` is, if it is one.
///
/// # Errors
/// Those of opening and reading.
pub(super) fn writable_part(path: &Path) -> Result<Option<WritablePart>> {
    let file = LocalFile::open(path)?;
    if file.size() == 0 {
        return Ok(Some(WritablePart::Empty));
    }
    let Some(header) = record_at(&file, 0)? else {
        return Ok(None);
    };
    if header.check_unsealed_flags(false).is_ok() {
        return Ok(Some(WritablePart::AppendIndex(header.uuid)));
    }
    if header.check_unsealed_flags(true).is_err() || is_sealed(&file, &header)? {
        return Ok(None);
    }
    Ok(Some(match header.is_sparse() {
        true => WritablePart::SparseData,
        false => WritablePart::AppendData(header.uuid),
    }))
}

/// Has the file the trailer of a sealed layer? Its header does not tell.
fn is_sealed(file: &LocalFile, header: &Record) -> Result<bool> {
    let Some(at) = file.size().checked_sub(BLOCK).filter(|at| *at >= BLOCK) else {
        return Ok(false);
    };
    let trailer = record_at(file, at)?.filter(|trailer| trailer.uuid == header.uuid);
    Ok(trailer.is_some_and(|trailer| trailer.check_sealed_flags(RecordKind::Trailer).is_ok()))
}

fn record_at(file: &LocalFile, at: u64) -> Result<Option<Record>> {
    let mut block = [0; HEADER_BYTES];
    if file.size() < at + BLOCK {
        return Ok(None);
    }
    file.read_exact_at(at, &mut block)?;
    Ok(Record::decode(&block))
}
