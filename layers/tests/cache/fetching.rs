use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use layers::error::Remote;
use layers::range_source::Urgency;
use layers::{ErrorKind, ReadAt};

use crate::support::{DIGEST, Host, LONG, Origin, content, fill, read, settle};

const MIB: u64 = 1 << 20;

#[test]
fn many_readers_of_one_block_are_one_fetch() {
    let bytes = content(10, 4 << 20);
    let (host, origin) = (Host::new(), Origin::new(bytes.clone()));
    let cache = host.cache();
    let blob = Arc::new(host.blob(&cache, &origin));
    settle(&blob);
    let before = origin.fetches().len();
    origin.stop_at(Some(0));
    let readers: Vec<_> = (0..16)
        .map(|_| {
            let blob = Arc::clone(&blob);
            std::thread::spawn(move || read(&blob, 2 * MIB + 100, 3000))
        })
        .collect();
    origin.wait_until_stopped(1);
    origin.stop_at(None);
    for reader in readers {
        assert!(reader.join().unwrap() == bytes[(2 << 20) + 100..(2 << 20) + 3100]);
    }
    assert_eq!(origin.fetches().len() - before, 1);
}

#[test]
fn a_reader_has_its_bytes_before_the_rest_of_the_request_is_in() {
    let bytes = content(11, 4 << 20);
    let (host, origin) = (Host::new(), Origin::new(bytes.clone()));
    let cache = host.cache();
    let blob = Arc::new(host.blob(&cache, &origin));
    settle(&blob);
    origin.stop_at(Some(MIB + 100_000));
    let prefetch = {
        let blob = Arc::clone(&blob);
        std::thread::spawn(move || blob.prefetch(MIB..2 * MIB, Urgency::Background))
    };
    origin.wait_until_stopped(1);
    assert!(read(&blob, MIB + 50_000, 100) == bytes[(1 << 20) + 50_000..(1 << 20) + 50_100]);
    origin.stop_at(None);
    prefetch.join().unwrap().unwrap();
    assert_eq!(origin.served(), 65_536 + 131_072 + MIB);
}

#[test]
fn opening_fetches_head_and_tail_by_itself_and_nothing_else() {
    let (host, origin) = (Host::new(), Origin::new(content(12, 4 << 20)));
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    settle(&blob);
    let mut fetches = origin.fetches();
    fetches.sort_by_key(|(range, _)| range.start);
    let expected = [
        (0..65_536, Urgency::Guest),
        (4 * MIB - 131_072..4 * MIB, Urgency::Guest),
    ];
    assert_eq!(fetches, expected);
}

#[test]
fn a_lone_miss_fetches_little_and_a_reader_in_order_does_not_wait_for_each_block() {
    let bytes = content(13, 32 << 20);
    let (host, origin) = (Host::new(), Origin::new(bytes.clone()));
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    settle(&blob);
    let before = origin.served();
    read(&blob, 20 * MIB + 5000, 100);
    blob.prefetch(20 * MIB..20 * MIB + 1, Urgency::Guest)
        .unwrap();
    assert_eq!(origin.served() - before, 32 << 10);
    for number in 0..4 * MIB / 4096 {
        read(&blob, 8 * MIB + number * 4096, 4096);
    }
    let fetches = origin.fetches();
    let by_readers = fetches
        .iter()
        .filter(|(_, urgency)| *urgency == Urgency::Guest)
        .count();
    assert!(
        by_readers < 40,
        "readers of 4 MiB in order asked {by_readers} times"
    );
    assert!(fetches.len() < 30, "{} requests", fetches.len());
    fill(&blob);
    assert_eq!(origin.served(), 32 * MIB, "nothing twice");
}

#[test]
fn a_configured_refill_size_rounds_misses_to_it() {
    let (mut host, origin) = (Host::new(), Origin::new(content(14, 4 << 20)));
    host.config.refill_bytes = Some(262_144);
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    settle(&blob);
    read(&blob, 2 * MIB + 300_000, 10);
    let last = origin.fetches().last().unwrap().0.clone();
    assert_eq!(last, 2 * MIB + 262_144..2 * MIB + 524_288);
    host.config.refill_bytes = Some(5000);
    let error = layers::cache::Cache::open(&host.config, &host.metrics, &Arc::default());
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Config);
}

