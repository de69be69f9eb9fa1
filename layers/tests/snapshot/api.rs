//! The HTTP API, byte for byte.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};

use layers::config::{ServiceConfig, SnapshotConfig};
use layers::exporter::{Disks, Exporter, Snapshots};
use layers::socket::SocketFile;
use layers::{Error, ErrorKind, Result};

use crate::support::{DEADLINE, scratch};

/// One disk, `disk`; remembers what it was asked.
#[derive(Default)]
struct Asked {
    configs: Mutex<Vec<String>>,
    /// Says that a snapshot has begun, and waits until it may go on.
    slowly: Option<Slowly>,
}

struct Slowly {
    begun: Mutex<Sender<()>>,
    go: Mutex<Receiver<()>>,
}

impl Disks for Asked {
    fn snapshot(&self, dev_id: &str, new_config: &Path) -> Result<Option<()>> {
        if dev_id != "disk" && dev_id != "a b/c" {
            return Ok(None);
        }
        if let Some(Slowly { begun, go }) = &self.slowly {
            begun.lock().unwrap().send(()).unwrap();
            go.lock().unwrap().recv_timeout(DEADLINE).unwrap();
        }
        if new_config == Path::new("/bad") {
            return Err(Error::new(ErrorKind::Config, "take snapshot", "it is bad"));
        }
        let config = new_config.to_str().unwrap().to_owned();
        self.configs.lock().unwrap().push(config);
        Ok(Some(()))
    }
}

struct Scene {
    asked: Arc<Asked>,
    address: String,
    _exporter: Exporter,
    _file: Option<SocketFile>,
}

fn config(address: &str) -> SnapshotConfig {
    SnapshotConfig {
        enable: true,
        address: address.to_owned(),
        ..SnapshotConfig::default()
    }
}

impl Scene {
    fn new(config: &SnapshotConfig, asked: Asked) -> Self {
        let asked = Arc::new(asked);
        let disks: Arc<dyn Disks> = Arc::<Asked>::clone(&asked);
        let (listener, site, file) = Snapshots::listen(config, disks).unwrap();
        let address = listener.place().replace("http://", "");
        let exporter = Exporter::start(&Arc::default(), vec![(listener, site)]).unwrap();
        Self {
            asked,
            address,
            _exporter: exporter,
            _file: file,
        }
    }

    fn open() -> Self {
        Self::new(&config("http://127.0.0.1:0"), Asked::default())
    }

    fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream
    }

    fn ask(&self, method: &str, uri: &str) -> Answer {
        let mut stream = self.connect();
        ask(&mut stream, method, uri, "");
        read_answer(&mut stream)
    }
}

fn ask(stream: &mut impl Write, method: &str, uri: &str, headers: &str) {
    let request = format!("{method} {uri} HTTP/1.1\r\nHost: x\r\n{headers}\r\n");
    stream.write_all(request.as_bytes()).unwrap();
}

#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    /// In small letters, sorted.
    headers: Vec<String>,
    body: String,
}

fn read_answer(stream: &mut impl Read) -> Answer {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).unwrap().to_lowercase();
    let (status, headers) = head.trim_end().split_once("\r\n").unwrap();
    let mut headers: Vec<_> = headers.lines().map(str::to_owned).collect();
    headers.sort();
    let len = headers
        .iter()
        .find_map(|header| header.strip_prefix("content-length: "));
    let mut body = vec![0; len.unwrap().parse().unwrap()];
    stream.read_exact(&mut body).unwrap();
    Answer {
        status: status.split(' ').nth(1).unwrap().parse().unwrap(),
        headers,
        body: String::from_utf8(body).unwrap(),
    }
}

fn expected(status: u16, body: &str) -> Answer {
    let headers = vec![
        "connection: keep-alive".to_owned(),
        format!("content-length: {}", body.len()),
    ];
    Answer {
        status,
        headers,
        body: body.to_owned(),
    }
}

fn failed(status: u16, message: &str) -> Answer {
    let body = format!("{{\n        \"success\": false,\n        \"message\": \"{message}\"\n}}");
    expected(status, &body)
}

fn taken() -> Answer {
    expected(
        200,
        "{\n        \"success\": true,\n        \"message\": \"Snapshot created successfully\"\n}",
    )
}

const MISSING: &str = "Missing dev_id or config in snapshot request";

