//! The merged index of an image: which layer holds a run of sectors, and where in it.
//!
//! image -> **lsmt index** -> zfile
//!
//! Mappings lie in one sorted array. Above it stands a linearised B+ tree of their first sectors
//! (`key_tree.rs`): each node is one 64-byte cache line, searched with one AVX-512 compare where
//! the CPU has it and with a portable loop otherwise. Disks below 2 TiB use 32-bit keys, 16 to a
//! node; larger ones 64-bit keys, 8 to a node.
//!
//! Invariants
//! - mappings are sorted by offset, disjoint, and none is padding.
//! - every path of the search gives the same result.
//!
//! Cost: one lookup is log17(n) or log9(n) cache lines plus one mapping.
//!
//! Source: the DADI paper, section 4.1; format reference 1.5, 1.10.

mod avx512;
mod key_tree;

use key_tree::KeyTree;

use super::mapping::{Mapping, SectorRange};

/// How nodes are searched.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupPath {
    /// One vector compare for each node.
    Avx512,
    /// A counting loop that any CPU runs.
    Portable,
}

impl LookupPath {
    /// The fastest path of this CPU.
    #[must_use]
    pub fn detect() -> Self {
        if avx512::is_available() {
            Self::Avx512
        } else {
            Self::Portable
        }
    }

    /// Every path this CPU can run, for tests and benchmarks.
    #[must_use]
    pub fn all() -> &'static [Self] {
        if avx512::is_available() {
            &[Self::Avx512, Self::Portable]
        } else {
            &[Self::Portable]
        }
    }
}

/// Sorted mappings with a search tree above them. Immutable.
#[derive(Debug)]
pub struct Index {
    mappings: Vec<Mapping>,
    keys: Keys,
    path: LookupPath,
}

#[derive(Debug)]
enum Keys {
    Narrow(KeyTree<u32, 16>),
    Wide(KeyTree<u64, 8>),
}

impl Index {
    /// Builds the tree over sorted disjoint mappings, for the fastest path of this CPU.
    #[must_use]
    pub fn new(mappings: Vec<Mapping>) -> Self {
        Self::with_path(mappings, LookupPath::detect())
    }

    /// As [`Index::new`], for one path. An unavailable one becomes the portable one.
    #[must_use]
    pub fn with_path(mappings: Vec<Mapping>, path: LookupPath) -> Self {
        debug_assert!(is_sorted_and_disjoint(&mappings));
        let narrow = mappings
            .last()
            .is_none_or(|last| last.end() < u64::from(u32::MAX));
        let keys = if narrow {
            let key = |mapping: &Mapping| u32::try_from(mapping.offset()).unwrap_or(u32::MAX);
            Keys::Narrow(KeyTree::build(mappings.iter().map(key)))
        } else {
            Keys::Wide(KeyTree::build(
                mappings.iter().map(|mapping| mapping.offset()),
            ))
        };
        let path = if LookupPath::all().contains(&path) {
            path
        } else {
            LookupPath::Portable
        };
        Self {
            mappings,
            keys,
            path,
        }
    }

    /// All mappings in ascending order.
    #[must_use]
    pub fn mappings(&self) -> &[Mapping] {
        &self.mappings
    }

    /// The mappings that meet `range`, trimmed to it, in ascending order. What they leave out is
    /// a hole. No allocation.
    #[inline]
    #[must_use]
    pub fn lookup(&self, range: SectorRange) -> Lookup<'_> {
        let after = self.mappings_starting_at_or_before(range.start);
        let first = after.saturating_sub(1);
        let rest = self.mappings.get(first..).unwrap_or_default();
        Lookup {
            rest: rest.iter(),
            range,
        }
    }

    #[inline]
    fn mappings_starting_at_or_before(&self, sector: u64) -> usize {
        match &self.keys {
            // A sector past the last 32-bit key follows every mapping.
            Keys::Narrow(tree) => match u32::try_from(sector) {
                Ok(key) if key < u32::MAX => match self.path {
                    LookupPath::Avx512 => avx512::count_narrow(tree, key),
                    LookupPath::Portable => tree.count(key),
                },
                _ => self.mappings.len(),
            },
            Keys::Wide(tree) => match self.path {
                LookupPath::Avx512 => avx512::count_wide(tree, sector),
                LookupPath::Portable => tree.count(sector),
            },
        }
    }
}

