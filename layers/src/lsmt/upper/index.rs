//! The index of a layer that is being written: sorted, disjoint, and changed with every write.
//!
//! image -> lsmt upper -> **upper index** (no I/O)
//!
//! A tree of three levels: a root of branches, branches of up to 256 leaves, leaves of up to 64
//! mappings. Above the leaves there are only first sectors, so that a search takes one short
//! count in each level and a change moves at most 1 KiB. A lookup allocates nothing, an insert
//! only when a leaf splits.
//!
//! Invariants
//! - mappings are sorted by offset and disjoint; each is a mapping that was inserted, or a part.
//! - neighbours are never joined, so that a sealed layer has the entries the C++ code would write.
//! - no leaf and no branch is empty.
//!
//! Memory: a full leaf costs 16.6 bytes a mapping. Ascending inserts fill leaves whole, and an index
//! of random 4 KiB writes has 24 bytes a mapping (a test holds both).
//!
//! Source: format reference 1.6.

mod level;

use std::ops::Range;

use crate::lsmt::mapping::{Mapping, SectorRange};
use level::{Child, Leaf, Level, starting_at_or_before};

/// Mappings that later ones lie over.
pub type UpperIndex = MappingTree<64, 256>;

/// [`UpperIndex`] with at most `LEAF` mappings in a leaf and `BRANCH` leaves in a branch.
#[derive(Debug, Default)]
pub struct MappingTree<const LEAF: usize, const BRANCH: usize> {
    root: Level<Level<Leaf>>,
    len: usize,
    /// Where the last insert ended: the next mapping of an ascending run starts here.
    run_end: u64,
}

/// The way to a leaf.
#[derive(Debug, Clone, Copy)]
struct Place {
    branch: usize,
    leaf: usize,
}

impl<const LEAF: usize, const BRANCH: usize> MappingTree<LEAF, BRANCH> {
    /// Lays `mapping` over what is there. `hidden` gets every part of a mapping that it covers,
    /// in ascending order. A mapping of no sectors changes nothing.
    pub fn insert(&mut self, mapping: Mapping, mut hidden: impl FnMut(Mapping)) {
        let range = mapping.range();
        if range.start >= range.end {
            return;
        }
        let place = self.place(range.start);
        let behind = self.first_behind(place);
        let is_in_leaf = behind.is_none_or(|next| next >= range.end);
        if !is_in_leaf || !self.replace(place, range, Some(mapping), &mut hidden) {
            self.remove(range, &mut hidden);
            self.put(mapping);
        }
        self.run_end = range.end;
    }

    /// Makes a hole. `hidden` gets every part of a mapping that was there, in ascending order.
    pub fn remove(&mut self, range: SectorRange, mut hidden: impl FnMut(Mapping)) {
        let mut rest = range;
        while rest.start < rest.end {
            let place = self.place(rest.start);
            let next = self.first_behind(place);
            if self.replace(place, rest, None, &mut hidden) {
                rest.start = next.unwrap_or(rest.end);
            } else {
                // A hole inside a mapping of a full leaf.
                self.split(place, LEAF / 2);
            }
        }
    }

    /// Copies the mappings that meet `range`, trimmed to it, in ascending order, into `found`;
    /// returns how many. When that is all of `found` there may be more behind the last one.
    #[must_use]
    pub fn lookup(&self, range: SectorRange, found: &mut [Mapping]) -> usize {
        let mut place = self.place(range.start);
        let mut count = 0;
        while let Some(leaf) = self.leaf(place) {
            // Of a leaf behind the first one everything starts behind `range.start`.
            let at = starting_at_or_before(leaf, |mapping| mapping.offset(), range.start);
            for mapping in leaf.iter().skip(at.saturating_sub(1)) {
                if mapping.offset() >= range.end {
                    return count;
                }
                // Only the first one can end before the range.
                let Some(part) = mapping.trimmed(range) else {
                    continue;
                };
                let Some(slot) = found.get_mut(count) else {
                    return count;
                };
                *slot = part;
                count += 1;
            }
            place = self.next_place(place);
        }
        count
    }

