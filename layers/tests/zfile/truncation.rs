//! A file that is cut short anywhere is refused, and said to be corrupt.

use layers::ErrorKind;
use layers::io::MemoryFile;
use layers::zfile::{BuildOptions, detect};

use crate::support::{build, mixed_bytes, open, vector};

fn assert_cut_is_refused(file: &[u8], len: usize) {
    let cut = file[..len].to_vec();
    let error = open(cut.clone()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "cut to {len}: {error}");
    assert!(error.to_string().contains("memory"), "{error}");
    // A header is enough to tell what the file was meant to be.
    let is_zfile = detect(&MemoryFile::new("memory", cut)).unwrap();
    assert_eq!(is_zfile, len >= 512, "cut to {len}");
}

#[test]
fn small_files_cut_at_every_byte_are_refused() {
    for name in [
        "empty.zstd.4.zfile",
        "one.lz4.4.zfile",
        "text-300000.lz4.64.zfile",
        "text-300000.zstd.64.zfile",
    ] {
        let file = vector(name);
        for len in 0..file.len() {
            assert_cut_is_refused(&file, len);
        }
    }
}

#[test]
fn a_file_with_an_overwritten_header_cut_at_every_byte_is_refused() {
    let file = build(&mixed_bytes(20_000, 2), BuildOptions::default());
    for len in 0..file.len() {
        assert_cut_is_refused(&file, len);
    }
}

#[test]
fn large_files_cut_near_every_structure_are_refused() {
    let file = vector("mixed-262144.lz4.4.zfile");
    let trailer = file.len() - 512;
    let index = trailer - 64 * 4;
    for edge in [512, index, trailer, file.len()] {
        for len in edge.saturating_sub(5)..(edge + 5).min(file.len()) {
            assert_cut_is_refused(&file, len);
        }
    }
}
