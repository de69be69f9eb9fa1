//! What disks must read as, computed on the host without our code.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use qemu_tests::image::Image;
use qemu_tests::lab::Lab;
use sha2::{Digest, Sha256};

/// The vectors that the C++ tools made.
fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../layers/vectors")
}

/// An image of the three native layers: LZ4, LZ4 in tar, zstd in tar.
pub(crate) fn native_image(lab: &Lab) -> Result<Image> {
    let layers = ["layer0.obd", "layer1.obd", "layer2.obd"];
    lab.image_of_layers(
        "native",
        &layers.map(|name| vectors().join("native").join(name)),
    )
}

/// The checksum of that whole disk, recorded when the vectors were made.
pub(crate) fn native_sha256() -> Result<String> {
    let file = File::open(vectors().join("expected.json")).context("open expected.json")?;
    let expected: serde_json::Value = serde_json::from_reader(file)?;
    let sha256 = expected
        .pointer("/native/sha256")
        .and_then(|sha256| sha256.as_str());
    Ok(sha256
        .context("expected.json has no /native/sha256")?
        .to_owned())
}

/// The checksum of `len` bytes of a raw disk from `offset` on.
pub(crate) fn sha256_of_range(raw: &Path, offset: u64, len: u64) -> Result<String> {
    let mut file = File::open(raw)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = vec![0; usize::try_from(len)?];
    file.read_exact(&mut bytes)?;
    Ok(Sha256::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
