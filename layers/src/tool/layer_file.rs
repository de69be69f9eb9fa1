//! Opening a file for what it is.
//!
//! tool -> **layer file** -> lsmt -> zfile -> tar -> io
//!
//! Source: format reference 1.2, 3.1 (detection order).

use std::path::Path;

use crate::config::ImageConfig;
use crate::error::Result;
use crate::image::{layer_configs, lower_path};
use crate::io::{LocalFile, OutputFile};
use crate::lsmt::{HEADER_BYTES, Layer, Record, Uuid, is_lsmt, is_sealed};
use crate::read_at::ReadAt;
use crate::{tar, zfile};

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
/// As [`Layer::open`].
pub(super) fn open_layer(path: &Path) -> Result<Layer> {
    Layer::open(unwrapped(path)?)
}

/// Is it a sealed or committed layer, or a part of a writable one?
///
/// # Errors
/// Those of opening and reading, and of a damaged wrapper.
pub(super) fn is_layer(path: &Path) -> Result<bool> {
    starts_a_layer(&*unwrapped(path)?)
}

fn unwrapped(path: &Path) -> Result<Box<dyn ReadAt>> {
    zfile::unwrap(tar::unwrap(Box::new(LocalFile::open(path)?))?)
}

/// Refuses an output that would replace a layer of the image.
///
/// # Errors
/// `Config`.
pub(super) fn check_is_no_layer(output: &OutputFile, config: &ImageConfig) -> Result<()> {
    let lowers = layer_configs(config).iter().filter_map(lower_path);
    let upper = [config.upper.data.clone(), config.upper.index.clone()];
    let mut layers = lowers.chain(upper);
    layers.try_for_each(|layer| output.check_is_not(&layer))
}

/// True when `source` has an LSMT header.
pub(super) fn starts_a_layer(source: &dyn ReadAt) -> Result<bool> {
    let mut magic = [0; 24];
    if source.size() < HEADER_BYTES as u64 {
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
    let mut block = [0; HEADER_BYTES];
    if file.size() < HEADER_BYTES as u64 {
        return Ok(None);
    }
    file.read_exact_at(0, &mut block)?;
    let Some(header) = Record::decode(&block) else {
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
