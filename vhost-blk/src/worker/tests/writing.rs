//! Writes, discards, flushes and the cache mode.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, channel};

use super::*;
use crate::pool::WRITE_BYTES_MAX;
use layers::WritePace;

const KINDS: [UpperKind; 2] = [UpperKind::AppendOnly, UpperKind::Sparse];
const SECTORS: u64 = DISK_BYTES / 512;

/// A guest whose disk takes every write.
fn guest(kind: UpperKind) -> Guest {
    Guest::with_disk(writable_disk(kind, |_| Ok(())))
}

fn pattern(seed: u64, len: usize) -> Vec<u8> {
    disk_bytes(seed * 512 + 3, len)
}

/// As [`serve`], and waits for a request that the pool does.
fn serve_slowly(guest: &mut Guest, kind: u32, sector: u64, chain: &[Descriptor]) -> u8 {
    guest.write_header(kind, sector);
    guest.write(STATUS, &[UNTOUCHED]);
    guest.reuse_descriptors();
    let used = guest.used_idx().wrapping_add(1);
    guest.add(chain);
    guest.run_until_used(used);
    guest.status()
}

fn write(guest: &mut Guest, sector: u64, bytes: &[u8]) -> u8 {
    guest.write(DATA, bytes);
    let len = u32::try_from(bytes.len()).unwrap();
    let chain = [(HEADER, 16, NEXT), (DATA, len, NEXT), (STATUS, 1, WRITE)];
    serve_slowly(guest, OUT, sector, &chain)
}

/// Sends a list of (sector, sectors, flags).
fn zero(guest: &mut Guest, kind: u32, ranges: &[(u64, u32, u32)]) -> u8 {
    let mut list = Vec::new();
    for (sector, sectors, flags) in ranges {
        list.extend(sector.to_le_bytes());
        list.extend(sectors.to_le_bytes());
        list.extend(flags.to_le_bytes());
    }
    guest.write(DATA, &list);
    let len = u32::try_from(list.len()).unwrap();
    let chain = [(HEADER, 16, NEXT), (DATA, len, NEXT), (STATUS, 1, WRITE)];
    serve_slowly(guest, kind, 0, &chain)
}

#[test]
fn writes_of_any_sectors_read_back() {
    for kind in KINDS {
        let mut guest = guest(kind);
        let mut expected = vec![0; 4 << 20];
        for (seed, (sector, sectors)) in [
            (0, 8),
            (1, 1),
            (7, 2),
            (8, 8),
            (13, 100),
            (4095, 1),
            (4096, 2048),
            (3, 9),
        ]
        .into_iter()
        .enumerate()
        {
            let bytes = pattern(seed as u64 + 1, sectors * 512);
            assert_eq!(write(&mut guest, sector as u64, &bytes), OK);
            expected[sector * 512..][..bytes.len()].copy_from_slice(&bytes);
        }
        assert!(guest.disk_bytes(0, 4 << 20) == expected, "{kind:?}");
        // The guest sees the same.
        assert_eq!(serve_slowly(&mut guest, IN, 8, &READ_4K), OK);
        assert_eq!(guest.bytes(DATA, 4096), expected[4096..8192]);
    }
}

#[test]
fn a_write_tells_only_its_status() {
    let mut guest = guest(UpperKind::AppendOnly);
    let chain = [(HEADER, 16, NEXT), (DATA, 512, NEXT), (STATUS, 1, WRITE)];
    assert_eq!(serve(&mut guest, OUT, 0, &chain), (OK, 1));
}

