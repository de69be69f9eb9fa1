//! From a registry's blob to a file.

use std::os::unix::fs::{FileExt, PermissionsExt};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use layers::audit::Audit;
use layers::config::DownloadConfig;
use layers::{Dest, Progress, ReadAt, Wait};

use crate::support::{Disk, Origin, PIECE, config, content, partial, room, wait_until, whole};

const LEN: usize = 9 * PIECE + 1234;

#[test]
fn a_layer_becomes_a_file_that_the_disk_reads() {
    let room = room();
    let origin = Origin::new(content(LEN));
    let log = room.dir.join("audit.log");
    let audit = Arc::new(Audit::new(Some(&log)));
    let disk = Disk::audited(&origin, &room.dir, &room.cache, &config(), &audit);
    disk.wait();
    assert!(disk.switch.is_local());
    assert!(std::fs::read(whole(&room.dir)).unwrap() == origin.bytes);
    assert!(!partial(&room.dir).exists());
    let mode = std::fs::metadata(whole(&room.dir))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o7133, 0, "{mode:o}");
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    assert_eq!(count(&disk.metrics.download_bytes), LEN as u64);
    assert_eq!(count(&disk.metrics.download_layers), 1);

    let text = std::fs::read_to_string(&log).unwrap();
    let lines = text
        .lines()
        .filter(|line| line.contains("|bk_download[pathname=sha256:"));
    let sizes = lines.map(|line| {
        let (_, size) = line.split_once("[size=").unwrap();
        size.split_once(']').unwrap().0.parse::<u64>().unwrap()
    });
    assert_eq!(sizes.sum::<u64>(), origin.given.load(Ordering::Relaxed));

    let mut buf = vec![0; LEN];
    disk.switch.read_exact_at(0, &mut buf).unwrap();
    let again = disk
        .switch
        .read_at(5, Dest::from(&mut buf[5..]), Wait::Never);
    assert!(matches!(again, Ok(Progress::Done | Progress::Pending)));
    assert!(buf == origin.bytes);
}

#[test]
fn what_a_daemon_left_behind_is_not_fetched_again() {
    let room = room();
    let origin = Origin::new(content(LEN));
    // As the C++ daemon leaves it: of full size, with holes; and one piece was cut short.
    let left = std::fs::File::create(partial(&room.dir)).unwrap();
    left.set_len(LEN as u64).unwrap();
    for piece in [0, 2, 3, 9] {
        let end = LEN.min((piece + 1) * PIECE);
        left.write_all_at(&origin.bytes[piece * PIECE..end], (piece * PIECE) as u64)
            .unwrap();
    }
    left.write_all_at(
        &origin.bytes[6 * PIECE..6 * PIECE + 8192],
        (6 * PIECE) as u64,
    )
    .unwrap();
    let disk = Disk::start(&origin, &room.dir, &room.cache, &config());
    disk.wait();
    assert!(std::fs::read(whole(&room.dir)).unwrap() == origin.bytes);
    let pieces: Vec<_> = origin
        .asked()
        .into_iter()
        .flatten()
        .step_by(PIECE)
        .map(|at| at / PIECE as u64)
        .collect();
    assert_eq!(pieces, [1, 4, 5, 6, 7, 8]);
}

#[test]
fn what_the_cache_has_is_not_fetched_again() {
    let room = room();
    let origin = Origin::new(content(LEN));
    origin.gate.admit(0);
    let disk = Disk::start(&origin, &room.dir, &room.cache, &config());
    origin.wait_for_requests(1);
    let kept = || disk.metrics.cache_filled_bytes.load(Ordering::Relaxed);
    let before = kept();
    let mut piece = vec![0; PIECE];
    let at = (4 * PIECE) as u64;
    disk.switch.read_exact_at(at, &mut piece).unwrap();
    wait_until(|| kept() >= before + PIECE as u64);
    origin.gate.admit(usize::MAX);
    disk.wait();
    assert!(std::fs::read(whole(&room.dir)).unwrap() == origin.bytes);
    assert!(origin.asked().iter().all(|range| !range.contains(&at)));
}

#[test]
fn a_whole_file_that_is_there_is_read_and_nothing_is_fetched() {
    let room = room();
    let origin = Origin::new(content(LEN));
    std::fs::write(whole(&room.dir), &origin.bytes).unwrap();
    let disk = Disk::start(&origin, &room.dir, &room.cache, &config());
    disk.wait();
    assert!(disk.switch.is_local());
    assert_eq!(origin.asked(), []);
    assert!(!partial(&room.dir).exists());
}

#[test]
fn a_file_of_the_wrong_size_is_neither_read_nor_touched() {
    let room = room();
    let origin = Origin::new(content(LEN));
    std::fs::write(whole(&room.dir), b"half a layer").unwrap();
    let disk = Disk::start(&origin, &room.dir, &room.cache, &config());
    disk.wait();
    assert!(!disk.switch.is_local());
    assert_eq!(std::fs::read(whole(&room.dir)).unwrap(), b"half a layer");
}

#[test]
fn bytes_with_another_digest_never_become_the_layer() {
    let room = room();
    let mut origin = Origin::new(content(LEN));
    Arc::get_mut(&mut origin).unwrap().bytes[LEN - 1] ^= 1;
    let disk = Disk::start(&origin, &room.dir, &room.cache, &config());
    disk.wait();
    assert!(!disk.switch.is_local());
    assert_eq!(std::fs::read_dir(&room.dir).unwrap().count(), 0);
}

#[test]
fn a_disk_that_is_closed_ends_its_download_before_it_begins() {
    let room = room();
    let origin = Origin::new(content(LEN));
    let later = DownloadConfig {
        delay: 100_000,
        ..config()
    };
    let mut disk = Disk::start(&origin, &room.dir, &room.cache, &later);
    disk.close();
    disk.wait();
    assert_eq!(std::fs::read_dir(&room.dir).unwrap().count(), 0);
}

#[test]
fn a_disk_that_is_closed_ends_its_download_in_the_middle_of_a_request() {
    let room = room();
    let origin = Origin::new(content(LEN));
    origin.gate.admit(0);
    let mut disk = Disk::start(&origin, &room.dir, &room.cache, &config());
    origin.wait_for_requests(1);
    disk.close();
    origin.gate.admit(usize::MAX);
    disk.wait();
    assert!(!whole(&room.dir).exists());
    assert_eq!(origin.asked().len(), 1);
    // What the source had in its hands.
    assert!(origin.given.load(Ordering::Relaxed) <= 9000);
    assert!(!disk.switch.is_local());
}
