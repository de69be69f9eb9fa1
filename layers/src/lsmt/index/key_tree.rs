//! A linearised B+ tree of sorted keys: how many keys are at or below a given one?
//!
//! lsmt index -> **key tree**
//!
//! Levels of 64-byte nodes, leaves last, no pointers: the children of node `k` are the nodes
//! `k * (B + 1) ..= k * (B + 1) + B` of the next level. Key `j` of an inner node is the smallest
//! key below child `j + 1`. Unused places hold the largest key value, which is never searched.
//!
//! Invariants
//! - keys are strictly ascending and below `K::MAX`.
//! - a search for a key below `K::MAX` never reaches a node that does not exist.

/// Keys of the tree.
pub(super) trait Key: Copy + Ord {
    /// Fills unused places; greater than every key.
    const MAX: Self;
}

impl Key for u32 {
    const MAX: Self = u32::MAX;
}

impl Key for u64 {
    const MAX: Self = u64::MAX;
}

/// One cache line of keys.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Node<K, const B: usize>(pub(super) [K; B]);

/// See the module documentation.
#[derive(Debug)]
pub(super) struct KeyTree<K, const B: usize> {
    /// Inner levels, root first.
    pub(super) inner: Vec<Vec<Node<K, B>>>,
    pub(super) leaves: Vec<Node<K, B>>,
}

impl<K: Key, const B: usize> KeyTree<K, B> {
    /// Builds the tree over ascending keys.
    pub(super) fn build(keys: impl ExactSizeIterator<Item = K>) -> Self {
        let (leaves, mut smallest) = pack::<K, B>(keys);
        let mut inner = Vec::new();
        while smallest.len() > 1 {
            let (level, smallest_above) = level_above::<K, B>(&smallest);
            inner.insert(0, level);
            smallest = smallest_above;
        }
        Self { inner, leaves }
    }

    /// Number of keys at or below `key`, which must be below `K::MAX`.
    #[inline]
    pub(super) fn count(&self, key: K) -> usize {
        let count_in = |node: &Node<K, B>| node.0.iter().filter(|at| **at <= key).count();
        let mut node = 0;
        for level in &self.inner {
            let below = level.get(node).map_or(0, count_in);
            node = node * (B + 1) + below;
        }
        node * B + self.leaves.get(node).map_or(0, count_in)
    }
}

/// Packs keys into nodes; also gives the smallest key of each node.
fn pack<K: Key, const B: usize>(
    keys: impl ExactSizeIterator<Item = K>,
) -> (Vec<Node<K, B>>, Vec<K>) {
    let count = keys.len().div_ceil(B);
    let (mut nodes, mut smallest) = (Vec::with_capacity(count), Vec::with_capacity(count));
    let mut keys = keys.peekable();
    while let Some(first) = keys.peek() {
        smallest.push(*first);
        let mut node = Node([K::MAX; B]);
        for (place, key) in node.0.iter_mut().zip(keys.by_ref()) {
            *place = key;
        }
        nodes.push(node);
    }
    (nodes, smallest)
}

/// The level above nodes whose smallest keys are given, and its own smallest keys.
fn level_above<K: Key, const B: usize>(smallest: &[K]) -> (Vec<Node<K, B>>, Vec<K>) {
    smallest
        .chunks(B + 1)
        .map(|children| {
            let mut node = Node([K::MAX; B]);
            for (place, key) in node.0.iter_mut().zip(children.iter().skip(1)) {
                *place = *key;
            }
            (node, children.first().copied().unwrap_or(K::MAX))
        })
        .unzip()
}
