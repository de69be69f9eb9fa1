//! A small HTTP server on loopback that answers as a test says, misbehaviour included.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};

/// One request as it came.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Path and query, or the whole URL when a proxy is asked.
    pub(crate) target: String,
    /// Names in small letters.
    pub(crate) headers: HashMap<String, String>,
    /// Number of the connection, from 0.
    pub(crate) connection: usize,
    /// Number of the request at this server, from 0.
    pub(crate) number: usize,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// First and last byte asked for.
    pub(crate) fn range(&self) -> Option<(usize, usize)> {
        let (first, last) = self
            .header("range")?
            .strip_prefix("bytes=")?
            .split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }
}

/// How an answer ends.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Whole,
    /// The connection is closed after so many bytes of the body.
    Cut(usize),
    /// The connection is reset after so many bytes of the body.
    Reset(usize),
    /// Nothing more comes after so many bytes of the body.
    Stall(usize),
    /// Not even a head comes.
    Silence,
}

#[derive(Debug)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    end: End,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            end: End::Whole,
        }
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn end(mut self, end: End) -> Self {
        self.end = end;
        self
    }

    pub(crate) fn redirect(to: impl Into<String>) -> Self {
        Self::status(307).header("Location", to)
    }

    /// The range that was asked for, as it should be; the whole without a range.
    pub(crate) fn of(data: &[u8], request: &Request) -> Self {
        let Some((first, last)) = request.range() else {
            return Self::status(200).body(data);
        };
        let total = data.len();
        if first >= total {
            return Self::status(416).header("Content-Range", format!("bytes */{total}"));
        }
        let last = last.min(total - 1);
        Self::status(206)
            .header("Content-Range", format!("bytes {first}-{last}/{total}"))
            .body(&data[first..=last])
    }

    pub(crate) fn challenge(value: impl Into<String>) -> Self {
        Self::status(401).header("WWW-Authenticate", value)
    }
}

enum Ended {
    Plainly,
    ByReset,
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

struct Shared {
    handler: Box<Handler>,
    tls: Option<Arc<rustls::ServerConfig>>,
    requests: Mutex<Vec<Request>>,
    arrived: Condvar,
    streams: Mutex<Vec<TcpStream>>,
    connections: AtomicUsize,
    stopped: AtomicBool,
}

/// Listens until it is dropped.
pub(crate) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl Server {
    pub(crate) fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        Self::start_with(None, handler)
    }

    pub(crate) fn start_with(
        tls: Option<Arc<rustls::ServerConfig>>,
        handler: impl Fn(&Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            handler: Box::new(handler),
            tls,
            requests: Mutex::default(),
            arrived: Condvar::new(),
            streams: Mutex::default(),
            connections: AtomicUsize::new(0),
            stopped: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if own.stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (stream, own) = (stream.unwrap(), Arc::clone(&own));
                std::thread::spawn(move || drop(own.serve(&stream)));
            }
        });
        Self { address, shared }
    }

    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        let scheme = if self.shared.tls.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}{path}", self.address)
    }

    /// What has been asked so far.
    pub(crate) fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    pub(crate) fn count(&self, of: impl Fn(&Request) -> bool) -> usize {
        self.requests().iter().filter(|request| of(request)).count()
    }

    /// Waits until so many requests have come.
    pub(crate) fn wait_for(&self, count: usize) {
        let requests = self.shared.requests.lock().unwrap();
        let time = std::time::Duration::from_secs(20);
        let (requests, _) = self
            .shared
            .arrived
            .wait_timeout_while(requests, time, |requests| requests.len() < count)
            .unwrap();
        assert!(requests.len() >= count, "{} requests", requests.len());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::SeqCst);
        for stream in self.shared.streams.lock().unwrap().drain(..) {
            drop(stream.shutdown(Shutdown::Both));
        }
        drop(TcpStream::connect(self.address));
    }
}

impl Shared {
    fn serve(&self, stream: &TcpStream) -> std::io::Result<()> {
        let connection = self.connections.fetch_add(1, Ordering::SeqCst);
        self.streams.lock().unwrap().push(stream.try_clone()?);
        stream.set_nodelay(true)?;
        let served = match &self.tls {
            None => self.converse(stream, connection, &mut BufReader::new(stream.try_clone()?)),
            Some(config) => {
                let tls = rustls::ServerConnection::new(Arc::clone(config)).unwrap();
                let tls = rustls::StreamOwned::new(tls, stream.try_clone()?);
                self.converse(stream, connection, &mut BufReader::new(tls))
            }
        };
        if !matches!(served, Ok(Ended::ByReset)) {
            drop(stream.shutdown(Shutdown::Both));
        }
        served.map(drop)
    }

    fn converse<S: Read + Write>(
        &self,
        socket: &TcpStream,
        connection: usize,
        stream: &mut BufReader<S>,
    ) -> std::io::Result<Ended> {
        while let Some(request) = self.read_request(stream, connection)? {
            let reply = (self.handler)(&request);
            if matches!(reply.end, End::Silence) {
                return wait_for_the_end(stream);
            }
            let stream_out = stream.get_mut();
            write!(stream_out, "HTTP/1.1 {} Some Words\r\n", reply.status)?;
            for (name, value) in &reply.headers {
                write!(stream_out, "{name}: {value}\r\n")?;
            }
            write!(stream_out, "Content-Length: {}\r\n\r\n", reply.body.len())?;
            let (sent, stalls, resets) = match reply.end {
                End::Whole | End::Silence => (reply.body.len(), false, false),
                End::Cut(sent) => (sent, false, false),
                End::Reset(sent) => (sent, false, true),
                End::Stall(sent) => (sent, true, false),
            };
            stream_out.write_all(&reply.body[..sent.min(reply.body.len())])?;
            stream_out.flush()?;
            if stalls {
                return wait_for_the_end(stream);
            }
            if resets {
                reset_on_close(socket);
                self.forget(socket);
                return Ok(Ended::ByReset);
            }
            if !matches!(reply.end, End::Whole) {
                return Ok(Ended::Plainly);
            }
        }
        Ok(Ended::Plainly)
    }

    fn read_request<S: Read>(
        &self,
        stream: &mut BufReader<S>,
        connection: usize,
    ) -> std::io::Result<Option<Request>> {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let target = line.split(' ').nth(1).unwrap().to_owned();
        let mut headers = HashMap::new();
        loop {
            line.clear();
            if stream.read_line(&mut line)? == 0 || line.trim().is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').unwrap();
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
        let mut requests = self.requests.lock().unwrap();
        let request = Request {
            target,
            headers,
            connection,
            number: requests.len(),
        };
        requests.push(request.clone());
        self.arrived.notify_all();
        Ok(Some(request))
    }

    /// Only the last copy of a socket that is closed sends a reset.
    fn forget(&self, socket: &TcpStream) {
        let peer = socket.peer_addr().ok();
        let mut streams = self.streams.lock().unwrap();
        streams.retain(|stream| stream.peer_addr().ok() != peer);
    }
}

/// Until the client, or the end of the server, closes the connection.
fn wait_for_the_end(stream: &mut impl Read) -> std::io::Result<Ended> {
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest)?;
    Ok(Ended::Plainly)
}

fn reset_on_close(socket: &TcpStream) {
    let linger = libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    let len = u32::try_from(size_of::<libc::linger>()).unwrap();
    // SAFETY: `linger` lives through the call and has the size that is passed.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            std::ptr::from_ref(&linger).cast(),
            len,
        )
    };
    assert_eq!(done, 0);
}
