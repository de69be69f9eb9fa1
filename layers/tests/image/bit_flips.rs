//! Damage by one bit is detected or changes nothing.

use std::path::Path;

use crate::support::{layer_bytes, pattern};
use layers::image::Image;
use layers::io::MemoryFile;
use layers::lsmt::Layer;
use layers::tool::{ImportOptions, import};
use layers::zfile::{self, ZFile};
use layers::{ReadAt, tar};

const DISK_BYTES: u64 = 1 << 20;

/// Everything a guest can see of one layer file, or that it does not open or read.
fn disk_of(bytes: Vec<u8>) -> layers::Result<Vec<u8>> {
    let payload = tar::unwrap(Box::new(MemoryFile::new("layer", bytes)))?;
    let decoded: Box<dyn ReadAt> = match zfile::detect(&*payload)? {
        true => Box::new(ZFile::open(payload)?),
        false => payload,
    };
    let image = Image::from_layers(vec![Layer::open(decoded)?], "")?;
    // A flipped size is a different disk; reading it all could take for ever.
    let mut disk = image.virtual_size().to_le_bytes().to_vec();
    disk.resize(8 + usize::try_from(DISK_BYTES).unwrap(), 0);
    image.read_exact_at(0, &mut disk[8..])?;
    Ok(disk)
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

/// A disk with two runs of data, imported into a tar-wrapped, compressed layer.
fn compressed_layer(dir: &Path) -> Vec<u8> {
    let raw = dir.join("raw");
    let mut disk = vec![0; usize::try_from(DISK_BYTES).unwrap()];
    disk[8192..12288].copy_from_slice(&pattern(1, 4096));
    disk[500_000 / 4096 * 4096..][..6000].copy_from_slice(&pattern(2, 6000));
    std::fs::write(&raw, disk).unwrap();
    let options = ImportOptions {
        tar: true,
        ..ImportOptions::default()
    };
    let out = dir.join("layer.obd");
    import(&raw, &out, options, &mut |_, _| {}).unwrap();
    std::fs::read(out).unwrap()
}

#[test]
fn any_bit_of_a_compressed_layer_is_detected_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = compressed_layer(dir.path());
    let whole = disk_of(bytes.clone()).unwrap();
    let (mut detected, mut harmless) = (0, 0);
    for bit in 0..bytes.len() * 8 {
        match disk_of(flipped(&bytes, bit)) {
            Err(_) => detected += 1,
            Ok(disk) => {
                assert!(
                    disk == whole,
                    "bit {bit} (byte {}) changed the disk unnoticed",
                    bit / 8
                );
                harmless += 1;
            }
        }
    }
    assert!(
        detected > bytes.len() * 8 / 3,
        "{detected} detected, {harmless} harmless"
    );
}

/// An uncompressed layer has no checksums. The format then protects the fields below by rules
/// only: a flip there may give another disk, but never a panic or a read outside of the file.
#[test]
fn any_bit_outside_the_unprotected_fields_of_a_plain_layer_is_detected_or_harmless() {
    let runs = [(16, pattern(1, 4096)), (976, pattern(2, 6144))];
    let bytes = layer_bytes(DISK_BYTES, &runs);
    let whole = disk_of(bytes.clone()).unwrap();
    let index_at = 4096 + 4096 + 6144;
    let trailer_at = bytes.len() - 4096;
    for bit in 0..bytes.len() * 8 {
        let byte = bit / 8;
        let data_or_index = (4096..trailer_at).contains(&byte);
        let index_place_or_size = (trailer_at + 32..trailer_at + 56).contains(&byte);
        match disk_of(flipped(&bytes, bit)) {
            Err(_) => {}
            Ok(disk) => assert!(
                disk == whole || data_or_index || index_place_or_size,
                "bit {bit}: byte {byte} of {}, index at {index_at}",
                bytes.len()
            ),
        }
    }
}