#[test]
fn the_data_of_a_write_may_be_scattered_in_any_pieces() {
    let mut guest = guest(UpperKind::AppendOnly);
    let border = MEMORY_BYTES as u64 / 2;
    // Header and data may share a piece, and a piece may reach over two memory regions.
    let pieces = [
        (HEADER, 16 + 100),
        (DATA, 700),
        (border - 900, 2000),
        (DATA + 0x8000, 1296),
    ];
    let bytes = pattern(9, 4096);
    let mut rest = &bytes[..];
    for (address, len) in pieces {
        let skip = if address == HEADER { 16 } else { 0 };
        let (now, later) = rest.split_at(len as usize - skip);
        guest.write(address + skip as u64, now);
        rest = later;
    }
    assert!(rest.is_empty());
    let mut chain: Vec<_> = pieces.map(|(address, len)| (address, len, NEXT)).into();
    chain.push((STATUS, 1, WRITE));
    assert_eq!(serve(&mut guest, OUT, 3, &chain), (OK, 1));
    assert_eq!(guest.disk_bytes(3 * 512, 4096), bytes);
    assert_eq!(guest.disk_bytes(0, 3 * 512), [0; 3 * 512]);
}

#[test]
fn a_write_may_be_larger_than_the_private_buffer() {
    let mut guest = guest(UpperKind::AppendOnly);
    let bytes = pattern(1, (2 << 20) + 1536);
    assert_eq!(write(&mut guest, 5, &bytes), OK);
    assert!(guest.disk_bytes(5 * 512, bytes.len()) == bytes);
}

#[test]
fn a_write_that_makes_no_sense_is_refused_and_writes_nothing() {
    let mut guest = guest(UpperKind::AppendOnly);
    guest.write(DATA, &pattern(1, 4096));
    for (sector, len) in [
        (0, 511),
        (0, 513),
        (SECTORS, 512),
        (SECTORS - 1, 1024),
        (u64::MAX, 512),
        (1 << 55, 512),
        (0, (16 << 20) + 512),
        (0, u32::MAX - 511),
    ] {
        let chain = [(HEADER, 16, NEXT), (DATA, len, NEXT), (STATUS, 1, WRITE)];
        let answer = serve(&mut guest, OUT, sector, &chain);
        assert_eq!(answer, (IOERR, 1), "sector {sector}, length {len}");
    }
    // The second half lies outside guest memory, or the piece that would be copied next.
    for (address, len) in [
        (UNMAPPED, 512),
        (MEMORY_BYTES as u64 - (1 << 20), (1 << 20) + 512),
    ] {
        let chain = [
            (HEADER, 16, NEXT),
            (DATA, 512, NEXT),
            (address, len, NEXT),
            (STATUS, 1, WRITE),
        ];
        assert_eq!(serve(&mut guest, OUT, 0, &chain), (IOERR, 1));
    }
    assert_eq!(guest.disk_bytes(0, 4096), [0; 4096]);
    let last = pattern(2, 512);
    assert_eq!(write(&mut guest, SECTORS - 1, &last), OK);
    assert_eq!(guest.disk_bytes(DISK_BYTES - 512, 512), last);
}

#[test]
fn a_write_of_nothing_succeeds() {
    let mut guest = guest(UpperKind::AppendOnly);
    let chain = [(HEADER, 16, NEXT), (STATUS, 1, WRITE)];
    assert_eq!(serve(&mut guest, OUT, SECTORS, &chain), (OK, 1));
}

/// Counts changes of the files of a disk, and makes those fail that `fails` is for.
#[derive(Default)]
struct Changes {
    data: AtomicUsize,
    flushes: AtomicUsize,
    index: AtomicUsize,
    fail_index: AtomicBool,
    fail_data: AtomicBool,
}

impl Changes {
    fn disk(self: &Arc<Self>) -> Disk {
        let changes = Arc::clone(self);
        writable_disk(UpperKind::AppendOnly, move |change| {
            let (count, fails) = match change {
                Change::WriteData => (&changes.data, &changes.fail_data),
                Change::WriteIndex => (&changes.index, &changes.fail_index),
                Change::FlushData => (&changes.flushes, &changes.fail_data),
                Change::FlushIndex => return Ok(()),
            };
            count.fetch_add(1, Ordering::SeqCst);
            match fails.swap(false, Ordering::SeqCst) {
                true => Err(Error::new(ErrorKind::NoSpace, "write", "full on purpose")),
                false => Ok(()),
            }
        })
    }
}

