//! Any file to a zfile and back.
//!
//! file | stdin -> **zfile tool** -> wrapping -> output file

use std::io::{self, Read, Write};
use std::path::Path;

use super::wrapping::Wrapping;
use crate::error::{Error, ErrorKind, Result};
use crate::io::{LocalFile, OutputFile, WriteBehind};
use crate::read_at::ReadAt;
use crate::tar;
use crate::zfile::{self, VerifyReport, ZFile};

const CHUNK_BYTES: usize = 1 << 20;

/// Something to compress.
pub struct CompressSource<'a> {
    /// The bytes, up to the end.
    pub bytes: &'a mut dyn Read,
    /// What errors call it.
    pub name: &'a str,
    /// How many bytes there will be, when that is known.
    pub size: Option<u64>,
}

impl std::fmt::Debug for CompressSource<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CompressSource")
            .field("name", &self.name)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// Compresses `source` into `output`, as `wrapping` says, and publishes it. `report` is told the
/// bytes read so far and in all, when that is known. Blocks.
///
/// # Errors
/// `Io` naming the source or the output.
pub fn compress(
    source: CompressSource<'_>,
    output: OutputFile,
    wrapping: Wrapping,
    report: &mut dyn FnMut(u64, u64),
) -> Result<()> {
    let CompressSource { bytes, name, size } = source;
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut done = 0;
    wrapping.write(&output, |sink| {
        loop {
            let read = match bytes.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(read) => read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io("read file", error).in_file(name)),
            };
            let filled = chunk.get(..read).unwrap_or_default();
            sink.write_all(filled)
                .map_err(|error| Error::io("write zfile", error))?;
            done += read as u64;
            report(done, size.unwrap_or(done));
        }
    })?;
    output.publish()
}

/// Opens the zfile at `path`. One that is wrapped into a tar is refused unless `unwrap_tar`.
///
/// # Errors
/// `Config` for a file that is no zfile; errors of opening and reading.
pub fn open_zfile(path: &Path, unwrap_tar: bool) -> Result<ZFile> {
    let refuse = |detail| {
        let error = Error::new(ErrorKind::Config, "open zfile", detail);
        Err(error.in_file(path.display().to_string()))
    };
    let file: Box<dyn ReadAt> = Box::new(LocalFile::open(path)?);
    if !unwrap_tar && tar::detect(&*file)?.is_some() {
        return refuse("wrapped into a tar; -t unwraps it");
    }
    let payload = tar::unwrap(file)?;
    match zfile::detect(&*payload)? {
        true => ZFile::open(payload),
        false => refuse("no zfile header"),
    }
}

/// Writes what `zfile` was made from to `output` and publishes that. `report` is told the bytes
/// written so far and in all. Blocks.
///
/// # Errors
/// `Corrupt` for a damaged block; `Io`, `NoSpace`.
pub fn extract(zfile: &ZFile, output: OutputFile, report: &mut dyn FnMut(u64, u64)) -> Result<()> {
    let mut sink = WriteBehind::new(output.file());
    let mut chunk = vec![0; CHUNK_BYTES];
    let (mut at, size) = (0, zfile.size());
    while at < size {
        let left = usize::try_from(size - at).unwrap_or(usize::MAX);
        let chunk = chunk.split_at_mut(left.min(CHUNK_BYTES)).0;
        zfile.read_exact_at(at, chunk)?;
        let written = sink.write_all(chunk);
        written.map_err(|error| {
            Error::io("write file", error).in_file(output.path().display().to_string())
        })?;
        at += chunk.len() as u64;
        report(at, size);
    }
    output.publish()
}

/// Checks every block of `zfile`. `report` is told the bytes checked so far and in all. Blocks.
///
/// # Errors
/// Those of reading. A damaged block is part of the result.
pub fn verify_zfile(zfile: &ZFile, report: &mut dyn FnMut(u64, u64)) -> Result<VerifyReport> {
    let (size, block_bytes) = (zfile.size(), u64::from(zfile.block_bytes()));
    zfile.verify_all(|blocks| report((blocks as u64 * block_bytes).min(size), size))
}
