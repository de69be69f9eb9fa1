//! What is kept of one blob on this host: its media file and its record.
//!
//! cached blob -> **kept blob** -> record, media
//!
//! Invariants
//! - no byte leaves here that was not checked: against the block's checksum the first time this process
//!   reads it in its present generation, and by the generation each time.
//! - nothing here is made durable: after a power cut the checksums find what did not reach the disk.
//!
//! Source: docs/cache.md.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};

use super::directory::{self, BlobFiles};
use super::record::{
    BLOCK_BYTES, BLOCKS_PER_CHUNK, CHUNK_BYTES, Layout, Record, blocks_of, chunks_of, mask_of,
};
use super::verified::Verified;
use crate::dest::Dest;
use crate::error::{Error, ErrorKind, Result};
use crate::io::{LocalFile, RangeLock, is_locked, punch_hole};
use crate::read_at::{Progress, ReadAt, Wait};

/// How a look for bytes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Look {
    /// The destination has them.
    Done,
    /// They may be here, but to get at them means to wait.
    Pending,
    /// Not all of them are here.
    Missing,
    /// So many blocks did not match their checksums, or could not be read, and were dropped.
    Corrupt(u64),
}

/// Media and record, open.
#[derive(Debug)]
pub(super) struct KeptBlob {
    pub(super) record: Record,
    media: LocalFile,
    media_file: File,
    verified: Verified,
    _in_use: Option<RangeLock>,
    /// A damaged block was told of.
    has_warned: AtomicBool,
}

