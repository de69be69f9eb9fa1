//! The record of a blob: which of its blocks are kept, and their checksums.
//!
//! kept blob -> **record** -> shared table
//!
//! ```text
//! 0      header, 4096 bytes: magic[8] version:u32 block_bytes:u32 chunk_bytes:u32 0:u32 blob_bytes:u64
//!                            digest_len:u32 digest[<= 192] zeros, at 252 CRC-32C of the 252 bytes before
//! 4096   a state for each chunk of 256 KiB: present:u64 (bit n: block n) generation:u32 last_use:u32
//! then   from the next multiple of 4096 on, the CRC-32C of each 4 KiB block: u32
//! ```
//!
//! Little endian. All processes map the file. Byte 0 is locked shared by whoever has the blob open;
//! byte 1 + n is locked by whoever fetches or drops block n.
//!
//! Invariants
//! - a present bit is set after the block and its checksum were written, by the holder of its lock.
//! - blocks are given up in this order: bits cleared, generation raised, space given back. Whoever finds
//!   the same generation before and after copying a present block has copied the block.
//!
//! Source: docs/cache.md.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::error::{Error, Result};
use crate::io::{LockKind, RangeLock, SharedTable, is_locked};

/// The unit of presence.
pub(super) const BLOCK_BYTES: u64 = 4096;
/// Blocks of a chunk: bits of its presence word.
pub(super) const BLOCKS_PER_CHUNK: u64 = 64;
/// The unit of eviction.
pub(super) const CHUNK_BYTES: u64 = BLOCK_BYTES * BLOCKS_PER_CHUNK;
/// Larger blobs are read, but not kept.
pub(super) const BLOB_BYTES_MAX: u64 = 1 << 40;

/// Times of last use are right to so many seconds.
const TOUCH_SECONDS: u32 = 60;

const MAGIC: &[u8; 8] = b"obdchnk\n";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 4096;
const CHECKED_BYTES: usize = 252;
const DIGEST_OFFSET: usize = 36;
const DIGEST_BYTES_MAX: usize = 192;
const STATE_BYTES: usize = 16;

/// The blocks of a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) blob_bytes: u64,
}

impl Layout {
    pub(super) fn blocks(self) -> u64 {
        self.blob_bytes.div_ceil(BLOCK_BYTES)
    }

    pub(super) fn chunks(self) -> u64 {
        self.blob_bytes.div_ceil(CHUNK_BYTES)
    }

    /// The bytes of a run of blocks; the last block of a blob may be short.
    pub(super) fn bytes(self, blocks: &Range<u64>) -> Range<u64> {
        let start = (blocks.start * BLOCK_BYTES).min(self.blob_bytes);
        start..(blocks.end * BLOCK_BYTES).min(self.blob_bytes).max(start)
    }

    /// The blocks of a chunk.
    pub(super) fn blocks_of_chunk(self, chunk: u64) -> Range<u64> {
        let start = chunk * BLOCKS_PER_CHUNK;
        start..(start + BLOCKS_PER_CHUNK).min(self.blocks())
    }

    /// Bytes before the checksums: those that are allocated when a record is made.
    pub(super) fn checksums_offset(self) -> u64 {
        let states = self.chunks() * STATE_BYTES as u64;
        (HEADER_BYTES as u64 + states).next_multiple_of(BLOCK_BYTES)
    }

    pub(super) fn record_bytes(self) -> u64 {
        (self.checksums_offset() + self.blocks() * 4).next_multiple_of(BLOCK_BYTES)
    }
}

/// The blocks that hold a range of bytes.
pub(super) fn blocks_of(bytes: &Range<u64>) -> Range<u64> {
    bytes.start / BLOCK_BYTES..bytes.end.div_ceil(BLOCK_BYTES)
}

/// The bits of `blocks` in the presence word of `chunk`.
#[inline]
pub(super) fn mask_of(chunk: u64, blocks: &Range<u64>) -> u64 {
    let first = chunk * BLOCKS_PER_CHUNK;
    let start = blocks.start.max(first) - first;
    let end = blocks
        .end
        .min(first + BLOCKS_PER_CHUNK)
        .saturating_sub(first);
    if start >= end {
        return 0;
    }
    (u64::MAX >> (BLOCKS_PER_CHUNK - (end - start))) << start
}

