use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use layers::ReadAt;
use layers::cache::Place;

use crate::support::{Host, LONG, Origin, check_all, content, fill, read};

const MIB: u64 = 1 << 20;

fn digest(number: u8) -> String {
    format!("sha256:{}", format!("{number:02x}").repeat(32))
}

/// The thread that has fetched last may hold a blob for a moment longer.
fn wait_until_closed(record: &Path) {
    let record = std::fs::File::open(record).unwrap();
    let deadline = Instant::now() + LONG;
    while layers::io::is_locked(&record, 0..1).unwrap() {
        assert!(Instant::now() < deadline, "still open");
        std::thread::yield_now();
    }
}

/// Bytes that the directory's files take.
fn disk_usage(dir: &Path) -> u64 {
    let files = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().metadata());
    // A file may go while it is looked at.
    files
        .filter_map(|found| found.ok())
        .map(|found| found.blocks() * 512)
        .sum()
}

#[test]
fn more_blobs_than_fit_are_read_and_the_limit_holds() {
    let mut host = Host::new();
    host.config.size_mib = Some(8);
    let cache = host.cache();
    for number in 0..6 {
        let bytes = content(u64::from(number), 3 << 20);
        let origin = Origin::new(bytes.clone());
        let blob = host.blob_of(&cache, &origin, &digest(number), Place::Shared);
        fill(&blob);
        check_all(&blob, &bytes);
        let used = disk_usage(host.dir.path());
        assert!(used <= 8 * MIB + 65_536, "{used} bytes used");
    }
    assert!(host.metrics.cache_evicted_bytes.load(Ordering::SeqCst) > 0);
    assert!(disk_usage(host.dir.path()) > 4 * MIB, "it is used, too");
}

#[test]
fn blobs_that_nobody_has_open_go_first_and_pinned_ones_never() {
    let mut host = Host::new();
    host.config.size_mib = Some(8);
    let cache = host.cache();
    let origins: Vec<_> = (0..4)
        .map(|number| Origin::new(content(number, 2 << 20)))
        .collect();
    let open = |number: u8| {
        host.blob_of(
            &cache,
            &origins[usize::from(number)],
            &digest(number),
            Place::Shared,
        )
    };
    let pinned = open(0);
    fill(&pinned);
    std::fs::write(host.dir.path().join(format!("{}.pin", digest(0))), "").unwrap();
    drop(pinned);
    wait_until_closed(&host.dir.path().join(format!("{}.chunks", digest(0))));
    let in_use = open(1);
    fill(&in_use);
    fill(&open(2));
    wait_until_closed(&host.dir.path().join(format!("{}.chunks", digest(2))));
    fill(&open(3));
    assert_eq!(in_use.present_bytes(), 2 * MIB);
    assert_eq!(open(0).present_bytes(), 2 * MIB);
    assert!(open(2).present_bytes() < 2 * MIB);
}

#[test]
fn reads_that_check_every_block_count_as_use() {
    use std::os::unix::fs::FileExt;
    let bytes = content(45, 1 << 20);
    let (host, origin) = (Host::new(), Origin::new(bytes));
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    blob.check_every_read();
    fill(&blob);
    let record = std::fs::File::options()
        .read(true)
        .write(true)
        .open(host.record())
        .unwrap();
    // The time of last use of chunk 1.
    let offset = 4096 + 16 + 12;
    record.write_all_at(&[0; 4], offset).unwrap();
    read(&blob, 300_000, 5000);
    let mut last_use = [0; 4];
    record.read_exact_at(&mut last_use, offset).unwrap();
    assert_ne!(last_use, [0; 4]);
}

#[test]
fn what_cannot_be_kept_is_not_prefetched_to_the_end() {
    let mut host = Host::new();
    host.config.free_floor_mib = 1 << 40;
    let origin = Origin::new(content(46, 12 << 20));
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    fill(&blob);
    assert!(origin.served() < 5 * MIB, "{} bytes", origin.served());
}

