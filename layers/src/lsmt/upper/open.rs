//! Opening a pair of files as a writable layer, or as one that is only read.
//!
//! image -> lsmt upper -> **open** -> files
//!
//! Source: format reference 1.2, 1.6, 1.7.

use std::path::Path;
use std::sync::atomic::AtomicU64;

use super::append::AppendLayer;
use super::log::LOG_START;
use super::replay::{Unflushed, replay};
use super::sparse::{self, SparseLayer};
use super::{Kind, Upper, UpperKind};
use crate::error::{Error, ErrorKind, Result};
use crate::io::{Access, LocalFile, UpperFile};
use crate::limits::{DISK_BYTES_MAX, SECTOR_BYTES};
use crate::lsmt::format::{HEADER_BYTES, Record};
use crate::lsmt::layer::{Layer, is_sealed};
use crate::read_at::ReadAt;
use crate::write_at::WriteAt;

/// First byte behind the header of a data file.
pub(super) const DATA_START: u64 = HEADER_BYTES as u64;

/// Place of the virtual size in a header.
const VIRTUAL_SIZE_AT: u64 = 48;

impl Upper {
    /// Opens a pair for writing and locks it. Replays the log; what a crash left half done is put
    /// right. Blocking.
    ///
    /// # Errors
    /// `NotFound`, `Io`; `Busy` when another process has it; `Config` for a layer that was sealed
    /// or files that do not belong together; `Corrupt`.
    pub fn open(data: &Path, index: &Path) -> Result<Self> {
        let path = std::path::absolute(data).unwrap_or_else(|_| data.to_owned());
        let data = UpperFile::open_locked(data, Access::Write)?;
        let index = UpperFile::open_locked(index, Access::Write)?;
        let block_bytes = data.block_bytes();
        let upper = Self::from_files(Box::new(data), Box::new(index))?;
        if upper.kind() == UpperKind::Sparse && block_bytes > sparse::BLOCK_BYTES as u64 {
            log::warn!(
                "{}: the file system has blocks of {block_bytes} bytes: a small write hides all of \
                 such a block of the layers below once the layer is opened again; use an append-only \
                 layer here",
                path.display()
            );
        }
        Ok(Self {
            data_path: Some(path),
            ..upper
        })
    }

    /// As [`Upper::open`], over any files; nothing is locked.
    ///
    /// # Errors
    /// As [`Upper::open`].
    pub fn from_files(data: Box<dyn WriteAt>, index_file: Box<dyn WriteAt>) -> Result<Self> {
        let headers = Headers::read(&*data, &*index_file)?;
        let size = headers.layer.virtual_size_bytes;
        let kind = match headers.data.is_sparse() {
            true => Kind::Sparse(SparseLayer::open(data, index_file, size)?),
            false => Kind::Append(AppendLayer::open(data, index_file)?),
        };
        Ok(Self {
            kind,
            data_path: None,
            header: headers.data,
            virtual_size_bytes: AtomicU64::new(size),
        })
    }
}

/// Opens a pair as one more layer that is only read; writers are kept out while it is open.
/// Changes neither file. Blocking.
///
/// # Errors
/// As [`Upper::open`].
pub fn open_read_only(data: &Path, index: &Path) -> Result<Layer> {
    let data = UpperFile::open_locked(data, Access::Read)?;
    let index = UpperFile::open_locked(index, Access::Read)?;
    read_only_from_files(Box::new(data), &index)
}

/// As [`open_read_only`], over any files; nothing is locked.
///
/// # Errors
/// As [`open_read_only`].
pub fn read_only_from_files(data: Box<dyn WriteAt>, index_file: &dyn ReadAt) -> Result<Layer> {
    let headers = Headers::read(&*data, index_file)?;
    let mappings = match headers.data.is_sparse() {
        true => sparse::extents(&*data, headers.layer.virtual_size_bytes)?,
        false => {
            let replayed = replay(index_file, &*data, Unflushed::Leave)?;
            replayed.warn_dropped(index_file.name());
            replayed.index
        }
    };
    let mappings = mappings.iter().collect();
    Ok(Layer::from_parts(
        data,
        headers.data,
        headers.layer,
        mappings,
    ))
}

/// The records at the start of both files.
struct Headers {
    data: Record,
    /// The one that names the layer and its size.
    layer: Record,
}

