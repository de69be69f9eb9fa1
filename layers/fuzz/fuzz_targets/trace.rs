//! Any bytes as a prefetch trace or a list of files.
#![no_main]

use layers::prefetch::{FileList, Trace, encode, is_trace};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(trace) = Trace::parse(bytes) {
        assert!(is_trace(bytes), "read, but not recognised");
        for layer in trace.by_layer() {
            assert!(layer.distinct_bytes <= layer.read_bytes, "more than all");
        }
        let again = Trace::parse(&encode(&trace.records));
        assert!(again.is_ok_and(|again| again.records == trace.records));
    }
    if let Ok(list) = FileList::parse(bytes) {
        assert!(!list.entries.is_empty(), "a list of nothing");
        assert!(list.entries.iter().all(|entry| !entry.path.contains('*')));
    }
});