#[test]
fn the_free_space_floor_holds_beside_a_layer_too() {
    let mut host = Host::new();
    host.config.free_floor_mib = 1 << 40;
    let layer = host.dir.path().join("layer");
    std::fs::create_dir(&layer).unwrap();
    let bytes = content(50, 1 << 20);
    let origin = Origin::new(bytes.clone());
    let cache = host.cache();
    let blob = host.blob_of(&cache, &origin, &digest(8), Place::Layer(layer));
    check_all(&blob, &bytes);
    fill(&blob);
    assert_eq!(blob.present_bytes(), 0);
}

#[test]
fn a_request_has_a_bound_however_large_the_refill_size() {
    let mut host = Host::new();
    host.config.refill_bytes = Some(1 << 30);
    let bytes = content(47, 9 << 20);
    let origin = Origin::new(bytes.clone());
    let cache = host.cache();
    check_all(&host.blob(&cache, &origin), &bytes);
    let lens = origin
        .fetches()
        .into_iter()
        .map(|(range, _)| range.end - range.start);
    assert!(lens.max() <= Some(2 * MIB));
}

#[test]
fn a_blob_in_use_stays_although_its_record_is_damaged() {
    use std::os::unix::fs::FileExt;
    let mut host = Host::new();
    host.config.size_mib = Some(4);
    let bytes = content(48, 2 << 20);
    let origin = Origin::new(bytes.clone());
    let cache = host.cache();
    let in_use = host.blob_of(&cache, &origin, &digest(1), Place::Shared);
    fill(&in_use);
    let record = host.dir.path().join(format!("{}.chunks", digest(1)));
    let file = std::fs::File::options().write(true).open(&record).unwrap();
    file.write_all_at(b"x", 3).unwrap();
    let (_, staying) = layers::cache::admin::Admin::open(&host.config)
        .unwrap()
        .clear()
        .unwrap();
    assert_eq!(staying, [digest(1)]);
    let other = host.blob_of(
        &cache,
        &Origin::new(content(49, 3 << 20)),
        &digest(2),
        Place::Shared,
    );
    fill(&other);
    assert!(record.exists());
    check_all(&in_use, &bytes);
}

#[test]
fn a_blob_larger_than_the_cache_is_read_right() {
    let mut host = Host::new();
    host.config.size_mib = Some(2);
    let bytes = content(40, 9 << 20);
    let origin = Origin::new(bytes.clone());
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    check_all(&blob, &bytes);
    check_all(&blob, &bytes);
    let used = disk_usage(host.dir.path());
    assert!(used <= 2 * MIB + 65_536, "{used} bytes used");
}

#[test]
fn a_free_space_floor_out_of_reach_keeps_nothing_and_serves_everything() {
    let mut host = Host::new();
    host.config.free_floor_mib = 1 << 40;
    let bytes = content(41, 1 << 20);
    let origin = Origin::new(bytes.clone());
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    check_all(&blob, &bytes);
    fill(&blob);
    assert_eq!(blob.present_bytes(), 0);
    assert!(host.metrics.cache_unkept_bytes.load(Ordering::SeqCst) >= MIB);
}

#[test]
fn media_without_a_record_is_adopted_as_empty_or_evicted_and_foreign_files_stay() {
    let mut host = Host::new();
    host.config.size_mib = Some(4);
    let dir = host.dir.path();
    std::fs::write(dir.join(digest(1)), vec![1; 3 << 20]).unwrap();
    std::fs::write(dir.join(digest(2)), vec![2; 2 << 20]).unwrap();
    std::fs::write(dir.join("notes"), "mine").unwrap();
    let cache = host.cache();
    let bytes = content(42, 2 << 20);
    let origin = Origin::new(bytes.clone());
    let blob = host.blob_of(&cache, &origin, &digest(2), Place::Shared);
    check_all(&blob, &bytes);
    fill(&blob);
    assert_eq!(blob.present_bytes(), 2 * MIB);
    let other = host.blob_of(&cache, &origin, &digest(3), Place::Shared);
    fill(&other);
    assert!(!dir.join(digest(1)).exists(), "nobody can read it");
    assert_eq!(std::fs::read(dir.join("notes")).unwrap(), b"mine");
}

