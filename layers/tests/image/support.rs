//! What the behaviour tests share: vector files, configs, layers made on the spot.
use std::path::{Path, PathBuf};

use layers::Service;
use layers::lsmt::{LayerBuilder, LayerOptions};
use layers::{Access, Image};

/// A file that the C++ tools wrote.
pub(crate) fn vector(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("vectors")
        .join(name)
}

/// An image config over local files, bottom first.
pub(crate) fn config_over(dir: &Path, lowers: &[PathBuf]) -> PathBuf {
    let lowers: Vec<_> = lowers
        .iter()
        .map(|file| serde_json::json!({ "file": file }))
        .collect();
    let path = dir.join("config.v1.json");
    let config = serde_json::json!({ "lowers": lowers, "resultFile": dir.join("result") });
    std::fs::write(&path, config.to_string()).unwrap();
    path
}

/// Opens a stack of local files, bottom first.
pub(crate) fn open(lowers: &[PathBuf]) -> layers::Result<Image> {
    let dir = tempfile::tempdir().unwrap();
    Image::open(
        &config_over(dir.path(), lowers),
        &Service::default(),
        Access::Read,
    )
}

/// The bytes of an uncompressed layer with the given runs: first sector and data.
pub(crate) fn layer_bytes(virtual_size_bytes: u64, runs: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let options = LayerOptions {
        virtual_size_bytes,
        ..LayerOptions::default()
    };
    let mut builder = LayerBuilder::new(Vec::new(), options).unwrap();
    for (sector, data) in runs {
        builder.append(*sector, data).unwrap();
    }
    builder.finish().unwrap().0
}

/// Bytes that no two sectors share and that compress a little.
pub(crate) fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(len + 16);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
        bytes.extend(b"overlaybd");
    }
    bytes.truncate(len);
    bytes
}