    /// Number of mappings.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when there is no mapping.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All mappings in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = Mapping> {
        let leaves = self.root.children().iter().flat_map(Level::children);
        leaves.flatten().copied()
    }

    /// Heap memory in bytes, what the allocator adds not counted. Walks over the leaves.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.root.heap_bytes()
    }

    fn place(&self, sector: u64) -> Place {
        let branch = self.root.find(sector);
        let leaf = self.root.get(branch).map_or(0, |b| b.find(sector));
        Place { branch, leaf }
    }

    fn next_place(&self, Place { branch, leaf }: Place) -> Place {
        if self.root.get(branch).is_some_and(|b| leaf + 1 < b.len()) {
            return Place {
                branch,
                leaf: leaf + 1,
            };
        }
        Place {
            branch: branch + 1,
            leaf: 0,
        }
    }

    fn leaf(&self, place: Place) -> Option<&Leaf> {
        self.root.get(place.branch)?.get(place.leaf)
    }

    /// The first sector of the leaf behind `place`.
    fn first_behind(&self, place: Place) -> Option<u64> {
        let next = self.next_place(place);
        self.root.get(next.branch)?.first_of(next.leaf)
    }

    /// Makes `range` a hole in the leaf at `place` and puts `new`, which covers the range, there.
    /// False, and nothing has changed, when the leaf lacks room for that.
    fn replace(
        &mut self,
        place: Place,
        range: SectorRange,
        new: Option<Mapping>,
        hidden: &mut impl FnMut(Mapping),
    ) -> bool {
        let Some(leaf) = self.leaf(place) else {
            return new.is_none();
        };
        let touched = touched(leaf, range);
        let old = leaf.get(touched.clone()).unwrap_or_default();
        let change = Change::new(old, range, new);
        let fits = leaf.len() - touched.len() + change.parts().len() <= LEAF;
        if fits {
            let covered = old.iter().filter_map(|mapping| mapping.trimmed(range));
            covered.for_each(hidden);
            self.apply(place, touched, change.parts());
        }
        fits
    }

    /// Puts `mapping` where a hole is, making room.
    fn put(&mut self, mapping: Mapping) {
        loop {
            let place = self.place(mapping.offset());
            let (at, len) = self.leaf(place).map_or((0, 0), |leaf| {
                let at = starting_at_or_before(leaf, |other| other.offset(), mapping.offset());
                (at, leaf.len())
            });
            if at == len && (len == LEAF || len == 0) {
                let mut leaf = Vec::with_capacity(LEAF);
                leaf.push(mapping);
                self.len += 1;
                return self.add_leaf(place, leaf);
            }
            if len < LEAF {
                return self.apply(place, at..at, &[mapping]);
            }
            // What lies behind a run moves away, so that the run fills the leaf.
            let continues_run = at > 0 && mapping.offset() == self.run_end;
            self.split(place, if continues_run { at } else { LEAF / 2 });
        }
    }

    /// Puts `parts` where the `touched` mappings of a leaf were.
    fn apply(
        &mut self,
        Place { branch: at, leaf }: Place,
        touched: Range<usize>,
        parts: &[Mapping],
    ) {
        let Some(branch) = self.root.get_mut(at) else {
            return;
        };
        let Some(mappings) = branch.get_mut(leaf) else {
            return;
        };
        mappings.splice(touched.clone(), parts.iter().copied());
        self.len = self.len + parts.len() - touched.len();
        if touched.start == 0 {
            branch.refresh(leaf);
            self.root.refresh(at);
        }
        if parts.len() < touched.len() {
            if let Some(branch) = self.root.get_mut(at) {
                branch.merge_around(leaf, LEAF);
            }
            self.root.merge_around(at, BRANCH);
        }
    }

    /// Splits the full leaf at `place`.
    fn split(&mut self, place: Place, at: usize) {
        const { assert!(LEAF >= 4 && BRANCH >= 4) }
        let branch = self.root.get_mut(place.branch);
        if let Some(full) = branch.and_then(|branch| branch.get_mut(place.leaf)) {
            let rest = full.take_from(at, LEAF);
            self.add_leaf(place, rest);
        }
    }

    /// Adds a leaf behind the one at `place`, or the first one.
    fn add_leaf(&mut self, place: Place, leaf: Leaf) {
        let Some(branch) = self.root.get_mut(place.branch) else {
            return self.add_branch(place.branch, leaf);
        };
        let (at, half) = (place.leaf + 1, BRANCH / 2);
        if branch.len() < BRANCH {
            branch.insert(at, leaf);
        } else if at == BRANCH {
            self.add_branch(place.branch + 1, leaf);
        } else {
            let mut rest = branch.take_from(half, BRANCH);
            if at <= half {
                branch.insert(at, leaf);
            } else {
                rest.insert(at - half, leaf);
            }
            self.root.insert(place.branch + 1, rest);
        }
    }

    fn add_branch(&mut self, at: usize, leaf: Leaf) {
        let mut branch = Level::with_capacity(BRANCH);
        branch.insert(0, leaf);
        self.root.insert(at, branch);
    }
}

