//! Every single flipped bit is detected, or changes nothing that is read.

use layers::ErrorKind;
use layers::zfile::{Algorithm, BuildOptions};

use crate::support::{build, decode, mixed_bytes, vector};

const RECORD: usize = 512;

/// The byte of a record in which flag bit 4, "checksums are meant", is.
const FLAG_BYTE: usize = 32;

fn flip(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut flipped = bytes.to_vec();
    flipped[bit / 8] ^= 1 << (bit % 8);
    flipped
}

/// Flips every bit of `bytes[range]`; returns those after which the content is still right.
/// No flip may change the content.
fn harmless_flips(bytes: &[u8], range: std::ops::Range<usize>) -> Vec<usize> {
    let content = decode(bytes.to_vec()).unwrap();
    let mut harmless = Vec::new();
    for bit in range.start * 8..range.end * 8 {
        match decode(flip(bytes, bit)) {
            Ok(decoded) => {
                assert!(decoded == content, "bit {bit} changes what is read");
                harmless.push(bit);
            }
            Err(error) => assert!(
                matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported),
                "bit {bit}: {error}"
            ),
        }
    }
    harmless
}

/// Start of the index of a file whose trailer is right.
fn index_start(bytes: &[u8]) -> usize {
    let field = bytes.len() - RECORD + 40;
    let offset = u64::from_le_bytes(bytes[field..field + 8].try_into().unwrap());
    usize::try_from(offset).unwrap()
}

fn small_files() -> Vec<Vec<u8>> {
    let names = [
        "empty.lz4.4.zfile",
        "one.lz4.4.zfile",
        "one.zstd.64.zfile",
        "text-300000.lz4.64.zfile",
        "text-300000.zstd.64.zfile",
    ];
    names.map(vector).to_vec()
}

#[test]
fn in_a_header_only_the_bit_that_turns_its_digest_off_is_harmless() {
    for file in small_files() {
        assert_eq!(harmless_flips(&file, 0..RECORD), [FLAG_BYTE * 8 + 4]);
    }
}

#[test]
fn in_a_trailer_only_the_bit_that_turns_its_digest_off_is_harmless() {
    for file in small_files() {
        let start = file.len() - RECORD;
        let harmless = harmless_flips(&file, start..file.len());
        assert_eq!(harmless, [(start + FLAG_BYTE) * 8 + 4]);
    }
}

#[test]
fn in_an_overwritten_header_only_the_bit_that_turns_its_digest_off_is_harmless() {
    let file = build(&mixed_bytes(10_000, 1), BuildOptions::default());
    assert_eq!(harmless_flips(&file, 0..RECORD), [FLAG_BYTE * 8 + 4]);
}

#[test]
fn the_trailer_behind_an_overwritten_header_is_not_read() {
    let file = build(&mixed_bytes(10_000, 1), BuildOptions::default());
    let start = file.len() - RECORD;
    assert_eq!(harmless_flips(&file, start..file.len()).len(), RECORD * 8);
}

#[test]
fn every_flip_in_blocks_their_checksums_and_the_index_is_detected() {
    for file in small_files() {
        let harmless = harmless_flips(&file, RECORD..file.len() - RECORD);
        assert_eq!(harmless, [0_usize; 0]);
    }
}

#[test]
fn sampled_flips_in_large_files_are_detected() {
    for name in ["mixed-262144.lz4.4.zfile", "rnd-100001.zstd.64.zfile"] {
        let file = vector(name);
        let data = RECORD * 8..(file.len() - RECORD) * 8;
        for bit in data.step_by(997) {
            let error = decode(flip(&file, bit)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{name} bit {bit}");
        }
    }
}

/// Files made before checksums were introduced have none to detect a flip with: a record then
/// still never makes a read give wrong bytes, as each block has its own checksum.
#[test]
fn without_digests_no_flip_in_records_and_index_changes_what_is_read() {
    for algorithm in [Algorithm::Lz4, Algorithm::Zstd] {
        let mut file = build(
            &mixed_bytes(20_000, 7),
            BuildOptions {
                algorithm,
                overwrite_header: false,
                ..BuildOptions::default()
            },
        );
        let trailer = file.len() - RECORD;
        file[FLAG_BYTE] &= !(1 << 4);
        file[trailer + FLAG_BYTE] &= !(1 << 4);
        let magic_and_flags = harmless_flips(&file, 0..24).len();
        assert_eq!(magic_and_flags, 0);
        // Most of the header is not looked at, as the trailer counts.
        assert!(harmless_flips(&file, 40..RECORD).len() == (RECORD - 40) * 8);
        harmless_flips(&file, FLAG_BYTE..40);
        harmless_flips(&file, trailer..file.len());
        let index = index_start(&file);
        harmless_flips(&file, index..trailer);
    }
}
