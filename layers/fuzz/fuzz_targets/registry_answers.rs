//! Any bytes as what servers say: challenges, content ranges, documents of credentials.
#![no_main]

use layers::registry::{Auths, ContentRange, challenge};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    if let Ok(text) = std::str::from_utf8(bytes) {
        for found in challenge::parse(text) {
            assert!(found.scheme.len() <= text.len());
            assert!(
                found
                    .params
                    .iter()
                    .all(|(name, _)| found.param(name).is_some())
            );
        }
        if let Some(ContentRange::Bytes { first, last, total }) = ContentRange::parse(text) {
            assert!(first <= last && total.is_none_or(|total| last < total));
        }
    }
    if let Ok(auths) = Auths::parse(bytes) {
        drop(auths.find(&["registry.example".to_owned()]));
    }
});
