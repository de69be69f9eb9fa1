//! A registry that goes away under a running disk.

use std::time::{Duration, Instant};

use layers::ErrorKind;
use serde_json::json;
use test_servers::{DockerRegistry, Proxy};

use crate::log_lines;
use crate::support::{Host, Layered, REPO, assert_is, read_piece};

const DISK_BYTES: usize = 4 << 20;

/// The middle of the disk: nothing of it was needed to open the image.
const MIDDLE: std::ops::Range<usize> = DISK_BYTES / 2..DISK_BYTES / 2 + 4096;

#[test]
fn a_registry_that_is_gone_for_good_is_an_error_after_the_time_that_was_set() {
    let registry = DockerRegistry::plain().unwrap();
    let image = Layered::new(1, DISK_BYTES, 1);
    let blobs = image.push(&registry);
    let host = Host::new().with("readRetrySeconds", json!(5));
    let disk = host.open(&registry.repo_blob_url(REPO), &blobs).unwrap();
    registry.kill();
    for _ in 0..2 {
        let started = Instant::now();
        let error = read_piece(&disk, &image.disk, MIDDLE).unwrap_err();
        let time = started.elapsed().as_millis();
        assert!((4700..7000).contains(&time), "{time} ms: {error}");
        assert!(matches!(error.kind(), ErrorKind::Remote(_)), "{error:?}");
        assert!(error.to_string().contains(&blobs[0].0[..19]), "{error}");
    }

    registry.start_again().unwrap();
    assert_is(&disk, &image.disk);
}

#[test]
fn a_read_waits_for_a_registry_that_comes_back() {
    let registry = DockerRegistry::plain().unwrap();
    let image = Layered::new(2, DISK_BYTES, 1);
    let blobs = image.push(&registry);
    let proxy = Proxy::start(registry.address()).unwrap();
    let host = Host::new();
    let disk = host.open(&proxy.repo_blob_url(REPO), &blobs).unwrap();
    registry.kill();
    proxy.forget();
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| read_piece(&disk, &image.disk, MIDDLE));
        // The proxy answers 502 for a registry that is gone.
        assert!(proxy.wait_for_requests(3, Duration::from_secs(30)));
        assert!(!reading.is_finished());
        registry.start_again().unwrap();
        reading.join().unwrap().unwrap();
    });
    assert_is(&disk, &image.disk);
}

#[test]
fn an_open_disk_whose_registry_went_away_reads_what_it_has() {
    let registry = DockerRegistry::plain().unwrap();
    let image = Layered::new(3, DISK_BYTES, 2);
    let blobs = image.push(&registry);
    let url = registry.repo_blob_url(REPO);
    let host = Host::new();
    assert_is(&host.open(&url, &blobs).unwrap(), &image.disk);
    registry.kill();
    assert_is(&host.open(&url, &blobs).unwrap(), &image.disk);
}

#[test]
fn a_read_that_waits_long_for_its_registry_says_so_once() {
    log_lines::keep();
    let registry = DockerRegistry::plain().unwrap();
    let image = Layered::new(4, DISK_BYTES, 1);
    let blobs = image.push(&registry);
    let host = Host::new();
    let disk = host.open(&registry.repo_blob_url(REPO), &blobs).unwrap();
    registry.kill();
    let of_blob = |line: &String| line.contains(&blobs[0].0);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| read_piece(&disk, &image.disk, MIDDLE));
        let warning = log_lines::wait_for(of_blob, Duration::from_secs(60));
        assert!(warning.starts_with("WARN"), "{warning}");
        assert!(warning.contains("Connection refused"), "{warning}");
        assert!(warning.contains("again in"), "{warning}");
        registry.start_again().unwrap();
        reading.join().unwrap().unwrap();
    });
    let end = |line: &String| of_blob(line) && line.contains("fetched after");
    let told = log_lines::wait_for(end, Duration::from_secs(10));
    assert!(told.starts_with("INFO"), "{told}");
    let count = log_lines::all().iter().filter(|line| of_blob(line)).count();
    assert_eq!(count, 2, "{:#?}", log_lines::all());
}
