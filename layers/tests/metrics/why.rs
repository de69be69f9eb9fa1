//! `obd why` and a disk that answers it.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use layers::exporter::{Exporter, Listener, Site};
use layers::metrics::{Cause, Journal, Metrics, Operation};
use layers::range_source::Urgency;

/// A disk that is told of at `PATH.control`, as long as this lives.
struct Scene {
    dir: tempfile::TempDir,
    _exporter: Exporter,
}

impl Scene {
    fn new(journal: &Arc<Journal>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("vm.sock");
        let metrics = Arc::<Metrics>::default();
        let disk = metrics.disk(&socket.display().to_string(), Some(journal));
        let lane = disk.lane();
        lane.began(Operation::Read);
        lane.answered(Operation::Read, 1 << 20);
        let listener = UnixListener::bind(dir.path().join("vm.sock.control")).unwrap();
        let listeners = vec![(Listener::Unix(listener), Site::Disk(disk))];
        let _exporter = Exporter::start(&metrics, listeners).unwrap();
        Self { dir, _exporter }
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join("vm.sock")
    }
}

fn why(args: &[&dyn AsRef<std::ffi::OsStr>]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_obd"));
    command.arg("why");
    command.args(args.iter().map(|arg| arg.as_ref().to_owned()));
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{text}{errors}");
    text
}

fn journal_of_a_remote_disk() -> Arc<Journal> {
    let journal = Arc::<Journal>::default();
    journal.opened([100 << 20, 50 << 20]);
    journal.fetched(3 << 20, Urgency::Guest);
    journal.fetched(12 << 20, Urgency::Background);
    let digest = "sha256:0123456789abcdef0123456789abcdef";
    for (millis, cause) in [
        (40, Cause::Fetch),
        (1500, Cause::Shared),
        (7, Cause::Corrupt),
    ] {
        let time = Duration::from_millis(millis);
        journal.waited(digest, 4096..8192, time, cause);
    }
    journal
}

#[test]
fn a_remote_disk_tells_what_was_fetched_and_its_slowest_waits() {
    let scene = Scene::new(&journal_of_a_remote_disk());
    let told = text(&why(&[&scene.socket()]));
    for words in [
        "vm.sock",
        "2 layers of 150.00 MiB",
        "15.00 MiB (10.0 % of them) in 2 requests",
        "3.00 MiB for the guest, 12.00 MiB in the background",
        "waits         3, 1.55 s together, the longest 1.50 s",
        "own fetch 1, fetch of others 1, corrupt cache 1",
        "1 requests, 1.00 MiB read",
    ] {
        assert!(told.contains(words), "{words:?} in\n{told}");
    }
    let table: Vec<_> = told
        .lines()
        .filter(|line| line.contains("0123456789ab"))
        .collect();
    assert_eq!(table.len(), 3, "{told}");
    assert!(
        table[0].contains("1.50 s") && table[2].contains("7.0 ms"),
        "{told}"
    );
    assert!(table[0].contains("4096"), "{told}");
}

#[test]
fn a_local_disk_says_so() {
    let scene = Scene::new(&Arc::default());
    let told = text(&why(&[&scene.socket()]));
    assert!(told.contains("all layers are on this host"), "{told}");
}

#[test]
fn json_is_what_the_daemon_said() {
    let scene = Scene::new(&journal_of_a_remote_disk());
    let told = text(&why(&[&"--json", &scene.socket()]));
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    let disk = &told[0];
    assert_eq!(disk["pid"], std::process::id());
    assert_eq!(disk["read_bytes"], 1 << 20);
    assert_eq!(disk["start"]["remote_bytes"], 150 << 20);
    assert_eq!(disk["start"]["slowest"][0]["cause"], "shared");
    assert_eq!(disk["start"]["slowest"][0]["offset"], 4096);
}

#[test]
fn a_process_is_asked_for_all_its_disks() {
    let scenes = [&Arc::default(), &journal_of_a_remote_disk()].map(Scene::new);
    // This process is the daemon. Tests beside this one serve disks, too, which may be gone when it
    // is their turn.
    let output = why(&[&std::process::id().to_string()]);
    let told = String::from_utf8(output.stdout).unwrap();
    for scene in &scenes {
        let name = scene.socket().display().to_string();
        assert!(told.contains(&name), "{name} in\n{told}");
    }
}

#[test]
fn a_daemon_that_is_not_there_is_named_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let stale = dir.path().join("stale.sock");
    drop(UnixListener::bind(dir.path().join("stale.sock.control")).unwrap());
    let none = dir.path().join("none.sock");
    // Not a number that a process has.
    let pid = Path::new("4194305");
    for (daemon, words) in [
        (stale.as_path(), "gone"),
        (none.as_path(), "no daemon serves"),
        (pid, "/proc/4194305"),
    ] {
        let output = why(&[&daemon]);
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{errors}");
        assert_eq!(errors.lines().count(), 1, "{errors}");
        assert!(errors.contains(words), "{errors}");
    }
}
