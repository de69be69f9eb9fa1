//! One level of the tree: children in ascending order beside the first sector of each.
//!
//! upper index -> **level** -> children (a leaf, or the level below)
//!
//! Invariants
//! - `firsts` and `children` are equally long.
//! - no child is empty, and `firsts` has the offset of the first mapping of each: a search reads
//!   nothing of the children that it passes.

use crate::lsmt::mapping::Mapping;

/// A search counts keys at this distance first, then the keys between two of them. Its loads do
/// not wait for each other, as those of a binary search do.
const STRIDE: usize = 16;

/// What a level holds.
pub(super) trait Child {
    /// First sector of the first mapping; `None` when empty.
    fn first_sector(&self) -> Option<u64>;
    /// Number of its own children or mappings.
    fn len(&self) -> usize;
    /// Moves what is at `at` and behind into another of the kind, with room for `capacity`.
    fn take_from(&mut self, at: usize, capacity: usize) -> Self;
    /// Appends all of the one that follows.
    fn append_all(&mut self, next: Self);
    /// Heap memory in bytes.
    fn heap_bytes(&self) -> usize;
}

/// Sorted disjoint mappings.
pub(super) type Leaf = Vec<Mapping>;

impl Child for Leaf {
    fn first_sector(&self) -> Option<u64> {
        self.first().map(|mapping| mapping.offset())
    }

    fn len(&self) -> usize {
        self.len()
    }

    fn take_from(&mut self, at: usize, capacity: usize) -> Self {
        split_vec(self, at, capacity)
    }

    fn append_all(&mut self, mut next: Self) {
        self.append(&mut next);
    }

    fn heap_bytes(&self) -> usize {
        self.capacity() * size_of::<Mapping>()
    }
}

/// See the module documentation.
#[derive(Debug)]
pub(super) struct Level<T> {
    firsts: Vec<u64>,
    children: Vec<T>,
}

impl<T> Default for Level<T> {
    fn default() -> Self {
        Self {
            firsts: Vec::new(),
            children: Vec::new(),
        }
    }
}

impl<T: Child> Child for Level<T> {
    fn first_sector(&self) -> Option<u64> {
        self.firsts.first().copied()
    }

    fn len(&self) -> usize {
        self.children.len()
    }

    fn take_from(&mut self, at: usize, capacity: usize) -> Self {
        Self {
            firsts: split_vec(&mut self.firsts, at, capacity),
            children: split_vec(&mut self.children, at, capacity),
        }
    }

    fn append_all(&mut self, mut next: Self) {
        self.firsts.append(&mut next.firsts);
        self.children.append(&mut next.children);
    }

    fn heap_bytes(&self) -> usize {
        let own =
            self.firsts.capacity() * size_of::<u64>() + self.children.capacity() * size_of::<T>();
        self.children.iter().map(T::heap_bytes).sum::<usize>() + own
    }
}

impl<T: Child> Level<T> {
    /// A level of no children with room for `capacity`.
    pub(super) fn with_capacity(capacity: usize) -> Self {
        Self {
            firsts: Vec::with_capacity(capacity),
            children: Vec::with_capacity(capacity),
        }
    }

    pub(super) fn children(&self) -> &[T] {
        &self.children
    }

    pub(super) fn get(&self, at: usize) -> Option<&T> {
        self.children.get(at)
    }

    pub(super) fn get_mut(&mut self, at: usize) -> Option<&mut T> {
        self.children.get_mut(at)
    }

    /// The first sector of child `at`.
    pub(super) fn first_of(&self, at: usize) -> Option<u64> {
        self.firsts.get(at).copied()
    }

    /// The child that would hold a mapping at `sector`: the last that does not start behind it.
    #[inline]
    pub(super) fn find(&self, sector: u64) -> usize {
        starting_at_or_before(&self.firsts, |first| *first, sector).saturating_sub(1)
    }

    /// Inserts a child that is not empty; those from `at` on move up.
    pub(super) fn insert(&mut self, at: usize, child: T) {
        if let Some(first) = child.first_sector() {
            self.firsts.insert(at, first);
            self.children.insert(at, child);
        }
    }

    /// Takes out child `at`, which exists.
    pub(super) fn remove(&mut self, at: usize) -> T {
        self.firsts.remove(at);
        self.children.remove(at)
    }

    /// Takes note that child `at` has changed: it has another first sector, or is empty and goes.
    pub(super) fn refresh(&mut self, at: usize) {
        match self.children.get(at).map(T::first_sector) {
            Some(Some(first)) => {
                if let Some(known) = self.firsts.get_mut(at) {
                    *known = first;
                }
            }
            Some(None) => drop(self.remove(at)),
            None => {}
        }
    }

    /// Joins child `at` with a neighbour when it is small and the two fill three quarters of
    /// `capacity` at most.
    pub(super) fn merge_around(&mut self, at: usize, capacity: usize) {
        let len = |at: usize| self.children.get(at).map(T::len);
        if len(at).is_none_or(|len| len >= capacity / 4) {
            return;
        }
        for left in [Some(at), at.checked_sub(1)].into_iter().flatten() {
            let (Some(one), Some(next)) = (len(left), len(left + 1)) else {
                continue;
            };
            if one + next <= capacity * 3 / 4 {
                let next = self.remove(left + 1);
                if let Some(one) = self.children.get_mut(left) {
                    one.append_all(next);
                }
                return;
            }
        }
    }
}

/// Moves the items from `at` on into a vector with room for `capacity`.
fn split_vec<T>(items: &mut Vec<T>, at: usize, capacity: usize) -> Vec<T> {
    let mut rest = Vec::with_capacity(capacity);
    rest.extend(items.drain(at..));
    rest
}

/// How many of the ascending `items` have a key at or below `sector`.
#[inline]
pub(super) fn starting_at_or_before<T>(items: &[T], key: impl Fn(&T) -> u64, sector: u64) -> usize {
    // Only a root is that long.
    if items.len() > STRIDE * STRIDE {
        return items.partition_point(|item| key(item) <= sector);
    }
    let is_counted = |item: &&T| key(item) <= sector;
    let strides = items.iter().step_by(STRIDE).filter(is_counted).count();
    let first = strides.saturating_sub(1) * STRIDE;
    let last = items.len().min(first + STRIDE);
    let between = items.get(first..last).unwrap_or_default();
    first + between.iter().filter(is_counted).count()
}
