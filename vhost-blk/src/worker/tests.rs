//! A worker against guests that follow the rules, bend them, and break them.

mod counting;
mod writing;

use std::time::{Duration, Instant};

use layers::{Error, ErrorKind};

use super::*;
use crate::descriptor_chain::INDIRECT_ENTRIES_MAX;
use crate::ring::RingLayout;
use crate::test_guest::*;

const OK: u8 = 0;
const IOERR: u8 = 1;
const UNSUPP: u8 = 2;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// No test takes so long, unless it is broken.
const LONG: Duration = Duration::from_secs(60);

/// Header, data and status where they usually are.
const READ_4K: [Descriptor; 3] = [
    (HEADER, 16, NEXT),
    (DATA, 4096, NEXT | WRITE),
    (STATUS, 1, WRITE),
];

/// Puts `chain` with a header of `kind` and `sector` into the ring, runs, and returns status and
/// used length.
fn serve(guest: &mut Guest, kind: u32, sector: u64, chain: &[Descriptor]) -> (u8, u32) {
    guest.write_header(kind, sector);
    guest.write(STATUS, &[UNTOUCHED]);
    guest.reuse_descriptors();
    let used = guest.used_idx();
    let head = guest.add(chain);
    guest.run();
    assert_eq!(guest.used_idx(), used.wrapping_add(1), "not used");
    let (used_head, len) = *guest.used().last().unwrap();
    assert_eq!(used_head, head);
    (guest.status(), len)
}

/// The ring still works.
fn assert_goes_on(guest: &mut Guest) {
    assert_eq!(serve(guest, IN, 8, &READ_4K), (OK, 4097));
    assert_eq!(guest.bytes(DATA, 4096), disk_bytes(4096, 4096));
}

#[test]
fn a_read_fills_the_data_and_says_so() {
    let mut guest = Guest::new();
    assert_eq!(serve(&mut guest, IN, 8, &READ_4K), (OK, 4097));
    assert_eq!(guest.bytes(DATA, 4096), disk_bytes(4096, 4096));
    assert_eq!(guest.bytes(DATA + 4096, 1), [0]);
}

#[test]
fn a_header_may_come_in_three_pieces() {
    let mut guest = Guest::new();
    let chain = [
        (HEADER, 3, NEXT),
        (HEADER + 3, 6, NEXT),
        (HEADER + 9, 7, NEXT),
        (DATA, 512, NEXT | WRITE),
        (STATUS, 1, WRITE),
    ];
    assert_eq!(serve(&mut guest, IN, 3, &chain), (OK, 513));
    // The same with the pieces out of order in memory.
    let header = guest.bytes(HEADER, 16);
    guest.write(HEADER + 100, &header[..5]);
    guest.write(HEADER + 50, &header[5..]);
    guest.reuse_descriptors();
    guest.add(&[
        (HEADER + 100, 5, NEXT),
        (HEADER + 50, 11, NEXT),
        (DATA + 512, 512, NEXT | WRITE),
        (STATUS, 1, WRITE),
    ]);
    guest.run();
    assert_eq!(guest.status(), OK);
    assert_eq!(guest.bytes(DATA + 512, 512), disk_bytes(3 * 512, 512));
}

#[test]
fn data_may_be_scattered_in_any_pieces() {
    let mut guest = Guest::new();
    let chain = [
        (HEADER, 16, NEXT),
        (DATA + 0x9000, 700, NEXT | WRITE),
        (DATA, 300, NEXT | WRITE),
        (DATA + 0x5000, 2073, NEXT | WRITE),
        (DATA + 0x7000, 1024, WRITE),
    ];
    // The status is the last byte of the last piece.
    assert_eq!(serve(&mut guest, IN, 1, &chain).1, 4097);
    let mut bytes = guest.bytes(DATA + 0x9000, 700);
    bytes.extend(guest.bytes(DATA, 300));
    bytes.extend(guest.bytes(DATA + 0x5000, 2073));
    bytes.extend(guest.bytes(DATA + 0x7000, 1023));
    assert_eq!(bytes, disk_bytes(512, 4096));
    assert_eq!(guest.bytes(DATA + 0x7000 + 1023, 1), [OK]);
}

