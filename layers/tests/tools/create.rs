//! `overlaybd-create`: new pairs, and what is refused.

use layers::lsmt::{Record, Uuid};
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use crate::support::Scene;

const DONE: &str = "overlaybd-create has created files SUCCESSFULLY\n";

fn header(bytes: &[u8]) -> Record {
    Record::decode(bytes.first_chunk().unwrap()).unwrap()
}

#[test]
fn an_append_only_pair_is_two_headers_with_one_random_name() {
    let scene = Scene::new();
    let parent = "bbbbbbbb-0000-4000-8000-00000000000b";
    let outcome = scene
        .run("create", &format!("-u {parent} d i 3"))
        .succeeded();
    assert_eq!(
        (outcome.stdout.as_str(), outcome.stderr.as_str()),
        (DONE, "")
    );
    let (data, index) = (scene.read("d"), scene.read("i"));
    assert_eq!((data.len(), index.len()), (4096, 4096));
    let (data, index) = (header(&data), header(&index));
    assert_eq!((data.flags, index.flags), (0x03, 0x01));
    assert_eq!(
        (data.index_offset_bytes, index.index_offset_bytes),
        (0, 4096)
    );
    assert_eq!(
        (data.virtual_size_bytes, index.virtual_size_bytes),
        (3 << 30, 3 << 30)
    );
    assert_eq!(
        (data.uuid, data.parent_uuid),
        (index.uuid, Uuid::parse(parent).unwrap())
    );
    scene.run("create", "d2 i2 0").succeeded();
    let other = header(&scene.read("d2"));
    assert_ne!(other.uuid, data.uuid);
    assert_eq!(other.virtual_size_bytes, 0);
}

#[test]
fn a_sparse_pair_is_a_file_like_the_disk_and_an_empty_one() {
    let scene = Scene::new();
    scene
        .run("create", "writable_data writable_index 1 -s")
        .succeeded();
    let data = scene.path("writable_data").metadata().unwrap();
    assert_eq!(data.len(), (1 << 30) + 4096);
    assert!(data.blocks() < 100, "{} blocks", data.blocks());
    assert_eq!(data.permissions().mode() & 0o7133, 0);
    assert_eq!(scene.read("writable_index"), b"");
}

#[test]
fn a_raw_disk_has_no_header() {
    let scene = Scene::new();
    let outcome = scene.run("create", "--raw disk index 2").succeeded();
    assert_eq!(outcome.stdout, DONE);
    let disk = scene.path("disk").metadata().unwrap();
    assert_eq!((disk.len(), disk.blocks()), (2 << 30, 0));
    assert_eq!(scene.read("index"), b"");
}

#[test]
fn an_existing_file_is_kept_and_the_other_not_made() {
    for (existing, other) in [("d", "i"), ("i", "d")] {
        let scene = Scene::new();
        scene.write(existing, b"precious");
        let words = format!("failed to open file '{existing}', 17: File exists");
        let outcome = scene.run("create", "d i 1").failed(255, &words);
        assert_eq!(outcome.stdout, "");
        assert_eq!(scene.read(existing), b"precious");
        assert!(!scene.path(other).exists());
    }
}

#[test]
fn two_files_of_one_name_are_refused() {
    let scene = Scene::new();
    for line in ["both both 1", "./both both 1", "both both 1 -s"] {
        scene.run("create", line).failed(255, "are the same file");
    }
    assert_eq!(scene.names(), Vec::<String>::new());
}

#[test]
fn what_this_version_cannot_do_is_refused_in_words_and_makes_no_file() {
    let scene = Scene::new();
    let cases = [
        (
            "d i 1 --mkfs",
            255,
            "--mkfs: this version makes no file systems",
        ),
        (
            "d i -s 1 --turboOCI",
            255,
            "turboOCI layers are not supported",
        ),
        (
            "d i 1 --fastoci --mkfs",
            255,
            "turboOCI layers are not supported",
        ),
        ("d i 99999999999", 255, "vsize 99999999999 GiB is too large"),
        ("d i -1", 109, "not expected: -1"),
        ("d i x", 104, "Could not convert: vsize = x"),
        ("d i", 106, "vsize is required"),
        ("d i 1 2", 109, "not expected: 2"),
        ("nowhere/d i 1", 255, "failed to create files, 2: "),
    ];
    for (line, code, words) in cases {
        let outcome = scene.run("create", line).failed(code, words);
        assert_eq!(outcome.stdout, "", "{line}");
        assert_eq!(scene.names(), Vec::<String>::new(), "{line}");
    }
}

#[test]
fn a_parent_that_is_no_name_counts_as_none() {
    let scene = Scene::new();
    let outcome = scene.run("create", "-u hogwash d i 1").succeeded();
    assert!(
        outcome.stderr.contains("-u hogwash is no uuid"),
        "{outcome:?}"
    );
    assert!(header(&scene.read("d")).parent_uuid.is_nil());
}
