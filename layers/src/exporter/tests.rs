//! The exporter and its clients, good and bad.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use super::*;

/// No step takes longer, on however busy a machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// Bad clients are cut off soon.
const LIMITS: Limits = Limits {
    connections: 4,
    time: Duration::from_millis(300),
};

struct Scene {
    _exporter: Exporter,
    address: SocketAddr,
}

impl Scene {
    fn new(limits: Limits) -> Self {
        Self::telling(&Arc::default(), limits)
    }

    fn telling(metrics: &Arc<Metrics>, limits: Limits) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let uri_prefix = "/metrics".to_owned();
        let site = Site::Metrics { uri_prefix };
        let listeners = vec![(Listener::Tcp(listener), site)];
        Self {
            _exporter: Exporter::start_with(metrics, listeners, limits).unwrap(),
            address,
        }
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    fn ask(&self, request: &str) -> String {
        let mut stream = self.connect();
        stream.write_all(request.as_bytes()).unwrap();
        everything(&mut stream)
    }

    fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n"))
    }
}

/// Until the server closes, or resets because it has read enough.
fn everything(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    loop {
        match stream.read(&mut piece) {
            Ok(0) => break,
            Ok(len) => bytes.extend(&piece[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the server did not close in time: {error}"),
        }
    }
    String::from_utf8(bytes).unwrap()
}

#[test]
fn the_page_is_at_its_prefix_only() {
    let scene = Scene::new(Limits::default());
    let answer = scene.get("/metrics");
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    let head = answer.to_lowercase();
    assert!(head.contains("content-type: text/plain; version=0.0.4\r\n"));
    assert!(answer.contains("\nOverlayBD_Alive{node="), "{answer}");
    assert!(
        answer.contains("\nOverlayBD_QPS{node=\"pread\","),
        "{answer}"
    );
    assert!(scene.get("/metrics?x=1").starts_with("HTTP/1.1 200 "));
    for path in ["/", "/metric", "/why", "/x/metrics"] {
        assert!(scene.get(path).starts_with("HTTP/1.1 404 "), "{path}");
    }
}

#[test]
fn other_methods_get_no_page() {
    let scene = Scene::new(Limits::default());
    let post = "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc";
    assert!(scene.ask(post).starts_with("HTTP/1.1 405 "));
    let head = scene.ask("HEAD /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
}

#[test]
fn clients_that_say_nothing_are_cut_off_and_others_get_their_turn() {
    let scene = Scene::new(LIMITS);
    let slow: Vec<_> = (0..20)
        .map(|_| {
            let mut stream = scene.connect();
            stream.write_all(b"GET /metrics HT").unwrap();
            stream
        })
        .collect();
    assert!(scene.get("/metrics").starts_with("HTTP/1.1 200 "));
    for mut stream in slow {
        let answer = everything(&mut stream);
        assert!(!answer.contains("200 OK"), "{answer}");
    }
}

#[test]
fn heads_that_are_too_long_or_no_http_are_refused() {
    let scene = Scene::new(LIMITS);
    let many: String = (0..100).map(|n| format!("X-{n}: y\r\n")).collect();
    let long = format!("X: {}\r\n", "y".repeat(100_000));
    for headers in [many, long] {
        let mut stream = scene.connect();
        let request = format!("GET /metrics HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
        // The server may close before it has read everything.
        stream.write_all(request.as_bytes()).ok();
        let answer = everything(&mut stream);
        assert!(!answer.contains("200 OK"), "{answer}");
    }
    let garbage = scene.ask("\u{0}\u{1}\u{2}\r\n\r\n");
    assert!(!garbage.contains("200 OK"), "{garbage}");
    assert!(scene.get("/metrics").starts_with("HTTP/1.1 200 "));
}

#[test]
fn a_client_that_reads_nothing_does_not_hold_its_place_for_ever() {
    let metrics = Arc::<Metrics>::default();
    // A page that does not fit into the buffers of a connection.
    let name = "x".repeat(500);
    let disks: Vec<_> = (0..1500)
        .map(|number| metrics.disk(&format!("{name}{number}"), None))
        .collect();
    let scene = Scene::telling(&metrics, LIMITS);
    let mut idle = Vec::new();
    for _ in 0..LIMITS.connections {
        let mut stream = scene.connect();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        idle.push(stream);
    }
    let other = scene.get("/other");
    assert!(other.starts_with("HTTP/1.1 404 "), "{other}");
    drop((idle, disks));
}

#[test]
fn the_end_of_the_exporter_does_not_wait_for_its_clients() {
    let limits = Limits {
        time: 10 * DEADLINE,
        ..LIMITS
    };
    let scene = Scene::new(limits);
    let (mut stream, address) = (scene.connect(), scene.address);
    stream.write_all(b"GET ").unwrap();
    assert!(scene.get("/metrics").starts_with("HTTP/1.1 200 "));
    drop(scene);
    everything(&mut stream);
    TcpListener::bind(address).unwrap();
}
