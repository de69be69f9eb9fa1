//! A raw disk image becomes one sealed, compressed layer.
//!
//! raw file -> **import** -> lsmt builder -> zfile builder -> (tar writer) -> output file
//!
//! Holes and blocks of 4 KiB that hold only zeros are left out: they read as zeros anyway.

use std::fs::File;
use std::io::{BufWriter, ErrorKind, Seek, Write};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

use super::output::OutputFile;
use crate::error::{Error, Result};
use crate::io::{next_data_extent, open_with_size};
use crate::limits::SECTOR_BYTES;
use crate::lsmt::{LayerBuilder, LayerOptions, LayerSummary, Uuid};
use crate::tar::TarWriter;
use crate::zfile::{BuildOptions, ZFileBuilder};

/// Granularity in which zeros are left out.
const BLOCK_BYTES: usize = 4096;
const CHUNK_BYTES: usize = 1 << 20;

/// `st_mode` of a regular file.
const MODE_REGULAR: u32 = 0o100_000;

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
/// `NotFound`, `Io` and `Config` (a directory, an existing output) naming the file.
pub fn import(
    raw: &Path,
    output: &Path,
    options: ImportOptions,
    report: &mut dyn FnMut(u64, u64),
) -> Result<ImportSummary> {
    if raw
        .canonicalize()
        .is_ok_and(|raw| output.canonicalize().is_ok_and(|output| raw == output))
    {
        let detail = "is the disk image and the output at once";
        let error = Error::new(crate::ErrorKind::Config, "import", detail);
        return Err(error.in_file(raw.display().to_string()));
    }
    let raw = RawDisk::open(raw)?;
    let output = OutputFile::create(output, options.replace)?;
    let name = output.path().display().to_string();
    let in_output = |error: Error| error.in_file(&name);
    let sink = BufWriter::with_capacity(CHUNK_BYTES, output.file());
    let layer = if options.tar {
        let tar = TarWriter::new(sink).map_err(in_output)?;
        let (tar, layer) = write_layer(&raw, tar, options, report).map_err(in_output)?;
        let mode = output
            .file()
            .metadata()
            .map_err(|source| Error::io("write tar", source))?;
        let mode = mode.permissions().mode() & 0o7777 | MODE_REGULAR;
        flush(tar.finish(mode).map_err(in_output)?).map_err(in_output)?;
        layer
    } else {
        let (sink, layer) = write_layer(&raw, sink, options, report).map_err(in_output)?;
        flush(sink).map_err(in_output)?;
        layer
    };
    let file_bytes = output
        .file()
        .metadata()
        .map_or(0, |metadata| metadata.len());
    output.publish()?;
    Ok(ImportSummary {
        virtual_size_bytes: raw.virtual_size_bytes(),
        layer,
        file_bytes,
    })
}

fn flush(mut sink: impl Write) -> Result<()> {
    sink.flush()
        .map_err(|source| Error::io("write output file", source))
}

fn write_layer<W: Write + Seek>(
    raw: &RawDisk,
    sink: W,
    options: ImportOptions,
    report: &mut dyn FnMut(u64, u64),
) -> Result<(W, LayerSummary)> {
    let layer_options = LayerOptions {
        virtual_size_bytes: raw.virtual_size_bytes(),
        uuid: options.uuid,
        ..LayerOptions::default()
    };
    let zfile = ZFileBuilder::new(sink, options.zfile)?;
    let mut builder = LayerBuilder::new(zfile, layer_options)?;
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
    let (zfile, layer) = builder.finish()?;
    Ok((zfile.finish()?.sink, layer))
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
                ErrorKind::UnexpectedEof => {
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

    fn failed(&self, at: u64, source: std::io::Error) -> Error {
        Error::io("read raw disk", source)
            .in_file(&self.name)
            .at(at)
    }
}
