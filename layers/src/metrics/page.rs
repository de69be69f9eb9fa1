//! Everything that is counted, as a page for Prometheus.
//!
//! metrics -> **page** -> exporter
//!
//! docs/metrics.md lists the names.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::disk::{DiskMetrics, Operation, Totals};
use super::overlaybd::{self, Rates};
use super::text::{Kind, Text};
use super::{Metrics, process};
use crate::range_source::Urgency;

/// The page; with rates only if somebody takes samples. Blocks for `/proc`.
#[must_use]
pub fn page(metrics: &Metrics, rates: Option<&Rates>) -> String {
    let mut text = Text::default();
    overlaybd::write(&mut text, metrics, rates, &host_name());
    text.family(
        Kind::Gauge,
        "obd_build_info",
        "Always 1; what runs is in the labels.",
    )
    .sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    write_counters(&mut text, metrics);
    write_times(&mut text, metrics);
    write_disks(&mut text, &metrics.disks());
    process::write(&mut text, metrics.began.0);
    text.into_string()
}

fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname");
    name.unwrap_or_default().trim_end().to_owned()
}

/// Name, help, and where the number is.
type Row<'m> = (&'static str, &'static str, &'m AtomicU64);

fn registry_counters(metrics: &Metrics) -> [Row<'_>; 4] {
    [
        (
            "obd_registry_requests_total",
            "Range requests to registries, repeated ones included.",
            &metrics.registry_requests,
        ),
        (
            "obd_registry_retries_total",
            "Range requests that had to be repeated.",
            &metrics.registry_retries,
        ),
        (
            "obd_registry_bytes_total",
            "Bytes of blobs that came from registries.",
            &metrics.registry_bytes,
        ),
        (
            "obd_registry_tokens_total",
            "Tokens that were asked for.",
            &metrics.registry_tokens,
        ),
    ]
}

fn cache_counters(metrics: &Metrics) -> [Row<'_>; 8] {
    [
        (
            "obd_cache_hits_total",
            "Reads answered from the cache.",
            &metrics.cache_hits,
        ),
        (
            "obd_cache_hit_bytes_total",
            "Bytes of reads answered from the cache.",
            &metrics.cache_hit_bytes,
        ),
        (
            "obd_cache_misses_total",
            "Reads that had to wait for a fetch.",
            &metrics.cache_misses,
        ),
        (
            "obd_cache_waited_bytes_total",
            "Bytes of reads that had to wait for a fetch.",
            &metrics.cache_waited_bytes,
        ),
        (
            "obd_cache_filled_bytes_total",
            "Bytes put into the cache.",
            &metrics.cache_filled_bytes,
        ),
        (
            "obd_cache_unkept_bytes_total",
            "Bytes that were fetched and could not be kept.",
            &metrics.cache_unkept_bytes,
        ),
        (
            "obd_cache_evicted_bytes_total",
            "Bytes evicted from the cache by this process.",
            &metrics.cache_evicted_bytes,
        ),
        (
            "obd_cache_corrupt_blocks_total",
            "Blocks of the cache that did not match their checksum and were dropped.",
            &metrics.cache_corrupt_blocks,
        ),
    ]
}

fn background_counters(metrics: &Metrics) -> [Row<'_>; 3] {
    [
        (
            "obd_download_bytes_total",
            "Bytes that background downloads fetched or copied.",
            &metrics.download_bytes,
        ),
        (
            "obd_download_layers_total",
            "Layers that a background download has completed.",
            &metrics.download_layers,
        ),
        (
            "obd_prefetch_bytes_total",
            "Bytes that prefetching asked for.",
            &metrics.prefetch_bytes,
        ),
    ]
}

fn write_counters(text: &mut Text, metrics: &Metrics) {
    let counters = registry_counters(metrics)
        .into_iter()
        .chain(cache_counters(metrics))
        .chain(background_counters(metrics));
    for (name, help, counter) in counters {
        text.single(Kind::Counter, name, help, counter.load(Ordering::Relaxed));
    }
    text.single(
        Kind::Gauge,
        "obd_registry_in_flight_requests",
        "Range requests under way now.",
        metrics.registry_in_flight.load(Ordering::Relaxed),
    );
}