#[test]
fn a_scattered_read_may_be_larger_than_the_private_buffer() {
    let mut guest = Guest::new();
    let half: u32 = 0x9_0000 + 512;
    let chain = [
        (HEADER, 16, NEXT),
        (DATA + 0x10_0000, half, NEXT | WRITE),
        (DATA, half, NEXT | WRITE),
        (STATUS, 1, WRITE),
    ];
    assert_eq!(serve(&mut guest, IN, 0, &chain), (OK, 2 * half + 1));
    let half = half as usize;
    assert!(guest.bytes(DATA + 0x10_0000, half) == disk_bytes(0, half));
    assert!(guest.bytes(DATA, half) == disk_bytes(half as u64, half));
}

#[test]
fn data_may_reach_over_two_memory_regions() {
    let mut guest = Guest::new();
    let border = MEMORY_BYTES as u64 / 2;
    let chain = [
        (HEADER, 16, NEXT),
        (border - 512, 1024, NEXT | WRITE),
        (STATUS, 1, WRITE),
    ];
    assert_eq!(serve(&mut guest, IN, 5, &chain), (OK, 1025));
    assert_eq!(guest.bytes(border - 512, 1024), disk_bytes(5 * 512, 1024));
}

#[test]
fn an_indirect_table_may_follow_direct_descriptors() {
    let mut guest = Guest::new();
    guest.write_table(
        INDIRECT + 8,
        0,
        &[(DATA, 512, NEXT | WRITE), (STATUS, 1, WRITE)],
    );
    let chain = [
        (HEADER, 16, NEXT),
        (INDIRECT + 8, 32, INDIRECT_FLAG | WRITE),
    ];
    assert_eq!(serve(&mut guest, IN, 9, &chain), (OK, 513));
    assert_eq!(guest.bytes(DATA, 512), disk_bytes(9 * 512, 512));
}

#[test]
fn a_descriptor_of_no_length_is_skipped() {
    let mut guest = Guest::new();
    let chain = [
        (HEADER, 0, NEXT),
        (HEADER, 16, NEXT),
        (UNMAPPED, 0, NEXT | WRITE),
        (DATA, 512, NEXT | WRITE),
        (STATUS, 1, NEXT | WRITE),
        (DATA, 0, WRITE),
    ];
    assert_eq!(serve(&mut guest, IN, 9, &chain), (OK, 513));
}

#[test]
fn a_flush_succeeds() {
    let mut guest = Guest::new();
    let chain = [(HEADER, 16, NEXT), (STATUS, 1, WRITE)];
    assert_eq!(serve(&mut guest, FLUSH, 0, &chain), (OK, 1));
}

#[test]
fn the_serial_is_cut_to_the_room_there_is() {
    let mut guest = Guest::new();
    for (room, expected) in [
        (20, &b"serial-of-the-disk\0\0"[..]),
        (64, b"serial-of-the-disk\0\0"),
        (7, b"serial-"),
    ] {
        guest.write(DATA, &[0xcc; 64]);
        let chain = [
            (HEADER, 16, NEXT),
            (DATA, room, NEXT | WRITE),
            (STATUS, 1, WRITE),
        ];
        let (status, len) = serve(&mut guest, GET_ID, 0, &chain);
        assert_eq!((status, len as usize), (OK, expected.len() + 1));
        assert_eq!(guest.bytes(DATA, expected.len()), expected);
        assert_eq!(guest.bytes(DATA + expected.len() as u64, 1), [0xcc]);
    }
}

