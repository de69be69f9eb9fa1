//! The log file that the service config names.

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::frontend::Vmm;
use crate::process::{DEADLINE, Daemon, command, native_image};

fn args(dir: &Path, service: &str) -> Vec<PathBuf> {
    let (config, _image) = native_image(dir);
    let file = dir.join("overlaybd.json");
    std::fs::write(&file, service).unwrap();
    let socket = dir.join("disk.sock");
    let named = [
        ("--config", config),
        ("--socket", socket),
        ("--service-config", file),
    ];
    let pairs = named
        .into_iter()
        .map(|(name, value)| [PathBuf::from(name), value]);
    pairs.flatten().collect()
}

fn wait_for(log: &Path, words: &str) {
    let deadline = Instant::now() + DEADLINE;
    while !std::fs::read_to_string(log).is_ok_and(|text| text.contains(words)) {
        assert!(Instant::now() < deadline, "no '{words}' in the log file");
        std::thread::yield_now();
    }
}

#[test]
fn the_daemon_logs_to_the_file_that_the_config_names_new_key_or_old() {
    for key in [
        r#"{"logConfig": {"logPath": "PATH", "logLevel": 1}}"#,
        r#"{"logPath": "PATH"}"#,
    ] {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("daemon.log");
        let args = args(dir.path(), &key.replace("PATH", log.to_str().unwrap()));
        let mut daemon = Daemon::start(&args, 0);
        wait_for(&log, "serving image=");
        let mut vmm = Vmm::connect(&dir.path().join("disk.sock"));
        vmm.negotiate();
        daemon.signal("TERM");
        assert_eq!(daemon.wait().code(), Some(0));
        wait_for(&log, "VMM connected");
    }
}

#[test]
fn an_empty_log_path_means_stderr() {
    let dir = tempfile::tempdir().unwrap();
    let args = args(
        dir.path(),
        r#"{"logPath": "", "logConfig": {"logPath": ""}}"#,
    );
    drop(Daemon::start(&args, 1));
}

#[test]
fn a_failure_is_in_the_log_file_and_on_stderr() {
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("daemon.log");
    let args = args(dir.path(), &format!("{{\"logPath\": {log:?}}}"));
    std::fs::write(
        dir.path().join("config.v1.json"),
        r#"{"lowers": [{"file": "/nonexistent"}]}"#,
    )
    .unwrap();
    let output = command(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    for text in [std::fs::read_to_string(&log).unwrap(), stderr] {
        assert!(text.contains("/nonexistent"), "{text}");
    }
}

#[test]
fn a_log_file_that_cannot_be_opened_ends_the_daemon_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let args = args(dir.path(), r#"{"logPath": "/nonexistent/daemon.log"}"#);
    let output = command(&args).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    assert!(
        message.contains("open log file: /nonexistent/daemon.log"),
        "{message}"
    );
    assert!(!dir.path().join("disk.sock").exists());
}