#[test]
fn the_writes_of_one_pass_are_committed_together() {
    let changes = Arc::<Changes>::default();
    let mut guest = Guest::with_disk(changes.disk());
    for sector in 0..5 {
        guest.add_write(sector, 512);
    }
    guest.run_until_used(5);
    assert_eq!(guest.bytes(STATUS, 5), [OK; 5]);
    assert_eq!(changes.data.load(Ordering::SeqCst), 5);
    assert_eq!(changes.index.load(Ordering::SeqCst), 1);
}

#[test]
fn reads_and_writes_of_one_pass_are_used_in_the_order_of_the_ring() {
    let mut guest = guest(UpperKind::AppendOnly);
    let heads = [
        guest.add_read(0, 512),
        guest.add_write(1, 512),
        guest.add_read(2, 1024),
        guest.add_write(3, 512),
    ];
    guest.run_until_used(4);
    let expected = heads.into_iter().zip([513, 1, 1025, 1]);
    assert_eq!(guest.used(), expected.collect::<Vec<_>>());
}

#[test]
fn a_commit_that_fails_fails_all_writes_of_the_pass_and_the_disk_goes_on() {
    let changes = Arc::<Changes>::default();
    let mut guest = Guest::with_disk(changes.disk());
    guest.write(DATA, &pattern(4, 1536));
    changes.fail_index.store(true, Ordering::SeqCst);
    for sector in 0..3 {
        guest.add_write(sector, 512);
    }
    guest.add_read(0, 512);
    guest.run_until_used(4);
    assert_eq!(guest.bytes(STATUS, 4), [IOERR, IOERR, IOERR, OK]);
    assert_eq!(guest.disk_bytes(0, 1536), [0; 1536]);
    assert_eq!(write(&mut guest, 1, &pattern(5, 512)), OK);
    assert_eq!(guest.disk_bytes(512, 512), pattern(5, 512));
}

#[test]
fn a_write_without_space_is_an_error_and_the_next_one_succeeds() {
    let changes = Arc::<Changes>::default();
    let mut guest = Guest::with_disk(changes.disk());
    assert_eq!(write(&mut guest, 0, &pattern(1, 512)), OK);
    changes.fail_data.store(true, Ordering::SeqCst);
    assert_eq!(write(&mut guest, 0, &pattern(2, 512)), IOERR);
    assert_eq!(guest.disk_bytes(0, 512), pattern(1, 512));
    assert_eq!(write(&mut guest, 0, &pattern(3, 512)), OK);
    assert_eq!(guest.disk_bytes(0, 512), pattern(3, 512));
}

#[test]
fn what_the_engine_does_not_support_is_an_error_and_not_a_missing_feature() {
    use Change::{FlushData, WriteData, WriteIndex};
    for (request, fails, is_writeback) in [
        (OUT, WriteData, true),
        (OUT, WriteIndex, true),
        (OUT, WriteIndex, false),
        (OUT, FlushData, false),
        (DISCARD, WriteIndex, true),
        (WRITE_ZEROES, WriteIndex, false),
        (FLUSH, FlushData, true),
    ] {
        let failing = Arc::<AtomicBool>::default();
        let fails_now = Arc::clone(&failing);
        let disk = writable_disk(UpperKind::AppendOnly, move |change| {
            if change == fails && fails_now.load(Ordering::SeqCst) {
                return Err(Error::new(
                    ErrorKind::Unsupported,
                    "write",
                    "the log is full",
                ));
            }
            Ok(())
        });
        let mut guest = Guest::with_disk(disk);
        assert_eq!(write(&mut guest, 0, &pattern(1, 4096)), OK);
        if !is_writeback {
            guest.cache.negotiate(0);
        }
        failing.store(true, Ordering::SeqCst);
        let status = match request {
            OUT => write(&mut guest, 0, &pattern(2, 512)),
            FLUSH => serve_slowly(
                &mut guest,
                FLUSH,
                0,
                &[(HEADER, 16, NEXT), (STATUS, 1, WRITE)],
            ),
            _ => zero(&mut guest, request, &[(0, 8, 0)]),
        };
        assert_eq!(status, IOERR, "{request} {fails:?}");
    }
}

