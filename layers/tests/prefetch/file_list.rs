//! Lists of files in place of a trace.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use layers::ReadAt;
use layers::io::LocalFile;
use layers::prefetch::Ext4;
use layers::tool::{ImportOptions, import};
use serde_json::json;

use crate::support::{Host, Origin, RemoteDisk, wait_until};

/// An ext4 file system with three files of 1 MiB, as one remote layer.
fn file_system(host: &Host) -> (Arc<Origin>, std::path::PathBuf) {
    let root = host.path("root");
    std::fs::create_dir_all(root.join("usr/lib/sub")).unwrap();
    for (seed, name) in [
        (1, "usr/wanted"),
        (2, "usr/lib/sub/below"),
        (3, "usr/other"),
    ] {
        let mut bytes = vec![0; 1 << 20];
        fastrand::Rng::with_seed(seed).fill(&mut bytes);
        std::fs::write(root.join(name), bytes).unwrap();
    }
    let (raw, layer) = (host.path("raw"), host.path("layer.obd"));
    let output = Command::new("/usr/sbin/mke2fs")
        .args(["-q", "-F", "-t", "ext4", "-d"])
        .args([&root, &raw])
        .arg("32M")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    import(&raw, &layer, ImportOptions::default(), &mut |_, _| {}).unwrap();
    (Origin::new(std::fs::read(layer).unwrap()), raw)
}

fn boot(host: &Host, origin: &Arc<Origin>, list: &str) -> RemoteDisk {
    let path = host.path("list");
    std::fs::write(&path, list).unwrap();
    let origins = [Arc::clone(origin)];
    let config = Host::config(&origins, &json!({ "recordTracePath": path }));
    let mut disk = RemoteDisk::open(&host.service("cache", &json!({})), &config, &origins);
    disk.begin();
    disk
}

/// Can all of the file be read without its origin?
fn is_here(disk: &RemoteDisk, raw: &Path, name: &str) -> bool {
    let image = LocalFile::open(raw).unwrap();
    let file_system = Ext4::open(&image as &dyn ReadAt).unwrap();
    let inode = file_system.find(name).unwrap().unwrap();
    let ranges = file_system.ranges(inode).unwrap();
    assert!(!ranges.is_empty());
    ranges.into_iter().all(|range| {
        let sectors = layers::lsmt::SectorRange {
            start: range.start / 512,
            end: range.end / 512,
        };
        disk.stack.index().lookup(sectors).all(|mapping| {
            let decoded = mapping.moffset() * 512..mapping.moffset_end() * 512;
            let stored = disk.stack.source(0).unwrap().stored_range(decoded);
            let mut bytes = vec![0; usize::try_from(stored.end - stored.start).unwrap()];
            let blob = &disk.cached[0].1;
            blob.read_if_present(stored.start, &mut bytes).unwrap()
        })
    })
}

#[test]
fn files_and_trees_of_a_list_are_fetched_and_others_are_not() {
    let host = Host::new();
    let (origin, raw) = file_system(&host);
    let disk = boot(
        &host,
        &origin,
        "# boot\n/usr/wanted\n/usr/missing\nusr/lib/*\n",
    );
    wait_until("the file is here", || is_here(&disk, &raw, "usr/wanted"));
    wait_until("the tree is here", || {
        is_here(&disk, &raw, "usr/lib/sub/below")
    });
    assert!(!is_here(&disk, &raw, "usr/other"));
}

#[test]
fn a_list_for_a_disk_without_a_file_system_fetches_nothing() {
    let host = Host::new();
    let raw = host.path("raw");
    std::fs::write(&raw, vec![7; 4 << 20]).unwrap();
    let layer = host.path("layer.obd");
    import(&raw, &layer, ImportOptions::default(), &mut |_, _| {}).unwrap();
    let origin = Origin::new(std::fs::read(layer).unwrap());
    let disk = boot(&host, &origin, "/usr/wanted\n");
    disk.read(0, 4096);
    let watch = Arc::downgrade(&disk.cached[0].1);
    let stack = Arc::downgrade(&disk.stack);
    drop(disk);
    wait_until("the prefetch has ended", || {
        stack.strong_count() == 0 && watch.strong_count() == 0
    });
    assert_eq!(origin.ahead(), []);
}
