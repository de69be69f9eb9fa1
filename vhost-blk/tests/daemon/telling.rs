//! What the daemon tells of itself: to Prometheus, and on the control sockets of its disks.

use std::fmt::Debug;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::frontend::{T_OUT, Vmm};
use crate::process::{DEADLINE, Daemon, command, native_image};

struct Scene {
    dir: tempfile::TempDir,
    config: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (config, _image) = native_image(dir.path());
        Self { dir, config }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Arguments for one disk at `socket`, with an exporter that is set up like this.
    fn args(&self, socket: &Path, exporter: &str) -> [String; 4] {
        let service = self.path("overlaybd.json");
        let text = format!("{{\"exporterConfig\": {{\"enable\": true, {exporter}}}}}");
        std::fs::write(&service, text).unwrap();
        let disk = format!(
            "config={},socket={}",
            self.config.display(),
            socket.display()
        );
        let service = service.display().to_string();
        [
            "--disk".to_owned(),
            disk,
            "--service-config".to_owned(),
            service,
        ]
    }
}

fn get(mut stream: impl Read + Write + Debug, path: &str) -> String {
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    answer
}

fn get_unix(socket: &Path, path: &str) -> String {
    let stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    get(stream, path)
}

fn vmm(socket: &Path) -> Vmm {
    let mut vmm = Vmm::connect(socket);
    vmm.negotiate();
    vmm.share_memory();
    vmm.start_ring(0);
    vmm
}

fn sample(name: &str, socket: &Path, more: &str, value: u64) -> String {
    format!("\n{name}{{disk=\"{}\"{more}}} {value}\n", socket.display())
}

#[test]
fn prometheus_is_told_what_the_guest_does() {
    let scene = Scene::new();
    let socket = scene.path("disk.sock");
    let args = scene.args(
        &socket,
        "\"port\": 0, \"address\": \"127.0.0.1\", \"uriPrefix\": \"/m\"",
    );
    let daemon = Daemon::start(&args, 0);
    let line = daemon.wait_for_log("metrics at http://");
    let address = line.trim_end().rsplit("http://").next().unwrap().to_owned();
    daemon.wait_for_log("serving image=");
    let page = || get(TcpStream::connect(&address).unwrap(), "/m");
    assert!(page().contains("\nOverlayBD_Alive{node="));
    for rounds in 1..=3 {
        let mut vmm = vmm(&socket);
        for _ in 0..5 {
            vmm.read(2, 4096);
        }
        // The disk is read-only.
        assert_eq!(vmm.request(T_OUT, 0, &[0; 512]), 1);
        let page = page();
        for expected in [
            sample(
                "obd_disk_requests_total",
                &socket,
                ",operation=\"read\"",
                5 * rounds,
            ),
            sample(
                "obd_disk_requests_total",
                &socket,
                ",operation=\"other\"",
                rounds,
            ),
            sample("obd_disk_read_bytes_total", &socket, "", 5 * 4096 * rounds),
            sample("obd_disk_errors_total", &socket, "", rounds),
            sample("obd_disk_in_flight_requests", &socket, "", 0),
        ] {
            assert!(page.contains(&expected), "{expected} in {page}");
        }
    }
}

#[test]
fn a_port_in_use_ends_the_daemon_in_clear_words() {
    let scene = Scene::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let socket = scene.path("disk.sock");
    let exporter = format!("\"port\": {port}, \"address\": \"127.0.0.1\"");
    let output = command(&scene.args(&socket, &exporter)).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8_lossy(&output.stderr);
    for words in [&port.to_string()[..], "exporterConfig.port", "unix:"] {
        assert!(message.contains(words), "{message}");
    }
    assert!(!socket.exists());
}

#[test]
fn daemons_with_one_config_can_have_a_socket_each() {
    let scene = Scene::new();
    let dir = scene.dir.path().display();
    let exporter = format!("\"address\": \"unix:{dir}/metrics-%p\"");
    let mut daemons = ["a.sock", "b.sock"].map(|name| {
        let socket = scene.path(name);
        Daemon::start(&scene.args(&socket, &exporter), 1)
    });
    for daemon in &mut daemons {
        let metrics = scene.path(&format!("metrics-{}", daemon.pid()));
        assert!(get_unix(&metrics, "/metrics").contains("OverlayBD_QPS"));
        daemon.signal("TERM");
        assert_eq!(daemon.wait().code(), Some(0));
        assert!(!metrics.exists());
    }
}

#[test]
fn the_control_socket_tells_its_owner_about_the_disk_and_goes_with_the_daemon() {
    let scene = Scene::new();
    let (socket, control) = (scene.path("disk.sock"), scene.path("disk.sock.control"));
    // What a daemon leaves that was killed.
    drop(UnixListener::bind(&control).unwrap());
    let mut daemon = Daemon::serve(&scene.config, &socket);
    let mode = std::fs::metadata(&control).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let why = get_unix(&control, "/why");
    assert!(why.contains("\"first_read_seconds\":null"), "{why}");
    vmm(&socket).read(2, 4096);
    let why = get_unix(&control, "/why");
    for words in ["\"read\":1,", "\"read_bytes\":4096,", "\"remote_layers\":0"] {
        assert!(why.contains(words), "{words} in {why}");
    }
    assert!(!why.contains("\"first_read_seconds\":null"), "{why}");
    assert!(get_unix(&control, "/metrics").contains("obd_disk_requests_total"));
    daemon.signal("TERM");
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(!control.exists());
}

#[test]
fn a_disk_is_served_even_if_its_control_socket_cannot_be_made() {
    let scene = Scene::new();
    let socket = scene.path("disk.sock");
    std::fs::write(scene.path("disk.sock.control"), "precious").unwrap();
    let args = [
        "--config".as_ref(),
        scene.config.as_path(),
        "--socket".as_ref(),
        &socket,
    ];
    let daemon = Daemon::start(&args, 0);
    let line = daemon.wait_for_log("no `obd why`");
    assert!(line.contains("disk.sock.control"), "{line}");
    daemon.wait_for_log("serving image=");
    vmm(&socket).read(2, 4096);
    let kept = std::fs::read(scene.path("disk.sock.control")).unwrap();
    assert_eq!(kept, b"precious");
}
