//! Replaying a trace over remote layers.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use layers::prefetch::{Trace, TraceRecord, encode};
use layers::range_source::Urgency;
use serde_json::json;

use crate::support::{Host, Origin, RemoteDisk, covers, native_layers, wait_until};

fn origins() -> Vec<Arc<Origin>> {
    native_layers().into_iter().map(Origin::new).collect()
}

/// Boots once with an empty cache, reads `count` places and keeps the trace.
fn record(host: &Host, origins: &[Arc<Origin>], trace: &Path, count: usize) -> Vec<u64> {
    std::fs::write(trace, "").unwrap();
    let service = host.service("first", &json!({}));
    let config = Host::config(origins, &json!({ "recordTracePath": trace }));
    let mut disk = RemoteDisk::open(&service, &config, origins);
    disk.begin();
    let places = disk.places(count);
    for place in &places {
        disk.read(*place, 4096);
    }
    drop(disk);
    for origin in origins {
        origin.forget_fetches();
    }
    places
}

/// Where the records of `trace` are stored, by layer.
fn stored(disk: &RemoteDisk, trace: &Path) -> Vec<(usize, Range<u64>)> {
    let records = Trace::load(trace).unwrap().records.into_iter();
    let stored = records.map(|record| {
        let layer = usize::try_from(record.layer).unwrap();
        let range = record.offset..record.offset + record.bytes;
        (layer, disk.stack.source(layer).unwrap().stored_range(range))
    });
    stored.collect()
}

/// The places are read without waiting for any origin.
fn assert_is_here(disk: &RemoteDisk, origins: &[Arc<Origin>], places: &[u64]) {
    for place in places {
        disk.read(*place, 4096);
    }
    for origin in origins {
        let fetches = origin.fetches();
        let late: Vec<_> = fetches
            .iter()
            .filter(|fetch| fetch.urgency == Urgency::Guest)
            .collect();
        assert!(late.is_empty(), "{late:?}");
    }
}

fn is_fetched(disk: &RemoteDisk, wanted: &[(usize, Range<u64>)]) -> bool {
    wanted.iter().all(|(layer, range)| {
        let mut byte = [0];
        let blob = &disk.cached[*layer].1;
        let mut is_here = |at| blob.read_if_present(at, &mut byte).unwrap();
        is_here(range.start) && is_here(range.end - 1)
    })
}

#[test]
fn what_a_boot_read_is_fetched_before_the_next_one_reads_it() {
    let (host, origins) = (Host::new(), origins());
    let trace = host.path("trace");
    let places = record(&host, &origins, &trace, 40);
    let service = host.service("second", &json!({}));
    let config = Host::config(&origins, &json!({ "recordTracePath": trace }));
    let mut disk = RemoteDisk::open(&service, &config, &origins);
    assert!(!disk.prefetch.is_recording());
    let wanted = stored(&disk, &trace);
    disk.begin();
    wait_until("all is fetched", || is_fetched(&disk, &wanted));
    for origin in &origins {
        origin.forget_fetches();
    }
    assert_is_here(&disk, &origins, &places);
    let asked = service.metrics().prefetch_bytes.load(Ordering::Relaxed);
    assert!(asked > 0);
}

#[test]
fn a_replay_is_few_requests_and_no_byte_twice() {
    let (host, origins) = (Host::new(), origins());
    let trace = host.path("trace");
    let records: Vec<_> = (0..100)
        .map(|n| TraceRecord {
            layer: 2,
            offset: n % 50 * 4096,
            bytes: 8192,
        })
        .collect();
    std::fs::write(&trace, encode(&records)).unwrap();
    let service = host.service("cache", &json!({}));
    let config = Host::config(&origins, &json!({ "recordTracePath": trace }));
    let mut disk = RemoteDisk::open(&service, &config, &origins);
    let wanted = stored(&disk, &trace);
    let before = origins[2].fetches().len();
    disk.begin();
    wait_until("all is fetched", || is_fetched(&disk, &wanted));
    let fetches = origins[2].fetches().split_off(before);
    assert!(fetches.len() <= 2, "{fetches:?}");
    for (number, fetch) in fetches.iter().enumerate() {
        assert!(
            fetches[..number]
                .iter()
                .all(|other| other.range.end <= fetch.range.start
                    || fetch.range.end <= other.range.start),
            "{fetches:?}"
        );
    }
    let whole = 0..51 * 4096;
    let whole = disk.stack.source(2).unwrap().stored_range(whole);
    let asked = service.metrics().prefetch_bytes.load(Ordering::Relaxed);
    assert!(asked <= (whole.end - whole.start).next_multiple_of(4096) + 4096);
}

