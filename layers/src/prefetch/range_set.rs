//! A set of bytes, kept as ranges.
//!
//! Invariant: the ranges are not empty, and neither overlap nor touch.

use std::collections::BTreeMap;
use std::ops::Range;

/// See the module's description.
#[derive(Debug, Clone, Default)]
pub(super) struct RangeSet {
    /// End by start.
    ranges: BTreeMap<u64, u64>,
    bytes: u64,
}

impl RangeSet {
    /// How many bytes are in the set.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The parts of `range` that are not in the set, in ascending order.
    pub(super) fn missing(&self, range: Range<u64>) -> Vec<Range<u64>> {
        let mut missing = Vec::new();
        let mut position = range.start;
        for known in self.meeting(&range) {
            if known.start > position {
                missing.push(position..known.start);
            }
            position = position.max(known.end);
        }
        if position < range.end {
            missing.push(position..range.end);
        }
        missing
    }

    /// Adds `range`; returns the parts that are new, in ascending order.
    pub(super) fn insert(&mut self, range: Range<u64>) -> Vec<Range<u64>> {
        let new = self.missing(range.clone());
        if new.is_empty() {
            return new;
        }
        self.bytes += new.iter().map(|part| part.end - part.start).sum::<u64>();
        let met: Vec<_> = self.meeting(&range).collect();
        let mut whole = range;
        for known in met {
            whole.start = whole.start.min(known.start);
            whole.end = whole.end.max(known.end);
            self.ranges.remove(&known.start);
        }
        self.ranges.insert(whole.start, whole.end);
        new
    }

    /// The ranges that overlap or touch `range`, in ascending order.
    fn meeting(&self, range: &Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let before = self.ranges.range(..range.start).next_back();
        let before = before.filter(|(_, end)| **end >= range.start);
        let inside = self.ranges.range(range.start..=range.end.max(range.start));
        before
            .into_iter()
            .chain(inside)
            .map(|(start, end)| *start..*end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_holds_what_a_plain_array_of_bits_holds(
            ranges in prop::collection::vec((0_u64..200, 0_u64..40), 0..40)
        ) {
            let mut set = RangeSet::default();
            let mut model = [false; 256];
            for (start, len) in ranges {
                let mut new = Vec::new();
                for part in set.insert(start..start + len) {
                    prop_assert!(part.start < part.end);
                    new.extend(part);
                }
                let expected: Vec<_> = (start..start + len)
                    .filter(|at| !std::mem::replace(&mut model[usize::try_from(*at).unwrap()], true))
                    .collect();
                prop_assert_eq!(new, expected);
                let count = model.iter().filter(|bit| **bit).count();
                prop_assert_eq!(set.bytes(), count as u64);
                let mut ends = set.ranges.iter().peekable();
                while let (Some((_, end)), Some((next, _))) = (ends.next(), ends.peek()) {
                    prop_assert!(end < *next, "ranges touch");
                }
            }
        }
    }
}
