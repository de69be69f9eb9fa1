//! The HTTP server: small answers to short questions.
//!
//! listener -> **server** -> page, story
//!
//! Invariants
//! - a listener has so many connections at most as [`Limits`] say; more wait in its backlog.
//! - a connection lasts so long at most, and asks one question; one for snapshots may ask several.
//! - the head of a request takes at most [`HEAD_BYTES_MAX`]; its body is not read.

use std::convert::Infallible;
use std::io;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;

use super::{DiskStory, Listener, Shared, Site, WHY_PATH};
use crate::metrics::page;

/// What clients may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections of one listener.
    pub(super) connections: usize,
    /// Life of a connection.
    pub(super) time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16,
            time: Duration::from_secs(10),
        }
    }
}

/// Life of a connection on which work is asked for, which takes its time.
const WORK_TIME: Duration = Duration::from_secs(3600);

impl Limits {
    fn of(&self, site: &Site) -> Duration {
        match site {
            Site::Snapshots(_) => self.time.max(WORK_TIME),
            Site::Metrics { .. } | Site::Disk(_) => self.time,
        }
    }
}

const HEAD_BYTES_MAX: usize = 16 << 10;
const HEADERS_MAX: usize = 64;

/// Rest after a connection could not be accepted: the process is out of files, say.
const ACCEPT_REST: Duration = Duration::from_secs(5);

const TEXT: &str = "text/plain; version=0.0.4";
const JSON: &str = "application/json";

/// A listening socket of either kind.
#[derive(Debug)]
pub(super) enum Acceptor {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// A connection of either kind.
trait Duplex: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Duplex for S {}

impl Acceptor {
    /// To be called inside of a runtime.
    pub(super) fn new(listener: Listener) -> io::Result<Self> {
        match listener {
            Listener::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Self::Tcp)
            }
            Listener::Unix(listener) => {
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener).map(Self::Unix)
            }
        }
    }

    async fn accept(&self) -> io::Result<Box<dyn Duplex>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

/// Answers for ever.
pub(super) async fn serve(acceptor: Acceptor, site: Arc<Site>, shared: Arc<Shared>) {
    let room = Arc::new(Semaphore::new(shared.limits.connections));
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&room).acquire_owned().await {
        match acceptor.accept().await {
            Ok(stream) => {
                let (site, shared) = (Arc::clone(&site), Arc::clone(&shared));
                tokio::spawn(async move {
                    let talk = talk(stream, &site, &shared);
                    let time = shared.limits.of(&site);
                    if tokio::time::timeout(time, talk).await.is_err() {
                        log::debug!("exporter: a client was too slow");
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                log::warn!("exporter: accept: {error}");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }
}

async fn talk(stream: Box<dyn Duplex>, site: &Site, shared: &Shared) {
    let service = service_fn(async |request: Request<Incoming>| {
        let uri = request.uri();
        Ok::<_, Infallible>(match site {
            Site::Snapshots(snapshots) => snapshots.answer(uri, request.headers()).await,
            _ => answer(request.method(), uri.path(), site, shared),
        })
    });
    let talked = http1::Builder::new()
        .keep_alive(matches!(site, Site::Snapshots(_)))
        .max_buf_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .auto_date_header(false)
        .timer(TokioTimer::new())
        .header_read_timeout(shared.limits.time)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = talked {
        log::debug!("exporter: {error}");
    }
}

fn answer(method: &Method, path: &str, site: &Site, shared: &Shared) -> Response<Full<Bytes>> {
    let is_metrics = match site {
        Site::Metrics { uri_prefix } => path.starts_with(uri_prefix.as_str()),
        Site::Disk(_) => path == "/metrics",
        Site::Snapshots(_) => false,
    };
    let is_why = matches!(site, Site::Disk(_)) && path == WHY_PATH;
    if !is_metrics && !is_why {
        return response(StatusCode::NOT_FOUND, TEXT, "not found\n".to_owned());
    }
    if method != Method::GET && method != Method::HEAD {
        let refused = "only GET\n".to_owned();
        let mut refused = response(StatusCode::METHOD_NOT_ALLOWED, TEXT, refused);
        let allowed = hyper::header::HeaderValue::from_static("GET, HEAD");
        refused.headers_mut().insert(ALLOW, allowed);
        return refused;
    }
    let (content_type, body) = match site {
        Site::Disk(disk) if is_why => (JSON, DiskStory::new(disk).to_json()),
        _ => (TEXT, metrics(shared)),
    };
    response(StatusCode::OK, content_type, body)
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let value = hyper::header::HeaderValue::from_static(content_type);
    response.headers_mut().insert(CONTENT_TYPE, value);
    response
}

fn metrics(shared: &Shared) -> String {
    let rates = shared.rates.as_ref();
    let rates = rates.map(|rates| rates.lock().unwrap_or_else(PoisonError::into_inner));
    page(&shared.metrics, rates.as_deref())
}
