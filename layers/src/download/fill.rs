//! Fills a partial file: what is there already stays, what the cache has is copied, the rest comes
//! from the origin.
//!
//! attempt -> **fill** -> partial file, cache, registry
//!
//! Invariant: only whole pieces are written, see [`PartialFile`].
//!
//! Source: format reference 4.4.

use std::ops::Range;
use std::time::Duration;

use super::pace::Pace;
use super::partial_file::PartialFile;
use super::{RemoteLayer, Shared};
use crate::cache::CachedBlob;
use crate::error::{Error, ErrorKind, Remote, Result};
use crate::range_source::Urgency;
use crate::read_at::ReadAt;

/// A request that takes longer has failed; what it brought stays.
const REQUEST_TIME: Duration = Duration::from_secs(120);

/// What may be taken over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trust {
    /// What the file has, and what the cache has.
    Local,
    /// Nothing but the origin: the last attempt gave wrong bytes.
    Origin,
}

/// Fills one file.
pub(super) struct Fill<'a> {
    pub(super) layer: &'a RemoteLayer,
    pub(super) partial: &'a PartialFile,
    pub(super) trust: Trust,
    pub(super) shared: &'a Shared,
    pub(super) pace: &'a mut Pace,
    /// A piece's worth of memory.
    pub(super) buf: &'a mut [u8],
}

impl Fill<'_> {
    /// Goes through the whole file; returns early when the download is to end.
    ///
    /// # Errors
    /// Those of the file and of the source.
    pub(super) fn run(&mut self) -> Result<()> {
        let mut at = 0;
        while at < self.layer.size && !self.shared.clock.is_stopped() {
            let piece = self.piece(at);
            at = if self.is_here(&piece)? {
                piece.end
            } else if self.read_cached(&piece) {
                self.copy(&piece)?
            } else {
                let run = self.missing_run(piece)?;
                self.fetch(run)?
            };
        }
        Ok(())
    }

    fn piece(&self, at: u64) -> Range<u64> {
        at..at
            .saturating_add(self.buf.len() as u64)
            .min(self.layer.size)
    }

    fn is_here(&self, piece: &Range<u64>) -> Result<bool> {
        Ok(self.trust == Trust::Local && self.partial.has(piece)?)
    }

    /// Takes a piece out of the cache into `buf`.
    fn read_cached(&mut self, piece: &Range<u64>) -> bool {
        if self.trust == Trust::Origin {
            return false;
        }
        let part = part_of(self.buf, piece);
        let read = self.layer.cached.read_if_present(piece.start, part);
        // A cache that fails is one that has nothing.
        read.unwrap_or(false)
    }

    /// Writes the piece in `buf`.
    fn copy(&mut self, piece: &Range<u64>) -> Result<u64> {
        self.pace.wait_for(piece.end - piece.start);
        self.check_room(piece)?;
        let part = part_of(self.buf, piece);
        self.partial.write(piece.start, part)?;
        self.shared.count_bytes(piece.end - piece.start);
        Ok(piece.end)
    }

    /// `first` and the pieces after it that are not here either, as many as a request may have.
    fn missing_run(&mut self, first: Range<u64>) -> Result<Range<u64>> {
        let mut run = first;
        let most = self.pace.request_bytes();
        while run.end < self.layer.size {
            let next = self.piece(run.end);
            if next.end - run.start > most || self.is_here(&next)? || self.read_cached(&next) {
                break;
            }
            run.end = next.end;
        }
        Ok(run)
    }

    /// A disk that is written to needs the space more than a download does.
    fn check_room(&self, wanted: &Range<u64>) -> Result<()> {
        let (free, floor) = (self.partial.free_bytes()?, self.shared.free_floor_bytes);
        if free >= floor.saturating_add(wanted.end - wanted.start) {
            return Ok(());
        }
        let (free, floor) = (free >> 20, floor >> 20);
        let detail = format!(
            "{free} MiB are free on the file system of its directory, and {floor} MiB stay free \
             (cacheConfig.freeSpaceFloorMB)"
        );
        Err(Error::new(ErrorKind::NoSpace, "download layer", detail))
    }

    /// Fetches a run of pieces and writes each one as soon as it is whole.
    fn fetch(&mut self, run: Range<u64>) -> Result<u64> {
        self.pace.wait_for(run.end - run.start);
        let clock = &*self.shared.clock;
        if clock.is_stopped() {
            return Ok(run.start);
        }
        self.check_room(&run)?;
        let source = &self.layer.source;
        let suspect = (self.trust == Trust::Origin).then_some(&*self.layer.cached);
        let mut pieces = Pieces {
            partial: self.partial,
            suspect,
            buf: self.buf,
            filled: 0,
            at: run.start,
            end: run.end,
        };
        let started = clock.now();
        let fetched = source.fetch(
            run.clone(),
            Urgency::Background,
            started + REQUEST_TIME,
            &mut |bytes| {
                if clock.is_stopped() {
                    return Err(Error::new(ErrorKind::Io, "download layer", "stopped"));
                }
                let pieces_before = pieces.at;
                pieces.take(bytes)?;
                if pieces.at > pieces_before {
                    self.shared.count_bytes(pieces.at - pieces_before);
                    self.pace.wait_in_request();
                }
                Ok(())
            },
        );
        let fetched = fetched.and_then(|()| pieces.finish(source.name()));
        let size = match &fetched {
            Ok(()) => i64::try_from(run.end - run.start).unwrap_or(i64::MAX),
            Err(_) => -1,
        };
        let latency = clock.now().saturating_duration_since(started);
        let audit = &self.shared.audit;
        audit.record("bk_download", source.name(), run.start, size, latency);
        fetched.map(|()| run.end)
    }
}