/// Which mappings of a leaf have a part in `range`; an empty range of places is where one would go.
fn touched(leaf: &[Mapping], range: SectorRange) -> Range<usize> {
    let behind = starting_at_or_before(leaf, |mapping| mapping.offset(), range.start);
    let before = behind.checked_sub(1);
    let reaches_in = before
        .and_then(|at| leaf.get(at))
        .is_some_and(|mapping| mapping.end() > range.start);
    let start = behind - usize::from(reaches_in);
    let candidates = leaf.get(start..).unwrap_or_default().iter();
    let count = candidates
        .take_while(|mapping| mapping.offset() < range.end)
        .count();
    start..start + count
}

/// What takes the place of the touched mappings: a rest on the left, the new one, a rest on the
/// right, each if there is one.
#[derive(Debug)]
struct Change {
    parts: [Mapping; 3],
    len: usize,
}

impl Change {
    fn new(touched: &[Mapping], range: SectorRange, new: Option<Mapping>) -> Self {
        let left = SectorRange {
            start: 0,
            end: range.start,
        };
        let right = SectorRange {
            start: range.end,
            end: u64::MAX,
        };
        let mut change = Self {
            parts: [Mapping::PADDING; 3],
            len: 0,
        };
        change.push(touched.first().and_then(|mapping| mapping.trimmed(left)));
        change.push(new);
        change.push(touched.last().and_then(|mapping| mapping.trimmed(right)));
        change
    }

    fn push(&mut self, part: Option<Mapping>) {
        if let (Some(part), Some(place)) = (part, self.parts.get_mut(self.len)) {
            *place = part;
            self.len += 1;
        }
    }

    fn parts(&self) -> &[Mapping] {
        self.parts.get(..self.len).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::SECTOR_INVALID;
    use proptest::prelude::*;

    /// Sectors of the model's disk.
    const SECTORS: u64 = 1200;

    /// The plain model: which inserted mapping each sector shows.
    struct Model {
        base: u64,
        inserted: Vec<Mapping>,
        sectors: Vec<Option<usize>>,
    }

    impl Model {
        fn new(base: u64) -> Self {
            Self {
                base,
                inserted: Vec::new(),
                sectors: vec![None; usize::try_from(SECTORS).unwrap()],
            }
        }

        fn places(&self, range: SectorRange) -> Range<usize> {
            let place = |sector: u64| usize::try_from(sector - self.base).unwrap();
            place(range.start)..place(range.end)
        }

        /// A run of sectors with the same mapping is one mapping: nothing was joined or cut needlessly.
        fn mappings(&self, range: SectorRange) -> Vec<Mapping> {
            let places = self.places(range);
            let mut at = range.start;
            let mut found = Vec::new();
            for run in self.sectors[places].chunk_by(|one, next| one == next) {
                let end = at + u64::try_from(run.len()).unwrap();
                let shown = run[0].map(|inserted| self.inserted[inserted]);
                found.extend(shown.and_then(|m| m.trimmed(SectorRange { start: at, end })));
                at = end;
            }
            found
        }

        fn set(&mut self, range: SectorRange, new: Option<Mapping>) {
            let shown = new.map(|mapping| {
                self.inserted.push(mapping);
                self.inserted.len() - 1
            });
            let places = self.places(range);
            self.sectors[places].fill(shown);
        }

        fn whole(&self) -> SectorRange {
            SectorRange {
                start: self.base,
                end: self.base + SECTORS,
            }
        }
    }

    #[derive(Debug, Clone)]
    enum Change {
        Insert {
            zeroed: bool,
        },
        Remove,
        /// Inserts of so many sectors each, one behind the other.
        Run {
            step: u64,
        },
    }

    type Step = (Change, u64, u64);

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let change = prop_oneof![
            8 => any::<bool>().prop_map(|zeroed| Change::Insert { zeroed }),
            2 => Just(Change::Remove),
            1 => (1_u64..5).prop_map(|step| Change::Run { step }),
        ];
        let length = prop_oneof![12 => 1_u64..6, 4 => 1_u64..60, 1 => 1_u64..=SECTORS];
        prop::collection::vec((change, 0..SECTORS, length), 1..160)
    }

