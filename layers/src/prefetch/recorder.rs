//! Notes which parts of the layers are read.
//!
//! lsmt -> **watched layer** -> zfile; recorder -> recording | auto
//!
//! Invariants
//! - only reads that were done completely are noted, in the order in which they ended.
//! - a recorder that has stopped costs a read one relaxed load.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::trace::TraceRecord;
use crate::dest::Dest;
use crate::error::Result;
use crate::limits::TRACE_RECORDS_MAX;
use crate::read_at::{Progress, ReadAt, Wait};

/// Which reads are noted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Detail {
    /// Every one, as it was.
    All,
    /// The first of every place, rounded out to whole granules.
    First,
}

/// What the layers of a disk have been asked for.
#[derive(Debug)]
pub(super) struct Recorder {
    detail: Detail,
    records_max: usize,
    active: AtomicBool,
    records: Mutex<Vec<TraceRecord>>,
}

impl Recorder {
    /// One that notes reads until it is stopped or full.
    pub(super) fn new(detail: Detail) -> Self {
        Self {
            detail,
            records_max: TRACE_RECORDS_MAX,
            active: AtomicBool::new(true),
            records: Mutex::default(),
        }
    }

    /// Notes no more.
    pub(super) fn stop(&self) {
        self.active.store(false, Ordering::Relaxed);
    }

    /// What was noted so far, from number `from` on.
    pub(super) fn records_from(&self, from: usize) -> Vec<TraceRecord> {
        let records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        records.get(from..).unwrap_or_default().to_vec()
    }

    /// A layer whose reads are noted under `number`.
    pub(super) fn watch(self: &Arc<Self>, number: u32, inner: Box<dyn ReadAt>) -> Watched {
        Watched {
            seen: (self.detail == Detail::First).then(|| Seen::new(inner.size())),
            recorder: Arc::clone(self),
            number,
            inner,
        }
    }

    fn add(&self, layer: u32, range: &Range<u64>) {
        let mut records = self.records.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() >= self.records_max {
            self.stop();
            log::warn!(
                "trace: {} reads are noted, more are not: the trace ends early",
                self.records_max
            );
            return;
        }
        records.push(TraceRecord {
            layer,
            offset: range.start,
            bytes: range.end - range.start,
        });
    }
}

/// A decoded layer.
#[derive(Debug)]
pub(super) struct Watched {
    inner: Box<dyn ReadAt>,
    number: u32,
    recorder: Arc<Recorder>,
    seen: Option<Seen>,
}

impl Watched {
    fn note(&self, range: Range<u64>) {
        let noted = match &self.seen {
            Some(seen) => seen.note(range),
            None => Some(range),
        };
        if let Some(range) = noted {
            self.recorder.add(self.number, &range);
        }
    }
}

impl ReadAt for Watched {
    fn size(&self) -> u64 {
        self.inner.size()
    }

    fn name(&self) -> &str {
        self.inner.name()
    }

    #[inline]
    fn read_at(&self, offset: u64, dest: Dest<'_>, wait: Wait) -> Result<Progress> {
        let len = dest.len() as u64;
        let progress = self.inner.read_at(offset, dest, wait)?;
        if self.recorder.active.load(Ordering::Relaxed) && progress == Progress::Done && len > 0 {
            self.note(offset..offset + len);
        }
        Ok(progress)
    }

    fn distrust(&self, offset: u64, len: u64) -> bool {
        self.inner.distrust(offset, len)
    }

    fn stored_range(&self, range: Range<u64>) -> Range<u64> {
        self.inner.stored_range(range)
    }
}

/// Most granules of one layer: 128 KiB of bits.
const GRANULES_MAX: u64 = 1 << 20;

/// Smallest granule: 4 KiB.
const GRANULE_SHIFT_MIN: u32 = 12;

/// Which granules of a layer have been read: one bit each.
#[derive(Debug)]
struct Seen {
    size: u64,
    shift: u32,
    bits: Vec<AtomicU64>,
}

