//! Many threads on one layer.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use layers::config::UpperConfig;
use layers::{Image, Wait, WriteBatch};

use crate::support::{KINDS, Pair, scratch};

const THREADS: u8 = 4;
const DISK_BYTES: usize = 1 << 20;

fn read_all(image: &Image) -> Vec<u8> {
    let mut disk = vec![0; DISK_BYTES];
    image.read_exact_at(0, &mut disk).unwrap();
    disk
}

#[test]
fn neighbours_in_one_block_written_at_once_are_all_there_and_stay() {
    for kind in KINDS {
        let dir = scratch();
        let pair = Pair::create(dir.path(), "x", kind, DISK_BYTES as u64);
        let image = pair.image(Vec::new());
        let start = Barrier::new(THREADS.into());
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (image, start) = (&image, &start);
                scope.spawn(move || {
                    start.wait();
                    // Sector by sector, each thread its own ones of every block.
                    for sector in (usize::from(thread)..DISK_BYTES / 512).step_by(THREADS.into()) {
                        let data = [thread + 1; 512];
                        image.write_at((sector * 512) as u64, &data).unwrap();
                    }
                });
            }
        });
        let expected: Vec<u8> = (0..DISK_BYTES)
            .map(|byte| u8::try_from(byte / 512 % usize::from(THREADS)).unwrap() + 1)
            .collect();
        assert!(read_all(&image) == expected, "{kind:?}");
        drop(image);
        assert!(
            read_all(&pair.image(Vec::new())) == expected,
            "{kind:?}, opened again"
        );
    }
}

#[test]
fn whoever_wins_a_race_for_a_sector_has_won_it_for_good() {
    for kind in KINDS {
        let dir = scratch();
        let pair = Pair::create(dir.path(), "x", kind, DISK_BYTES as u64);
        let image = pair.image(Vec::new());
        let start = Barrier::new(THREADS.into());
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (image, start) = (&image, &start);
                scope.spawn(move || {
                    start.wait();
                    let mut batch = WriteBatch::default();
                    for round in 0..400_usize {
                        let offset = (round % 5 * 8192) as u64;
                        let data = vec![thread * 50 + u8::try_from(round % 50).unwrap(); 8192];
                        if (round + usize::from(thread)).is_multiple_of(7) {
                            image.write_zeroes_at(offset, 8192).unwrap();
                        }
                        let staged = image.stage_write(&mut batch, offset, &data, Wait::UntilDone);
                        let _done = staged.unwrap();
                        image.commit(&mut batch).unwrap();
                    }
                });
            }
        });
        let before = read_all(&image);
        drop(image);
        assert!(read_all(&pair.image(Vec::new())) == before, "{kind:?}");
    }
}

#[test]
fn a_layer_is_replaced_under_writers_who_notice_nothing() {
    for kind in KINDS {
        let dir = scratch();
        let pair = Pair::create(dir.path(), "0", kind, DISK_BYTES as u64);
        let image = pair.image(Vec::new());
        let new = ["1", "2", "3"].map(|name| {
            let new = Pair::create(dir.path(), name, kind, DISK_BYTES as u64);
            UpperConfig {
                data: new.data,
                index: new.index,
                ..UpperConfig::default()
            }
        });
        let replaced = AtomicBool::new(false);
        let start = Barrier::new(usize::from(THREADS) + 1);
        let passes: usize = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..THREADS)
                .map(|thread| {
                    let (image, start, replaced) = (&image, &start, &replaced);
                    scope.spawn(move || {
                        start.wait();
                        let mut passes = 0;
                        while !replaced.load(Ordering::Acquire) {
                            write_and_read_part(image, thread, passes);
                            passes += 1;
                        }
                        write_and_read_part(image, thread, 0);
                        passes
                    })
                })
                .collect();
            start.wait();
            for upper in &new {
                image.restack(upper).unwrap();
            }
            replaced.store(true, Ordering::Release);
            writers
                .into_iter()
                .map(|writer| writer.join().unwrap())
                .sum()
        });
        assert!(passes > 0, "somebody wrote meanwhile");
        assert_eq!(image.layer_count(), 4);
        let expected: Vec<u8> = (0..DISK_BYTES)
            .map(|byte| u8::try_from(byte * usize::from(THREADS) / DISK_BYTES).unwrap() + 1)
            .collect();
        assert!(read_all(&image) == expected, "{kind:?}");
    }
}

/// Writes one thread's part of the disk, block by block, and reads each block back.
fn write_and_read_part(image: &Image, thread: u8, pass: usize) {
    let part = DISK_BYTES / usize::from(THREADS);
    for block in 0..part / 4096 {
        let offset = usize::from(thread) * part + block * 4096;
        let data = [(thread + 1).wrapping_add(u8::try_from(pass % 50).unwrap() * 5); 4096];
        image.write_at(offset as u64, &data).unwrap();
        let mut back = [0; 4096];
        image.read_exact_at(offset as u64, &mut back).unwrap();
        assert!(back == data, "read what was written");
    }
}
