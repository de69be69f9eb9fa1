//! Snapshots under load are points in time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use layers::Image;
use layers::lsmt::upper::UpperKind;

use crate::sequence::{BYTES, Progress, WRITERS, found, now, write};
use crate::support::{DEADLINE, Disk, KINDS, scratch};

const SNAPSHOTS: usize = 12;

/// Operations of all writers between two snapshots.
const BETWEEN: u64 = 150;

/// A snapshot: its layers, and what was acknowledged when it began and when it had ended.
struct Taken {
    layers: Vec<std::path::PathBuf>,
    before: [u64; WRITERS],
    after: [u64; WRITERS],
}

#[test]
fn every_snapshot_under_load_is_a_prefix_of_what_was_written() {
    for kind in KINDS {
        let (dir, other) = (scratch(), scratch());
        let disk = Disk::create(dir.path(), kind, BYTES);
        // The layers alternate between both kinds.
        let mut other = Disk::create(other.path(), KINDS[usize::from(kind == KINDS[0])], BYTES);
        other.dir = disk.dir.clone();
        let image = disk.open().unwrap();
        let (taken, end) = take_many(&disk, &other, &image);
        for (number, taken) in taken.iter().enumerate() {
            let snapshot = disk.open_layers(&taken.layers);
            for writer in 0..WRITERS {
                // One more may have been under way.
                let most = taken.after[writer] + 1;
                found(&snapshot, writer, taken.before[writer], most);
            }
            assert_eq!(snapshot.layer_count(), number + 2);
        }
        let concurrent = taken.iter().filter(|taken| taken.before != taken.after);
        assert!(concurrent.count() > 0, "nobody wrote during a snapshot");
        assert_has(&image, end);
        drop(image);
        assert_has(&disk.open().unwrap(), end);
    }
}

fn assert_has(image: &Image, end: [u64; WRITERS]) {
    for (writer, end) in end.into_iter().enumerate() {
        found(image, writer, end, end);
    }
}

/// Takes snapshots while writers write; returns them, and how far the writers came.
fn take_many(disk: &Disk, other: &Disk, image: &Image) -> (Vec<Taken>, [u64; WRITERS]) {
    let (progress, done) = (Progress::default(), AtomicBool::new(false));
    let taken = std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (progress, done) = (&progress, &done);
            scope.spawn(move || {
                let mut number = 0;
                while !done.load(Ordering::Relaxed) {
                    number += 1;
                    write(image, writer, number);
                    progress[writer].store(number, Ordering::SeqCst);
                }
            });
        }
        let _ends = OnDrop(&done);
        let take = |number: usize| {
            wait_for_writers(&progress);
            let disk = [disk, other][number % 2];
            let layers = disk.prepare(&format!("upper{number}"));
            let before = now(&progress);
            disk.snapshot(image).unwrap();
            let after = now(&progress);
            Taken {
                layers,
                before,
                after,
            }
        };
        (0..SNAPSHOTS).map(take).collect()
    });
    (taken, now(&progress))
}

fn wait_for_writers(progress: &Progress) {
    let start = Instant::now();
    let goal = now(progress).map(|number| number + BETWEEN / WRITERS as u64);
    while now(progress)
        .iter()
        .zip(goal)
        .any(|(now, goal)| *now < goal)
    {
        assert!(start.elapsed() < DEADLINE, "the writers hang");
        std::thread::yield_now();
    }
}

/// Ends the writers, also when the test fails.
struct OnDrop<'a>(&'a AtomicBool);

impl Drop for OnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_batch_that_is_staged_is_in_the_snapshot_as_a_whole_or_not_at_all() {
    use layers::{Wait, WriteBatch};
    let dir = scratch();
    let disk = Disk::create(dir.path(), UpperKind::AppendOnly, BYTES);
    let image = disk.open().unwrap();
    let layers = disk.prepare("1");
    let mut batch = WriteBatch::default();
    for block in [1, 200] {
        let staged = image.stage_write(&mut batch, block * 4096, &[9; 4096], Wait::UntilDone);
        staged.unwrap().expect_done("stage").unwrap();
    }
    std::thread::scope(|scope| {
        let taking = scope.spawn(|| disk.snapshot(&image));
        // It has to wait for the batch; whoever may not wait is turned away meanwhile.
        let mut probe = WriteBatch::default();
        let start = Instant::now();
        loop {
            let staged = image.stage_write(&mut probe, 0, &[1; 512], Wait::Never);
            let is_pending = matches!(staged.unwrap(), layers::Progress::Pending);
            image.commit(&mut probe).unwrap();
            if is_pending {
                break;
            }
            assert!(start.elapsed() < DEADLINE, "the gate does not close");
        }
        assert!(!taking.is_finished());
        image.commit(&mut batch).unwrap();
        taking.join().unwrap().unwrap();
    });
    let snapshot = disk.open_layers(&layers);
    for block in [1, 200] {
        assert_eq!(crate::support::byte_at(&snapshot, block), 9);
    }
}
