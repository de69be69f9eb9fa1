//! Reads a zfile as the file it was made from.
//!
//! image -> lsmt -> **zfile** -> tar -> io
//!
//! A read fetches the compressed bytes of consecutive blocks at once into private memory, checks
//! each block there, and decodes it straight into the destination when that covers the whole
//! block. Of the first and last block a read may want only a part: those are decoded into private
//! memory and the part is copied.
//!
//! Invariants
//! - no byte is decoded before its block's checksum has matched, when the file has checksums.
//! - a block decodes to exactly its length, or the read fails.
//!
//! Source: format reference 2.4 to 2.6.

use std::ops::Range;

use super::checksum;
use super::format::{self, Algorithm, RECORD_BYTES, RECORD_LEN, Record};
use super::jump_table::JumpTable;
use super::scratch::{self, RUN_BYTES_MAX, Scratch};
use crate::dest::Dest;
use crate::error::{Error, ErrorKind, Result};
use crate::read_at::{Progress, ReadAt, Wait};

const OP: &str = "read zfile block";

/// Bytes of the checksum behind a block.
const CRC_BYTES: usize = 4;

/// An open zfile.
#[derive(Debug)]
pub struct ZFile {
    source: Box<dyn ReadAt>,
    /// What stages above call the decoded bytes: their offsets are not those of the source.
    name: String,
    jump_table: JumpTable,
    original_bytes: u64,
    block_shift: u32,
    algorithm: Algorithm,
    has_block_crc: bool,
    is_header_final: bool,
}

/// Consecutive blocks that one read of the source fetches.
pub(super) struct Run {
    /// Number of the first block.
    pub(super) first: usize,
    /// One more than the number of the last block.
    pub(super) end: usize,
    /// Where the first block starts in the source.
    offset: u64,
    bytes: usize,
}

/// Is this the start of a zfile? A file shorter than a header is none.
///
/// # Errors
/// `Corrupt` when it is one and its header digest does not match; errors of `source`.
pub fn detect(source: &dyn ReadAt) -> Result<bool> {
    if source.size() < RECORD_LEN {
        return Ok(false);
    }
    let flags = identify_header(source).map_err(|error| error.in_file(source.name()))?;
    Ok(flags.is_some_and(|(_, flags)| flags.is_header()))
}

impl ZFile {
    /// Opens the zfile in `source` and reads its index. Blocks.
    ///
    /// # Errors
    /// `Corrupt` when it is no zfile or breaks a rule of the format, `Unsupported` when it needs
    /// what no reader can do; errors of `source`.
    pub fn open(source: Box<dyn ReadAt>) -> Result<Self> {
        match read_tables(&*source) {
            Ok((record, is_header_final, jump_table)) => Ok(Self {
                name: format!("{} (decompressed)", source.name()),
                source,
                jump_table,
                original_bytes: record.original_bytes,
                block_shift: record.block_bytes.trailing_zeros(),
                algorithm: record.algorithm,
                has_block_crc: record.has_block_crc,
                is_header_final,
            }),
            Err(error) => Err(error.in_file(source.name())),
        }
    }

    /// How the blocks are compressed.
    #[must_use]
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Bytes of every block but the last before compression.
    #[must_use]
    pub fn block_bytes(&self) -> u32 {
        1 << self.block_shift
    }

    /// Number of blocks.
    #[must_use]
    pub fn block_count(&self) -> usize {
        self.jump_table.blocks()
    }

    /// Bytes of all compressed blocks, their checksums included.
    #[must_use]
    pub fn compressed_bytes(&self) -> u64 {
        let offset = |block| self.jump_table.offset(block).unwrap_or(0);
        offset(self.block_count()) - offset(0)
    }

    /// Does a checksum follow every block?
    #[must_use]
    pub fn has_block_crc(&self) -> bool {
        self.has_block_crc
    }

    /// Does the header already say what the trailer says?
    #[must_use]
    pub fn is_header_final(&self) -> bool {
        self.is_header_final
    }

    /// Longest run of blocks from `first` up to `last` that one read fetches.
    pub(super) fn run(&self, first: usize, last: usize) -> Result<Run> {
        let start = self.block_offset(first)?;
        let mut end = first + 1;
        let mut end_offset = self.block_offset(end)?;
        while end <= last {
            let next = self.block_offset(end + 1)?;
            if next - start > u64::from(RUN_BYTES_MAX) {
                break;
            }
            end += 1;
            end_offset = next;
        }
        Ok(Run {
            first,
            end,
            offset: start,
            bytes: usize::try_from(end_offset - start).unwrap_or(usize::MAX),
        })
    }

