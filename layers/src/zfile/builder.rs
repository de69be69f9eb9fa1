//! Writes a zfile from bytes that come in order.
//!
//! file -> **zfile builder** -> tar -> io
//!
//! First header, blocks, index, trailer, and, when asked for, the header again with what is known
//! at the end. LZ4 output is byte for byte that of the C++ tools; zstd output depends on the
//! version of libzstd, which is compiled in.
//!
//! Invariants
//! - the output does not depend on the number of threads or on how the input is cut into writes.
//! - after an error nothing more is written, and the file stays without a trailer.
//!
//! Source: format reference 2.5, 2.7.

use std::io::{self, Seek, SeekFrom, Write};

use super::checksum;
use super::compressor::{BATCH_BYTES, Batch, Compressor};
use super::format::{Algorithm, Record, Role, is_block_size};
use crate::error::{Error, ErrorKind, Result};
use crate::limits::{
    ZFILE_BLOCK_BYTES_MAX, ZFILE_BLOCK_BYTES_MIN, ZFILE_BLOCKS_MAX, ZFILE_WRITER_THREADS_MAX,
};

const OP: &str = "write zfile";

/// Index entries that are written at once.
const INDEX_CHUNK_ENTRIES: usize = 16 << 10;

/// How a zfile is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildOptions {
    /// How blocks are compressed.
    pub algorithm: Algorithm,
    /// Bytes of a block before compression: a power of two from 4096 to 65536. The C++ reader
    /// cannot read back blocks of 65536 bytes that do not shrink.
    pub block_bytes: u32,
    /// Write the header again at the end, so that a reader needs no trailer. Needs a sink that
    /// can still seek back then.
    pub overwrite_header: bool,
    /// Threads that compress, 1 to 256; with 1 it is the calling thread.
    pub threads: usize,
}

impl Default for BuildOptions {
    /// What `overlaybd-commit -z` writes.
    fn default() -> Self {
        Self {
            algorithm: Algorithm::Lz4,
            block_bytes: ZFILE_BLOCK_BYTES_MIN,
            overwrite_header: true,
            threads: 1,
        }
    }
}

/// A finished zfile.
#[derive(Debug)]
pub struct Built<W> {
    /// Where it was written, positioned behind its last byte.
    pub sink: W,
    /// Bytes before compression.
    pub original_bytes: u64,
    /// Bytes of the zfile.
    pub file_bytes: u64,
}

/// Takes bytes through [`Write`] and writes them to `sink` as a zfile.
///
/// A file that was not finished with [`ZFileBuilder::finish`] has no trailer and does not open.
#[derive(Debug)]
pub struct ZFileBuilder<W: Write + Seek> {
    sink: W,
    options: BuildOptions,
    /// Where the zfile starts in the sink.
    start: u64,
    compressor: Compressor,
    /// The batch that is being filled; `None` after an error.
    filling: Option<Batch>,
    spare: Vec<Batch>,
    stored_sizes: Vec<u32>,
    original_bytes: u64,
    /// Bytes of the zfile that the sink has taken.
    written: u64,
}

impl<W: Write + Seek> ZFileBuilder<W> {
    /// Writes the first header at the current position of `sink`.
    ///
    /// # Errors
    /// `Config` for options out of range; `Io` when the sink fails or a thread cannot start.
    pub fn new(mut sink: W, options: BuildOptions) -> Result<Self> {
        check_options(&options)?;
        let compressor = Compressor::new(options.algorithm, options.threads)?;
        let start = sink
            .stream_position()
            .map_err(|source| Error::io(OP, source))?;
        let mut builder = Self {
            sink,
            options,
            start,
            compressor,
            filling: Some(Batch::new(options.block_bytes as usize)),
            spare: Vec::new(),
            stored_sizes: Vec::new(),
            original_bytes: 0,
            written: 0,
        };
        let header = builder.record(0, 0, None).encode(Role::FirstHeader);
        builder.put(&header)?;
        Ok(builder)
    }

    /// Writes what is left: the last blocks, the index, the trailer, and the header again when
    /// the options ask for it.
    ///
    /// # Errors
    /// `Io` when the sink fails, or failed before; `Unsupported` for more blocks than a zfile has.
    pub fn finish(mut self) -> Result<Built<W>> {
        match self.filling.take() {
            Some(last) if last.input.is_empty() => {}
            Some(last) => self.submit(last)?,
            None => return Err(failed_before()),
        }
        while let Some(batch) = self.compressor.next_done()? {
            self.put_batch(batch)?;
        }
        let index_offset = self.written;
        let index_crc = self.put_index()?;
        let record = self.record(
            index_offset,
            self.stored_sizes.len() as u64,
            Some(index_crc),
        );
        self.put(&record.encode(Role::Trailer))?;
        if self.options.overwrite_header {
            self.overwrite(&record.encode(Role::FinalHeader))?;
        }
        self.sink.flush().map_err(|source| Error::io(OP, source))?;
        Ok(Built {
            sink: self.sink,
            original_bytes: self.original_bytes,
            file_bytes: self.written,
        })
    }