#[test]
fn a_ring_that_breaks_in_the_middle_of_a_pass_has_its_writes_committed() {
    let mut guest = guest(UpperKind::AppendOnly);
    guest.write(DATA, &pattern(1, 512));
    guest.add_write(0, 512);
    guest.make_available(RING_SIZE);
    guest.run();
    assert!(guest.queue.lock().is_broken());
    assert_eq!(guest.used_idx(), 1);
    assert_eq!(guest.status(), OK);
    assert_eq!(guest.disk_bytes(0, 512), pattern(1, 512));
}

#[test]
fn discarded_and_zeroed_ranges_read_as_zeros() {
    for kind in KINDS {
        for request in [DISCARD, WRITE_ZEROES] {
            let mut guest = guest(kind);
            let mut expected = pattern(1, 3 << 20);
            assert_eq!(write(&mut guest, 0, &expected), OK);
            let ranges = [(1, 3, 0), (2048, 2049, 0), (9, 0, 0), (16, 8, 0)];
            assert_eq!(zero(&mut guest, request, &ranges), OK);
            for (sector, sectors, _) in ranges {
                let sector = usize::try_from(sector).unwrap();
                expected[sector * 512..][..sectors as usize * 512].fill(0);
            }
            assert!(
                guest.disk_bytes(0, 3 << 20) == expected,
                "{kind:?} {request}"
            );
        }
    }
}

#[test]
fn a_small_discard_is_done_at_once() {
    let mut guest = guest(UpperKind::AppendOnly);
    assert_eq!(write(&mut guest, 0, &pattern(1, 8192)), OK);
    let list = [&8_u64.to_le_bytes()[..], &8_u32.to_le_bytes(), &[0; 4]].concat();
    guest.write(DATA, &list);
    let chain = [(HEADER, 16, NEXT), (DATA, 16, NEXT), (STATUS, 1, WRITE)];
    assert_eq!(serve(&mut guest, DISCARD, 0, &chain), (OK, 1));
    assert_eq!(guest.disk_bytes(4096, 4096), [0; 4096]);
}

#[test]
fn only_zeroes_may_be_asked_to_unmap_and_unknown_flags_are_unsupported() {
    let mut guest = guest(UpperKind::AppendOnly);
    let bytes = pattern(1, 4096);
    assert_eq!(write(&mut guest, 0, &bytes), OK);
    for (request, flags) in [
        (DISCARD, 1),
        (DISCARD, 2),
        (WRITE_ZEROES, 2),
        (WRITE_ZEROES, 5),
    ] {
        let ranges = [(0, 8, 0), (8, 8, flags)];
        assert_eq!(zero(&mut guest, request, &ranges), UNSUPP);
    }
    assert_eq!(guest.disk_bytes(0, 4096), bytes);
    assert_eq!(zero(&mut guest, WRITE_ZEROES, &[(0, 8, 1)]), OK);
    assert_eq!(guest.disk_bytes(0, 4096), [0; 4096]);
}

#[test]
fn ranges_that_make_no_sense_are_refused_and_zero_nothing() {
    let mut guest = guest(UpperKind::AppendOnly);
    let bytes = pattern(1, 4096);
    assert_eq!(write(&mut guest, 0, &bytes), OK);
    for bad in [
        (SECTORS, 1, 0),
        (SECTORS - 1, 2, 0),
        (0, 1 << 31, 0),
        (u64::MAX, 1, 0),
    ] {
        for request in [DISCARD, WRITE_ZEROES] {
            assert_eq!(zero(&mut guest, request, &[(0, 8, 0), bad]), IOERR);
        }
    }
    assert_eq!(zero(&mut guest, DISCARD, &[(0, 1, 0); 17]), IOERR);
    for len in [0, 15, 17] {
        guest.write(DATA, &[0; 17]);
        let chain = [(HEADER, 16, NEXT), (DATA, len, NEXT), (STATUS, 1, WRITE)];
        assert_eq!(serve(&mut guest, DISCARD, 0, &chain), (IOERR, 1));
    }
    assert_eq!(guest.disk_bytes(0, 4096), bytes);
}

