//! Live snapshots, asked for by HTTP.
//!
//! server -> **snapshots** -> whoever has the disks
//!
//! The answers are those of the C++ daemon, byte for byte; nothing is kept from one request for the next.
//!
//! Source: format reference 9.1.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{AUTHORIZATION, CONNECTION, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode, Uri};
use tokio::sync::Semaphore;
use url::{Host, Url};

use super::address::{Address, Keys};
use super::{Listener, Site};
use crate::config::SnapshotConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::socket::SocketFile;

const OP: &str = "start the snapshot API";
const PATH: &str = "/snapshot";

/// Snapshots under way at once, those included whose client went away.
const UNDER_WAY_MAX: usize = 16;

/// Longest token.
const TOKEN_BYTES_MAX: u64 = 4096;

/// A process that has disks.
pub trait Disks: Send + Sync {
    /// Takes a snapshot of the disk `dev_id`, as [`crate::Image::snapshot`]; `None` when there is no such disk. Blocks.
    ///
    /// # Errors
    /// As [`crate::Image::snapshot`].
    fn snapshot(&self, dev_id: &str, new_config: &Path) -> Result<Option<()>>;
}

/// Who answers, and whom.
#[derive(Clone)]
pub struct Snapshots {
    disks: Arc<dyn Disks>,
    /// What a request has to bring along.
    token: Option<Arc<str>>,
    room: Arc<Semaphore>,
}

impl std::fmt::Debug for Snapshots {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshots")
            .field("has_token", &self.token.is_some())
            .finish_non_exhaustive()
    }
}

impl Snapshots {
    /// Listens where `config` says.
    ///
    /// # Errors
    /// `Config` for an address that makes no sense, or that others could reach without a token; `Busy`, `Io`.
    pub fn listen(
        config: &SnapshotConfig,
        disks: Arc<dyn Disks>,
    ) -> Result<(Listener, Site, Option<SocketFile>)> {
        let token = token(&config.token_file)?;
        let address = address(config, token.is_some())?;
        let keys = Keys {
            op: OP,
            place: "serviceConfig.address",
        };
        let (listener, file) = address.listen(keys)?;
        if let Some(file) = &file {
            file.make_private()
                .map_err(|error| Error::io(OP, error).in_file(&config.address))?;
        }
        let room = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        let site = Site::Snapshots(Self { disks, token, room });
        Ok((listener, site, file))
    }

    /// Answers one request. What it starts goes on when the client goes away.
    pub(super) async fn answer(&self, uri: &Uri, headers: &HeaderMap) -> Response<Full<Bytes>> {
        if !uri.path().starts_with(PATH) {
            return response(StatusCode::NOT_FOUND, String::new());
        }
        if !self.is_allowed(headers) {
            return told(StatusCode::UNAUTHORIZED, "Wrong or missing token");
        }
        let query = uri.query().unwrap_or_default();
        let value = |key: &str| {
            let mut pairs = url::form_urlencoded::parse(query.as_bytes());
            let found = pairs.find(|(name, value)| name == key && !value.is_empty());
            found.map(|(_, value)| value.into_owned())
        };
        let (Some(dev_id), Some(config)) = (value("dev_id"), value("config")) else {
            let message = "Missing dev_id or config in snapshot request";
            return told(StatusCode::BAD_REQUEST, message);
        };
        match self.take(dev_id, config).await {
            Some(Ok(Some(()))) => told(StatusCode::OK, "Snapshot created successfully"),
            Some(Ok(None)) => told(StatusCode::NOT_FOUND, "Image file not found"),
            // As the C++ daemon says it.
            _ => told(
                StatusCode::INTERNAL_SERVER_ERROR,
                "Failed to create snapshot`",
            ),
        }
    }

    /// `None` when it was not even tried, or has panicked.
    async fn take(&self, dev_id: String, config: String) -> Option<Result<Option<()>>> {
        // It would be repeated in the log.
        if config.contains(char::is_control) {
            log::error!("{dev_id:?}: {config:?}: control characters in a path");
            return None;
        }
        let permit = Arc::clone(&self.room).acquire_owned().await.ok()?;
        let disks = Arc::clone(&self.disks);
        let taking = tokio::task::spawn_blocking(move || {
            let taken = disks.snapshot(&dev_id, Path::new(&config));
            match &taken {
                Ok(Some(())) => log::info!("{dev_id:?}: snapshot taken, goes on with {config}"),
                Ok(None) => log::warn!("{dev_id:?}: no such device to take a snapshot of"),
                Err(error) => log::error!("{dev_id:?}: {error}"),
            }
            drop(permit);
            taken
        });
        taking.await.ok()
    }

    fn is_allowed(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else {
            return true;
        };
        let given = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes);
        let given = given.and_then(|value| value.strip_prefix(b"Bearer "));
        given.is_some_and(|given| is_same(given, token.as_bytes()))
    }
}

/// Takes as long for a wrong token as for a right one.
fn is_same(one: &[u8], other: &[u8]) -> bool {
    let differences = one.iter().zip(other).fold(0, |sum, (a, b)| sum | (a ^ b));
    one.len() == other.len() && std::hint::black_box(differences) == 0
}

fn token(path: &Path) -> Result<Option<Arc<str>>> {
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    let name = || path.display().to_string();
    let fail = |error| Error::io("read serviceConfig.tokenFile", error).in_file(name());
    let size = fs::metadata(path).map_err(fail)?.len();
    let text = match size <= TOKEN_BYTES_MAX {
        true => fs::read_to_string(path).map_err(fail)?,
        false => String::new(),
    };
    match text.trim() {
        "" => {
            let detail = format!("it is empty, or longer than {TOKEN_BYTES_MAX} bytes");
            let error = Error::new(ErrorKind::Config, "read serviceConfig.tokenFile", detail);
            Err(error.in_file(name()))
        }
        token => Ok(Some(token.into())),
    }
}

fn address(config: &SnapshotConfig, has_token: bool) -> Result<Address> {
    let text = &config.address;
    let refuse = |detail: String| Err(Error::new(ErrorKind::Config, OP, detail));
    if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
        return Ok(Address::Unix(PathBuf::from(path)));
    }
    let url = Url::parse(text).ok().filter(|url| url.scheme() == "http");
    let host = url.as_ref().and_then(Url::host);
    let ip = match host {
        Some(Host::Ipv4(ip)) => IpAddr::from(ip),
        Some(Host::Ipv6(ip)) => IpAddr::from(ip),
        _ => {
            return refuse(format!(
                "serviceConfig.address {text:?} is neither http://IP:PORT nor unix:PATH"
            ));
        }
    };
    let is_guarded = config.allow_remote && has_token;
    if !ip.is_loopback() && !is_guarded {
        return refuse(format!(
            "serviceConfig.address {text:?} can be reached by others: set tokenFile and allowRemote, or \
             use 127.0.0.1 or unix:PATH"
        ));
    }
    let port = url.and_then(|url| url.port_or_known_default());
    Ok(Address::Tcp(SocketAddr::new(ip, port.unwrap_or(80))))
}

fn told(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    let success = status == StatusCode::OK;
    let body =
        format!("{{\n        \"success\": {success},\n        \"message\": \"{message}\"\n}}");
    response(status, body)
}

fn response(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let keep = HeaderValue::from_static("keep-alive");
    response.headers_mut().insert(CONNECTION, keep);
    response
}