#[test]
fn writing_is_an_error_and_an_unknown_request_is_unsupported() {
    let mut guest = Guest::new();
    let chain = [(HEADER, 16, NEXT), (DATA, 512, NEXT), (STATUS, 1, WRITE)];
    for kind in [OUT, DISCARD, WRITE_ZEROES] {
        assert_eq!(serve(&mut guest, kind, 0, &chain), (IOERR, 1));
    }
    for kind in [2, 14, 16, u32::MAX] {
        assert_eq!(serve(&mut guest, kind, 0, &chain), (UNSUPP, 1));
    }
}

#[test]
fn a_read_that_makes_no_sense_is_refused_and_writes_no_data() {
    let mut guest = Guest::new();
    let end = DISK_BYTES / 512;
    for (sector, len) in [
        (0, 511),
        (0, 513),
        (end, 512),
        (end - 1, 1024),
        (u64::MAX, 512),
        (u64::MAX / 512, 512),
        (1 << 55, 512),
        (0, (16 << 20) + 512),
        (0, u32::MAX - 511),
    ] {
        guest.write(DATA, &[0xcc]);
        let chain = [
            (HEADER, 16, NEXT),
            (DATA, len, NEXT | WRITE),
            (STATUS, 1, WRITE),
        ];
        let answer = serve(&mut guest, IN, sector, &chain);
        assert_eq!(answer, (IOERR, 1), "sector {sector}, length {len}");
        assert_eq!(guest.bytes(DATA, 1), [0xcc]);
    }
    assert_goes_on(&mut guest);
}

#[test]
fn a_header_that_is_short_or_nowhere_is_refused() {
    let mut guest = Guest::new();
    for header in [(HEADER, 15, NEXT), (UNMAPPED, 16, NEXT)] {
        let chain = [header, (DATA, 512, NEXT | WRITE), (STATUS, 1, WRITE)];
        assert_eq!(serve(&mut guest, IN, 0, &chain), (IOERR, 1));
    }
    let chain = [(DATA, 512, NEXT | WRITE), (STATUS, 1, WRITE)];
    assert_eq!(serve(&mut guest, IN, 0, &chain), (IOERR, 1));
}

#[test]
fn data_outside_guest_memory_is_refused() {
    let mut guest = Guest::new();
    for address in [UNMAPPED, MEMORY_BYTES as u64 - 512, u64::MAX - 4096] {
        let chain = [
            (HEADER, 16, NEXT),
            (address, 1024, NEXT | WRITE),
            (STATUS, 1, WRITE),
        ];
        assert_eq!(serve(&mut guest, IN, 0, &chain), (IOERR, 1));
    }
}

#[test]
fn a_status_outside_guest_memory_costs_only_the_answer() {
    let mut guest = Guest::new();
    let chain = [
        (HEADER, 16, NEXT),
        (DATA, 512, NEXT | WRITE),
        (UNMAPPED, 1, WRITE),
    ];
    assert_eq!(serve(&mut guest, IN, 0, &chain), (UNTOUCHED, 0));
    assert_goes_on(&mut guest);
}

#[test]
fn a_chain_that_breaks_the_rules_is_dropped_and_the_ring_goes_on() {
    let mut guest = Guest::new();
    let table_len = |entries: usize| u32::try_from(entries * 16).unwrap();
    guest.write_table(INDIRECT, 0, &[(INDIRECT, 32, INDIRECT_FLAG)]);
    let wrap = (u64::MAX - 10, 100, WRITE);
    let cases: [(&str, &[Descriptor]); 10] = [
        ("no status", &[(HEADER, 16, NEXT), (DATA, 512, 0)]),
        ("nothing", &[(HEADER, 0, 0)]),
        (
            "status not last",
            &[(STATUS, 1, NEXT | WRITE), (HEADER, 16, 0)],
        ),
        ("nested indirect", &[(INDIRECT, 16, INDIRECT_FLAG)]),
        (
            "indirect and next",
            &[(INDIRECT, 16, INDIRECT_FLAG | NEXT), (STATUS, 1, WRITE)],
        ),
        ("empty table", &[(INDIRECT, 0, INDIRECT_FLAG)]),
        (
            "table of half a descriptor",
            &[(INDIRECT, 24, INDIRECT_FLAG)],
        ),
        (
            "huge table",
            &[(INDIRECT, table_len(INDIRECT_ENTRIES_MAX + 1), INDIRECT_FLAG)],
        ),
        ("table nowhere", &[(UNMAPPED, 32, INDIRECT_FLAG)]),
        ("address overflow", &[(HEADER, 16, NEXT), wrap]),
    ];
    for (name, chain) in cases {
        assert_eq!(serve(&mut guest, IN, 0, chain), (UNTOUCHED, 0), "{name}");
        assert_goes_on(&mut guest);
    }
}

