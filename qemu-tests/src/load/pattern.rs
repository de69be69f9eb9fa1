//! Which part of the disk comes next.
//!
//! measure -> **pattern** -> disk
//!
//! Invariant: every span lies within the disk and starts at a multiple of its length.

use anyhow::{Result, ensure};

use super::disk::Span;

/// The order of the offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Mode {
    /// Uniformly random, the same sequence for the same seed.
    Rand,
    /// Ascending from zero, starting over at the end.
    Seq,
}

/// An endless supply of equally long spans.
#[derive(Debug)]
pub struct Pattern {
    mode: Mode,
    len: usize,
    blocks: u64,
    next_block: u64,
    random: Random,
}

impl Pattern {
    /// Spans of `len` bytes over a disk of `capacity` bytes.
    ///
    /// # Errors
    /// `len` is no multiple of 512 or longer than the disk.
    pub fn new(mode: Mode, len: usize, capacity: u64, seed: u64) -> Result<Self> {
        ensure!(
            len > 0 && len.is_multiple_of(512),
            "a request is a multiple of 512 bytes long, not {len}"
        );
        let blocks = capacity / len as u64;
        ensure!(blocks > 0, "the disk has {capacity} bytes, a request {len}");
        Ok(Self {
            mode,
            len,
            blocks,
            next_block: 0,
            random: Random::new(seed),
        })
    }

    /// The next one.
    pub fn next_span(&mut self) -> Span {
        let block = match self.mode {
            Mode::Rand => self.random.below(self.blocks),
            Mode::Seq => {
                let block = self.next_block;
                self.next_block = (block + 1) % self.blocks;
                block
            }
        };
        Span {
            offset: block * self.len as u64,
            len: self.len,
        }
    }
}

/// SplitMix64: enough randomness for offsets in a nanosecond.
#[derive(Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// The sequence that `seed` names.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self { state: seed }
    }

    /// A number from 0 to `bound` - 1; 0 when `bound` is 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
        let scaled = (u128::from(mixed) * u128::from(bound)) >> 64;
        u64::try_from(scaled).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequential_reads_cover_the_disk_in_order_and_start_over() {
        let mut pattern = Pattern::new(Mode::Seq, 1024, 4000, 0).unwrap();
        let offsets: Vec<u64> = (0..5).map(|_| pattern.next_span().offset).collect();
        assert_eq!(offsets, [0, 1024, 2048, 0, 1024]);
    }

    #[test]
    fn random_reads_stay_inside_the_disk_and_reach_all_of_it() {
        let mut pattern = Pattern::new(Mode::Rand, 512, 8 * 512, 1).unwrap();
        let mut seen = [false; 8];
        for _ in 0..200 {
            let read = pattern.next_span();
            assert_eq!(read.offset % 512, 0);
            seen[usize::try_from(read.offset / 512).unwrap()] = true;
        }
        assert_eq!(seen, [true; 8]);
    }

    #[test]
    fn a_read_longer_than_the_disk_is_refused() {
        assert!(Pattern::new(Mode::Rand, 4096, 2048, 1).is_err());
        assert!(Pattern::new(Mode::Rand, 1000, 1 << 20, 1).is_err());
    }
}
