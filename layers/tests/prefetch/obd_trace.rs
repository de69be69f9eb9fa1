//! `obd trace show`.

use std::process::{Command, Output};

use crate::support::vector;
use serde_json::Value;

fn obd(args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_obd"));
    command.args(args).output().unwrap()
}

fn show(more: &[&str]) -> Output {
    let trace = vector("trace/full.trace");
    obd(&[&["trace", "show", trace.to_str().unwrap()], more].concat())
}

#[test]
fn a_trace_is_summed_up_by_layer() {
    let output = show(&[]);
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("12 reads"), "{text}");
    assert!(text.contains("checksum 0xb0ee361d"), "{text}");
    let layers: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("  layer "))
        .collect();
    assert_eq!(layers.len(), 3, "{text}");
    assert!(layers[2].contains("6 reads"), "{text}");
}

#[test]
fn records_are_listed_when_asked_for() {
    let output = show(&["--records"]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1 + 3 + 12, "{text}");
}

#[test]
fn json_has_the_same_numbers() {
    let output = show(&["--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["reads"], 12);
    assert_eq!(told["layers"][2]["layer"], 2);
    assert_eq!(told["layers"][2]["reads"], 6);
    // Three places read once or more: 4 KiB twice, 64 KiB, two of metadata.
    assert_eq!(told["layers"][2]["read_bytes"], 5 * 4096 + 65536);
    assert_eq!(told["layers"][2]["distinct_bytes"], 4 * 4096 + 65536);
    assert!(told.get("records").is_none());
    let output = show(&["--json", "--records"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["records"].as_array().unwrap().len(), 12);
    assert_eq!(told["records"][10]["bytes"], 65536);
}

#[test]
fn a_file_that_is_no_trace_is_refused_in_words() {
    let output = obd(&[
        "trace",
        "show",
        vector("native/layer0.obd").to_str().unwrap(),
    ]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("no trace header"), "{text}");
}
