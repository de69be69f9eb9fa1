//! Blocks that were found wrong by a checksum further up, and dropped, not long ago.
//!
//! cached blob -> **distrusted**
//!
//! What is wrong again after it was fetched anew is wrong at its origin: fetching it over and over would
//! help nobody.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::{Duration, Instant};

/// A block is dropped once in this time.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// Most runs that are remembered.
const RUNS_MAX: usize = 1024;

/// Runs of blocks, oldest first.
#[derive(Debug, Default)]
pub(super) struct Distrusted {
    runs: VecDeque<(Instant, Range<u64>)>,
}

impl Distrusted {
    /// Takes note of `blocks`, and returns those that were not dropped lately.
    pub(super) fn add(&mut self, blocks: &Range<u64>, now: Instant) -> Vec<Range<u64>> {
        let is_old = |time: &Instant| now.saturating_duration_since(*time) >= AGAIN_AFTER;
        while self.runs.front().is_some_and(|(time, _)| is_old(time)) || self.runs.len() > RUNS_MAX
        {
            self.runs.pop_front();
        }
        let mut fresh = vec![blocks.clone()];
        for (_, run) in &self.runs {
            fresh = fresh
                .into_iter()
                .flat_map(|part| without(&part, run))
                .collect();
        }
        fresh.retain(|part| part.start < part.end);
        self.runs
            .extend(fresh.iter().map(|part| (now, part.clone())));
        fresh
    }
}

/// What is left of `whole` when `part` is taken away.
fn without(whole: &Range<u64>, part: &Range<u64>) -> [Range<u64>; 2] {
    let before = whole.start..whole.end.min(part.start.max(whole.start));
    let behind = whole.start.max(part.end.min(whole.end))..whole.end;
    [before, behind]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_fresh_once_until_time_has_passed() {
        let mut distrusted = Distrusted::default();
        let now = Instant::now();
        assert_eq!(distrusted.add(&(10..12), now), vec![10..12]);
        assert_eq!(distrusted.add(&(10..12), now), vec![]);
        assert_eq!(distrusted.add(&(8..14), now), vec![8..10, 12..14]);
        assert_eq!(distrusted.add(&(8..14), now), vec![]);
        assert_eq!(distrusted.add(&(14..15), now), vec![14..15]);
        let later = now + AGAIN_AFTER;
        assert_eq!(distrusted.add(&(8..14), later), vec![8..14]);
    }
}