/// The header as it is written.
pub(super) fn encode_header(layout: Layout, digest: &str) -> Result<Vec<u8>> {
    if digest.len() > DIGEST_BYTES_MAX {
        let detail = format!("a digest of {} bytes", digest.len());
        return Err(Error::corrupt("write cache record", detail));
    }
    let mut header = Vec::with_capacity(HEADER_BYTES);
    header.extend_from_slice(MAGIC);
    for number in [VERSION, 4096, 262_144, 0] {
        header.extend_from_slice(&number.to_le_bytes());
    }
    header.extend_from_slice(&layout.blob_bytes.to_le_bytes());
    let len = u32::try_from(digest.len()).unwrap_or_default();
    header.extend_from_slice(&len.to_le_bytes());
    header.extend_from_slice(digest.as_bytes());
    header.resize(CHECKED_BYTES, 0);
    let crc = crc32c::crc32c(&header);
    header.extend_from_slice(&crc.to_le_bytes());
    header.resize(HEADER_BYTES, 0);
    Ok(header)
}

/// Of which blob a record of `record_bytes` bytes with this header is: its layout and digest.
///
/// # Errors
/// `Corrupt` for anything that is not a record of this version.
pub fn decode_header(header: &[u8], record_bytes: u64) -> Result<(u64, String)> {
    let corrupt = |detail: &str| Error::corrupt("open cache record", detail);
    let short = || corrupt("shorter than its header");
    let checked = header.get(..CHECKED_BYTES).ok_or_else(short)?;
    let number = |offset: usize| {
        let bytes = header.get(offset..)?.first_chunk::<4>()?;
        Some(u32::from_le_bytes(*bytes))
    };
    if checked.get(..8) != Some(MAGIC) {
        return Err(corrupt("no magic: not a cache record, or a torn one"));
    }
    if number(CHECKED_BYTES) != Some(crc32c::crc32c(checked)) {
        return Err(corrupt("checksum of the header does not match"));
    }
    if [number(8), number(12), number(16)] != [Some(VERSION), Some(4096), Some(262_144)] {
        return Err(corrupt(
            "a version or block size that this version does not know",
        ));
    }
    let bytes = checked.get(24..).and_then(|rest| rest.first_chunk::<8>());
    let blob_bytes = u64::from_le_bytes(*bytes.ok_or_else(short)?);
    let layout = Layout { blob_bytes };
    if blob_bytes == 0 || blob_bytes > BLOB_BYTES_MAX || record_bytes != layout.record_bytes() {
        return Err(corrupt("its size does not fit the blob's"));
    }
    let digest = number(32)
        .and_then(|len| usize::try_from(len).ok())
        .filter(|len| *len <= DIGEST_BYTES_MAX)
        .and_then(|len| checked.get(DIGEST_OFFSET..DIGEST_OFFSET + len))
        .and_then(|digest| std::str::from_utf8(digest).ok())
        .ok_or_else(|| corrupt("no digest"))?;
    Ok((blob_bytes, digest.to_owned()))
}

/// An open record.
#[derive(Debug)]
pub(super) struct Record {
    file: Arc<File>,
    table: SharedTable,
    layout: Layout,
    digest: String,
}

impl Record {
    /// Maps a record and checks its header.
    ///
    /// # Errors
    /// `Corrupt`, `Io`.
    pub(super) fn open(file: File) -> Result<Self> {
        let fail = |source| Error::io("open cache record", source);
        let bytes = file.metadata().map_err(fail)?.len();
        let mut header = [0; HEADER_BYTES];
        file.read_exact_at(&mut header, 0)
            .map_err(|source| match source.kind() {
                io::ErrorKind::UnexpectedEof => Error::corrupt("open cache record", "torn"),
                _ => fail(source),
            })?;
        let (blob_bytes, digest) = decode_header(&header, bytes)?;
        let table = SharedTable::new(&file, bytes).map_err(fail)?;
        Ok(Self {
            file: Arc::new(file),
            table,
            layout: Layout { blob_bytes },
            digest,
        })
    }