fn write_times(text: &mut Text, metrics: &Metrics) {
    let mut fetches = text.family(
        Kind::Histogram,
        "obd_fetch_seconds",
        "Fetches of ranges of blobs, with retries, until the last byte was taken.",
    );
    for (name, urgency) in URGENCIES {
        let snapshot = metrics.fetch_times.of(urgency).snapshot();
        fetches.histogram(&[("urgency", name)], &snapshot);
    }
    text.family(
        Kind::Histogram,
        "obd_cache_wait_seconds",
        "Waits of reads for bytes that were not in the cache.",
    )
    .histogram(&[], &metrics.cache_waits.snapshot());
}

const URGENCIES: [(&str, Urgency); 2] = [
    ("guest", Urgency::Guest),
    ("background", Urgency::Background),
];

/// Name, kind, help, and how to get the number.
type DiskRow = (
    &'static str,
    Kind,
    &'static str,
    fn(&DiskMetrics, &Totals) -> u64,
);

const DISK_ROWS: [DiskRow; 6] = [
    (
        "obd_disk_read_bytes_total",
        Kind::Counter,
        "Bytes that the guest has read.",
        |_, totals| totals.read_bytes,
    ),
    (
        "obd_disk_written_bytes_total",
        Kind::Counter,
        "Bytes that the guest has written.",
        |_, totals| totals.written_bytes,
    ),
    (
        "obd_disk_errors_total",
        Kind::Counter,
        "Requests of the guest that failed.",
        |_, totals| totals.errors,
    ),
    (
        "obd_disk_in_flight_requests",
        Kind::Gauge,
        "Requests of the guest that wait now for a disk, the network or a thread.",
        |_, totals| totals.in_flight,
    ),
    (
        "obd_disk_remote_layers",
        Kind::Gauge,
        "Layers that were not on this host when the disk was opened.",
        |disk, _| disk.journal().remote_layers(),
    ),
    (
        "obd_disk_cache_waits_total",
        Kind::Counter,
        "Reads of the disk's layers that had to wait for a fetch.",
        |disk, _| disk.journal().waits(),
    ),
];

fn write_disks(text: &mut Text, disks: &[Arc<DiskMetrics>]) {
    let totals: Vec<_> = disks.iter().map(|disk| (&**disk, disk.totals())).collect();
    let mut requests = text.family(
        Kind::Counter,
        "obd_disk_requests_total",
        "Requests of the guest that were answered, failed ones included.",
    );
    for (disk, totals) in &totals {
        for (operation, count) in Operation::ALL.iter().zip(totals.requests) {
            let labels = [("disk", disk.name()), ("operation", operation.name())];
            requests.sample(&labels, count);
        }
    }
    for (name, kind, help, get) in DISK_ROWS {
        let mut family = text.family(kind, name, help);
        for (disk, totals) in &totals {
            family.sample(&[("disk", disk.name())], get(disk, totals));
        }
    }
    let mut busy = text.family(
        Kind::Gauge,
        "obd_disk_busy_seconds",
        "For how long requests have been in flight without a break; none waits longer.",
    );
    for (disk, totals) in &totals {
        busy.sample(&[("disk", disk.name())], totals.busy.as_secs_f64());
    }
    let mut fetched = text.family(
        Kind::Counter,
        "obd_disk_fetched_bytes_total",
        "Bytes that were fetched for the disk.",
    );
    for (disk, _) in &totals {
        for (name, urgency) in URGENCIES {
            let labels = [("disk", disk.name()), ("urgency", name)];
            fetched.sample(&labels, disk.journal().fetched_bytes_for(urgency));
        }
    }
    let mut waits = text.family(
        Kind::Histogram,
        "obd_disk_wait_seconds",
        "Requests of the guest that could not be answered at once, until they were.",
    );
    for (disk, _) in &totals {
        waits.histogram(&[("disk", disk.name())], &disk.waits.snapshot());
    }
}
