//! One layer directory, several disks.

use std::sync::atomic::Ordering;

use crate::support::{Disk, Origin, PIECE, config, content, partial, room, whole};

#[test]
fn of_several_disks_one_downloads_and_all_read_the_file() {
    let room = room();
    let len = 20 * PIECE;
    let origin = Origin::new(content(len));
    let disks: Vec<_> = (0..4)
        .map(|_| Disk::start(&origin, &room.dir, &room.cache, &config()))
        .collect();
    for disk in &disks {
        disk.wait();
        assert!(disk.switch.is_local());
    }
    assert!(std::fs::read(whole(&room.dir)).unwrap() == origin.bytes);
    assert!(!partial(&room.dir).exists());
    // Some pieces may have come out of the cache.
    assert!(origin.given.load(Ordering::Relaxed) <= len as u64);
    let layers = |disk: &Disk| disk.metrics.download_layers.load(Ordering::Relaxed);
    assert_eq!(disks.iter().map(layers).sum::<u64>(), 1);
}

#[test]
fn a_disk_takes_over_from_one_that_is_closed() {
    let room = room();
    let len = 20 * PIECE;
    let origin = Origin::new(content(len));
    origin.gate.admit(3);
    let mut first = Disk::start(&origin, &room.dir, &room.cache, &config());
    origin.wait_for_requests(4);
    let second = Disk::start(&origin, &room.dir, &room.cache, &config());
    first.close();
    origin.gate.admit(usize::MAX);
    first.wait();
    second.wait();
    assert!(second.switch.is_local());
    assert!(std::fs::read(whole(&room.dir)).unwrap() == origin.bytes);
    // What the first one had fetched was not fetched again; its last request may have been lost.
    let given = origin.given.load(Ordering::Relaxed);
    assert!(given < (len + 9 * PIECE) as u64, "{given}");
}