    /// One index beside its model.
    struct Pair<const LEAF: usize, const BRANCH: usize> {
        tree: MappingTree<LEAF, BRANCH>,
        model: Model,
        moffset: u64,
    }

    impl<const LEAF: usize, const BRANCH: usize> Pair<LEAF, BRANCH> {
        fn new(base: u64) -> Self {
            Self {
                tree: MappingTree::default(),
                model: Model::new(base),
                moffset: 8,
            }
        }

        fn insert(&mut self, range: SectorRange, zeroed: bool) {
            let sectors = range.end - range.start;
            let mapping = if zeroed {
                Mapping::zeroed(range.start, sectors, self.moffset, 0)
            } else {
                Mapping::data(range.start, sectors, self.moffset, 0)
            };
            self.moffset += sectors;
            let expected = self.model.mappings(range);
            let mut hidden = Vec::new();
            self.tree.insert(mapping, |part| hidden.push(part));
            assert_eq!(hidden, expected, "hidden by {mapping:?}");
            self.model.set(range, Some(mapping));
        }

        fn remove(&mut self, range: SectorRange) {
            let expected = self.model.mappings(range);
            let mut hidden = Vec::new();
            self.tree.remove(range, |part| hidden.push(part));
            assert_eq!(hidden, expected, "removed from {range:?}");
            self.model.set(range, None);
        }

        fn step(&mut self, (change, start, sectors): Step) {
            let end = (start + sectors).min(SECTORS);
            let range = |start, end| SectorRange {
                start: self.model.base + start,
                end: self.model.base + end,
            };
            match change {
                Change::Insert { zeroed } => self.insert(range(start, end), zeroed),
                Change::Remove => self.remove(range(start, end)),
                Change::Run { step } => {
                    let starts = (start..end).step_by(usize::try_from(step).unwrap());
                    let parts: Vec<_> = starts.map(|at| range(at, end.min(at + step))).collect();
                    parts.into_iter().for_each(|part| self.insert(part, false));
                }
            }
        }

        fn check_lookup(&self, range: SectorRange, room: usize) {
            let mut found = vec![Mapping::PADDING; room];
            let count = self.tree.lookup(range, &mut found);
            let expected = self.model.mappings(range);
            assert_eq!(count, expected.len().min(room));
            assert_eq!(found[..count], expected[..count], "lookup of {range:?}");
        }

        fn check_all(&self) {
            let expected = self.model.mappings(self.model.whole());
            assert_eq!(self.tree.iter().collect::<Vec<_>>(), expected);
            assert_eq!(self.tree.len(), expected.len());
            assert_eq!(self.tree.is_empty(), expected.is_empty());
            check_shape(&self.tree);
        }
    }

    fn check_shape<const LEAF: usize, const BRANCH: usize>(tree: &MappingTree<LEAF, BRANCH>) {
        for (at, branch) in tree.root.children().iter().enumerate() {
            assert_eq!(tree.root.first_of(at), branch.first_sector());
            assert!((1..=BRANCH).contains(&branch.len()));
            for (at, leaf) in branch.children().iter().enumerate() {
                assert_eq!(branch.first_of(at), leaf.first_sector());
                assert!((1..=LEAF).contains(&leaf.len()));
                assert_eq!(leaf.capacity(), LEAF);
            }
        }
    }

