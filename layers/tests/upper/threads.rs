//! Many threads on one layer.

use std::sync::Barrier;

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
        let start = Barrier::new(usize::from(THREADS) + 1);
        std::thread::scope(|scope| {
            for thread in 0..THREADS {
                let (image, start) = (&image, &start);
                scope.spawn(move || {
                    start.wait();
                    let part = DISK_BYTES / usize::from(THREADS);
                    for block in 0..part / 4096 {
                        let offset = usize::from(thread) * part + block * 4096;
                        let data = [thread + 1; 4096];
                        image.write_at(offset as u64, &data).unwrap();
                        let mut back = [0; 4096];
                        image.read_exact_at(offset as u64, &mut back).unwrap();
                        assert!(back == data, "read what was written");
                    }
                });
            }
            start.wait();
            for name in ["1", "2", "3"] {
                let new = Pair::create(dir.path(), name, kind, DISK_BYTES as u64);
                let new = layers::config::UpperConfig {
                    data: new.data,
                    index: new.index,
                    ..layers::config::UpperConfig::default()
                };
                image.restack(&new).unwrap();
            }
        });
        assert_eq!(image.layer_count(), 4);
        let expected: Vec<u8> = (0..DISK_BYTES)
            .map(|byte| u8::try_from(byte * usize::from(THREADS) / DISK_BYTES).unwrap() + 1)
            .collect();
        assert!(read_all(&image) == expected, "{kind:?}");
    }
}