#[test]
fn answers_are_those_of_the_other_daemon_whatever_the_method() {
    let scene = Scene::open();
    for method in ["POST", "GET", "PUT", "DELETE", "PATCH", "OPTIONS", "SNAP"] {
        let ask = |uri| scene.ask(method, uri);
        assert_eq!(ask("/snapshot?dev_id=disk&config=/new"), taken());
        assert_eq!(ask("/snapshot/x?config=/new&dev_id=disk&z=1"), taken());
        for uri in [
            "/snapshot",
            "/snapshot?",
            "/snapshot?dev_id=disk",
            "/snapshot?config=/new",
            "/snapshot?dev_id=&config=/new",
            "/snapshot?dev_id=disk&config=",
            "/snapshot?dev_id&config",
        ] {
            assert_eq!(ask(uri), failed(400, MISSING), "{uri}");
        }
        assert_eq!(
            ask("/snapshot?dev_id=none&config=/new"),
            failed(404, "Image file not found")
        );
        assert_eq!(
            ask("/snapshot?dev_id=disk&config=/bad"),
            failed(500, "Failed to create snapshot`")
        );
        for uri in [
            "/",
            "/snap",
            "/metrics",
            "/x/snapshot?dev_id=disk&config=/new",
        ] {
            assert_eq!(ask(uri), expected(404, ""), "{uri}");
        }
    }
    assert_eq!(scene.asked.configs.lock().unwrap().len(), 14);
}

#[test]
fn names_are_decoded() {
    let scene = Scene::open();
    let answer = scene.ask(
        "POST",
        "/snapshot?dev_id=a+b%2Fc&config=%2Fx+y%25%C3%A9%26z",
    );
    assert_eq!(answer, taken());
    assert_eq!(*scene.asked.configs.lock().unwrap(), ["/x y%\u{e9}&z"]);
    // Such a name would make lines of its own in the log.
    let answer = scene.ask("POST", "/snapshot?dev_id=disk&config=/x%0a2026");
    assert_eq!(answer, failed(500, "Failed to create snapshot`"));
    assert_eq!(scene.asked.configs.lock().unwrap().len(), 1);
}

#[test]
fn one_connection_asks_more_than_once_and_nothing_is_kept_in_between() {
    let scene = Scene::open();
    let mut stream = scene.connect();
    ask(&mut stream, "POST", "/snapshot?dev_id=disk&config=/new", "");
    assert_eq!(read_answer(&mut stream), taken());
    ask(&mut stream, "POST", "/snapshot?dev_id=disk", "");
    assert_eq!(read_answer(&mut stream), failed(400, MISSING));
    let body = "Content-Length: 4\r\n";
    ask(&mut stream, "POST", "/snapshot?dev_id=disk&config=/2", body);
    stream.write_all(b"body").unwrap();
    assert_eq!(read_answer(&mut stream), taken());
    assert_eq!(*scene.asked.configs.lock().unwrap(), ["/new", "/2"]);
}

#[test]
fn a_client_that_goes_away_ends_no_snapshot() {
    let (begun, begins) = channel();
    let (go, goes) = channel();
    let asked = Asked {
        slowly: Some(Slowly {
            begun: Mutex::new(begun),
            go: Mutex::new(goes),
        }),
        ..Asked::default()
    };
    let scene = Scene::new(&config("http://127.0.0.1:0"), asked);
    let mut stream = scene.connect();
    ask(&mut stream, "POST", "/snapshot?dev_id=disk&config=/new", "");
    begins.recv_timeout(DEADLINE).unwrap();
    drop(stream);
    // Others are answered meanwhile.
    assert_eq!(scene.ask("GET", "/snapshot"), failed(400, MISSING));
    go.send(()).unwrap();
    let asked = Arc::clone(&scene.asked);
    // Waits for what is under way.
    drop(scene);
    assert_eq!(*asked.configs.lock().unwrap(), ["/new"]);
}

#[test]
fn a_token_is_asked_for_when_there_is_one() {
    let dir = scratch();
    let token_file = dir.path().join("token");
    std::fs::write(&token_file, "  secret\n").unwrap();
    let config = SnapshotConfig {
        token_file,
        ..config("http://127.0.0.1:0")
    };
    let scene = Scene::new(&config, Asked::default());
    let uri = "/snapshot?dev_id=disk&config=/new";
    let refused = failed(401, "Wrong or missing token");
    for header in [
        "",
        "Authorization: Bearer wrong\r\n",
        "Authorization: Bearer secre\r\n",
        "Authorization: Bearer secrett\r\n",
        "Authorization: Bearer \r\n",
        "Authorization: Basic secret\r\n",
        "Authorization: secret\r\n",
    ] {
        let mut stream = scene.connect();
        ask(&mut stream, "POST", uri, header);
        assert_eq!(read_answer(&mut stream), refused, "{header}");
    }
    assert!(scene.asked.configs.lock().unwrap().is_empty());
    let mut stream = scene.connect();
    ask(&mut stream, "POST", uri, "Authorization: Bearer secret\r\n");
    assert_eq!(read_answer(&mut stream), taken());
}

