//! The whole disk of an image as a sparse raw file.
//!
//! image -> **export** -> output file

use std::os::unix::fs::FileExt;

use super::layer_file::check_is_no_layer;
use crate::config::ImageConfig;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::io::{Access, OutputFile};
use crate::limits::SECTOR_BYTES;
use crate::lsmt::SectorRange;
use crate::service::Service;

const BLOCK_BYTES: usize = 4096;
const CHUNK_BYTES: usize = 1 << 20;

/// What was written.
#[derive(Debug, Clone, Copy)]
pub struct ExportSummary {
    /// Size of the disk, and of the output file.
    pub virtual_size_bytes: u64,
    /// Bytes that are not a hole in the output.
    pub data_bytes: u64,
}

/// Writes the disk of the image to `output` and publishes that. Blocks of 4 KiB that hold only zeros
/// become holes. `report` is told the bytes of the disk dealt with so far. Blocks.
///
/// # Errors
/// Those of opening and reading the image; `Config` when the output would replace a layer; `Io`,
/// `NoSpace` naming the output.
pub fn export(
    config: &ImageConfig,
    service: &Service,
    output: OutputFile,
    report: &mut dyn FnMut(u64, u64),
) -> Result<ExportSummary> {
    check_is_no_layer(&output, config)?;
    let image = Image::open_layers(config, service, Access::Read)?;
    let size = image.virtual_size();
    let name = output.path().display().to_string();
    let fail = |source| Error::io("write raw disk", source).in_file(&name);
    output.file().set_len(size).map_err(fail)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut data_bytes = 0;
    let mut done = 0;
    while let Some(start) = next_mapped(&image, done, size) {
        let len = usize::try_from(size - start)
            .unwrap_or(usize::MAX)
            .min(CHUNK_BYTES);
        let chunk = chunk.split_at_mut(len).0;
        image.read_exact_at(start, chunk)?;
        let mut at = start;
        for block in chunk.chunks(BLOCK_BYTES) {
            if block.iter().any(|byte| *byte != 0) {
                output.file().write_all_at(block, at).map_err(fail)?;
                data_bytes += block.len() as u64;
            }
            at += block.len() as u64;
        }
        done = at;
        report(done, size);
    }
    report(size, size);
    output.publish()?;
    Ok(ExportSummary {
        virtual_size_bytes: size,
        data_bytes,
    })
}

/// The first byte at or after `from` that a data mapping covers, cut down to a block boundary.
/// A disk that may be written meanwhile may have data anywhere.
fn next_mapped(image: &Image, from: u64, size: u64) -> Option<u64> {
    let range = SectorRange {
        start: from / SECTOR_BYTES,
        end: size / SECTOR_BYTES,
    };
    let Some(stack) = image.stack() else {
        return Some(from);
    };
    let mapping = stack
        .index()
        .lookup(range)
        .find(|mapping| !mapping.is_zeroed())?;
    let byte = mapping.offset() * SECTOR_BYTES;
    Some((byte - byte % BLOCK_BYTES as u64).max(from))
}
