//! How long writers wait for a snapshot.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use layers::lsmt::upper::UpperKind;

use crate::support::{Disk, scratch};

const CHUNK: usize = 1 << 20;

/// Bytes written before, and not flushed: 1 MB, or as many MB as this variable says, one after the other.
const MEGABYTES: &str = "OBD_SNAPSHOT_MB";

#[test]
fn a_writer_waits_for_the_end_of_a_snapshot_only() {
    let sizes = std::env::var(MEGABYTES).unwrap_or_else(|_| "1 32".to_owned());
    for megabytes in sizes.split(' ').map(|size| size.parse::<u64>().unwrap()) {
        let bytes = (megabytes * 2).max(4) << 20;
        let dir = scratch();
        let disk = Disk::create(dir.path(), UpperKind::AppendOnly, bytes);
        let image = disk.open().unwrap();
        let mut data = vec![0; CHUNK];
        for chunk in 0..megabytes {
            data.fill(u8::try_from(chunk % 251).unwrap());
            image.write_at(chunk * CHUNK as u64, &data).unwrap();
        }
        disk.prepare("1");
        let (done, started) = (AtomicBool::new(false), AtomicBool::new(false));
        let (longest, writes, whole) = std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let (mut longest, mut writes) = (Duration::ZERO, 0_u64);
                while !done.load(Ordering::Relaxed) {
                    let begin = Instant::now();
                    let block = megabytes * 256 + writes % (megabytes * 256);
                    image.write_at(block * 4096, &[3; 4096]).unwrap();
                    longest = longest.max(begin.elapsed());
                    writes += 1;
                    started.store(true, Ordering::Relaxed);
                }
                (longest, writes)
            });
            while !started.load(Ordering::Relaxed) {
                std::thread::yield_now();
            }
            let begin = Instant::now();
            let taken = disk.snapshot(&image);
            let whole = begin.elapsed();
            done.store(true, Ordering::Relaxed);
            taken.unwrap();
            let (longest, writes) = writer.join().unwrap();
            (longest, writes, whole)
        });
        println!(
            "{megabytes} MB before: snapshot {whole:?}, {writes} writes meanwhile, the longest took {longest:?}"
        );
        assert!(writes > 1, "nobody wrote meanwhile");
    }
}
