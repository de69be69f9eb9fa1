//! What a file is: which wrappers it has and what each of them says.
//!
//! Source: format reference 1 to 3.

use std::path::Path;

use super::layer_file::{WritablePart, starts_a_layer, writable_part};
use crate::error::{Error, ErrorKind, Result};
use crate::io::LocalFile;
use crate::lsmt::Layer;
use crate::read_at::ReadAt;
use crate::tar;
use crate::zfile::{self, Algorithm, ZFile};

/// Everything known about a layer file without reading its data.
#[derive(Debug, Clone)]
pub struct FileInfo {
    /// Size on this host in bytes.
    pub file_bytes: u64,
    /// The outer wrapper.
    pub tar: Option<TarInfo>,
    /// The compression.
    pub zfile: Option<ZFileInfo>,
    /// The layer inside; absent when the payload is something else.
    pub layer: Option<LayerInfo>,
}

/// A tar with one member.
#[derive(Debug, Clone, Copy)]
pub struct TarInfo {
    /// Where the payload starts: 512 or 1536.
    pub payload_offset_bytes: u64,
    /// Its size.
    pub payload_bytes: u64,
}

/// A compressed payload.
#[derive(Debug, Clone, Copy)]
pub struct ZFileInfo {
    /// How blocks are compressed.
    pub algorithm: Algorithm,
    /// Bytes of a block before compression.
    pub block_bytes: u32,
    /// Number of blocks.
    pub blocks: u64,
    /// Bytes before compression.
    pub original_bytes: u64,
    /// Bytes of all blocks after compression, checksums included.
    pub compressed_bytes: u64,
    /// Every block has a checksum.
    pub has_block_crc: bool,
    /// The header was rewritten at the end: no need to read the trailer.
    pub is_header_final: bool,
}

/// A sealed or committed layer.
#[derive(Debug, Clone)]
pub struct LayerInfo {
    /// Size of the disk in bytes.
    pub virtual_size_bytes: u64,
    /// Name of the layer.
    pub uuid: String,
    /// Name of the layer below.
    pub parent_uuid: String,
    /// Free text.
    pub user_tag: String,
    /// Entries of the index on disk, padding included.
    pub index_entries: u64,
    /// Entries that are not padding.
    pub mappings: u64,
    /// Bytes that map to data in this layer.
    pub data_bytes: u64,
    /// Bytes that read as zeros and hide lower layers.
    pub zeroed_bytes: u64,
    /// A sealed sparse upper.
    pub is_sparse: bool,
}

/// Looks at a file. Blocking.
///
/// # Errors
/// `Config` when nothing about the file is known to this program; `Corrupt` when a structure
/// starts right but breaks its rules; errors of opening and reading.
pub fn inspect(path: &Path) -> Result<FileInfo> {
    if let Some(part) = writable_part(path)? {
        let error = Error::new(ErrorKind::Config, "inspect file", half_of_a_pair(part));
        return Err(error.in_file(path.display().to_string()));
    }
    let file: Box<dyn ReadAt> = Box::new(LocalFile::open(path)?);
    let file_bytes = file.size();
    let tar = tar::detect(&*file)?.map(|member| TarInfo {
        payload_offset_bytes: member.offset,
        payload_bytes: member.bytes,
    });
    let payload = tar::unwrap(file)?;
    let (zfile, payload): (_, Box<dyn ReadAt>) = if zfile::detect(&*payload)? {
        let opened = ZFile::open(payload)?;
        (Some(zfile_info(&opened)), Box::new(opened))
    } else {
        (None, payload)
    };
    let layer = if starts_a_layer(&*payload)? {
        Some(layer_info(payload)?)
    } else {
        None
    };
    if tar.is_none() && zfile.is_none() && layer.is_none() {
        let detail = "no tar, zfile or LSMT header: not a layer file";
        let error = Error::new(ErrorKind::Config, "inspect file", detail);
        return Err(error.in_file(path.display().to_string()));
    }
    Ok(FileInfo {
        file_bytes,
        tar,
        zfile,
        layer,
    })
}

/// Why a file of a writable layer says little alone.
fn half_of_a_pair(part: WritablePart) -> &'static str {
    match part {
        WritablePart::AppendData(_) => {
            "the data file of an append-only writable layer: name its index file too"
        }
        WritablePart::AppendIndex(_) => {
            "the index file of an append-only writable layer: name its data file too"
        }
        WritablePart::SparseData => "the data file of a sparse writable layer",
        WritablePart::Empty => {
            "empty; if it is the index file of a sparse writable layer, name the data file"
        }
    }
}

fn zfile_info(zfile: &ZFile) -> ZFileInfo {
    ZFileInfo {
        algorithm: zfile.algorithm(),
        block_bytes: zfile.block_bytes(),
        blocks: zfile.block_count() as u64,
        original_bytes: zfile.size(),
        compressed_bytes: zfile.compressed_bytes(),
        has_block_crc: zfile.has_block_crc(),
        is_header_final: zfile.is_header_final(),
    }
}

fn layer_info(payload: Box<dyn ReadAt>) -> Result<LayerInfo> {
    let layer = Layer::open(payload)?;
    let trailer = layer.trailer();
    Ok(LayerInfo {
        virtual_size_bytes: trailer.virtual_size_bytes,
        uuid: trailer.uuid.to_string(),
        parent_uuid: trailer.parent_uuid.to_string(),
        user_tag: String::from_utf8_lossy(&trailer.user_tag).into_owned(),
        index_entries: trailer.index_entries,
        mappings: layer.mappings().len() as u64,
        data_bytes: layer.data_bytes(),
        zeroed_bytes: layer.zeroed_bytes(),
        is_sparse: trailer.is_sparse(),
    })
}
