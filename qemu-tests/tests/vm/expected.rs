//! What disks must read as, computed on the host without our code.

use std::fs::File;
use std::io::{BufReader, Read};
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
    let sha256 = expected["native"]["sha256"]
        .as_str()
        .context("no native.sha256")?;
    Ok(sha256.to_owned())
}

/// The checksum of `len` bytes of a raw disk from `offset` on.
pub(crate) fn sha256_of_range(raw: &Path, offset: u64, len: u64) -> Result<String> {
    let mut file = File::open(raw)?;
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(offset))?;
    let mut digest = Sha256::new();
    let mut reader = BufReader::new(file.take(len));
    let mut buf = vec![0; 1 << 20];
    loop {
        let read = reader.read(&mut buf)?;
        if read == 0 {
            break;
        }
        digest.update(&buf[..read]);
    }
    Ok(digest
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect())
}
