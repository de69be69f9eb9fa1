//! The AVX-512 search of a key tree: one compare and one population count for each node.
//!
//! lsmt index -> **avx512 search**
//!
//! Invariant: callable only where [`is_available`] said yes; the index guarantees that by never
//! choosing [`LookupPath::Avx512`](super::LookupPath) elsewhere.

use super::key_tree::{KeyTree, Node};

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    _mm512_cmple_epu32_mask, _mm512_cmple_epu64_mask, _mm512_load_si512, _mm512_set1_epi32,
    _mm512_set1_epi64,
};

/// True where the CPU and the operating system support the instructions used here.
pub(super) fn is_available() -> bool {
    #[cfg(target_arch = "x86_64")]
    {
        std::is_x86_feature_detected!("avx512f") && std::is_x86_feature_detected!("popcnt")
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        false
    }
}

/// Number of keys at or below `key`.
#[inline]
pub(super) fn count_narrow(tree: &KeyTree<u32, 16>, key: u32) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the index chooses this path only after `is_available` was true.
        unsafe { narrow(tree, key) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        tree.count(key)
    }
}

/// Number of keys at or below `key`.
#[inline]
pub(super) fn count_wide(tree: &KeyTree<u64, 8>, key: u64) -> usize {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the index chooses this path only after `is_available` was true.
        unsafe { wide(tree, key) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        tree.count(key)
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,popcnt")]
fn narrow(tree: &KeyTree<u32, 16>, key: u32) -> usize {
    let wanted = _mm512_set1_epi32(key.cast_signed());
    let count_in = |node: &Node<u32, 16>| {
        // SAFETY: a node is 64 bytes, aligned to 64, all of them initialised keys.
        let keys = unsafe { _mm512_load_si512(std::ptr::from_ref(node).cast()) };
        _mm512_cmple_epu32_mask(keys, wanted).count_ones() as usize
    };
    let mut node = 0;
    for level in &tree.inner {
        let below = level.get(node).map_or(0, count_in);
        node = node * 17 + below;
    }
    node * 16 + tree.leaves.get(node).map_or(0, count_in)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,popcnt")]
fn wide(tree: &KeyTree<u64, 8>, key: u64) -> usize {
    let wanted = _mm512_set1_epi64(key.cast_signed());
    let count_in = |node: &Node<u64, 8>| {
        // SAFETY: a node is 64 bytes, aligned to 64, all of them initialised keys.
        let keys = unsafe { _mm512_load_si512(std::ptr::from_ref(node).cast()) };
        _mm512_cmple_epu64_mask(keys, wanted).count_ones() as usize
    };
    let mut node = 0;
    for level in &tree.inner {
        let below = level.get(node).map_or(0, count_in);
        node = node * 9 + below;
    }
    node * 8 + tree.leaves.get(node).map_or(0, count_in)
}