impl KeptBlob {
    /// Opens the files of a blob; makes them, empty, if one is missing, damaged or not of this digest
    /// and size. Files that cannot be opened now stay as they are. Blocks for the directory's lock.
    ///
    /// # Errors
    /// `Io`, `NoSpace`.
    pub(super) fn open(files: &BlobFiles, layout: Layout, digest: &str) -> Result<Self> {
        let fail = |source| Error::io("lock cache directory", source);
        let _lock = directory::lock(&files.dir).map_err(fail)?;
        let fits = |kept: &Self| kept.record.layout() == layout && kept.record.digest() == digest;
        match Self::open_existing(files) {
            Ok(kept) if fits(&kept) => return Ok(kept),
            // The digest says which bytes a blob has, so one of the two sizes is wrong, and what is kept
            // has come from an origin that confirmed its own.
            Ok(kept) if kept.record.digest() == digest && kept.record.present_bytes() > 0 => {
                let detail = format!(
                    "{} bytes wanted (lowers[].size), the cached blob has {}; if the cached one is \
                     wrong: obd cache clear",
                    layout.blob_bytes,
                    kept.layout().blob_bytes
                );
                let error = Error::new(ErrorKind::Config, "open cached blob", detail);
                return Err(error.in_file(files.record.display().to_string()));
            }
            Ok(_) => log::warn!("{}: of another blob; begun anew", files.record.display()),
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) if error.kind() == ErrorKind::Corrupt => log::warn!("{error}; begun anew"),
            // Of what is kept this says nothing: the process may be out of descriptors, say.
            Err(error) => return Err(error),
        }
        remove(files)?;
        make(files, layout, digest)?;
        Self::open_existing(files)
    }

    /// `None` when they are missing or damaged, so that nobody can read anything of it; otherwise as
    /// [`KeptBlob::open_existing`].
    ///
    /// # Errors
    /// `Io`.
    pub(super) fn open_readable(files: &BlobFiles) -> Result<Option<Self>> {
        match Self::open_existing(files) {
            Ok(kept) => Ok(Some(kept)),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Opens the files of a blob as they are, and shows others that it is in use. To be called with the
    /// directory's lock held.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, `Io`.
    pub(super) fn open_existing(files: &BlobFiles) -> Result<Self> {
        let open = |path: &std::path::Path| {
            let name = path.display().to_string();
            let opened = File::options().read(true).write(true).open(path);
            opened.map_err(|source| Error::io("open cached blob", source).in_file(name))
        };
        let name = files.record.display().to_string();
        let record = Record::open(open(&files.record)?).map_err(|error| error.in_file(&name))?;
        let media_file = open(&files.media)?;
        let name = files.media.display().to_string();
        let fail = |source| Error::io("open cached blob", source).in_file(&name);
        let layout = record.layout();
        let found = media_file.metadata().map_err(fail)?.len();
        if found != layout.blob_bytes {
            let detail = format!("{found} bytes, the blob has {}", layout.blob_bytes);
            return Err(Error::corrupt("open cached blob", detail).in_file(name));
        }
        let clone = media_file.try_clone().map_err(fail)?;
        Ok(Self {
            _in_use: record.lock_in_use().map_err(fail)?,
            has_warned: AtomicBool::new(false),
            media: LocalFile::from_file(clone, name, layout.blob_bytes)?,
            media_file,
            verified: Verified::new(layout.chunks()),
            record,
        })
    }

    pub(super) fn media(&self) -> &File {
        &self.media_file
    }

    pub(super) fn layout(&self) -> Layout {
        self.record.layout()
    }

    /// Copies bytes that this process has verified before.
    #[inline]
    pub(super) fn read_verified(&self, offset: u64, dest: Dest<'_>, wait: Wait, now: u32) -> Look {
        let blocks = blocks_of(&(offset..offset + dest.len() as u64));
        let Some(before) = self.verified.stamp(&self.record, &blocks, now) else {
            return Look::Missing;
        };
        let read = self.media.read_at(offset, dest, wait);
        // The generations must be read after the bytes.
        std::sync::atomic::fence(std::sync::atomic::Ordering::Acquire);
        match (read, self.record.is_unchanged(&blocks, before)) {
            (Ok(Progress::Done), true) => Look::Done,
            (Ok(Progress::Pending), _) => Look::Pending,
            // What cannot be read is looked at block by block.
            _ => Look::Missing,
        }
    }

    /// Copies bytes of `range`, checking every block of it that was not verified yet, or each with
    /// `every`. Allocates nothing.
    pub(super) fn read_checked(
        &self,
        range: &Range<u64>,
        mut dest: Dest<'_>,
        wait: Wait,
        every: bool,
        now: u32,
    ) -> Look {
        let mut damaged = 0;
        for block in blocks_of(range) {
            let bytes = self.layout().bytes(&(block..block + 1));
            let start = range.start.max(bytes.start);
            let mut piece = dest.take_front(len_of(&(start..range.end.min(bytes.end))));
            let skip = start - bytes.start;
            let is_verified = !every && self.verified.is_verified(&self.record, block);
            let look =
                match is_verified.then(|| self.read_verified(start, piece.reborrow(), wait, now)) {
                    Some(Look::Done) => Look::Done,
                    Some(Look::Pending) => Look::Pending,
                    _ => self.read_block(block, skip, piece, wait),
                };
            match look {
                Look::Done => self.record.touch(block / BLOCKS_PER_CHUNK, now),
                // Where one block is damaged there may be more: all of them are fetched at once.
                Look::Corrupt(blocks) => damaged += blocks,
                Look::Pending | Look::Missing if damaged == 0 => return look,
                Look::Pending | Look::Missing => break,
            }
        }
        match damaged {
            0 => Look::Done,
            _ => Look::Corrupt(damaged),
        }
    }

    /// Checks one block and copies from byte `skip` of it on.
    fn read_block(&self, block: u64, skip: u64, mut dest: Dest<'_>, wait: Wait) -> Look {
        let mut buf = [0_u8; 4096];
        let bytes = self.layout().bytes(&(block..block + 1));
        let Some(buf) = buf.get_mut(..len_of(&bytes)) else {
            return Look::Missing;
        };
        let chunk = block / BLOCKS_PER_CHUNK;
        let mask = mask_of(chunk, &(block..block + 1));
        let generation = self.record.generation(chunk);
        if !self.record.is_present(block) {
            return Look::Missing;
        }
        let read = self.media.read_at(bytes.start, Dest::from(&mut *buf), wait);
        if matches!(read, Ok(Progress::Pending)) {
            return Look::Pending;
        }
        if read.is_err() {
            self.mend_length();
        }
        let right = read.is_ok() && self.record.checksum(block) == Some(crc32c::crc32c(buf));
        if self.record.generation(chunk) != generation || !self.record.is_present(block) {
            return Look::Missing;
        }
        if !right {
            self.record.give_up(chunk, mask);
            // One line tells enough: where one block is damaged there may be a million.
            let level = match self.has_warned.swap(true, Ordering::Relaxed) {
                false => log::Level::Warn,
                true => log::Level::Debug,
            };
            log::log!(
                level,
                "{}: the block at byte {} is damaged and dropped",
                self.media.name(),
                bytes.start
            );
            return Look::Corrupt(1);
        }
        self.verified.mark(&self.record, chunk, generation, mask);
        let skip = usize::try_from(skip).unwrap_or(usize::MAX);
        dest.copy_from(buf.get(skip..).unwrap_or_default());
        Look::Done
    }

    /// Somebody may have cut the media: what is behind the cut must not come back as zeros.
    fn mend_length(&self) {
        let layout = self.layout();
        let found = self
            .media_file
            .metadata()
            .map_or(layout.blob_bytes, |found| found.len());
        if found >= layout.blob_bytes {
            return;
        }
        log::warn!(
            "{}: cut to {found} bytes; the rest is fetched again",
            self.media.name()
        );
        for chunk in found / CHUNK_BYTES..layout.chunks() {
            self.record.give_up(chunk, u64::MAX);
        }
        if let Err(error) = self.media_file.set_len(layout.blob_bytes) {
            log::warn!("{}: {error}", self.media.name());
        }
    }

    /// Writes whole blocks, which nobody has kept yet and the caller has locked, and makes them
    /// present. `unverified` is one of them that the next read shall look at.
    ///
    /// # Errors
    /// Those of pwrite(2): then none of them is present.
    pub(super) fn keep(
        &self,
        first: u64,
        bytes: &[u8],
        now: u32,
        unverified: Option<u64>,
    ) -> io::Result<()> {
        self.mend_length();
        self.media_file.write_all_at(bytes, first * BLOCK_BYTES)?;
        let checksums: Vec<u32> = bytes.chunks(4096).map(crc32c::crc32c).collect();
        let blocks = first..first + checksums.len() as u64;
        let generations: Vec<u32> = chunks_of(&blocks)
            .map(|chunk| self.record.generation(chunk))
            .collect();
        self.record.publish(first, &checksums)?;
        for (chunk, generation) in chunks_of(&blocks).zip(generations) {
            let marker = unverified.map_or(0, |block| mask_of(chunk, &(block..block + 1)));
            let mask = mask_of(chunk, &blocks) & !marker;
            self.record.touch(chunk, now);
            self.verified.mark(&self.record, chunk, generation, mask);
        }
        Ok(())
    }

    /// Has the next read of these bytes look whether they are right.
    pub(super) fn forget_verified(&self, blocks: &Range<u64>) {
        for chunk in chunks_of(blocks) {
            self.verified.forget(chunk, mask_of(chunk, blocks));
        }
    }

    /// Drops blocks: the next read fetches them.
    pub(super) fn drop_blocks(&self, blocks: &Range<u64>) {
        for chunk in chunks_of(blocks) {
            self.record.give_up(chunk, mask_of(chunk, blocks));
        }
    }

    /// Drops a chunk and gives its space back; returns the bytes that were present. `None` while
    /// somebody fetches a part of it.
    ///
    /// # Errors
    /// Those of fallocate(2).
    pub(super) fn evict_chunk(&self, chunk: u64) -> io::Result<Option<u64>> {
        let blocks = self.layout().blocks_of_chunk(chunk);
        let Some(_lock) = self.record.lock_blocks(&blocks)? else {
            return Ok(None);
        };
        let present = self.record.give_up(chunk, u64::MAX);
        let start = chunk * CHUNK_BYTES;
        punch_hole(&self.media_file, &(start..start + CHUNK_BYTES))?;
        Ok(Some(u64::from(present.count_ones()) * BLOCK_BYTES))
    }

    /// Checks every block that is present; returns the bytes that were read and the blocks that were
    /// dropped, because they were damaged.
    pub(super) fn verify_all(&self) -> (u64, u64) {
        let (mut checked, mut dropped) = (0, 0);
        let mut buf = [0_u8; 4096];
        for block in 0..self.layout().blocks() {
            if !self.record.is_present(block) {
                continue;
            }
            let bytes = self.layout().bytes(&(block..block + 1));
            let Some(buf) = buf.get_mut(..len_of(&bytes)) else {
                continue;
            };
            match self.read_block(block, 0, Dest::from(buf), Wait::UntilDone) {
                Look::Corrupt(blocks) => dropped += blocks,
                Look::Done => checked += bytes.end - bytes.start,
                // It was evicted meanwhile.
                Look::Pending | Look::Missing => {}
            }
        }
        (checked, dropped)
    }

    /// Bytes that media and record take on the disk.
    pub(super) fn disk_bytes(files: &BlobFiles) -> u64 {
        let blocks = |path| {
            std::fs::metadata(path)
                .map_or(0, |found| std::os::unix::fs::MetadataExt::blocks(&found))
        };
        (blocks(&files.media) + blocks(&files.record)) * 512
    }
}

/// Has anybody a blob open whose files may be unreadable by now?
pub(super) fn is_in_use(files: &BlobFiles) -> bool {
    match File::open(&files.record) {
        Ok(record) => is_locked(&record, 0..1).unwrap_or(true),
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

/// Removes the files of a blob. To be called with the directory's lock held.
///
/// # Errors
/// `Io`.
pub(super) fn remove(files: &BlobFiles) -> Result<()> {
    for path in [&files.record, &files.unfinished(), &files.media] {
        match std::fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                let name = path.display().to_string();
                return Err(Error::io("remove cached blob", source).in_file(name));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Makes both files. A record gets its name last, so one with a name is whole.
fn make(files: &BlobFiles, layout: Layout, digest: &str) -> Result<()> {
    let create = |path: &std::path::Path| {
        let mut options = File::options();
        options
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(path)
    };
    let name = files.media.display().to_string();
    let fail = |source| Error::io("make cached blob", source).in_file(&name);
    create(&files.media)
        .and_then(|media| media.set_len(layout.blob_bytes))
        .map_err(fail)?;
    let unfinished = files.unfinished();
    let made = create(&unfinished)
        .map_err(fail)
        .and_then(|file| Record::create(file, layout, digest))
        .and_then(|_| std::fs::rename(&unfinished, &files.record).map_err(fail));
    if made.is_err() {
        for path in [&unfinished, &files.media] {
            // What stays behind is found and replaced at the next open.
            drop(std::fs::remove_file(path));
        }
    }
    made
}

fn len_of(range: &Range<u64>) -> usize {
    usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX)
}
