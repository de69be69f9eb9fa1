//! Traces that each boot leaves for the next one.

use std::path::PathBuf;
use std::sync::Arc;

use layers::prefetch::Trace;
use serde_json::json;

use crate::support::{Host, Origin, RemoteDisk, native_layers, wait_until};

fn origins() -> Vec<Arc<Origin>> {
    native_layers().into_iter().map(Origin::new).collect()
}

/// Boots with an empty cache beside the traces that are there; reads at `places` and closes.
fn boot(host: &Host, origins: &[Arc<Origin>], places: &[u64]) {
    let service = host.service("cache", &json!({ "auto": true }));
    let mut disk = RemoteDisk::open(&service, &Host::config(origins, &json!({})), origins);
    assert!(!disk.prefetch.is_recording(), "downloads go on");
    disk.begin();
    for place in places {
        disk.read(*place, 4096);
    }
}

fn places(host: &Host, origins: &[Arc<Origin>], count: usize) -> Vec<u64> {
    let service = host.service("other", &json!({}));
    let disk = RemoteDisk::open(&service, &Host::config(origins, &json!({})), origins);
    disk.places(count)
}

fn traces(host: &Host) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(host.path("cache/traces"));
    let entries = entries.into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

fn only_trace(host: &Host) -> (PathBuf, Trace) {
    let traces = traces(host);
    assert_eq!(traces.len(), 1, "{traces:?}");
    (traces[0].clone(), Trace::load(&traces[0]).unwrap())
}

#[test]
fn the_first_boot_leaves_a_trace_that_the_second_replays() {
    let (host, origins) = (Host::new(), origins());
    let places = places(&host, &origins, 30);
    boot(&host, &origins, &places);
    let (path, trace) = only_trace(&host);
    assert!(trace.records.len() > 9, "{trace:?}");
    // A host with the trace and nothing else.
    for entry in std::fs::read_dir(host.path("cache")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            std::fs::remove_file(path).unwrap();
        }
    }
    for origin in &origins {
        origin.forget_fetches();
    }
    let service = host.service("cache", &json!({ "auto": true }));
    let config = Host::config(&origins, &json!({}));
    let mut disk = RemoteDisk::open(&service, &config, &origins);
    disk.begin();
    let is_here = |record: &layers::prefetch::TraceRecord| {
        let layer = usize::try_from(record.layer).unwrap();
        let source = disk.stack.source(layer).unwrap();
        let stored = source.stored_range(record.offset..record.offset + record.bytes);
        let blob = &disk.cached[layer].1;
        blob.read_if_present(stored.end - 1, &mut [0]).unwrap()
    };
    wait_until("all is fetched", || trace.records.iter().all(is_here));
    for place in &places {
        disk.read(*place, 4096);
    }
    drop(disk);
    // It was good enough: left as it is.
    assert_eq!(only_trace(&host), (path, trace));
}

#[test]
fn a_boot_that_reads_much_else_adds_that() {
    let (host, origins) = (Host::new(), origins());
    let places = places(&host, &origins, 60);
    let (first, second) = places.split_at(places.len() / 3);
    boot(&host, &origins, first);
    let (_, before) = only_trace(&host);
    boot(&host, &origins, second);
    let (_, after) = only_trace(&host);
    assert!(after.records.len() > before.records.len());
    assert!(after.records.starts_with(&before.records));
}

#[test]
fn a_damaged_trace_is_recorded_anew() {
    let (host, origins) = (Host::new(), origins());
    let places = places(&host, &origins, 10);
    boot(&host, &origins, &places);
    let (path, trace) = only_trace(&host);
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    boot(&host, &origins, &places);
    let places = |trace: Trace| {
        let mut places: Vec<_> = trace.records;
        places.sort_by_key(|record| (record.layer, record.offset));
        places
    };
    assert_eq!(places(only_trace(&host).1), places(trace));
}

#[test]
fn images_of_other_layers_have_traces_of_their_own() {
    let (host, origins) = (Host::new(), origins());
    boot(&host, &origins, &places(&host, &origins, 5));
    boot(&host, &origins[..2], &places(&host, &origins[..2], 5));
    assert_eq!(traces(&host).len(), 2);
}

#[test]
fn an_image_without_digests_or_remote_layers_leaves_no_trace() {
    let (host, origins) = (Host::new(), origins());
    let service = host.service("cache", &json!({ "auto": true }));
    let mut config = Host::config(&origins, &json!({}));
    config.lowers[1].digest.clear();
    let mut disk = RemoteDisk::open(&service, &config, &origins);
    disk.begin();
    disk.read(0, 4096);
    drop(disk);
    let config = Host::config(&origins, &json!({}));
    let mut disk = RemoteDisk::open(&service, &config, &origins);
    disk.prefetch.begin(&[], &disk.stack, &Arc::default());
    disk.read(0, 4096);
    drop(disk);
    assert_eq!(traces(&host), [] as [PathBuf; 0]);
}

#[test]
fn many_boots_at_once_leave_one_whole_trace() {
    let (host, origins) = (Host::new(), origins());
    let places = places(&host, &origins, 20);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| boot(&host, &origins, &places));
        }
    });
    let (_, trace) = only_trace(&host);
    assert!(trace.records.len() > 9);
}