#[test]
fn records_outside_of_every_layer_are_passed_over() {
    let (host, origins) = (Host::new(), origins());
    let trace = host.path("trace");
    let record = |layer, offset, bytes| TraceRecord {
        layer,
        offset,
        bytes,
    };
    let records = [
        record(3, 0, 4096),
        record(u32::MAX, 0, 4096),
        record(1, i64::MAX as u64, u64::MAX),
        record(1, 1 << 40, 1),
        record(0, 8192, u64::MAX),
    ];
    std::fs::write(&trace, encode(&records)).unwrap();
    let service = host.service("cache", &json!({}));
    let config = Host::config(&origins, &json!({ "recordTracePath": trace }));
    let mut disk = RemoteDisk::open(&service, &config, &origins);
    disk.begin();
    let source = disk.stack.source(0).unwrap();
    // Longer than its layer: cut where that ends.
    let rest = [(0, source.stored_range(8192..source.size()))];
    wait_until("the last one is fetched", || is_fetched(&disk, &rest));
}

#[test]
fn a_disk_that_is_closed_asks_for_nothing_more() {
    let (host, origins) = (Host::new(), origins());
    let trace = host.path("trace");
    let records: Vec<_> = (0..4)
        .map(|n| TraceRecord {
            layer: 0,
            offset: (1 << 20) + n * (1 << 19),
            bytes: 4096,
        })
        .collect();
    std::fs::write(&trace, encode(&records)).unwrap();
    let service = host.service("cache", &json!({ "concurrency": 1 }));
    let config = Host::config(&origins, &json!({ "recordTracePath": trace }));
    let mut disk = RemoteDisk::open(&service, &config, &origins);
    origins[0].forget_fetches();
    origins[0].hold(true);
    disk.begin();
    wait_until("one request is out", || !origins[0].ahead().is_empty());
    let watch = Arc::downgrade(&disk.cached[0].1);
    drop(disk);
    origins[0].hold(false);
    wait_until("the replay has let go of the layer", || {
        watch.strong_count() == 0
    });
    assert_eq!(origins[0].ahead().len(), 1);
}

#[test]
fn an_origin_that_is_gone_does_not_hold_up_the_disk() {
    let (host, origins) = (Host::new(), origins());
    let trace = host.path("trace");
    let places = record(&host, &origins, &trace, 10);
    // All is here already.
    let service = host.service("first", &json!({}));
    let config = Host::config(&origins, &json!({ "recordTracePath": trace }));
    let mut disk = RemoteDisk::open(&service, &config, &origins);
    for origin in &origins {
        origin.break_down();
    }
    disk.begin();
    assert_is_here(&disk, &origins, &places);
    drop(disk);
}

#[test]
fn the_trace_of_an_acceleration_layer_is_replayed_and_the_layer_itself_never_read() {
    let (host, origins) = (Host::new(), origins());
    let trace = host.path("layer/trace");
    std::fs::create_dir(host.path("layer")).unwrap();
    // In the middle of the blob, where opening does not look.
    let record = TraceRecord {
        layer: 0,
        offset: 2 << 20,
        bytes: 4096,
    };
    std::fs::write(&trace, encode(&[record])).unwrap();
    let mut config = Host::config(&origins, &json!({ "accelerationLayer": true }));
    let mut accelerator = config.lowers[0].clone();
    accelerator.dir = host.path("layer");
    accelerator.digest = "sha256:0".to_owned();
    config.lowers.push(accelerator);
    let service = host.service("cache", &json!({}));
    let mut disk = RemoteDisk::open(&service, &config, &origins);
    let wanted = stored(&disk, &trace);
    disk.begin();
    wait_until("it is fetched", || is_fetched(&disk, &wanted));
    assert!(covers(&origins[0].ahead(), &wanted[0].1));
}