/// A disk whose flushes, or writes, take a token each; what it has begun is counted.
fn slow_disk(slow: Change, begun: &Arc<AtomicUsize>, tokens: Receiver<()>) -> Disk {
    let (begun, tokens) = (Arc::clone(begun), Mutex::new(tokens));
    writable_disk(UpperKind::AppendOnly, move |change| {
        if change == slow {
            begun.fetch_add(1, Ordering::SeqCst);
            // Without a giver it is as quick as any; a test that has failed must end.
            tokens.lock().unwrap().recv_timeout(LONG).ok();
        }
        Ok(())
    })
}

fn wait_for(count: &AtomicUsize, expected: usize) {
    let deadline = Instant::now() + LONG;
    while count.load(Ordering::SeqCst) < expected {
        assert!(Instant::now() < deadline, "it never happened");
        std::thread::yield_now();
    }
}

#[test]
fn a_flush_does_not_hold_up_the_requests_behind_it() {
    let (give, tokens) = channel();
    let flushes = Arc::default();
    let mut guest = Guest::with_disk(slow_disk(Change::FlushData, &flushes, tokens));
    assert_eq!(write(&mut guest, 0, &pattern(1, 512)), OK);
    guest.reuse_descriptors();
    guest.add_flush();
    guest.add_read(0, 512);
    guest.run();
    // The read is done, and used after the flush.
    assert_eq!(guest.bytes(STATUS + 1, 2), [UNTOUCHED, OK]);
    assert_eq!(guest.used_idx(), 1);
    give.send(()).unwrap();
    guest.run_until_used(3);
    assert_eq!(guest.bytes(STATUS + 1, 2), [OK; 2]);
    drop(give);
}

#[test]
fn flushes_that_come_together_share_one_flush() {
    let (give, tokens) = channel();
    let flushes = Arc::default();
    let mut guest = Guest::with_disk(slow_disk(Change::FlushData, &flushes, tokens));
    assert_eq!(write(&mut guest, 0, &pattern(1, 512)), OK);
    guest.reuse_descriptors();
    guest.add_flush();
    guest.run();
    wait_for(&flushes, 1);
    // None of these is answered by the flush that runs; all of them by the next one.
    guest.add_write(8, 512);
    for _ in 0..3 {
        guest.add_flush();
    }
    guest.run();
    give.send(()).unwrap();
    give.send(()).unwrap();
    guest.run_until_used(6);
    assert_eq!(guest.bytes(STATUS + 1, 5), [OK; 5]);
    assert_eq!(flushes.load(Ordering::SeqCst), 2);
    drop(give);
}

#[test]
fn a_flush_that_fails_is_an_error_for_all_who_share_it() {
    let changes = Arc::<Changes>::default();
    let mut guest = Guest::with_disk(changes.disk());
    assert_eq!(write(&mut guest, 0, &pattern(1, 512)), OK);
    guest.reuse_descriptors();
    changes.fail_data.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        guest.add_flush();
    }
    guest.run_until_used(4);
    assert_eq!(guest.bytes(STATUS + 1, 3), [IOERR; 3]);
    // What was lost stays lost.
    guest.add_flush();
    guest.run_until_used(5);
    assert_eq!(guest.bytes(STATUS + 4, 1), [IOERR]);
    assert_eq!(write(&mut guest, 0, &pattern(2, 512)), OK);
}

