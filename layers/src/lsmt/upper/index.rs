//! The index of a layer that is being written: sorted, disjoint, and changed with every write.
//!
//! image -> lsmt upper -> **upper index** (no I/O)
//!
//! Invariants
//! - mappings are sorted by offset and disjoint; each is a mapping that was inserted, or a part.
//! - neighbours are never joined, so that a sealed layer has the entries the C++ code would write.
//!
//! Source: format reference 1.6.

use std::collections::BTreeMap;

use crate::lsmt::mapping::{Mapping, SectorRange};

/// Mappings that later ones lie over.
#[derive(Debug, Default)]
pub struct UpperIndex {
    mappings: BTreeMap<u64, Mapping>,
}

impl UpperIndex {
    /// Lays `mapping` over what is there. `hidden` gets every part of a mapping that it covers.
    pub fn insert(&mut self, mapping: Mapping, hidden: impl FnMut(Mapping)) {
        self.remove(mapping.range(), hidden);
        self.mappings.insert(mapping.offset(), mapping);
    }

    /// Makes a hole. `hidden` gets every part of a mapping that was there.
    pub fn remove(&mut self, range: SectorRange, mut hidden: impl FnMut(Mapping)) {
        let before = self.mappings.range(..range.start).next_back();
        let first = before
            .filter(|(_, mapping)| mapping.end() > range.start)
            .map_or(range.start, |(offset, _)| *offset);
        let touched: Vec<u64> = self
            .mappings
            .range(first..range.end)
            .map(|(offset, _)| *offset)
            .collect();
        for offset in touched {
            let Some(old) = self.mappings.remove(&offset) else {
                continue;
            };
            if let Some(part) = old.trimmed(range) {
                hidden(part);
            }
            let left = SectorRange {
                start: 0,
                end: range.start,
            };
            let right = SectorRange {
                start: range.end,
                end: u64::MAX,
            };
            for rest in [left, right]
                .into_iter()
                .filter_map(|side| old.trimmed(side))
            {
                self.mappings.insert(rest.offset(), rest);
            }
        }
    }

    /// Copies the mappings that meet `range`, trimmed to it, in ascending order, into `found`;
    /// returns how many. When that is all of `found` there may be more behind the last one.
    #[must_use]
    pub fn lookup(&self, range: SectorRange, found: &mut [Mapping]) -> usize {
        let before = self.mappings.range(..range.start).next_back();
        let from_before = before.and_then(|(_, mapping)| mapping.trimmed(range));
        let rest = self.mappings.range(range.start..range.end);
        let all = from_before
            .into_iter()
            .chain(rest.filter_map(|(_, mapping)| mapping.trimmed(range)));
        found
            .iter_mut()
            .zip(all)
            .map(|(slot, mapping)| *slot = mapping)
            .count()
    }

    /// Number of mappings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.mappings.len()
    }

    /// True when nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.mappings.is_empty()
    }

    /// All mappings in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Mapping> {
        self.mappings.values().copied()
    }
}
