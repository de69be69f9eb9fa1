//! The page is well-formed whatever happens, and says what was counted.

use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use layers::error::Result;
use layers::metrics::{Cause, Journal, Metrics, Operation, Rates, TimedSource, page};
use layers::range_source::{RangeSource, Sink, Urgency};
use layers::{Error, ErrorKind};
use proptest::prelude::*;

use crate::strict_parser::{Sample, parse};

fn value(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> f64 {
    let is_it = |sample: &&Sample| {
        let same = |(name, value): &(&str, &str)| sample.label(name) == Some(value);
        sample.name == name && sample.labels.len() == labels.len() && labels.iter().all(same)
    };
    let found = samples.iter().find(is_it);
    found
        .unwrap_or_else(|| panic!("no {name} {labels:?}"))
        .value
}

#[test]
fn what_a_disk_does_is_told_under_its_name() {
    let metrics = Arc::<Metrics>::default();
    let journal = Arc::new(Journal::new(&metrics));
    journal.opened([1 << 20]);
    journal.fetched(700, Urgency::Guest);
    journal.fetched(40, Urgency::Background);
    journal.waited("sha256:a", 0..512, Duration::from_millis(30), Cause::Fetch);
    let disk = metrics.disk("/run/a \"b\".sock", Some(&journal));
    let lane = disk.lane();
    lane.answered(Operation::Read, 4096);
    lane.answered(Operation::Write, 512);
    lane.failed(Operation::Write);
    lane.deferred();
    lane.waited(Duration::from_millis(3));
    metrics.cache_hits.store(9, Ordering::Relaxed);

    let samples = parse(&page(&metrics, None)).unwrap();
    let name = ("disk", "/run/a \"b\".sock");
    for (metric, labels, expected) in [
        (
            "obd_disk_requests_total",
            &[name, ("operation", "read")][..],
            1.0,
        ),
        (
            "obd_disk_requests_total",
            &[name, ("operation", "write")],
            2.0,
        ),
        ("obd_disk_read_bytes_total", &[name], 4096.0),
        ("obd_disk_written_bytes_total", &[name], 512.0),
        ("obd_disk_errors_total", &[name], 1.0),
        ("obd_disk_in_flight_requests", &[name], 1.0),
        ("obd_disk_remote_layers", &[name], 1.0),
        ("obd_disk_cache_waits_total", &[name], 1.0),
        (
            "obd_disk_fetched_bytes_total",
            &[name, ("urgency", "guest")],
            700.0,
        ),
        (
            "obd_disk_fetched_bytes_total",
            &[name, ("urgency", "background")],
            40.0,
        ),
        ("obd_disk_wait_seconds_count", &[name], 1.0),
        (
            "obd_disk_wait_seconds_bucket",
            &[name, ("le", "0.0025")],
            0.0,
        ),
        (
            "obd_disk_wait_seconds_bucket",
            &[name, ("le", "0.005")],
            1.0,
        ),
        ("obd_cache_wait_seconds_bucket", &[("le", "0.025")], 0.0),
        ("obd_cache_wait_seconds_bucket", &[("le", "0.05")], 1.0),
        ("obd_cache_waited_bytes_total", &[], 512.0),
        ("obd_cache_hits_total", &[], 9.0),
    ] {
        assert_eq!(
            value(&samples, metric, labels),
            expected,
            "{metric} {labels:?}"
        );
    }
    assert!(value(&samples, "process_resident_memory_bytes", &[]) > 1e5);
    assert!(value(&samples, "process_open_fds", &[]) >= 3.0);
    assert!(value(&samples, "process_start_time_seconds", &[]) > 1.6e9);
}

#[test]
fn the_metrics_of_the_cpp_daemon_have_its_labels_in_its_order() {
    let metrics = Metrics::default();
    let samples = parse(&page(&metrics, Some(&Rates::default()))).unwrap();
    for (name, labels) in [
        ("OverlayBD_Read_Throughtput", &["node", "type", "mode"][..]),
        ("OverlayBD_QPS", &["node", "type", "mode"]),
        ("OverlayBD_MaxLatency", &["node", "type", "mode"]),
        ("OverlayBD_Count", &["node", "type"]),
    ] {
        let family = samples.iter().filter(|sample| sample.name == name);
        let nodes: Vec<_> = family
            .map(|sample| {
                let names: Vec<_> = sample.labels.iter().map(|(name, _)| name).collect();
                assert_eq!(names, labels, "{name}");
                assert!(labels[1..].iter().all(|it| sample.label(it) == Some("")));
                sample.label("node").unwrap()
            })
            .collect();
        assert_eq!(nodes, ["pread", "download"], "{name}");
    }
}

#[test]
fn names_of_ours_end_in_their_units() {
    let metrics = Metrics::default();
    let _disk = metrics.disk("d", None);
    let text = page(&metrics, None);
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    for line in types.filter(|line| !line.starts_with("OverlayBD_")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert_eq!(name.ends_with("_total"), kind == "counter", "{line}");
        let ours = name.starts_with("obd_") || name.starts_with("process_");
        assert!(
            ours && (kind != "histogram" || name.ends_with("_seconds")),
            "{line}"
        );
    }
}

/// Gives nothing, for a reason or because nothing was wanted.
#[derive(Debug)]
struct Empty;

impl RangeSource for Empty {
    fn name(&self) -> &str {
        "empty"
    }

    fn size(&self, _deadline: Instant) -> Result<u64> {
        Ok(0)
    }

    fn fetch(
        &self,
        range: std::ops::Range<u64>,
        _urgency: Urgency,
        _deadline: Instant,
        _sink: &mut Sink<'_>,
    ) -> Result<()> {
        match range.is_empty() {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::OutOfRange, "fetch", "empty")),
        }
    }
}