    /// Makes the record of an empty blob in a new, empty file.
    ///
    /// # Errors
    /// `NoSpace`, `Io`.
    pub(super) fn create(file: File, layout: Layout, digest: &str) -> Result<Self> {
        let header = encode_header(layout, digest)?;
        let prepare = || {
            // States are written through the mapping, where a full disk would be a fault.
            crate::io::allocate(&file, layout.checksums_offset())?;
            file.set_len(layout.record_bytes())?;
            file.write_all_at(&header, 0)
        };
        prepare().map_err(|source| Error::io("make cache record", source))?;
        Self::open(file)
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    pub(super) fn digest(&self) -> &str {
        &self.digest
    }

    /// False once the file was cut under the mapping: nothing it says counts.
    #[inline]
    pub(super) fn is_usable(&self) -> bool {
        !self.table.is_poisoned()
    }

    /// Tells others that the blob is open. `None`: it is being removed.
    pub(super) fn lock_in_use(&self) -> io::Result<Option<RangeLock>> {
        RangeLock::try_new(&self.file, 0..1, LockKind::Shared)
    }

    /// Does anybody else have it open?
    pub(super) fn is_in_use(&self) -> bool {
        is_locked(&self.file, 0..1).unwrap_or(true)
    }

    /// Excludes all who fetch or drop one of these blocks through another open file; `None` if somebody
    /// does now.
    pub(super) fn lock_blocks(&self, blocks: &Range<u64>) -> io::Result<Option<RangeLock>> {
        let bytes = blocks.start + 1..blocks.end + 1;
        RangeLock::try_new(&self.file, bytes, LockKind::Exclusive)
    }

    #[inline]
    fn state_offset(chunk: u64) -> usize {
        let chunk = usize::try_from(chunk).unwrap_or(usize::MAX / STATE_BYTES / 2);
        HEADER_BYTES + chunk * STATE_BYTES
    }

    fn present_word(&self, chunk: u64) -> Option<&AtomicU64> {
        let inside = chunk < self.layout.chunks();
        inside.then(|| self.table.u64_at(Self::state_offset(chunk)))?
    }

    #[inline]
    fn generation_word(&self, chunk: u64) -> Option<&AtomicU32> {
        self.table.u32_at(Self::state_offset(chunk) + 8)
    }

    /// Which blocks of a chunk are kept.
    pub(super) fn present(&self, chunk: u64) -> u64 {
        let valid = mask_of(chunk, &self.layout.blocks_of_chunk(chunk));
        let word = self
            .present_word(chunk)
            .map_or(0, |word| word.load(Ordering::Acquire));
        if self.is_usable() { word & valid } else { 0 }
    }

    pub(super) fn is_present(&self, block: u64) -> bool {
        let chunk = block / BLOCKS_PER_CHUNK;
        self.present(chunk) & mask_of(chunk, &(block..block + 1)) != 0
    }

    /// How often blocks of a chunk were given up.
    #[inline]
    pub(super) fn generation(&self, chunk: u64) -> u32 {
        let word = self.generation_word(chunk);
        word.map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Have the chunks of `blocks` lost nothing since the sum of their generations was `stamp`?
    #[inline]
    pub(super) fn is_unchanged(&self, blocks: &Range<u64>, stamp: u64) -> bool {
        let now: u64 = chunks_of(blocks)
            .map(|chunk| u64::from(self.generation(chunk)))
            .sum();
        now == stamp && self.is_usable()
    }

    /// Seconds since 1970 when the chunk was read last, about.
    pub(super) fn last_use(&self, chunk: u64) -> u32 {
        let word = self.table.u32_at(Self::state_offset(chunk) + 12);
        word.map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// The chunk is read now. Stored now and then only: the first store after the page was written back
    /// may wait for the disk.
    #[inline]
    pub(super) fn touch(&self, chunk: u64, now: u32) {
        if let Some(word) = self.table.u32_at(Self::state_offset(chunk) + 12)
            && word.load(Ordering::Relaxed).abs_diff(now) >= TOUCH_SECONDS
        {
            word.store(now, Ordering::Relaxed);
        }
    }

    /// What the checksum of a present block should be.
    pub(super) fn checksum(&self, block: u64) -> Option<u32> {
        let offset = self.layout.checksums_offset() + block * 4;
        let word = self.table.u32_at(usize::try_from(offset).ok()?)?;
        Some(word.load(Ordering::Acquire))
    }

    /// Makes blocks present. They are written, and locked by the caller. `checksums` has one for each
    /// block from `first` on.
    ///
    /// # Errors
    /// Those of pwrite(2): then nothing is present.
    pub(super) fn publish(&self, first: u64, checksums: &[u32]) -> io::Result<()> {
        let bytes: Vec<u8> = checksums.iter().flat_map(|crc| crc.to_le_bytes()).collect();
        let offset = self.layout.checksums_offset() + first * 4;
        // Not through the mapping: a full disk is an error here, and a fault there.
        self.file.write_all_at(&bytes, offset)?;
        let blocks = first..first + checksums.len() as u64;
        for chunk in chunks_of(&blocks) {
            if let Some(word) = self.present_word(chunk) {
                word.fetch_or(mask_of(chunk, &blocks), Ordering::AcqRel);
            }
        }
        Ok(())
    }

    /// Gives blocks of a chunk up; their space is given back by the caller, if at all. Returns those
    /// that were present.
    pub(super) fn give_up(&self, chunk: u64, mask: u64) -> u64 {
        let (Some(present), Some(generation)) =
            (self.present_word(chunk), self.generation_word(chunk))
        else {
            return 0;
        };
        let before = present.fetch_and(!mask, Ordering::AcqRel);
        generation.fetch_add(1, Ordering::AcqRel);
        before & mask
    }

    /// Bytes of the blob that are present.
    pub(super) fn present_bytes(&self) -> u64 {
        let blocks: u64 = (0..self.layout.chunks())
            .map(|chunk| u64::from(self.present(chunk).count_ones()))
            .sum();
        let last = self.layout.blocks() - 1;
        let missing_of_last = self.layout.blocks() * BLOCK_BYTES - self.layout.blob_bytes;
        let cut = if self.is_present(last) {
            missing_of_last
        } else {
            0
        };
        (blocks * BLOCK_BYTES).saturating_sub(cut)
    }
}

/// The chunks that a run of blocks touches.
pub(super) fn chunks_of(blocks: &Range<u64>) -> Range<u64> {
    blocks.start / BLOCKS_PER_CHUNK..blocks.end.div_ceil(BLOCKS_PER_CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout {
        blob_bytes: 300_000,
    };

    fn record() -> Record {
        Record::create(tempfile::tempfile().unwrap(), LAYOUT, "sha256:x").unwrap()
    }

    #[test]
    fn a_mask_holds_the_blocks_of_its_chunk_only() {
        assert_eq!(mask_of(0, &(0..64)), u64::MAX);
        assert_eq!(mask_of(0, &(62..70)), 0b11 << 62);
        assert_eq!(mask_of(1, &(62..70)), 0b11_1111);
        assert_eq!(mask_of(2, &(62..70)), 0);
        assert_eq!(mask_of(0, &(5..5)), 0);
    }

    #[test]
    fn a_record_is_found_again_and_says_what_is_present() {
        let one = record();
        one.publish(63, &[7, 8]).unwrap();
        let again = Record::open(one.file.try_clone().unwrap()).unwrap();
        assert_eq!(again.layout(), LAYOUT);
        assert_eq!(again.digest(), "sha256:x");
        assert!(again.is_present(63) && again.is_present(64) && !again.is_present(62));
        assert_eq!((again.checksum(63), again.checksum(64)), (Some(7), Some(8)));
        assert_eq!(again.present_bytes(), 8192);
        assert_eq!(one.give_up(0, u64::MAX), 1 << 63);
        assert_eq!((again.present(0), again.generation(0)), (0, 1));
        assert_eq!(again.generation(1), 0);
    }

    #[test]
    fn the_short_last_block_counts_as_it_is() {
        let record = record();
        let last = LAYOUT.blocks() - 1;
        record.publish(last, &[1]).unwrap();
        assert_eq!(record.present_bytes(), 300_000 - last * 4096);
        assert_eq!(LAYOUT.bytes(&(last..last + 1)), last * 4096..300_000);
    }

    #[test]
    fn every_flipped_bit_of_the_header_is_noticed() {
        let header = encode_header(LAYOUT, "sha256:x").unwrap();
        let size = LAYOUT.record_bytes();
        assert!(decode_header(&header, size).is_ok());
        for bit in 0..(CHECKED_BYTES + 4) * 8 {
            let mut flipped = header.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_header(&flipped, size).is_err(), "bit {bit}");
        }
        assert!(decode_header(&header, size + 4096).is_err());
        assert!(decode_header(&header[..100], size).is_err());
    }
}
