//! Any bytes as a tar around a layer.
#![no_main]

use layers::io::MemoryFile;
use layers::tar;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let file = || MemoryFile::new("input", bytes.to_vec());
    let Ok(member) = tar::detect(&file()) else {
        assert!(tar::unwrap(Box::new(file())).is_err(), "detected otherwise");
        return;
    };
    let payload = match member {
        Some(member) => bytes.get(usize::try_from(member.offset).unwrap_or(usize::MAX)..),
        None => Some(bytes),
    };
    assert!(payload.is_some(), "a member outside of its file");
    let opened = tar::unwrap(Box::new(file()));
    assert!(opened.is_ok(), "detected otherwise");
    if let (Some(payload), Ok(opened)) = (payload, opened) {
        let mut read = vec![0; usize::try_from(opened.size()).unwrap_or(0)];
        assert!(opened.read_exact_at(0, &mut read).is_ok(), "unreadable");
        assert!(payload.starts_with(&read), "reads something else");
        assert!(opened.read_exact_at(opened.size(), &mut [0]).is_err());
    }
});