#[test]
fn fetches_are_timed_by_urgency_whether_they_succeed_or_not() {
    let metrics = Arc::<Metrics>::default();
    let source = TimedSource::new(Empty, &metrics);
    for (range, urgency) in [
        (0..0, Urgency::Guest),
        (0..1, Urgency::Guest),
        (0..0, Urgency::Background),
    ] {
        let result = source.fetch(range.clone(), urgency, Instant::now(), &mut |_| Ok(()));
        assert_eq!(result.is_ok(), range.is_empty());
    }
    let samples = parse(&page(&metrics, None)).unwrap();
    let count = |urgency| value(&samples, "obd_fetch_seconds_count", &[("urgency", urgency)]);
    assert_eq!((count("guest"), count("background")), (2.0, 1.0));
}

/// Prometheus's own tool agrees, where it is installed.
#[test]
fn promtool_takes_the_page() {
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]);
    let started = promtool
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = started else {
        println!("NOT RUN: promtool is not installed (Debian: prometheus)");
        return;
    };
    let metrics = Metrics::default();
    let _disk = metrics.disk("a \"quoted\" \\ name\nof two lines", None);
    let text = page(&metrics, Some(&Rates::default()));
    promtool
        .stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = promtool.wait_with_output().unwrap();
    let complaints = String::from_utf8(output.stderr).unwrap();
    // Its taste in names, which are those of the C++ daemon.
    let ours = complaints
        .lines()
        .filter(|line| !line.starts_with("OverlayBD_"));
    assert_eq!(ours.collect::<Vec<_>>(), [""; 0], "{text}");
}

proptest! {
    #[test]
    fn a_disk_may_be_called_anything(names in prop::collection::vec("\\PC*|[\"\\\\\n\r\t{}=, #a]*", 1..5)) {
        let metrics = Metrics::default();
        let disks: Vec<_> = names.iter().map(|name| metrics.disk(name, None)).collect();
        let samples = parse(&page(&metrics, None));
        let samples = samples.map_err(TestCaseError::fail)?;
        let told: Vec<_> = samples
            .iter()
            .filter(|sample| sample.name == "obd_disk_errors_total")
            .map(|sample| sample.label("disk").unwrap())
            .collect();
        let expected: Vec<_> = disks.iter().map(|disk| disk.name()).collect();
        prop_assert_eq!(told, expected);
    }
}
