//! Disks that are read while their layer is downloaded.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use layers::config::DownloadConfig;
use layers::{Dest, Progress, ReadAt, Wait};

use crate::support::{Disk, Origin, PIECE, config, content, room, wait_until};

#[test]
fn readers_see_right_bytes_before_during_and_after_the_switch() {
    let len = 8 * PIECE + 77;
    // Few pieces, since these readers never let go of the origin.
    let config = DownloadConfig {
        block_size: 4 << 20,
        ..config()
    };
    for _ in 0..4 {
        let room = room();
        let origin = Origin::new(content(len));
        origin.gate.admit(0);
        let disk = Disk::start(&origin, &room.dir, &room.cache, &config);
        let (before, after) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for reader in 0..3 {
                let (switch, origin) = (&disk.switch, &origin);
                let (before, after, done) = (&before, &after, &done);
                scope.spawn(move || {
                    let mut seed = reader;
                    let mut buf = vec![0; 20_000];
                    while !done.load(Ordering::Relaxed) {
                        let local = switch.is_local();
                        seed = (seed * 1_103_515_245 + 12345) % (1 << 31);
                        let at = seed % (len - buf.len());
                        let wait = [Wait::Never, Wait::UntilDone][seed / 7 % 2];
                        buf.fill(0);
                        let read = switch.read_at(at as u64, Dest::from(&mut buf[..]), wait);
                        if read.unwrap() == Progress::Done {
                            assert!(buf == origin.bytes[at..at + buf.len()]);
                            [before, after][usize::from(local)].fetch_add(1, Ordering::Relaxed);
                        }
                    }
                });
            }
            wait_until(|| before.load(Ordering::Relaxed) > 50);
            origin.gate.admit(usize::MAX);
            disk.wait();
            wait_until(|| after.load(Ordering::Relaxed) > 50);
            done.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn a_read_that_waits_for_the_origin_is_known_to_the_download() {
    let room = room();
    let origin = Origin::new(content(20 * PIECE));
    origin.gate.admit(0);
    origin.guests.admit(0);
    let disk = Disk::start(&origin, &room.dir, &room.cache, &config());
    let quiet = || {
        let waits = &disk.metrics.guest_waits;
        waits.is_quiet(Instant::now(), Duration::ZERO)
    };
    let mut buf = [0; 10];
    // Far from the ends, which the cache fetches for itself.
    let at = 10 * PIECE;
    let now = disk
        .switch
        .read_at(at as u64, Dest::from(&mut buf[..]), Wait::Never);
    assert_eq!(now.unwrap(), Progress::Pending);
    assert!(quiet());
    std::thread::scope(|scope| {
        let switch = &disk.switch;
        let read = scope.spawn(move || switch.read_exact_at(at as u64, &mut buf).map(|()| buf));
        wait_until(|| !quiet());
        origin.guests.admit(usize::MAX);
        assert_eq!(read.join().unwrap().unwrap(), origin.bytes[at..at + 10]);
    });
    wait_until(quiet);
    origin.gate.admit(usize::MAX);
}