    /// Fetches `run` into the front of `stored` and returns it.
    pub(super) fn fetch<'a>(
        &self,
        run: &Run,
        stored: &'a mut [u8],
        wait: Wait,
    ) -> Result<Option<&'a [u8]>> {
        let stored = stored
            .get_mut(..run.bytes)
            .ok_or_else(|| self.corrupt(run.first, "stored size beyond its limit"))?;
        match self
            .source
            .read_at(run.offset, Dest::from(&mut *stored), wait)?
        {
            Progress::Done => Ok(Some(stored)),
            Progress::Pending => Ok(None),
        }
    }

    /// The stored bytes of `block`, checksum included, out of the fetched `run`.
    pub(super) fn stored_block<'a>(
        &self,
        run: &Run,
        fetched: &'a [u8],
        block: usize,
    ) -> Result<&'a [u8]> {
        let start = self.block_offset(block)? - run.offset;
        let end = self.block_offset(block + 1)? - run.offset;
        usize::try_from(start)
            .ok()
            .zip(usize::try_from(end).ok())
            .and_then(|(start, end)| fetched.get(start..end))
            .ok_or_else(|| self.corrupt(block, "stored outside of its run"))
    }

    /// Checks the checksum of `block` and returns its compressed bytes.
    #[inline]
    pub(super) fn check<'a>(&self, block: usize, stored: &'a [u8]) -> Result<&'a [u8]> {
        if !self.has_block_crc {
            return Ok(stored);
        }
        let Some((compressed, crc)) = stored.split_last_chunk::<CRC_BYTES>() else {
            return Err(self.corrupt(block, "no room for its checksum"));
        };
        let expected = u32::from_le_bytes(*crc);
        let computed = checksum::of_block(compressed);
        if computed != expected {
            let detail = format!("checksum: stored {expected:#010x}, computed {computed:#010x}");
            return Err(self.corrupt(block, &detail));
        }
        Ok(compressed)
    }

    /// Bytes of `block` before compression.
    #[inline]
    pub(super) fn block_len(&self, block: usize) -> usize {
        let start = (block as u64) << self.block_shift;
        let left = self.original_bytes.saturating_sub(start);
        usize::try_from(left).map_or(1 << self.block_shift, |left| {
            left.min(1 << self.block_shift)
        })
    }

    /// Why `block` could not be read.
    #[cold]
    pub(super) fn corrupt(&self, block: usize, what: &str) -> Error {
        let error =
            Error::corrupt(OP, format!("block {block}: {what}")).in_file(self.source.name());
        match self.jump_table.offset(block) {
            Some(offset) => error.at(offset),
            None => error,
        }
    }

    fn block_offset(&self, block: usize) -> Result<u64> {
        self.jump_table
            .offset(block)
            .ok_or_else(|| self.corrupt(block, "no such block"))
    }

    fn read_blocks(
        &self,
        offset: u64,
        mut dest: Dest<'_>,
        wait: Wait,
        scratch: &mut Scratch,
    ) -> Result<Progress> {
        let last_byte = offset + dest.len() as u64 - 1;
        let mut block = self.block_of(offset)?;
        let last = self.block_of(last_byte)?;
        let mut skip = usize::try_from(offset & ((1 << self.block_shift) - 1)).unwrap_or(0);
        while block <= last {
            let run = self.run(block, last)?;
            let Some(fetched) = self.fetch(&run, &mut scratch.stored, wait)? else {
                return Ok(Progress::Pending);
            };
            while block < run.end {
                let stored = self.stored_block(&run, fetched, block)?;
                let compressed = self.check(block, stored)?;
                let part = dest.take_front(self.block_len(block).saturating_sub(skip));
                self.decode(
                    block,
                    compressed,
                    skip,
                    part,
                    &mut scratch.block,
                    &mut scratch.decoder,
                )?;
                skip = 0;
                block += 1;
            }
        }
        Ok(Progress::Done)
    }

    /// Fills `part` with the bytes of `block` from `skip` on.
    #[inline]
    fn decode(
        &self,
        block: usize,
        compressed: &[u8],
        skip: usize,
        mut part: Dest<'_>,
        whole: &mut [u8],
        decoder: &mut super::codec::Decoder,
    ) -> Result<()> {
        let len = self.block_len(block);
        if part.len() == len {
            let decoded = decoder.decode(self.algorithm, compressed, part);
            return self.check_decoded(block, decoded, len);
        }
        let whole = whole
            .get_mut(..len)
            .ok_or_else(|| self.corrupt(block, "longer than the largest block"))?;
        let decoded = decoder.decode(self.algorithm, compressed, Dest::from(&mut *whole));
        self.check_decoded(block, decoded, len)?;
        let wanted = whole
            .get(skip..)
            .ok_or_else(|| self.corrupt(block, "shorter than its offset"))?;
        part.copy_from(wanted);
        Ok(())
    }

    #[inline]
    pub(super) fn check_decoded(
        &self,
        block: usize,
        decoded: Option<usize>,
        len: usize,
    ) -> Result<()> {
        match decoded {
            Some(decoded) if decoded == len => Ok(()),
            Some(decoded) => {
                let detail = format!("decodes to {decoded} bytes, expected {len}");
                Err(self.corrupt(block, &detail))
            }
            None => {
                let detail = format!(
                    "no {} data that decodes to {len} bytes",
                    self.algorithm.name()
                );
                Err(self.corrupt(block, &detail))
            }
        }
    }

    /// The bytes read were wrong, for `why`: once more.
    #[cold]
    fn read_again(&self, offset: u64, dest: Dest<'_>, wait: Wait, why: &Error) -> Result<Progress> {
        if wait == Wait::Never {
            return Ok(Progress::Pending);
        }
        // Also when it has dropped nothing: another reader may have done so a moment ago, and then
        // there are other bytes now.
        if self.distrust(offset, dest.len() as u64) {
            log::warn!("{why}; read again");
        }
        scratch::with(|scratch| self.read_blocks(offset, dest, wait, scratch))
    }

    /// The bytes of the source that hold the blocks of `range`; cut at the last block.
    fn stored_here(&self, range: Range<u64>) -> Range<u64> {
        let offset = |block: u64| {
            let block = usize::try_from(block).unwrap_or(usize::MAX);
            self.jump_table.offset(block.min(self.block_count()))
        };
        let start = offset(range.start >> self.block_shift).unwrap_or(0);
        let end = offset(range.end.div_ceil(1 << self.block_shift)).unwrap_or(0);
        start..end.max(start)
    }

    #[inline]
    fn block_of(&self, offset: u64) -> Result<usize> {
        usize::try_from(offset >> self.block_shift)
            .map_err(|_| self.corrupt(usize::MAX, "no such block"))
    }

    #[cold]
    fn out_of_range(&self, offset: u64, len: usize) -> Error {
        let detail = format!("{len} bytes wanted, the file has {}", self.original_bytes);
        Error::new(ErrorKind::OutOfRange, "read zfile", detail)
            .in_file(self.source.name())
            .at(offset)
    }
}