    fn record(&self, index_offset: u64, block_count: u64, index_crc: Option<u32>) -> Record {
        Record {
            index_offset,
            block_count,
            original_bytes: self.original_bytes,
            index_crc,
            block_bytes: self.options.block_bytes,
            algorithm: self.options.algorithm,
            dictionary_bytes: 0,
            has_block_crc: true,
        }
    }

    fn submit(&mut self, batch: Batch) -> Result<()> {
        match self.compressor.submit(batch)? {
            Some(done) => self.put_batch(done),
            None => Ok(()),
        }
    }

    fn put_batch(&mut self, mut batch: Batch) -> Result<()> {
        if (self.stored_sizes.len() + batch.stored_sizes.len()) as u64 > ZFILE_BLOCKS_MAX {
            let detail = format!("more than {ZFILE_BLOCKS_MAX} blocks");
            return Err(Error::new(ErrorKind::Unsupported, OP, detail));
        }
        self.put(batch.stored())?;
        self.stored_sizes.extend_from_slice(&batch.stored_sizes);
        self.original_bytes += batch.input.len() as u64;
        batch.clear();
        self.spare.push(batch);
        Ok(())
    }

    /// Writes the index and returns its checksum.
    fn put_index(&mut self) -> Result<u32> {
        let sizes = std::mem::take(&mut self.stored_sizes);
        let mut crc = checksum::of_record(&[]);
        for chunk in sizes.chunks(INDEX_CHUNK_ENTRIES) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|size| size.to_le_bytes()).collect();
            crc = checksum::raw(crc, &bytes);
            self.put(&bytes)?;
        }
        self.stored_sizes = sizes;
        Ok(crc)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.sink
            .write_all(bytes)
            .map_err(|source| Error::io(OP, source).at(self.start + self.written))?;
        self.written += bytes.len() as u64;
        Ok(())
    }

    fn overwrite(&mut self, header: &[u8]) -> Result<()> {
        let end = self.start + self.written;
        let mut write = || {
            self.sink.seek(SeekFrom::Start(self.start))?;
            self.sink.write_all(header)?;
            self.sink.seek(SeekFrom::Start(end))
        };
        match write() {
            Ok(_) => Ok(()),
            Err(source) => Err(Error::io(OP, source).at(self.start)),
        }
    }
}

impl<W: Write + Seek> Write for ZFileBuilder<W> {
    /// Takes up to 256 KiB at once; blocks while earlier ones are compressed and written.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(mut batch) = self.filling.take() else {
            return Err(io::Error::other(failed_before()));
        };
        let len = bytes.len().min(BATCH_BYTES - batch.input.len());
        batch
            .input
            .extend_from_slice(bytes.get(..len).unwrap_or_default());
        if batch.input.len() == BATCH_BYTES {
            self.submit(batch).map_err(io::Error::other)?;
            batch = self
                .spare
                .pop()
                .unwrap_or_else(|| Batch::new(self.options.block_bytes as usize));
        }
        self.filling = Some(batch);
        Ok(len)
    }

    /// Flushes what the sink has; the last blocks stay here until [`ZFileBuilder::finish`].
    fn flush(&mut self) -> io::Result<()> {
        self.sink.flush()
    }
}

fn check_options(options: &BuildOptions) -> Result<()> {
    let refused = |detail| Err(Error::new(ErrorKind::Config, OP, detail));
    if !is_block_size(options.block_bytes) {
        return refused(format!(
            "block size {}, expected a power of two from {ZFILE_BLOCK_BYTES_MIN} to {ZFILE_BLOCK_BYTES_MAX}",
            options.block_bytes
        ));
    }
    if !(1..=ZFILE_WRITER_THREADS_MAX).contains(&options.threads) {
        return refused(format!(
            "{} threads, expected 1 to {ZFILE_WRITER_THREADS_MAX}",
            options.threads
        ));
    }
    Ok(())
}

fn failed_before() -> Error {
    Error::new(ErrorKind::Io, OP, "an earlier write of this file failed")
}