#[test]
fn without_a_write_back_cache_a_write_is_flushed_before_it_is_acknowledged() {
    let (give, tokens) = channel();
    let flushes = Arc::default();
    let mut guest = Guest::with_disk(slow_disk(Change::FlushData, &flushes, tokens));
    guest.cache.negotiate(0);
    guest.write(DATA, &pattern(1, 512));
    guest.add_write(0, 512);
    guest.run();
    wait_for(&flushes, 1);
    guest.run();
    assert_eq!(guest.used_idx(), 0);
    // These come too late for that flush, and share one.
    for sector in 1..4 {
        guest.add_write(sector, 512);
    }
    guest.run();
    let deadline = Instant::now() + LONG;
    while guest.worker.pool.flush_waiters() < 3 {
        assert!(Instant::now() < deadline, "never written");
        std::thread::yield_now();
    }
    give.send(()).unwrap();
    guest.run_until_used(1);
    assert_eq!(guest.status(), OK);
    wait_for(&flushes, 2);
    guest.run();
    assert_eq!(guest.used_idx(), 1);
    give.send(()).unwrap();
    guest.run_until_used(4);
    assert_eq!(guest.bytes(STATUS, 4), [OK; 4]);
    assert_eq!(guest.disk_bytes(0, 2048), pattern(1, 512).repeat(4));
    assert_eq!(flushes.load(Ordering::SeqCst), 2);
    drop(give);
}

#[test]
fn without_a_write_back_cache_zeroes_are_flushed_too() {
    let changes = Arc::<Changes>::default();
    let mut guest = Guest::with_disk(changes.disk());
    guest.cache.negotiate(0);
    assert_eq!(write(&mut guest, 0, &pattern(1, 4096)), OK);
    assert_eq!(changes.flushes.load(Ordering::SeqCst), 1);
    assert_eq!(zero(&mut guest, DISCARD, &[(0, 8, 0)]), OK);
    assert_eq!(changes.flushes.load(Ordering::SeqCst), 2);
    assert_eq!(guest.disk_bytes(0, 4096), [0; 4096]);
}

/// Puts a write of 16 MiB at `offset` into the ring: the first MiB of `DATA` again and again.
fn add_large_write(guest: &mut Guest, slot: u64, offset: u64) {
    const HALF: u32 = 1 << 19;
    let (header, status) = (HEADER + 16 * slot, STATUS + slot);
    let mut chain = vec![(header, 16, NEXT)];
    for _ in 0..16 {
        // Neighbours would be merged.
        chain.extend([(DATA, HALF, NEXT), (DATA + u64::from(HALF), HALF, NEXT)]);
    }
    chain.push((status, 1, WRITE));
    let table = INDIRECT + slot * 0x400;
    guest.write_table(table, 0, &chain);
    guest.write_header_at(header, OUT, offset / 512);
    guest.write(status, &[UNTOUCHED]);
    let len = u32::try_from(chain.len() * 16).unwrap();
    guest.add(&[(table, len, INDIRECT_FLAG)]);
}

#[test]
fn writes_wait_for_room_in_the_pool() {
    const LEN: usize = 16 << 20;
    let (give, tokens) = channel();
    let begun = Arc::default();
    let mut guest = Guest::with_disk(slow_disk(Change::WriteData, &begun, tokens));
    guest.cache.negotiate(0);
    let (early, late) = (pattern(1, 1 << 20), pattern(2, 1 << 20));
    guest.write(DATA, &early);
    let with_room = WRITE_BYTES_MAX / LEN;
    for slot in 0..with_room + 2 {
        add_large_write(&mut guest, slot as u64, (slot * LEN) as u64);
    }
    guest.run();
    wait_for(&begun, 1);
    assert_eq!(guest.used_idx(), 0);
    // No guest does that; it shows whose data has not been copied yet.
    guest.write(DATA, &late);
    drop(give);
    let requests = u16::try_from(with_room + 2).unwrap();
    guest.run_until_used(requests);
    assert_eq!(guest.bytes(STATUS, with_room + 2), vec![OK; with_room + 2]);
    for slot in 0..with_room + 2 {
        let expected = if slot < with_room { &early } else { &late };
        let written = guest.disk_bytes((slot * LEN) as u64, LEN);
        assert!(written == expected.repeat(16), "write {slot}");
    }
}