impl ReadAt for ZFile {
    fn size(&self) -> u64 {
        self.original_bytes
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn read_at(&self, offset: u64, mut dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        let len = dest.len();
        if offset
            .checked_add(len as u64)
            .is_none_or(|end| end > self.original_bytes)
        {
            return Err(self.out_of_range(offset, len));
        }
        if len == 0 {
            return Ok(Progress::Done);
        }
        let first =
            scratch::with(|scratch| self.read_blocks(offset, dest.reborrow(), wait, scratch));
        match first {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.read_again(offset, dest, wait, &error)
            }
            other => other,
        }
    }

    fn distrust(&self, offset: u64, len: u64) -> bool {
        let stored = self.stored_here(offset..offset.saturating_add(len));
        self.source
            .distrust(stored.start, stored.end - stored.start)
    }

    fn is_checked(&self) -> bool {
        self.has_block_crc
    }

    fn stored_range(&self, range: Range<u64>) -> Range<u64> {
        self.source.stored_range(self.stored_here(range))
    }
}

type HeaderBytes = [u8; RECORD_BYTES];

fn identify_header(source: &dyn ReadAt) -> Result<Option<(HeaderBytes, format::Flags)>> {
    let mut bytes = [0; RECORD_BYTES];
    source.read_exact_at(0, &mut bytes)?;
    Ok(format::identify(&bytes)?.map(|flags| (bytes, flags)))
}

/// The record in use, whether it is the header, and the index.
fn read_tables(source: &dyn ReadAt) -> Result<(Record, bool, JumpTable)> {
    let op = "open zfile";
    let size = source.size();
    if size < RECORD_LEN {
        let detail = format!("{size} bytes, a zfile has at least {RECORD_LEN}");
        return Err(Error::corrupt(op, detail));
    }
    let Some((bytes, flags)) = identify_header(source)?.filter(|(_, flags)| flags.is_header())
    else {
        return Err(Error::corrupt(op, "no zfile header").at(0));
    };
    let record = if flags.is_header_final() {
        Record::decode(&bytes, flags, size)?
    } else if flags.is_data_file() {
        read_trailer(source, size)?
    } else {
        return Err(Error::corrupt(op, "the header is not that of a data file").at(0));
    };
    let jump_table = JumpTable::load(source, &record)?;
    Ok((record, flags.is_header_final(), jump_table))
}

fn read_trailer(source: &dyn ReadAt, size: u64) -> Result<Record> {
    let offset = size
        .checked_sub(RECORD_LEN)
        .filter(|offset| *offset >= RECORD_LEN)
        .ok_or_else(|| {
            let detail = format!("{size} bytes leave no room for a trailer");
            Error::corrupt("read zfile trailer", detail)
        })?;
    let mut bytes = [0; RECORD_BYTES];
    source.read_exact_at(offset, &mut bytes)?;
    format::identify_trailer(&bytes)
        .and_then(|flags| Record::decode(&bytes, flags, size))
        .map_err(|error| error.at(offset))
}