#[test]
fn evictions_under_readers_never_give_a_wrong_byte() {
    let mut host = Host::new();
    host.config.size_mib = Some(3);
    let bytes = Arc::new(content(43, 6 << 20));
    let origin = Origin::new(bytes.to_vec());
    // As two processes would have it: each with its own view of the directory.
    let caches = [host.cache(), host.cache()];
    let blobs: Vec<_> = caches
        .iter()
        .map(|cache| Arc::new(host.blob(cache, &origin)))
        .collect();
    let is_over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..4_u64)
        .map(|seed| {
            let blob = Arc::clone(&blobs[usize::try_from(seed % 2).unwrap()]);
            let (bytes, is_over) = (Arc::clone(&bytes), Arc::clone(&is_over));
            std::thread::spawn(move || {
                let mut random = fastrand::Rng::with_seed(seed);
                let mut buf = vec![0; 20_000];
                for _ in 0..3000 {
                    let start = random.usize(..bytes.len() - buf.len());
                    let len = random.usize(1..buf.len());
                    let (part, never) = (&mut buf[..len], layers::Wait::Never);
                    let progress = blob
                        .read_at(start as u64, layers::Dest::from(&mut *part), never)
                        .unwrap();
                    if progress == layers::Progress::Pending {
                        blob.read_exact_at(start as u64, part).unwrap();
                    }
                    if *part != bytes[start..start + len] {
                        is_over.store(true, Ordering::SeqCst);
                    }
                    assert!(!is_over.load(Ordering::SeqCst), "wrong bytes at {start}");
                }
            })
        })
        .collect();
    for reader in readers {
        reader.join().unwrap();
    }
    let evicted = host.metrics.cache_evicted_bytes.load(Ordering::SeqCst);
    assert!(evicted > 10 * MIB, "{evicted} bytes evicted");
    assert_eq!(host.metrics.cache_corrupt_blocks.load(Ordering::SeqCst), 0);
}

#[test]
fn a_full_disk_costs_the_cache_and_not_the_reader() {
    let Some(small) = SmallDisk::mount(2 << 20) else {
        println!("NOT RUN: mounting a tmpfs needs root");
        return;
    };
    let mut host = Host::new();
    host.config.dir = small.path().join("cache");
    let bytes = content(44, 6 << 20);
    let origin = Origin::new(bytes.clone());
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    check_all(&blob, &bytes);
    check_all(&blob, &bytes);
    assert!(blob.present_bytes() > 0);
    // Beside a layer there are no limits: the disk itself says no.
    let layer = small.path().join("layer");
    std::fs::create_dir(&layer).unwrap();
    let beside = host.blob_of(&cache, &origin, &digest(6), Place::Layer(layer));
    check_all(&beside, &bytes);
    check_all(&beside, &bytes);
    assert!(host.metrics.cache_unkept_bytes.load(Ordering::SeqCst) > 0);
    assert!(beside.present_bytes() < bytes.len() as u64);
    // Full to the last byte, and a blob that nothing was kept of before.
    let mut filler = std::fs::File::create(small.path().join("filler")).unwrap();
    drop(std::io::copy(&mut std::io::repeat(1), &mut filler));
    let other = host.blob_of(&cache, &origin, &digest(7), Place::Shared);
    assert!(read(&other, 5_000_000, 5000) == bytes[5_000_000..5_005_000]);
}

/// A file system of its own that is soon full.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(bytes: u64) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={bytes}");
        let mounted = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path())
            .stderr(std::process::Stdio::null())
            .status();
        mounted.ok()?.success().then_some(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: mappings of its files may live a little longer.
        drop(
            std::process::Command::new("umount")
                .arg("-l")
                .arg(self.path())
                .status(),
        );
    }
}