impl Headers {
    fn read(data: &dyn ReadAt, index_file: &dyn ReadAt) -> Result<Self> {
        let header = read_header(data)?;
        header
            .check_unsealed_flags(true)
            .and_then(|()| refuse_sealed(data, &header))
            .map_err(|error| error.in_file(data.name()))?;
        if header.is_sparse() {
            check_sparse_files(data, index_file, header.virtual_size_bytes)?;
            let layer = header.clone();
            return Ok(Self {
                data: header,
                layer,
            });
        }
        let layer = read_header(index_file)?;
        check_index_header(&header, &layer).map_err(|error| error.in_file(index_file.name()))?;
        let (in_data, in_index) = (header.virtual_size_bytes, layer.virtual_size_bytes);
        if in_data != in_index && in_data != 0 && in_index != 0 {
            log::warn!(
                "{}: its header says {in_data} bytes, that of the index file {in_index}, which counts",
                data.name()
            );
        }
        Ok(Self {
            data: header,
            layer,
        })
    }
}

fn read_header(file: &dyn ReadAt) -> Result<Record> {
    const OP: &str = "read layer header";
    let mut block = [0_u8; HEADER_BYTES];
    if file.size() < HEADER_BYTES as u64 {
        let detail = format!("{} bytes are too short for a layer", file.size());
        return Err(Error::corrupt(OP, detail).in_file(file.name()));
    }
    file.read_exact_at(0, &mut block)?;
    let record = Record::decode(&block).ok_or_else(|| {
        let detail = "no LSMT magic: not a file of a writable layer";
        Error::corrupt(OP, detail).in_file(file.name())
    })?;
    let size = record.virtual_size_bytes;
    if !size.is_multiple_of(SECTOR_BYTES) || size > DISK_BYTES_MAX {
        let detail = format!("virtual size {size} is no multiple of {SECTOR_BYTES}, or too large");
        return Err(Error::corrupt(OP, detail).in_file(file.name()));
    }
    Ok(record)
}

/// The index file of a sparse layer is empty, and its data file as long as the disk.
fn check_sparse_files(
    data: &dyn ReadAt,
    index_file: &dyn ReadAt,
    virtual_size_bytes: u64,
) -> Result<()> {
    const OP: &str = "open sparse layer";
    let is_log = |header: Record| header.check_unsealed_flags(false).is_ok();
    if read_header(index_file).is_ok_and(is_log) {
        let detail = "the index file of an append-only layer, but the data file is a sparse one";
        return Err(Error::new(ErrorKind::Config, OP, detail).in_file(index_file.name()));
    }
    let (size, wanted) = (data.size(), DATA_START + virtual_size_bytes);
    if size < wanted {
        let detail = format!(
            "the file was cut short: it has {size} bytes, for its disk it needs {wanted} (truncate(1) \
             makes it longer; what was cut off then shows the layers below)"
        );
        return Err(Error::corrupt(OP, detail).in_file(data.name()));
    }
    Ok(())
}

fn check_index_header(data: &Record, index: &Record) -> Result<()> {
    const OP: &str = "read index log header";
    index.check_unsealed_flags(false)?;
    if index.index_offset_bytes != LOG_START {
        let at = index.index_offset_bytes;
        let detail = format!("the log starts at byte {at}, expected {LOG_START}");
        return Err(Error::corrupt(OP, detail));
    }
    if index.uuid != data.uuid {
        let (index, data) = (index.uuid, data.uuid);
        let detail = format!("it belongs to layer {index}, the data file to layer {data}");
        return Err(Error::new(ErrorKind::Config, OP, detail));
    }
    Ok(())
}

/// Was the data file of a writable layer sealed where it is?
///
/// # Errors
/// `NotFound`, `Io`; `Corrupt` for a file that is no layer.
pub fn is_sealed_in_place(data: &Path) -> Result<bool> {
    let data = LocalFile::open(data)?;
    let header = read_header(&data)?;
    is_sealed(&data, &header)
}

/// A data file that was sealed in place is a read-only layer, though its header does not say so.
fn refuse_sealed(data: &dyn ReadAt, header: &Record) -> Result<()> {
    if !is_sealed(data, header)? {
        return Ok(());
    }
    let detail = "the layer was sealed: it is a read-only one now (a snapshot that was cut short is finished \
                  when the daemon of the disk starts)";
    Err(Error::new(ErrorKind::Config, "open layer", detail))
}

/// Writes the size of the disk into the header of a file.
pub(super) fn write_virtual_size(file: &dyn WriteAt, bytes: u64) -> Result<()> {
    file.write_at(VIRTUAL_SIZE_AT, &bytes.to_le_bytes())
}
