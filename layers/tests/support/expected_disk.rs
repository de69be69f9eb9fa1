//! What the C++ daemon reads from the vector disks.

use layers::Image;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::vector;

const MIB: usize = 1 << 20;

/// What is known of `disk`.
pub(crate) fn expected(disk: &str) -> Value {
    let text = std::fs::read(vector("expected.json")).unwrap();
    serde_json::from_slice::<Value>(&text).unwrap()[disk].take()
}

/// Compares the size and every MiB with those of `disk` as the C++ daemon reads it.
pub(crate) fn assert_is_disk(image: &Image, disk: &str) {
    let expected = expected(disk);
    assert_eq!(Some(image.virtual_size()), expected["bytes"].as_u64());
    let mut buf = vec![0; MIB];
    for mib in 0..image.virtual_size() / MIB as u64 {
        image.read_exact_at(mib * MIB as u64, &mut buf).unwrap();
        let zero = buf.iter().all(|byte| *byte == 0);
        let hash = (!zero).then(|| hex(&Sha256::digest(&buf)[..8]));
        let expected = expected["nonzero_mib"][mib.to_string()]
            .as_str()
            .map(str::to_owned);
        assert_eq!(hash, expected, "MiB {mib} of {disk}");
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
