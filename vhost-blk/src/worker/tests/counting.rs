//! What is counted of a guest's requests.

use layers::metrics::Totals;

use super::*;

fn totals(guest: &Guest) -> Totals {
    guest.disk.metrics().totals()
}

#[test]
fn every_request_counts_once_with_its_bytes_when_it_is_answered() {
    let mut guest = Guest::new();
    assert_eq!(serve(&mut guest, IN, 8, &READ_4K).0, OK);
    assert_eq!(serve(&mut guest, IN, 16, &READ_4K).0, OK);
    assert_eq!(serve(&mut guest, FLUSH, 0, &READ_4K).0, OK);
    assert_eq!(serve(&mut guest, GET_ID, 0, &READ_4K).0, OK);
    let totals = totals(&guest);
    assert_eq!(totals.requests, [2, 0, 0, 1, 1]);
    assert_eq!((totals.read_bytes, totals.errors), (8192, 0));
    assert_eq!(guest.disk.metrics().waits.snapshot().count(), 0);
    let story = guest.disk.metrics().journal().story();
    assert!(story.first_read_seconds.unwrap() <= story.first_answer_seconds.unwrap());
}

#[test]
fn a_request_that_waits_is_in_flight_until_it_is_answered() {
    let mut guest = Guest::new();
    guest.add_read(PENDING_FROM / 512, 1024);
    guest.add_read(1, 512);
    guest.run();
    let before = totals(&guest);
    assert_eq!((before.in_flight, before.requests[0]), (1, 1));
    guest.give_token();
    guest.run_until_used(2);
    let after = totals(&guest);
    assert_eq!((after.in_flight, after.requests[0]), (0, 2));
    assert_eq!(after.read_bytes, 1536);
    assert_eq!(after.busy, Duration::ZERO);
    assert_eq!(guest.disk.metrics().waits.snapshot().count(), 1);
}

#[test]
fn failed_and_senseless_requests_are_errors_and_move_no_bytes() {
    let mut guest = Guest::new();
    assert_eq!(serve(&mut guest, OUT, 0, &READ_4K).0, IOERR);
    assert_eq!(serve(&mut guest, 77, 0, &READ_4K).0, UNSUPP);
    assert_eq!(serve(&mut guest, IN, BAD_FROM / 512, &READ_4K).0, IOERR);
    // No room for a status.
    guest.add(&[(HEADER, 16, 0)]);
    guest.run();
    let totals = totals(&guest);
    assert_eq!((totals.errors, totals.read_bytes), (4, 0));
    assert_eq!(totals.requests, [1, 0, 0, 0, 3]);
}

#[test]
fn writes_count_however_they_are_done() {
    for kind in [UpperKind::AppendOnly, UpperKind::Sparse] {
        let mut guest = Guest::with_disk(writable_disk(kind, |_| Ok(())));
        guest.add_write(8, 4096);
        guest.add_flush();
        guest.run_until_used(2);
        // Without a cache the pool does it.
        guest.cache.set_writeback(false).unwrap();
        guest.add_write(16, 512);
        guest.run_until_used(3);
        let totals = totals(&guest);
        assert_eq!(totals.requests, [0, 2, 0, 1, 0]);
        assert_eq!((totals.written_bytes, totals.errors), (4608, 0));
        assert_eq!(totals.in_flight, 0);
    }
}