#[test]
fn writes_to_a_slow_disk_do_not_hold_up_the_requests_behind_them() {
    let (give, tokens) = channel();
    let begun = Arc::default();
    let disk = slow_disk(Change::WriteData, &begun, tokens);
    let mut guest = Guest::with_disk(disk.with_pace(WritePace::always_slow()));
    guest.write(DATA, &pattern(1, 512));
    guest.add_write(0, 512);
    guest.add_read(8, 512);
    guest.run();
    assert_eq!(guest.bytes(STATUS, 2), [UNTOUCHED, OK]);
    give.send(()).unwrap();
    guest.run_until_used(2);
    assert_eq!(guest.bytes(STATUS, 2), [OK; 2]);
    assert_eq!(guest.disk_bytes(0, 512), pattern(1, 512));
    drop(give);
}

#[test]
fn a_ring_does_not_stop_before_the_pool_has_written_for_it() {
    let (give, tokens) = channel();
    let begun = Arc::default();
    let mut guest = Guest::with_disk(slow_disk(Change::WriteData, &begun, tokens));
    guest.cache.negotiate(0);
    guest.write(DATA, &pattern(1, 512));
    guest.add_write(0, 512);
    guest.run();
    wait_for(&begun, 1);
    let queue = Arc::clone(&guest.queue);
    // Out of time, but a replay of the write must not be overtaken by the write itself.
    let stop = std::thread::spawn(move || {
        queue.stop(Duration::ZERO);
        queue.next_avail()
    });
    while guest.queue.is_active() {
        std::thread::yield_now();
    }
    give.send(()).unwrap();
    guest.run_until_used(1);
    assert_eq!(stop.join().unwrap(), 1, "left for a replay");
    assert_eq!(guest.disk_bytes(0, 512), pattern(1, 512));
    drop(give);
}

#[test]
fn a_broken_ring_does_not_stop_before_the_pool_has_written_for_it() {
    let (give, tokens) = channel();
    let begun = Arc::default();
    let mut guest = Guest::with_disk(slow_disk(Change::WriteData, &begun, tokens));
    guest.cache.negotiate(0);
    guest.write(DATA, &pattern(1, 512));
    guest.add_write(0, 512);
    guest.run();
    wait_for(&begun, 1);
    guest.set_u16(LAYOUT.avail + 2, RING_SIZE + 2);
    guest.run();
    assert!(guest.queue.lock().is_broken());
    let queue = Arc::clone(&guest.queue);
    let disk = Arc::clone(&guest.disk);
    let stop = std::thread::spawn(move || {
        queue.stop(Duration::ZERO);
        let mut bytes = vec![0; 512];
        disk.image().read_exact_at(0, &mut bytes).unwrap();
        bytes
    });
    drop(give);
    let deadline = Instant::now() + LONG;
    while !stop.is_finished() {
        assert!(Instant::now() < deadline, "never stopped");
        guest.run();
        std::thread::yield_now();
    }
    assert_eq!(stop.join().unwrap(), pattern(1, 512));
}

#[test]
fn a_session_does_not_end_before_the_pool_has_written_for_it_and_begins_no_write_then() {
    let (give, tokens) = channel();
    let begun = Arc::default();
    let mut guest = Guest::with_disk(slow_disk(Change::WriteData, &begun, tokens));
    guest.cache.negotiate(0);
    guest.write(DATA, &pattern(1, 512));
    // Two of four threads may write.
    for sector in 0..3 {
        guest.add_write(sector, 512);
    }
    guest.run();
    wait_for(&begun, 2);
    guest.mailbox.close();
    assert!(!guest.mailbox.wait_for_writes(Duration::ZERO));
    drop(give);
    assert!(guest.mailbox.wait_for_writes(LONG));
    assert!(!guest.mailbox.begin_write());
    assert_eq!(begun.load(Ordering::SeqCst), 2);
    assert_eq!(guest.disk_bytes(0, 512), pattern(1, 512));
    assert_eq!(guest.disk_bytes(512, 512), pattern(1, 512));
}
