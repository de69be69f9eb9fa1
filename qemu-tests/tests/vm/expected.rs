//! What disks must read as, computed on the host without our code.

use std::fs::File;
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

fn expected_json() -> Result<serde_json::Value> {
    let file = File::open(vectors().join("expected.json")).context("open expected.json")?;
    Ok(serde_json::from_reader(file)?)
}

/// The checksum of that whole disk, recorded when the vectors were made.
pub(crate) fn native_sha256_line() -> Result<String> {
    let expected = expected_json()?;
    let sha256 = expected
        .pointer("/native/sha256")
        .and_then(|sha256| sha256.as_str());
    let sha256 = sha256.context("expected.json has no /native/sha256")?;
    Ok(format!("{sha256}  -"))
}

/// A quick look at all data of that disk: a script that reads every MiB that is not zero with
/// direct requests of 64 KiB, and the checksums that it must print, recorded with the vectors.
pub(crate) struct DataOfNativeImage {
    pub(crate) script: String,
    pub(crate) output: String,
}

impl DataOfNativeImage {
    pub(crate) fn on(device: &str) -> Result<Self> {
        let expected = expected_json()?;
        let sums = expected
            .pointer("/native/nonzero_mib")
            .and_then(|sums| sums.as_object());
        let mut script = String::new();
        let mut output = Vec::new();
        for (mib, sum) in sums.context("expected.json has no /native/nonzero_mib")? {
            let first: u64 = mib.parse::<u64>()? * 16;
            script.push_str(&format!(
                "dd if={device} bs=64k skip={first} count=16 iflag=direct status=none |
                     sha256sum | cut -c -16\n"
            ));
            output.push(sum.as_str().context("a checksum is text")?);
        }
        Ok(Self {
            script,
            output: output.join("\n"),
        })
    }
}

/// As sha256sum prints it for its standard input.
pub(crate) fn sha256_line(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{hex}  -")
}