/// Iterator over the trimmed mappings of one lookup.
#[derive(Debug, Clone)]
pub struct Lookup<'a> {
    rest: std::slice::Iter<'a, Mapping>,
    range: SectorRange,
}

impl Iterator for Lookup<'_> {
    type Item = Mapping;

    #[inline]
    fn next(&mut self) -> Option<Mapping> {
        loop {
            let mapping = self.rest.next()?;
            if mapping.offset() >= self.range.end {
                self.rest = [].iter();
                return None;
            }
            // Only the first candidate can lie wholly before the range.
            if let Some(trimmed) = mapping.trimmed(self.range) {
                return Some(trimmed);
            }
        }
    }
}

fn is_sorted_and_disjoint(mappings: &[Mapping]) -> bool {
    mappings
        .iter()
        .zip(mappings.iter().skip(1))
        .all(|(one, next)| one.end() <= next.offset())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// The plain model: a map from first sector to mapping.
    fn model_lookup(model: &BTreeMap<u64, Mapping>, range: SectorRange) -> Vec<Mapping> {
        let before = model.range(..range.start).next_back().into_iter();
        let inside = model.range(range.start..range.end.max(range.start));
        before
            .chain(inside)
            .filter_map(|(_, mapping)| mapping.trimmed(range))
            .collect()
    }

    fn mappings(first: u64, parts: &[(u64, u64, bool)]) -> Vec<Mapping> {
        let mut at = first;
        let mut mappings = Vec::new();
        for (gap, sectors, zeroed) in parts {
            at += gap;
            mappings.push(match zeroed {
                true => Mapping::zeroed(at, *sectors, at + 8, 0),
                false => Mapping::data(at, *sectors, at + 8, 0),
            });
            at += sectors;
        }
        mappings
    }

    fn check(all: &[Mapping], range: SectorRange) {
        let model = all
            .iter()
            .map(|mapping| (mapping.offset(), *mapping))
            .collect();
        let expected = model_lookup(&model, range);
        for path in LookupPath::all() {
            let index = Index::with_path(all.to_vec(), *path);
            let found: Vec<_> = index.lookup(range).collect();
            assert_eq!(
                found,
                expected,
                "{path:?}, {} mappings, {range:?}",
                all.len()
            );
        }
    }

    proptest! {
        #[test]
        fn every_path_finds_what_a_btreemap_finds(
            wide in any::<bool>(),
            parts in prop::collection::vec((0_u64..9, 1_u64..9, any::<bool>()), 0..700),
            start in 0_u64..9000, len in 0_u64..200,
        ) {
            let first = if wide { 1_u64 << 33 } else { 0 };
            let all = mappings(first, &parts);
            check(&all, SectorRange { start: first + start, end: first + start + len });
            check(&all, SectorRange { start, end: start + len });
        }
    }

    #[test]
    fn sizes_around_every_node_and_level_boundary_are_found() {
        for count in [
            0, 1, 7, 8, 9, 15, 16, 17, 71, 72, 73, 271, 272, 273, 647, 648, 4623, 4625,
        ] {
            for first in [0, 1_u64 << 40] {
                let parts = vec![(1, 2, false); count];
                let all = mappings(first, &parts);
                let end = first + 3 * u64::try_from(count).unwrap() + 2;
                let step = usize::try_from((end - first) / 50 + 1).unwrap();
                for start in (first..end).step_by(step).chain(end.saturating_sub(3)..end) {
                    check(
                        &all,
                        SectorRange {
                            start,
                            end: start + 4,
                        },
                    );
                }
            }
        }
    }

    #[test]
    fn sectors_far_beyond_the_last_mapping_are_a_hole() {
        let all = mappings(0, &[(0, 8, false)]);
        for start in [
            u64::from(u32::MAX) - 1,
            u64::from(u32::MAX),
            1 << 40,
            (1 << 50) - 8,
        ] {
            check(
                &all,
                SectorRange {
                    start,
                    end: start + 8,
                },
            );
        }
        check(&all, SectorRange { start: 5, end: 5 });
    }
}