#[test]
fn a_chain_without_end_is_dropped_and_the_ring_goes_on() {
    let mut guest = Guest::new();
    let endless = |guest: &Guest, table: u64, entries: u16| {
        let chain = vec![(HEADER, 1, NEXT); usize::from(entries)];
        guest.write_table(table, 0, &chain);
        // The last one leads back to the first.
        guest.set_u16(table + u64::from(entries - 1) * 16 + 14, 0);
    };
    endless(&guest, LAYOUT.desc, RING_SIZE);
    guest.make_available(0);
    guest.run();
    assert_eq!(guest.used(), [(0, 0)]);
    assert_goes_on(&mut guest);

    endless(&guest, INDIRECT, 64);
    let chain = [(INDIRECT, 64 * 16, INDIRECT_FLAG)];
    assert_eq!(serve(&mut guest, IN, 0, &chain), (UNTOUCHED, 0));
    assert_goes_on(&mut guest);
}

#[test]
fn a_descriptor_that_leads_out_of_the_table_is_dropped() {
    let mut guest = Guest::new();
    guest.write_table(LAYOUT.desc, 0, &[(HEADER, 16, NEXT)]);
    guest.set_u16(LAYOUT.desc + 14, RING_SIZE);
    guest.make_available(0);
    guest.run();
    assert_eq!(guest.used(), [(0, 0)]);
    assert_goes_on(&mut guest);
}

#[test]
fn a_bad_block_of_the_image_is_an_io_error() {
    let mut guest = Guest::new();
    let answer = serve(&mut guest, IN, BAD_FROM / 512, &READ_4K);
    assert_eq!(answer, (IOERR, 1));
    assert_goes_on(&mut guest);
}

#[test]
fn a_read_that_the_engine_does_not_support_is_an_io_error() {
    let disk = disk_of(&[(0, &[7; 4096])], |_, _| {
        Err(Error::new(ErrorKind::Unsupported, "read", "no such codec"))
    });
    let mut guest = Guest::with_disk(disk);
    assert_eq!(serve(&mut guest, IN, 0, &READ_4K), (IOERR, 1));
}

#[test]
fn an_available_index_that_jumps_breaks_the_ring_until_it_is_started_again() {
    let mut guest = Guest::new();
    guest.add_read(0, 512);
    guest.set_u16(LAYOUT.avail + 2, RING_SIZE + 1);
    guest.run();
    assert_eq!(guest.used_idx(), 0);
    assert!(guest.queue.lock().is_broken());
    guest.set_u16(LAYOUT.avail + 2, 1);
    guest.run();
    assert_eq!(guest.used_idx(), 0, "broken for good");
    guest.queue.stop(Duration::ZERO);
    guest.queue.start();
    guest.run();
    assert_eq!(guest.used_idx(), 1);
}

#[test]
fn a_head_beyond_the_table_breaks_the_ring_after_the_requests_before_it() {
    let mut guest = Guest::new();
    guest.add_read(0, 512);
    guest.make_available(RING_SIZE);
    guest.add_read(1, 512);
    guest.run();
    assert_eq!(guest.used_idx(), 1);
    assert!(guest.queue.lock().is_broken());
    guest.queue.stop(Duration::ZERO);
    assert_eq!(guest.queue.next_avail(), 1);
}