/// The front of `buf` that a piece takes; a piece is never larger than `buf`.
fn part_of<'a>(buf: &'a mut [u8], piece: &Range<u64>) -> &'a mut [u8] {
    let len = usize::try_from(piece.end - piece.start).unwrap_or(usize::MAX);
    let len = len.min(buf.len());
    buf.split_at_mut(len).0
}

/// Makes pieces of whatever a source gives.
struct Pieces<'a> {
    partial: &'a PartialFile,
    /// What may have wrong bytes, and give them to guests.
    suspect: Option<&'a CachedBlob>,
    buf: &'a mut [u8],
    filled: usize,
    /// Where `buf` belongs in the file.
    at: u64,
    end: u64,
}

impl Pieces<'_> {
    fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let (at, filled) = (self.at, self.filled);
            let piece = at..at.saturating_add(self.buf.len() as u64).min(self.end);
            let part = part_of(self.buf, &piece);
            let room = part.get_mut(filled..).unwrap_or_default();
            if room.is_empty() {
                return Err(wrong_count("more bytes than were asked for", at));
            }
            let (now, later) = bytes.split_at(bytes.len().min(room.len()));
            room.split_at_mut(now.len()).0.copy_from_slice(now);
            self.filled += now.len();
            bytes = later;
            if self.filled == part.len() {
                if let Some(cached) = self.suspect {
                    drop_other_than(cached, at, part);
                }
                self.partial.write(at, part)?;
                self.at = piece.end;
                self.filled = 0;
            }
        }
        Ok(())
    }

    fn finish(&self, source: &str) -> Result<()> {
        if self.at == self.end {
            return Ok(());
        }
        Err(wrong_count("fewer bytes than were asked for", self.at).in_file(source))
    }
}

/// Drops the blocks that the cache has otherwise than the origin: a layer without checksums has nothing
/// else that would find them.
fn drop_other_than(cached: &CachedBlob, start: u64, bytes: &[u8]) {
    let mut kept = [0; 4096];
    for (at, block) in (start..).step_by(kept.len()).zip(bytes.chunks(4096)) {
        let kept = kept.split_at_mut(block.len()).0;
        if matches!(cached.read_if_present(at, kept), Ok(true)) && *kept != *block {
            log::warn!(
                "{}: the cached block at byte {at} is wrong; dropped",
                cached.name()
            );
            cached.distrust(at, block.len() as u64);
        }
    }
}

fn wrong_count(found: &str, at: u64) -> Error {
    let kind = ErrorKind::Remote(Remote::BadAnswer);
    Error::new(kind, "download layer", format!("the source gave {found}")).at(at)
}
