//! Recording because the caller asked for it, over layers on this host.

use std::path::{Path, PathBuf};

use layers::config::ImageConfig;
use layers::prefetch::{Trace, TraceRecord};
use layers::{Access, ErrorKind, Image, Service};
use serde_json::json;

use crate::support::{Host, vector, wait_until};

/// A host with an image that records into an empty `trace`.
fn scene() -> (Host, PathBuf) {
    let host = Host::new();
    let trace = host.path("trace");
    std::fs::write(&trace, "").unwrap();
    let lowers: Vec<_> = (0..3)
        .map(|number| json!({ "file": vector(&format!("native/layer{number}.obd")) }))
        .collect();
    let config = json!({ "lowers": lowers, "recordTracePath": trace });
    std::fs::write(host.path("config.v1.json"), config.to_string()).unwrap();
    (host, trace)
}

fn open(host: &Host) -> layers::Result<Image> {
    let config = host.path("config.v1.json");
    Image::open(&config, &Service::default(), Access::Read)
}

fn beside(trace: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", trace.display()))
}

fn records(trace: &Path) -> Vec<TraceRecord> {
    Trace::load(trace).unwrap().records
}

/// Reads the first block of every `step`th run of data; the reads of layers that this takes.
fn read_some(image: &Image, step: usize) -> Vec<TraceRecord> {
    let stack = image.stack().unwrap();
    let mappings = stack.index().mappings().iter();
    let data = mappings.filter(|mapping| !mapping.is_zeroed() && mapping.sectors() >= 8);
    let mut expected = Vec::new();
    for mapping in data.step_by(step) {
        let mut block = [0; 4096];
        image
            .read_exact_at(mapping.offset() * 512, &mut block)
            .unwrap();
        expected.push(TraceRecord {
            layer: 2 - u32::from(mapping.tag()),
            offset: mapping.moffset() * 512,
            bytes: 4096,
        });
    }
    assert!(expected.len() > 2);
    expected
}

#[test]
fn reads_are_recorded_in_order_until_the_lock_file_is_removed() {
    let (host, trace) = scene();
    let (lock, ok) = (beside(&trace, ".lock"), beside(&trace, ".ok"));
    let image = open(&host).unwrap();
    assert!(lock.exists() && !ok.exists());
    assert_eq!(std::fs::metadata(&trace).unwrap().len(), 0);
    let expected = read_some(&image, 3);
    std::fs::remove_file(&lock).unwrap();
    wait_until("the trace is there", || ok.exists());
    let recorded = records(&trace);
    assert!(recorded.ends_with(&expected), "{recorded:?}");
    // Opening reads the header, the trailer and the index of every layer.
    let opening = &recorded[..recorded.len() - expected.len()];
    for layer in 0..3 {
        let header = TraceRecord {
            layer,
            offset: 0,
            bytes: 4096,
        };
        assert!(opening.contains(&header), "{opening:?}");
        let of_layer = opening.iter().filter(|record| record.layer == layer);
        assert_eq!(of_layer.count(), 3, "{opening:?}");
    }
    read_some(&image, 2);
    drop(image);
    assert_eq!(records(&trace), recorded);
    assert!(!lock.exists() && ok.exists());
}

#[test]
fn closing_the_disk_ends_the_recording_at_once() {
    let (host, trace) = scene();
    let image = open(&host).unwrap();
    let expected = read_some(&image, 5);
    let begun = std::time::Instant::now();
    drop(image);
    assert!(
        begun.elapsed().as_millis() < 900,
        "waited for the next poll"
    );
    assert!(records(&trace).ends_with(&expected));
    assert!(!beside(&trace, ".lock").exists());
    assert_eq!(std::fs::metadata(beside(&trace, ".ok")).unwrap().len(), 0);
    // What is recorded is replayed the next time, not recorded again.
    drop(open(&host).unwrap());
    assert!(records(&trace).ends_with(&expected));
}

#[test]
fn files_that_an_earlier_recording_left_are_cleaned_up() {
    let (host, trace) = scene();
    std::fs::write(beside(&trace, ".ok"), "").unwrap();
    // Its process was killed: nobody has it locked.
    std::fs::write(beside(&trace, ".lock"), "").unwrap();
    let image = open(&host).unwrap();
    assert!(!beside(&trace, ".ok").exists(), "says done before it is");
    drop(image);
    assert!(beside(&trace, ".ok").exists() && !beside(&trace, ".lock").exists());
    assert!(!records(&trace).is_empty());
}

#[test]
fn a_second_disk_cannot_record_the_same_trace() {
    let (host, trace) = scene();
    let image = open(&host).unwrap();
    let error = open(&host).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy, "{error}");
    assert!(
        error.to_string().contains("another disk records"),
        "{error}"
    );
    assert!(beside(&trace, ".lock").exists());
    drop(image);
    assert!(!records(&trace).is_empty());
}

#[test]
fn a_disk_that_does_not_open_leaves_the_trace_for_the_next_attempt() {
    let (host, trace) = scene();
    let config = host.path("config.v1.json");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("layer2.obd", "README.md")).unwrap();
    open(&host).unwrap_err();
    assert_eq!(std::fs::metadata(&trace).unwrap().len(), 0);
    assert!(!beside(&trace, ".lock").exists() && !beside(&trace, ".ok").exists());
}

#[test]
fn a_directory_that_cannot_be_written_is_an_error_that_names_the_file() {
    let (host, trace) = scene();
    let config = host.path("config.v1.json");
    // Not even root can make files there.
    let text = std::fs::read_to_string(&config).unwrap();
    let empty_elsewhere = "/proc/self/attr/current";
    let is_empty = std::fs::metadata(empty_elsewhere).is_ok_and(|file| file.len() == 0);
    assert!(is_empty, "an empty file where none can be made beside it");
    let text = text.replace(trace.to_str().unwrap(), empty_elsewhere);
    std::fs::write(&config, text).unwrap();
    let error = open(&host).unwrap_err();
    assert!(error.to_string().contains("current.lock"), "{error}");
}

#[test]
fn a_trace_behind_a_symbolic_link_is_written_to_where_the_link_leads() {
    let (host, trace) = scene();
    std::fs::rename(&trace, host.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(host.path("elsewhere"), &trace).unwrap();
    drop(open(&host).unwrap());
    assert!(trace.is_symlink() && beside(&trace, ".ok").exists());
    assert!(!records(&host.path("elsewhere")).is_empty());
}

#[test]
fn tools_do_not_record() {
    let (host, trace) = scene();
    let config = ImageConfig::load(&host.path("config.v1.json")).unwrap();
    let image = Image::open_layers(&config, &Service::default(), Access::Read).unwrap();
    read_some(&image, 2);
    assert!(!beside(&trace, ".lock").exists());
    drop(image);
    assert!(!beside(&trace, ".ok").exists());
    assert_eq!(std::fs::metadata(&trace).unwrap().len(), 0);
}

#[test]
fn a_trace_with_garbage_does_not_keep_the_disk_from_opening() {
    let (host, trace) = scene();
    for garbage in [
        &b"\x20\x18\xef\xc2 and no more"[..],
        b"\0\0",
        b"/etc/passwd\n",
    ] {
        std::fs::write(&trace, garbage).unwrap();
        read_some(&open(&host).unwrap(), 2);
        assert_eq!(std::fs::read(&trace).unwrap(), garbage);
    }
}