#[test]
fn a_token_file_without_a_token_is_an_error() {
    let dir = scratch();
    let token_file = dir.path().join("token");
    let listen = |text: Option<&str>| {
        if let Some(text) = text {
            std::fs::write(&token_file, text).unwrap();
        }
        let config = SnapshotConfig {
            token_file: token_file.clone(),
            ..config("http://127.0.0.1:0")
        };
        Snapshots::listen(&config, Arc::new(Asked::default())).map(drop)
    };
    assert_eq!(listen(None).unwrap_err().kind(), ErrorKind::NotFound);
    let long = "x".repeat(5000);
    for text in ["", " \n", &long] {
        let error = listen(Some(text)).unwrap_err();
        assert!(error.to_string().contains("tokenFile"), "{error}");
    }
    listen(Some("secret")).unwrap();
}

#[test]
fn a_unix_socket_is_for_its_owner_only_and_a_stale_one_is_replaced() {
    let dir = scratch();
    let path = dir.path().join("snapshots");
    drop(UnixListener::bind(&path).unwrap());
    let config = config(&format!("unix:{}", path.display()));
    let scene = Scene::new(&config, Asked::default());
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o7777, 0o600);
    let mut stream = UnixStream::connect(&path).unwrap();
    ask(&mut stream, "POST", "/snapshot?dev_id=disk&config=/new", "");
    assert_eq!(read_answer(&mut stream), taken());
    let error = Snapshots::listen(&config, Arc::new(Asked::default())).unwrap_err();
    assert!(error.to_string().contains("listening"), "{error}");
    drop((stream, scene));
    assert!(!path.exists());
}

#[test]
fn addresses_that_others_reach_need_a_token_and_a_word() {
    let dir = scratch();
    let token_file = dir.path().join("token");
    std::fs::write(&token_file, "secret").unwrap();
    let listen = |address: &str, has_token: bool, allow_remote: bool| {
        let config = SnapshotConfig {
            token_file: if has_token {
                token_file.clone()
            } else {
                "".into()
            },
            allow_remote,
            ..config(address)
        };
        Snapshots::listen(&config, Arc::new(Asked::default())).map(drop)
    };
    for (has_token, allow_remote) in [(false, false), (true, false), (false, true)] {
        for address in ["http://0.0.0.0:0", "http://[::]:0", "http://192.0.2.1:0"] {
            let error = listen(address, has_token, allow_remote).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Config);
            assert!(error.to_string().contains("allowRemote"), "{error}");
        }
    }
    listen("http://0.0.0.0:0", true, true).unwrap();
    listen("http://127.8.0.1:0", false, false).unwrap();
    for address in [
        "",
        "localhost",
        "http://localhost:1",
        "https://127.0.0.1:1",
        "unix:",
        "127.0.0.1:1",
    ] {
        let error = listen(address, true, true).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{address}");
        assert!(
            error.to_string().contains("serviceConfig.address"),
            "{error}"
        );
    }
}

#[test]
fn a_port_that_is_taken_is_an_error_that_names_the_key() {
    let scene = Scene::open();
    let config = config(&format!("http://{}", scene.address));
    let error = Snapshots::listen(&config, Arc::new(Asked::default())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Busy);
    let text = error.to_string();
    assert!(
        text.contains("serviceConfig.address") && text.contains(&scene.address),
        "{text}"
    );
}

#[test]
fn without_words_the_api_is_off_and_local() {
    let config = ServiceConfig::parse(b"{}").unwrap().snapshots;
    assert!(!config.enable);
    assert_eq!(config.address, "http://127.0.0.1:9862");
    let text = br#"{"serviceConfig":{"enable":true,"address":"unix:/s","tokenFile":"/t","allowRemote":true}}"#;
    let config = ServiceConfig::parse(text).unwrap().snapshots;
    assert!(config.enable && config.allow_remote);
    assert_eq!(
        (config.address.as_str(), config.token_file.to_str()),
        ("unix:/s", Some("/t"))
    );
}