#[test]
fn a_ring_outside_guest_memory_is_broken() {
    for layout in [
        RingLayout {
            desc: UNMAPPED,
            ..LAYOUT
        },
        RingLayout {
            avail: MEMORY_BYTES as u64 - 16,
            ..LAYOUT
        },
        RingLayout {
            used: u64::MAX - 15,
            ..LAYOUT
        },
        RingLayout {
            used: LAYOUT.used + 1,
            ..LAYOUT
        },
        RingLayout { size: 0, ..LAYOUT },
        RingLayout { size: 24, ..LAYOUT },
    ] {
        let mut guest = Guest::new();
        guest.queue.set_layout(layout);
        guest.add_read(0, 512);
        guest.run();
        assert!(guest.queue.lock().is_broken(), "{layout:?}");
    }
}

#[test]
fn a_whole_batch_is_published_with_one_call() {
    let mut guest = Guest::new();
    for sector in 0..5 {
        guest.add_read(sector, 512);
    }
    guest.run();
    assert_eq!(guest.used_idx(), 5);
    assert_eq!(guest.calls(), 1);
}

#[test]
fn a_driver_that_wants_no_calls_gets_none() {
    let mut guest = Guest::new();
    guest.set_u16(LAYOUT.avail, 1);
    guest.add_read(0, 512);
    guest.run();
    assert_eq!(guest.used_idx(), 1);
    assert_eq!(guest.calls(), 0);
}

#[test]
fn with_event_idx_the_driver_is_called_when_its_event_is_passed() {
    let mut guest = Guest::new();
    guest.queue.set_event_idx(true);
    let used_event = LAYOUT.avail + 4 + 2 * u64::from(RING_SIZE);
    // A call at the start, whatever the event says.
    guest.set_u16(used_event, 3);
    guest.add_read(0, 512);
    guest.run();
    assert_eq!(guest.calls(), 1);
    for expected in [0, 0, 1, 0] {
        guest.add_read(0, 512);
        guest.run();
        assert_eq!(guest.calls(), expected, "at {}", guest.used_idx());
    }
}

#[test]
fn a_worker_that_sleeps_has_asked_for_a_kick() {
    let mut guest = Guest::new();
    guest.set_u16(LAYOUT.used, 1);
    guest.add_read(0, 512);
    guest.run();
    assert_eq!(guest.u16(LAYOUT.used), 0, "flags");

    let mut guest = Guest::new();
    guest.queue.set_event_idx(true);
    for _ in 0..3 {
        guest.add_read(0, 512);
    }
    guest.run();
    let avail_event = LAYOUT.used + 4 + 8 * u64::from(RING_SIZE);
    assert_eq!(guest.u16(avail_event), 3);
}

#[test]
fn requests_behind_one_that_waits_are_published_after_it() {
    let mut guest = Guest::new();
    let slow = guest.add_read(PENDING_FROM / 512, 1024);
    let fast = [guest.add_read(1, 512), guest.add_read(2, 512)];
    guest.run();
    assert_eq!(guest.used_idx(), 0);
    assert_eq!(guest.bytes(STATUS, 3), [UNTOUCHED, OK, OK]);
    guest.give_token();
    guest.run_until_used(3);
    assert_eq!(guest.used(), [(slow, 1025), (fast[0], 513), (fast[1], 513)]);
    assert_eq!(guest.bytes(DATA, 1024), disk_bytes(PENDING_FROM, 1024));
    assert_eq!(guest.bytes(STATUS, 3), [OK; 3]);
}

#[test]
fn requests_that_wait_do_not_hold_each_other_up() {
    let mut guest = Guest::new();
    for sector in 0..4 {
        guest.add_read(PENDING_FROM / 512 + sector, 512);
    }
    guest.run();
    for _ in 0..4 {
        guest.give_token();
    }
    guest.run_until_used(4);
    for slot in 0..4_u64 {
        let bytes = guest.bytes(DATA + slot * 0x1_0000, 512);
        assert_eq!(bytes, disk_bytes(PENDING_FROM + slot * 512, 512));
    }
}

