//! A raw disk image becomes one sealed, compressed layer.
//!
//! raw file -> **import** -> lsmt builder -> wrapping -> output file
//!
//! Holes and blocks of 4 KiB that hold only zeros are left out: they read as zeros anyway.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::layer_file::is_layer;
use super::wrapping::Wrapping;
use crate::error::{Error, ErrorKind, Result};
use crate::io::{OutputFile, OutputOptions, next_data_extent, open_with_size};
use crate::limits::SECTOR_BYTES;
use crate::lsmt::{LayerBuilder, LayerOptions, LayerSummary, Uuid};
use crate::zfile::BuildOptions;

/// Granularity in which zeros are left out.
const BLOCK_BYTES: usize = 4096;
const CHUNK_BYTES: usize = 1 << 20;

const QCOW2_MAGIC: [u8; 4] = *b"QFI\xFB";

/// How to write the layer.
#[derive(Debug, Clone, Copy, Default)]
pub struct ImportOptions {
    /// Compression.
    pub zfile: BuildOptions,
    /// Wrap the layer into a tar, as registries want it.
    pub tar: bool,
    /// Name of the layer.
    pub uuid: Uuid,
    /// Replace an existing output.
    pub replace: bool,
}

/// What was made.
#[derive(Debug, Clone, Copy)]
pub struct ImportSummary {
    /// Size of the disk in bytes.
    pub virtual_size_bytes: u64,
    /// The layer before compression.
    pub layer: LayerSummary,
    /// Size of the output file in bytes.
    pub file_bytes: u64,
}

/// Imports `raw` into `output`. `report` is told the bytes of the disk dealt with so far.
///
/// # Errors
/// `NotFound`, `Io`, `Exists` and `Config` (a directory, an empty input) naming the file.
pub fn import(
    raw: &Path,
    output: &Path,
    options: ImportOptions,
    report: &mut dyn FnMut(u64, u64),
) -> Result<ImportSummary> {
    let output_options = OutputOptions {
        replace: options.replace,
        mode: 0o666,
    };
    let disk = RawDisk::open(raw)?;
    disk.check_is_raw(raw)?;
    let output = OutputFile::create(output, output_options)?;
    output.check_is_not(raw)?;
    let wrapping = Wrapping {
        zfile: Some(options.zfile),
        tar: options.tar,
    };
    let layer_options = LayerOptions {
        virtual_size_bytes: disk.virtual_size_bytes(),
        uuid: options.uuid,
        ..LayerOptions::default()
    };
    let (layer, file_bytes) = wrapping.write(&output, |sink| {
        write_layer(&disk, LayerBuilder::new(sink, layer_options)?, report)
    })?;
    output.publish()?;
    Ok(ImportSummary {
        virtual_size_bytes: disk.virtual_size_bytes(),
        layer,
        file_bytes,
    })
}

fn write_layer<W: Write>(
    raw: &RawDisk,
    mut builder: LayerBuilder<W>,
    report: &mut dyn FnMut(u64, u64),
) -> Result<LayerSummary> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut position = 0;
    while let Some(extent) = raw.next_extent(position)? {
        position = extent.start - extent.start % BLOCK_BYTES as u64;
        while position < extent.end {
            let filled = raw.fill(position, &mut chunk)?;
            append_nonzero(&mut builder, position, filled)?;
            position += filled.len() as u64;
            report(position.min(raw.bytes), raw.bytes);
        }
    }
    report(raw.bytes, raw.bytes);
    Ok(builder.finish()?.1)
}

/// Appends the runs of blocks that are not all zero.
fn append_nonzero<W: Write>(builder: &mut LayerBuilder<W>, at: u64, data: &[u8]) -> Result<()> {
    let mut offset = at / SECTOR_BYTES;
    for run in data
        .as_chunks::<BLOCK_BYTES>()
        .0
        .chunk_by(|one, next| is_zero(one) == is_zero(next))
    {
        let bytes = run.as_flattened();
        if run.first().is_some_and(|block| !is_zero(block)) {
            builder.append(offset, bytes)?;
        }
        offset += bytes.len() as u64 / SECTOR_BYTES;
    }
    let tail = data.as_chunks::<BLOCK_BYTES>().1;
    if tail.iter().any(|byte| *byte != 0) {
        builder.append(offset, tail)?;
    }
    Ok(())
}

fn is_zero(block: &[u8; BLOCK_BYTES]) -> bool {
    *block == [0; BLOCK_BYTES]
}

/// The input: read in whole sectors, the last one filled up with zeros.
struct RawDisk {
    file: File,
    name: String,
    bytes: u64,
}

impl RawDisk {
    fn open(path: &Path) -> Result<Self> {
        let name = path.display().to_string();
        let (file, bytes) = open_with_size(path)?;
        Ok(Self { file, name, bytes })
    }

    /// Refuses a disk without a byte. What starts like an image of another format is only warned
    /// of: the guest may have written that.
    fn check_is_raw(&self, path: &Path) -> Result<()> {
        if self.bytes == 0 {
            let error = Error::new(ErrorKind::Config, "read raw disk", "empty: not a disk");
            return Err(error.in_file(&self.name));
        }
        let mut magic = [0; QCOW2_MAGIC.len()];
        let is_qcow2 = self.file.read_exact_at(&mut magic, 0).is_ok() && magic == QCOW2_MAGIC;
        if is_qcow2 || is_layer(path).unwrap_or(true) {
            let what = if is_qcow2 {
                "qcow2 image"
            } else {
                "layer file"
            };
            log::warn!(
                "{}: looks like a {what}, is taken as a raw disk: its bytes are imported, not the \
                 disk in it",
                self.name
            );
        }
        Ok(())
    }

    fn virtual_size_bytes(&self) -> u64 {
        self.bytes.next_multiple_of(SECTOR_BYTES)
    }

    fn next_extent(&self, from: u64) -> Result<Option<std::ops::Range<u64>>> {
        next_data_extent(&self.file, from, self.bytes).map_err(|source| self.failed(from, source))
    }

    /// Reads up to a chunk at `at`; the result is whole sectors.
    fn fill<'a>(&self, at: u64, chunk: &'a mut [u8]) -> Result<&'a [u8]> {
        let wanted = usize::try_from(self.virtual_size_bytes() - at).unwrap_or(usize::MAX);
        let wanted = wanted.min(chunk.len());
        let chunk = chunk.split_at_mut(wanted).0;
        let present = usize::try_from(self.bytes - at)
            .unwrap_or(usize::MAX)
            .min(wanted);
        let (data, padding) = chunk.split_at_mut(present);
        self.file
            .read_exact_at(data, at)
            .map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => {
                    let detail = format!("the file shrank, it had {} bytes", self.bytes);
                    Error::corrupt("read raw disk", detail)
                        .in_file(&self.name)
                        .at(at)
                }
                _ => self.failed(at, source),
            })?;
        padding.fill(0);
        Ok(chunk)
    }

    fn failed(&self, at: u64, source: io::Error) -> Error {
        Error::io("read raw disk", source)
            .in_file(&self.name)
            .at(at)
    }
}