impl Seen {
    fn new(size: u64) -> Self {
        let mut shift = GRANULE_SHIFT_MIN;
        while size.div_ceil(1 << shift) > GRANULES_MAX {
            shift += 1;
        }
        let words = size.div_ceil(1 << shift).div_ceil(64);
        Self {
            size,
            shift,
            bits: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Marks the granules of `range`, which is not empty. From the first to the last that were not
    /// marked before, in bytes.
    fn note(&self, range: Range<u64>) -> Option<Range<u64>> {
        let mut new: Option<Range<u64>> = None;
        for granule in range.start >> self.shift..=(range.end - 1) >> self.shift {
            let word = usize::try_from(granule / 64).ok()?;
            let (word, bit) = (self.bits.get(word)?, 1 << (granule % 64));
            // Mostly seen already: then nothing is written, and no cache line taken from others.
            if word.load(Ordering::Relaxed) & bit == 0
                && word.fetch_or(bit, Ordering::Relaxed) & bit == 0
            {
                new = Some(new.map_or(granule, |new| new.start)..granule + 1);
            }
        }
        let new = new?;
        Some(new.start << self.shift..(new.end << self.shift).min(self.size))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::MemoryFile;

    /// Has no byte in memory.
    #[derive(Debug)]
    struct Cold(MemoryFile);

    impl ReadAt for Cold {
        fn size(&self) -> u64 {
            self.0.size()
        }
        fn name(&self) -> &str {
            self.0.name()
        }
        fn read_at(&self, offset: u64, dest: Dest<'_>, wait: Wait) -> Result<Progress> {
            match wait {
                Wait::Never => Ok(Progress::Pending),
                Wait::UntilDone => self.0.read_at(offset, dest, wait),
            }
        }
        fn distrust(&self, offset: u64, len: u64) -> bool {
            (offset, len) == (3, 4)
        }
        fn stored_range(&self, range: Range<u64>) -> Range<u64> {
            range.start + 100..range.end + 100
        }
    }

    fn watched(detail: Detail, size: usize) -> (Arc<Recorder>, Watched) {
        let recorder = Arc::new(Recorder::new(detail));
        let cold = Cold(MemoryFile::new("cold", vec![7; size]));
        let watched = recorder.watch(5, Box::new(cold));
        (recorder, watched)
    }

    fn record(offset: u64, bytes: u64) -> TraceRecord {
        TraceRecord {
            layer: 5,
            offset,
            bytes,
        }
    }

    #[test]
    fn only_reads_that_were_done_are_noted_in_the_order_in_which_they_ended() {
        let (recorder, watched) = watched(Detail::All, 10_000);
        let mut buf = [0; 100];
        for wait in [Wait::Never, Wait::UntilDone] {
            drop(watched.read_at(50, Dest::from(&mut buf[..]), wait));
        }
        assert!(watched.read_exact_at(9_999, &mut buf).is_err());
        watched.read_exact_at(0, &mut []).unwrap();
        watched.read_exact_at(50, &mut buf[..1]).unwrap();
        assert_eq!(recorder.records_from(0), [record(50, 100), record(50, 1)]);
        recorder.stop();
        watched.read_exact_at(50, &mut buf[..1]).unwrap();
        assert_eq!(recorder.records_from(2), []);
        assert_eq!(recorder.records_from(3), []);
    }

    #[test]
    fn what_else_a_layer_can_do_goes_through() {
        let (_recorder, watched) = watched(Detail::All, 10);
        assert_eq!((watched.size(), watched.name()), (10, "cold"));
        assert!(watched.distrust(3, 4) && !watched.distrust(0, 1));
        assert_eq!(watched.stored_range(1..2), 101..102);
    }

    #[test]
    fn a_full_recorder_stops() {
        let recorder = Arc::new(Recorder {
            records_max: 2,
            ..Recorder::new(Detail::All)
        });
        let watched = recorder.watch(5, Box::new(MemoryFile::new("m", vec![0; 10])));
        for at in 0..5 {
            watched.read_exact_at(at, &mut [0]).unwrap();
        }
        assert_eq!(recorder.records_from(0), [record(0, 1), record(1, 1)]);
        assert!(!recorder.active.load(Ordering::Relaxed));
    }

    #[test]
    fn the_first_read_of_a_place_is_noted_and_no_other() {
        let (recorder, watched) = watched(Detail::First, 4096 * 200 + 5);
        for (offset, len) in [
            (5000, 10),
            (4096, 4096),
            (8191, 2),
            (4096 * 200 + 1, 4),
            (0, 4096 * 5),
            (4096 * 60, 4096 * 10),
        ] {
            watched.read_exact_at(offset, &mut vec![0; len]).unwrap();
        }
        let expected = [
            record(4096, 4096),
            record(8192, 4096),
            record(4096 * 200, 5),
            record(0, 4096 * 5),
            record(4096 * 60, 4096 * 10),
        ];
        assert_eq!(recorder.records_from(0), expected);
    }

    #[test]
    fn the_bits_of_a_huge_layer_are_bounded() {
        let seen = Seen::new(1 << 50);
        assert_eq!((seen.bits.len(), seen.shift), (1 << 14, 30));
        assert_eq!(
            seen.note((1 << 50) - 1..1 << 50),
            Some((1 << 50) - (1 << 30)..1 << 50)
        );
        assert_eq!(Seen::new(u64::MAX).bits.len(), 1 << 14);
        assert_eq!(Seen::new(0).bits.len(), 0);
    }
}