#[test]
fn stopping_waits_for_requests_in_flight() {
    let mut guest = Guest::new();
    guest.add_read(PENDING_FROM / 512, 512);
    guest.run();
    let queue = Arc::clone(&guest.queue);
    let stop = std::thread::spawn(move || {
        queue.stop(LONG);
        queue.next_avail()
    });
    guest.give_token();
    guest.run_until_used(1);
    assert_eq!(stop.join().unwrap(), 1);
    assert_eq!(guest.status(), OK);
    guest.add_read(0, 512);
    guest.run();
    assert_eq!(guest.used_idx(), 1, "a stopped ring is left alone");
}

#[test]
fn a_ring_that_breaks_while_it_stops_is_not_waited_for() {
    let mut guest = Guest::new();
    guest.add_read(PENDING_FROM / 512, 512);
    guest.run();
    let start = Instant::now();
    let queue = Arc::clone(&guest.queue);
    let stop = std::thread::spawn(move || queue.stop(LONG));
    while guest.queue.is_active() {
        std::thread::yield_now();
    }
    guest.queue.set_layout(RingLayout {
        used: UNMAPPED,
        ..LAYOUT
    });
    guest.give_token();
    guest.mailbox.wait_posted();
    guest.run();
    stop.join().unwrap();
    assert!(start.elapsed() < LONG);
}

#[test]
fn rings_that_stop_one_after_the_other_wait_once() {
    let mut guest = Guest::new();
    guest.add_read(PENDING_FROM / 512, 512);
    guest.run();
    let start = Instant::now();
    // What the time of another ring of the session is when that has waited in vain.
    guest.stops.get(Duration::ZERO);
    guest.queue.stop(LONG);
    assert!(start.elapsed() < LONG);
    assert_eq!(guest.queue.next_avail(), 0, "left for a replay");
}

#[test]
fn a_request_that_does_not_end_in_time_is_left_for_a_replay_and_never_answered() {
    let mut guest = Guest::new();
    guest.add_read(0, 512);
    guest.add_read(PENDING_FROM / 512, 512);
    guest.add_read(1, 512);
    guest.run();
    assert_eq!(guest.used_idx(), 1);
    guest.queue.stop(Duration::ZERO);
    assert_eq!(guest.queue.next_avail(), 1);

    // Its bytes come now, and must not be written: the buffer may be somebody else's.
    guest.give_token();
    guest.mailbox.wait_posted();
    guest.run();
    assert_eq!(guest.used_idx(), 1);
    assert_eq!(guest.bytes(STATUS + 1, 1), [UNTOUCHED]);
    assert_eq!(guest.bytes(DATA + 0x1_0000, 1), [0]);

    guest.queue.start();
    guest.give_token();
    guest.run_until_used(3);
    assert_eq!(guest.bytes(STATUS, 3), [OK; 3]);
}

#[test]
fn a_worker_that_drains_takes_nothing_new() {
    let mut guest = Guest::new();
    guest.add_read(PENDING_FROM / 512, 512);
    guest.run();
    guest.mailbox.start_drain();
    guest.add_read(0, 512);
    guest.give_token();
    guest.run_until_used(1);
    guest.mailbox.wait_idle(Instant::now());
    guest.run();
    assert_eq!(guest.used_idx(), 1);
    // Not even awake, though there is a request.
    guest.mailbox.take_wake();
    guest.run();
    assert!(!guest.mailbox.take_wake(), "would come back at once");
}

#[test]
fn a_disabled_ring_is_left_alone_until_it_is_enabled() {
    let mut guest = Guest::new();
    guest.queue.set_enabled(false);
    guest.add_read(0, 512);
    guest.run();
    assert_eq!(guest.used_idx(), 0);
    guest.queue.set_enabled(true);
    guest.run();
    assert_eq!(guest.used_idx(), 1);
}
