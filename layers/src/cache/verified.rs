//! Which blocks this process has found right since they were kept.
//!
//! kept blob -> **verified**
//!
//! Invariant: a block that is verified in the record's present generation is present, and its bytes
//! matched their checksum. So one look here is all that a read needs before and after it copies.

use std::ops::Range;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::record::{Record, chunks_of, mask_of};

#[derive(Debug, Default)]
struct Chunk {
    generation: AtomicU32,
    bits: AtomicU64,
}

/// What was verified of one blob.
#[derive(Debug)]
pub(super) struct Verified {
    chunks: Box<[Chunk]>,
    marking: Mutex<()>,
}

impl Verified {
    pub(super) fn new(chunks: u64) -> Self {
        Self {
            chunks: (0..chunks).map(|_| Chunk::default()).collect(),
            marking: Mutex::new(()),
        }
    }

    /// If all of `blocks` are verified: a number that stays the same while none of their chunks loses
    /// blocks. Marks the chunks as used at `now`.
    #[inline]
    pub(super) fn stamp(&self, record: &Record, blocks: &Range<u64>, now: u32) -> Option<u64> {
        let mut stamp = 0_u64;
        for number in chunks_of(blocks) {
            let chunk = self.chunks.get(usize::try_from(number).ok()?)?;
            let generation = chunk.generation.load(Ordering::Acquire);
            let bits = chunk.bits.load(Ordering::Acquire);
            let mask = mask_of(number, blocks);
            if bits & mask != mask || record.generation(number) != generation {
                return None;
            }
            record.touch(number, now);
            // Generations only grow, so the sum changes when one of them does.
            stamp += u64::from(generation);
        }
        record.is_usable().then_some(stamp)
    }

    pub(super) fn is_verified(&self, record: &Record, block: u64) -> bool {
        self.stamp_one(record, block).is_some()
    }

    fn stamp_one(&self, record: &Record, block: u64) -> Option<()> {
        let number = block / super::record::BLOCKS_PER_CHUNK;
        let chunk = self.chunks.get(usize::try_from(number).ok()?)?;
        let generation = chunk.generation.load(Ordering::Acquire);
        let bits = chunk.bits.load(Ordering::Acquire);
        let mask = mask_of(number, &(block..block + 1));
        (bits & mask != 0 && record.generation(number) == generation).then_some(())
    }

    /// The blocks of `mask` were right while the chunk had this generation.
    pub(super) fn mark(&self, record: &Record, number: u64, generation: u32, mask: u64) {
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        let Some(chunk) = self.chunks.get(index) else {
            return;
        };
        let _marking = self.marking.lock().unwrap_or_else(PoisonError::into_inner);
        if record.generation(number) != generation {
            return;
        }
        if chunk.generation.load(Ordering::Relaxed) != generation {
            // Whoever still sees the old generation must not take the new bits for its own: the
            // record's generation, which changed before, tells it.
            chunk.bits.store(0, Ordering::Release);
            chunk.generation.store(generation, Ordering::Release);
        }
        chunk.bits.fetch_or(mask, Ordering::Release);
    }

    /// Has the next read of these blocks look at them again.
    pub(super) fn forget(&self, number: u64, mask: u64) {
        let index = usize::try_from(number).unwrap_or(usize::MAX);
        if let Some(chunk) = self.chunks.get(index) {
            chunk.bits.fetch_and(!mask, Ordering::AcqRel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::record::Layout;

    #[test]
    fn what_was_verified_counts_until_blocks_are_given_up() {
        let layout = Layout {
            blob_bytes: 1 << 20,
        };
        let file = tempfile::tempfile().unwrap();
        let record = Record::create(file, layout, "sha256:x").unwrap();
        let verified = Verified::new(layout.chunks());
        verified.mark(&record, 0, 0, 1 << 63);
        verified.mark(&record, 1, 0, 1);
        let stamp = verified.stamp(&record, &(63..65), 99);
        assert!(stamp.is_some());
        assert_eq!((record.last_use(0), record.last_use(2)), (99, 0));
        assert_eq!(verified.stamp(&record, &(63..66), 99), None);
        record.give_up(1, 1 << 40);
        assert_eq!(verified.stamp(&record, &(63..65), 99), None);
        verified.mark(&record, 1, 0, 1);
        assert_eq!(verified.stamp(&record, &(63..65), 99), None, "an old mark");
        verified.mark(&record, 1, 1, 1);
        let later = verified.stamp(&record, &(63..65), 130);
        assert_eq!(record.last_use(0), 99, "stored a moment ago");
        assert!(later.is_some() && later != stamp);
    }
}
