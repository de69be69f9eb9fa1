//! Any bytes as index entries: what is accepted is found again, the same on every path.
#![no_main]

use layers::lsmt::{Index, LookupPath, Mapping, SectorRange, merge_layers, parse_entries};

/// Where the index of a full-sized layer would start.
const INDEX_OFFSET_BYTES: u64 = 1 << 50;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let (upper, lower) = bytes.split_at(bytes.len() / 32 * 16);
    let Ok(upper) = parse_entries(upper, INDEX_OFFSET_BYTES) else {
        return;
    };
    let lower = parse_entries(lower, INDEX_OFFSET_BYTES).unwrap_or_default();
    let Ok(merged) = merge_layers(vec![upper.clone(), lower]) else {
        return;
    };
    for path in LookupPath::all() {
        let index = Index::with_path(merged.clone(), *path);
        for mapping in &upper {
            let found: Vec<Mapping> = index.lookup(mapping.range()).collect();
            assert_eq!(found, [*mapping], "the upper layer wins");
            let just_before = SectorRange {
                start: 0,
                end: mapping.offset(),
            };
            assert!(
                index
                    .lookup(just_before)
                    .all(|found| found.end() <= mapping.offset())
            );
        }
    }
});
