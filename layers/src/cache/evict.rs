//! Giving up what was not read for the longest time.
//!
//! room -> **evict** -> kept blob
//!
//! Chunks go one by one, those of blobs that nobody has open before those in use; pinned blobs stay. Media
//! without a record (what a C++ daemon left) can be read by nobody and goes first.
//!
//! Source: format reference 7.1; docs/cache.md.

use std::collections::BTreeMap;
use std::io;

use super::directory::{self, BlobFiles, Directory};
use super::kept_blob::{self, KeptBlob};
use super::record::BLOCK_BYTES;
use super::room::Limits;
use crate::error::{Error, Result};

/// Less is not worth looking for.
const STRAY_BYTES_MIN: u64 = 1 << 20;

/// What an eviction has done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Evicted {
    /// Bytes given back.
    pub(super) bytes: u64,
    /// Bytes in use before.
    pub(super) used_bytes: u64,
}

/// One chunk that may go.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    is_in_use: bool,
    last_use: u32,
    blob: usize,
    chunk: u64,
    bytes: u64,
}

/// Bytes that the blobs in `directory` take on the disk.
///
/// # Errors
/// Those of reading the directory.
pub(super) fn count(directory: &Directory) -> io::Result<u64> {
    let digests = directory.digests()?;
    let each = digests
        .iter()
        .map(|digest| KeptBlob::disk_bytes(&directory.blob(digest)));
    Ok(each.sum())
}

/// Brings the blobs below 90 % of the limit, or the file system to its floor, if there is too much of
/// them with `wanted` bytes more. `counted` is told what they take before. The caller sees to it that
/// nobody else evicts.
///
/// # Errors
/// Those of reading the directory.
pub(super) fn evict(
    directory: &Directory,
    limits: Limits,
    free: u64,
    wanted: u64,
    counted: &dyn Fn(u64),
) -> io::Result<Evicted> {
    let digests = directory.digests()?;
    let total = count(directory)?;
    counted(total);
    let mut evicted = Evicted {
        bytes: 0,
        used_bytes: total,
    };
    let over_limit = match total.saturating_add(wanted) > limits.bytes {
        true => total.saturating_add(wanted) - limits.bytes / 10 * 9,
        false => 0,
    };
    let below_floor = limits
        .floor_bytes
        .saturating_add(wanted)
        .saturating_sub(free);
    let goal = over_limit.max(below_floor).min(total);
    if goal == 0 {
        return Ok(evicted);
    }
    let unpinned: Vec<_> = digests
        .iter()
        .filter(|digest| !directory.pin(digest).exists())
        .map(|digest| directory.blob(digest))
        .collect();
    let mut candidates = Vec::new();
    for (number, files) in unpinned.iter().enumerate() {
        match open(files) {
            Ok(Some(kept)) => {
                evicted.bytes += give_back_strays(files, &kept);
                list(number, &kept, &mut candidates);
            }
            Ok(None) => evicted.bytes += remove_unused(files),
            Err(error) => log::warn!("{error}: not evicted from"),
        }
    }
    candidates.sort_unstable_by(|one, other| other.cmp(one));
    // What somebody fetches at this moment stays; then more of the others go.
    while evicted.bytes < goal && !candidates.is_empty() {
        for (number, chunks) in choose(&mut candidates, goal - evicted.bytes) {
            if let Some(files) = unpinned.get(number) {
                evicted.bytes += evict_chunks(files, &chunks);
            }
        }
    }
    Ok(evicted)
}

/// Adds the chunks of a blob that hold something.
fn list(blob: usize, kept: &KeptBlob, candidates: &mut Vec<Candidate>) {
    let is_in_use = kept.record.is_in_use();
    candidates.extend((0..kept.layout().chunks()).filter_map(|chunk| {
        let blocks = kept.record.present(chunk).count_ones();
        (blocks > 0).then(|| Candidate {
            is_in_use,
            last_use: kept.record.last_use(chunk),
            blob,
            chunk,
            bytes: u64::from(blocks) * BLOCK_BYTES,
        })
    }));
}

/// Takes chunks from the end of `candidates`, so that `goal` bytes go, and groups them by blob.
fn choose(candidates: &mut Vec<Candidate>, goal: u64) -> BTreeMap<usize, Vec<u64>> {
    let mut chosen: BTreeMap<usize, Vec<u64>> = BTreeMap::new();
    let mut bytes = 0;
    while bytes < goal
        && let Some(candidate) = candidates.pop()
    {
        bytes += candidate.bytes;
        chosen
            .entry(candidate.blob)
            .or_default()
            .push(candidate.chunk);
    }
    chosen
}

/// Returns the bytes that were given back.
fn evict_chunks(files: &BlobFiles, chunks: &[u64]) -> u64 {
    let Ok(Some(kept)) = open(files) else {
        return 0;
    };
    let mut bytes = 0;
    for chunk in chunks {
        match kept.evict_chunk(*chunk) {
            Ok(evicted) => bytes += evicted.unwrap_or(0),
            Err(error) => {
                log::warn!("evict from {}: {error}", files.media.display());
                break;
            }
        }
    }
    let is_empty = kept.record.present_bytes() == 0;
    drop(kept);
    match is_empty {
        true => bytes + remove_unused(files),
        false => bytes,
    }
}

/// Gives back what a killed process had written, or had not given back any more.
fn give_back_strays(files: &BlobFiles, kept: &KeptBlob) -> u64 {
    let record = kept.layout().record_bytes();
    let accounted = kept.record.present_bytes() + record + STRAY_BYTES_MIN;
    let before = KeptBlob::disk_bytes(files);
    if before <= accounted {
        return 0;
    }
    for chunk in 0..kept.layout().chunks() {
        if kept.record.present(chunk) == 0
            && let Err(error) = kept.evict_chunk(chunk)
        {
            log::warn!("evict from {}: {error}", files.media.display());
            break;
        }
    }
    before.saturating_sub(KeptBlob::disk_bytes(files))
}

/// A blob that is sound enough to look into; `None`: nobody can read it.
fn open(files: &BlobFiles) -> Result<Option<KeptBlob>> {
    let fail = |source| Error::io("lock cache directory", source);
    let _lock = directory::lock(&files.dir).map_err(fail)?;
    KeptBlob::open_readable(files)
}

/// Removes the files of a blob that nobody has open and that has nothing present. Returns the bytes that
/// were given back.
fn remove_unused(files: &BlobFiles) -> u64 {
    let Ok(_lock) = directory::lock(&files.dir) else {
        return 0;
    };
    let is_unused = match KeptBlob::open_readable(files) {
        Ok(Some(kept)) => !kept.record.is_in_use() && kept.record.present_bytes() == 0,
        Ok(None) => !kept_blob::is_in_use(files),
        Err(_) => false,
    };
    if !is_unused {
        return 0;
    }
    let bytes = KeptBlob::disk_bytes(files);
    match kept_blob::remove(files) {
        Ok(()) => bytes,
        Err(error) => {
            log::warn!("{error}");
            0
        }
    }
}