    fn check_steps<const LEAF: usize, const BRANCH: usize>(base: u64, steps: &[Step]) {
        let mut pair = Pair::<LEAF, BRANCH>::new(base);
        for step in steps {
            pair.step(step.clone());
            let start = base + step.1;
            let end = (start + step.2 * 2).min(base + SECTORS);
            pair.check_lookup(SectorRange { start, end }, 4);
            check_shape(&pair.tree);
        }
        pair.check_lookup(pair.model.whole(), 2000);
        pair.check_all();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn small_leaves_and_branches_equal_a_model_of_single_sectors(
            steps in steps(), last in any::<bool>(),
        ) {
            let base = if last { SECTOR_INVALID - SECTORS } else { 0 };
            check_steps::<4, 4>(base, &steps);
        }

        #[test]
        fn the_index_equals_a_model_of_single_sectors(steps in steps(), last in any::<bool>()) {
            let base = if last { SECTOR_INVALID - SECTORS } else { 0 };
            check_steps::<64, 256>(base, &steps);
        }
    }

    /// The same sequence in every run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 ^= self.0 >> 12;
            self.0 ^= self.0 << 25;
            self.0 ^= self.0 >> 27;
            (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % bound
        }
    }

    fn bytes_per_mapping(index: &UpperIndex) -> f64 {
        let mappings = u32::try_from(index.len()).unwrap();
        f64::from(u32::try_from(index.memory_bytes()).unwrap()) / f64::from(mappings)
    }

    #[test]
    fn ascending_inserts_fill_leaves_whole() {
        let mut index = UpperIndex::default();
        for at in 0..200_000 {
            index.insert(Mapping::data(at * 8, 8, at * 8, 0), |_| panic!("overlap"));
        }
        check_shape(&index);
        let bytes = bytes_per_mapping(&index);
        assert!(bytes < 16.7, "{bytes} bytes a mapping");
    }

    #[test]
    fn an_ascending_run_amid_other_mappings_fills_leaves_nearly_whole() {
        let mut index = UpperIndex::default();
        for at in 0..10 {
            index.insert(Mapping::data(at * 10_000_000, 8, 0, 0), |_| ());
        }
        for at in 0..200_000 {
            index.insert(Mapping::data(42_000_000 + at * 8, 8, at * 8, 0), |_| ());
        }
        check_shape(&index);
        let bytes = bytes_per_mapping(&index);
        assert!(bytes < 17.1, "{bytes} bytes a mapping");
    }

    #[test]
    fn random_inserts_cost_no_more_than_the_module_says() {
        let mut index = UpperIndex::default();
        let mut random = Random(7);
        while index.len() < 300_000 {
            let offset = random.below(1 << 27) * 8;
            index.insert(Mapping::data(offset, 8, 8, 0), |_| ());
        }
        check_shape(&index);
        let bytes = bytes_per_mapping(&index);
        assert!(bytes < 25.0, "{bytes} bytes a mapping");
    }

    #[test]
    fn removals_give_memory_back() {
        let mut index = UpperIndex::default();
        for at in 0..300_000 {
            index.insert(Mapping::data(at * 8, 8, at * 8, 0), |_| ());
        }
        let full = index.memory_bytes();
        let mut random = Random(7);
        while index.len() > 30_000 {
            let start = random.below(300_000) * 8;
            index.remove(
                SectorRange {
                    start,
                    end: start + 8,
                },
                |_| (),
            );
        }
        check_shape(&index);
        assert!(
            index.memory_bytes() < full / 3,
            "{} of {full}",
            index.memory_bytes()
        );
        index.remove(
            SectorRange {
                start: 0,
                end: u64::MAX,
            },
            |_| (),
        );
        assert_eq!((index.len(), index.root.len()), (0, 0));
    }

    #[test]
    fn empty_ranges_change_and_find_nothing() {
        let mut index = UpperIndex::default();
        index.insert(Mapping::data(8, 8, 8, 0), |_| ());
        index.remove(SectorRange { start: 12, end: 12 }, |_| panic!("hidden"));
        index.remove(SectorRange { start: 14, end: 10 }, |_| panic!("hidden"));
        let mut found = [Mapping::PADDING; 2];
        assert_eq!(
            index.lookup(SectorRange { start: 12, end: 12 }, &mut found),
            0
        );
        assert_eq!(
            index.iter().collect::<Vec<_>>(),
            [Mapping::data(8, 8, 8, 0)]
        );
    }
}
