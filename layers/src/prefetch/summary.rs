//! What a trace comes to, for people.
//!
//! trace -> **summary** -> `obd trace show`

use std::collections::BTreeMap;

use super::range_set::RangeSet;
use super::trace::Trace;

/// The reads of one layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerReads {
    /// Number of the layer, 0 = bottom.
    pub layer: u32,
    /// How many.
    pub reads: u64,
    /// Bytes of all of them.
    pub read_bytes: u64,
    /// Bytes that were read at least once.
    pub distinct_bytes: u64,
}

impl Trace {
    /// The reads of every layer that was read, bottom first.
    #[must_use]
    pub fn by_layer(&self) -> Vec<LayerReads> {
        let mut layers: BTreeMap<u32, (u64, u64, RangeSet)> = BTreeMap::new();
        for record in &self.records {
            let (reads, bytes, places) = layers.entry(record.layer).or_default();
            *reads += 1;
            *bytes = bytes.saturating_add(record.bytes);
            places.insert(record.offset..record.offset.saturating_add(record.bytes));
        }
        let sum = |(layer, (reads, read_bytes, places)): (u32, (u64, u64, RangeSet))| LayerReads {
            layer,
            reads,
            read_bytes,
            distinct_bytes: places.bytes(),
        };
        layers.into_iter().map(sum).collect()
    }
}
