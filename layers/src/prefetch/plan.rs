//! From what was read to what to ask for: few large requests, in about the same order.
//!
//! trace | file list -> **plan** -> replay (no I/O)
//!
//! Stored ranges come in the order in which they will be wanted. Within a window of them,
//! neighbours and near neighbours of one blob become one request. No byte is planned twice.

use std::collections::HashMap;
use std::ops::Range;

use super::range_set::RangeSet;

/// Requests may be made early by so many places in the order.
const WINDOW: usize = 256;

/// A hole of at most so many bytes between two ranges is fetched along with them: less than what
/// a slow link brings during the time that one more request would take.
const GAP_BYTES_MAX: u64 = 32 << 10;

/// Most bytes of one request.
const REQUEST_BYTES_MAX: u64 = 2 << 20;

/// Blobs are kept in blocks of this size.
const BLOCK_BYTES: u64 = 4096;

/// Bytes of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    /// Number of the layer, 0 = bottom.
    pub(super) layer: usize,
    /// Where in the blob.
    pub(super) range: Range<u64>,
}

/// What is left to be asked for, first wanted first.
#[derive(Debug, Default)]
pub(super) struct Plan {
    runs: std::collections::VecDeque<Stored>,
    /// Bytes of all that was planned.
    bytes: u64,
}

/// A run and the place in the order of the first range in it.
struct Run {
    order: usize,
    stored: Stored,
}

impl Plan {
    pub(super) fn new(wanted: impl IntoIterator<Item = Stored>) -> Self {
        let mut plan = Self::default();
        let mut known: HashMap<usize, RangeSet> = HashMap::new();
        let mut wanted = wanted.into_iter().peekable();
        while wanted.peek().is_some() {
            let mut window = Vec::new();
            for (order, stored) in wanted.by_ref().take(WINDOW).enumerate() {
                let layer = stored.layer;
                let new = known.entry(layer).or_default().insert(blocks(stored.range));
                window.extend(new.into_iter().map(|range| Run {
                    order,
                    stored: Stored { layer, range },
                }));
            }
            for run in merge(window) {
                let layer = known.entry(run.layer).or_default();
                // The holes are fetched as well.
                layer.insert(run.range.clone());
                plan.bytes = plan.bytes.saturating_add(run.range.end - run.range.start);
                plan.runs.push_back(run);
            }
        }
        plan
    }

    /// Bytes of all that was planned.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Places of blobs that are left.
    pub(super) fn runs_left(&self) -> usize {
        self.runs.len()
    }
}

/// The requests, each of bounded size.
impl Iterator for Plan {
    type Item = Stored;

    fn next(&mut self) -> Option<Stored> {
        let run = self.runs.front_mut()?;
        let end = run.range.start.saturating_add(REQUEST_BYTES_MAX);
        if end >= run.range.end {
            return self.runs.pop_front();
        }
        let range = run.range.start..end;
        run.range.start = end;
        let layer = run.layer;
        Some(Stored { layer, range })
    }
}

/// Joins near neighbours; those with the earliest part come first.
fn merge(mut window: Vec<Run>) -> Vec<Stored> {
    window.sort_by_key(|run| (run.stored.layer, run.stored.range.start));
    let mut merged: Vec<Run> = Vec::new();
    for run in window {
        match merged.last_mut() {
            Some(last) if last.stored.is_near(&run.stored) => {
                last.stored.range.end = run.stored.range.end;
                last.order = last.order.min(run.order);
            }
            _ => merged.push(run),
        }
    }
    merged.sort_by_key(|run| run.order);
    merged.into_iter().map(|run| run.stored).collect()
}

impl Stored {
    /// May `next`, which starts behind this, be fetched along with it?
    fn is_near(&self, next: &Self) -> bool {
        self.layer == next.layer
            && next.range.start.saturating_sub(self.range.end) <= GAP_BYTES_MAX
            && next.range.end - self.range.start <= REQUEST_BYTES_MAX
    }
}

/// The whole blocks that hold `range`.
fn blocks(range: Range<u64>) -> Range<u64> {
    if range.is_empty() {
        return range.start..range.start;
    }
    let end = range.end.checked_next_multiple_of(BLOCK_BYTES);
    range.start - range.start % BLOCK_BYTES..end.unwrap_or(range.end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const KIB: u64 = 1024;

    fn kib(layer: usize, range: Range<u64>) -> Stored {
        let range = range.start * KIB..range.end * KIB;
        Stored { layer, range }
    }

    fn planned(wanted: &[Stored]) -> Vec<Stored> {
        Plan::new(wanted.iter().cloned()).collect()
    }

    #[test]
    fn neighbours_and_near_neighbours_become_one_request_at_the_earliest_place() {
        let wanted = [
            kib(0, 400..404),
            kib(1, 0..4),
            kib(0, 0..8),
            kib(0, 396..400),
            kib(0, 436..440),
            kib(0, 476..480),
            kib(0, 476..480),
        ];
        let expected = [
            kib(0, 396..440),
            kib(1, 0..4),
            kib(0, 0..8),
            kib(0, 476..480),
        ];
        assert_eq!(planned(&wanted), expected);
        let wanted = [kib(0, 40..44), kib(0, 4..8)];
        assert_eq!(planned(&wanted), [kib(0, 4..44)]);
    }

    #[test]
    fn nothing_moves_forward_by_more_than_a_window() {
        let mut wanted: Vec<_> = (0..256).map(|n| kib(0, n * 1000..n * 1000 + 4)).collect();
        wanted.push(kib(0, 4..8));
        let plan = planned(&wanted);
        assert_eq!(plan.len(), 257);
        assert_eq!(plan[256], kib(0, 4..8));
    }

    #[test]
    fn a_long_range_is_asked_for_in_pieces_even_one_of_impossible_length() {
        let plan = planned(&[kib(0, 0..5000)]);
        assert_eq!(
            plan,
            [kib(0, 0..2048), kib(0, 2048..4096), kib(0, 4096..5000)]
        );
        let all = Stored {
            layer: 0,
            range: 0..u64::MAX,
        };
        assert_eq!(planned_first(all), Some(kib(0, 0..2048)));
    }

    fn planned_first(wanted: Stored) -> Option<Stored> {
        Plan::new([wanted]).next()
    }

    proptest! {
        #[test]
        fn all_that_is_wanted_is_asked_for_once(
            wanted in prop::collection::vec((0_usize..3, 0_u64..4 << 20, 0_u64..300_000), 0..600)
        ) {
            let wanted: Vec<_> = wanted.into_iter()
                .map(|(layer, start, len)| Stored { layer, range: start..start + len }).collect();
            let mut plan = Plan::new(wanted.iter().cloned());
            let mut sets = vec![RangeSet::default(); 3];
            let total = plan.bytes();
            for request in plan.by_ref() {
                prop_assert!(request.range.end - request.range.start <= REQUEST_BYTES_MAX);
                sets[request.layer].insert(request.range);
            }
            for stored in wanted {
                prop_assert!(sets[stored.layer].missing(stored.range).is_empty());
            }
            // Holes that a later window fills are the only bytes that count twice.
            prop_assert!(sets.iter().map(RangeSet::bytes).sum::<u64>() <= total);
        }
    }
}