#[test]
fn a_failed_fetch_fails_all_who_wait_and_the_next_read_tries_again() {
    let bytes = content(15, 4 << 20);
    let (host, origin) = (Host::new(), Origin::new(bytes.clone()));
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    settle(&blob);
    origin.fail_next(1);
    let error = blob.read_exact_at(2 * MIB, &mut [0; 10]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote(Remote::ServerFailed));
    assert!(read(&blob, 2 * MIB, 10) == bytes[2 << 20..(2 << 20) + 10]);
}

#[test]
fn what_arrived_before_a_fetch_failed_is_kept() {
    let bytes = content(16, 4 << 20);
    let (host, origin) = (Host::new(), Origin::new(bytes.clone()));
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    settle(&blob);
    origin.stop_at(Some(MIB + 200_000));
    host.patience.set(Duration::from_millis(100));
    let error = blob.prefetch(MIB..2 * MIB, Urgency::Guest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote(Remote::TimedOut));
    host.patience.set(LONG);
    origin.stop_at(None);
    let before = origin.served();
    fill(&blob);
    let again = origin.served() - before;
    assert!(
        again <= bytes.len() as u64 - 65_536 - 131_072 - 190_000,
        "{again}"
    );
}

#[test]
fn a_read_gives_up_when_its_patience_ends() {
    let (host, origin) = (Host::new(), Origin::new(content(17, 4 << 20)));
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    settle(&blob);
    origin.stop_at(Some(0));
    host.patience.set(Duration::from_millis(50));
    let began = Instant::now();
    let error = blob.read_exact_at(2 * MIB, &mut [0; 10]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Remote(Remote::TimedOut));
    assert!(began.elapsed() < Duration::from_secs(20));
    assert!(
        error.to_string().contains(DIGEST) || error.to_string().contains("stopped"),
        "{error}"
    );
    origin.stop_at(None);
}

#[test]
fn a_patient_reader_outlives_the_fetch_of_an_impatient_one() {
    let bytes = content(18, 4 << 20);
    let (host, origin) = (Host::new(), Origin::new(bytes.clone()));
    let cache = host.cache();
    let blob = Arc::new(host.blob(&cache, &origin));
    settle(&blob);
    origin.stop_at(Some(0));
    host.patience.set(Duration::from_millis(300));
    let impatient = {
        let blob = Arc::clone(&blob);
        std::thread::spawn(move || blob.read_exact_at(2 * MIB, &mut [0; 10]))
    };
    origin.wait_until_stopped(1);
    host.patience.set(LONG);
    let patient = {
        let blob = Arc::clone(&blob);
        std::thread::spawn(move || read(&blob, 2 * MIB, 10))
    };
    impatient.join().unwrap().unwrap_err();
    // The patient one has asked again, and stands still.
    origin.wait_until_stopped(1);
    origin.stop_at(None);
    assert!(patient.join().unwrap() == bytes[2 << 20..(2 << 20) + 10]);
}

#[test]
fn hits_misses_and_bytes_are_counted() {
    let (host, origin) = (Host::new(), Origin::new(content(19, 4 << 20)));
    let cache = host.cache();
    let blob = host.blob(&cache, &origin);
    settle(&blob);
    let count = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::SeqCst);
    read(&blob, 2 * MIB, 100);
    assert_eq!(count(&host.metrics.cache_misses), 1);
    fill(&blob);
    read(&blob, 2 * MIB, 100);
    assert_eq!(count(&host.metrics.cache_hits), 1);
    assert_eq!(count(&host.metrics.cache_hit_bytes), 100);
    assert_eq!(count(&host.metrics.cache_filled_bytes), 4 * MIB);
    assert_eq!(host.journal.fetched_bytes(), 4 * MIB);
    assert_eq!(host.journal.waits(), 1);
}
