//! Disks made of layers that the C++ tools wrote read as the C++ daemon reads them.

use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use crate::expected_disk::{assert_is_disk, expected, hex};
use crate::support::{config_over, open, vector};
use layers::Image;
use sha2::{Digest, Sha256};

const MIB: usize = 1 << 20;

fn native(layers: usize) -> Vec<PathBuf> {
    (0..layers)
        .map(|layer| vector(&format!("native/layer{layer}.obd")))
        .collect()
}

/// Unpacks the writable vectors: they are sparse, so the repository holds a tar.
fn writable() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let tar = Command::new("tar")
        .arg("--zstd")
        .arg("-xf")
        .arg(vector("writable/writable.tar.zst"))
        .arg("-C")
        .arg(dir.path())
        .status();
    assert!(
        tar.expect("tar is installed").success(),
        "tar with zstd unpacks the vectors"
    );
    dir
}

fn stacked_on_two(top: PathBuf) -> Image {
    let mut lowers = native(2);
    lowers.push(top);
    open(&lowers).unwrap()
}

#[test]
fn three_layers_of_three_kinds_read_as_one_disk() {
    let image = open(&native(3)).unwrap();
    assert_eq!(image.layer_count(), 3);
    assert_eq!(image.identity(), "aaaaaaaa000040008000");
    assert_is_disk(&image, "native");
}

#[test]
fn the_merged_layer_reads_as_the_three_it_was_made_from() {
    assert_is_disk(&open(&[vector("native/merged.obd")]).unwrap(), "native");
}

#[test]
fn a_commit_of_an_append_only_upper_stacks_on_its_lowers() {
    let dir = writable();
    assert_is_disk(&stacked_on_two(dir.path().join("log.commit")), "writable");
}

#[test]
fn a_commit_of_a_sparse_upper_stacks_on_its_lowers() {
    let dir = writable();
    assert_is_disk(
        &stacked_on_two(dir.path().join("sparse.commit")),
        "writable",
    );
}

#[test]
fn an_upper_sealed_in_place_stacks_on_its_lowers() {
    let dir = writable();
    assert_is_disk(
        &stacked_on_two(dir.path().join("log.seal.data")),
        "writable",
    );
}

#[test]
fn an_upper_that_is_not_sealed_is_no_lower() {
    let dir = writable();
    let mut lowers = native(2);
    lowers.push(dir.path().join("log.data"));
    let error = open(&lowers).unwrap_err();
    assert!(error.to_string().contains("never sealed"), "{error}");
}

#[test]
fn obd_export_gives_the_whole_disk_with_the_expected_hash() {
    let dir = tempfile::tempdir().unwrap();
    let config = config_over(dir.path(), &native(3));
    let raw = dir.path().join("disk.raw");
    let done = Command::new(env!("CARGO_BIN_EXE_obd"))
        .arg("export")
        .args([&config, &raw])
        .status();
    assert!(done.unwrap().success());
    let sum = Command::new("sha256sum").arg(&raw).output().unwrap();
    let sum = String::from_utf8(sum.stdout).unwrap();
    assert_eq!(sum.split(' ').next(), expected("native")["sha256"].as_str());
    let blocks = std::os::unix::fs::MetadataExt::blocks(&raw.metadata().unwrap());
    assert!(
        blocks * 512 < 16 << 20,
        "the export is sparse: {blocks} blocks"
    );
}

/// A layer from a public registry is not part of this repository. The directory that
/// `OBD_EXTRA_VECTORS` names may hold it.
#[test]
fn a_published_layer_reads_as_64_gib_with_the_known_hash() {
    let Some(extra) = std::env::var_os("OBD_EXTRA_VECTORS") else {
        // Past the test runner's capture: a check that did not run must be seen.
        let not_run = "NOT RUN: hash of the published layer (OBD_EXTRA_VECTORS is not set)";
        writeln!(std::io::stderr(), "{not_run}").unwrap();
        return;
    };
    let image = open(&[PathBuf::from(extra).join("hello-world.obd")]).unwrap();
    assert_eq!(image.virtual_size(), 64 << 30);
    let mut disk = Sha256::new();
    let mut buf = vec![0; MIB];
    for mib in 0..image.virtual_size() / MIB as u64 {
        image.read_exact_at(mib * MIB as u64, &mut buf).unwrap();
        disk.update(&buf);
    }
    let expected = "d9bf7a5f976ade5b2605f04fee24de1d343036e87a74d6b07816eb88bf56fe31";
    assert_eq!(hex(&disk.finalize()), expected);
}
