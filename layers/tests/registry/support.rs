//! Clients and data for the tests.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use layers::audit::Audit;
use layers::config::{CredentialSource, ServiceConfig};
use layers::metrics::Metrics;
use layers::range_source::{RangeSource, Urgency};
use layers::registry::{Blob, Registry, Timing};
use layers::{Error, ErrorKind, Remote, Result};

use crate::server::{Reply, Request, Server};

pub(crate) const DIGEST: &str =
    "sha256:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
pub(crate) const REPOSITORY: &str = "/v2/team/app/blobs";
pub(crate) const SIZE: usize = 300_000;

/// Never the same byte at the same place of two different pages.
pub(crate) fn data() -> Vec<u8> {
    let byte = |at: usize| u8::try_from(((at * 7) ^ (at >> 9)) & 0xff).unwrap();
    (0..SIZE).map(byte).collect()
}

/// A client, its settings and what it counts.
pub(crate) struct Client {
    pub(crate) config: ServiceConfig,
    pub(crate) timing: Timing,
    pub(crate) metrics: Arc<Metrics>,
    _files: tempfile::TempDir,
}

impl Client {
    /// Without credentials, with short waits.
    pub(crate) fn new() -> Self {
        let mut config = ServiceConfig::parse(b"{}").unwrap();
        config.credentials = CredentialSource::None;
        Self {
            config,
            timing: Timing {
                backoff_first: Duration::from_millis(5),
                backoff_max: Duration::from_millis(50),
                accelerator_silence: Duration::from_secs(10),
                ..Timing::default()
            },
            metrics: Arc::default(),
            _files: tempfile::tempdir().unwrap(),
        }
    }

    /// With a password for `host`.
    pub(crate) fn with_password(host: &str, user: &str, password: &str) -> Self {
        let mut client = Self::new();
        client.set_password(host, user, password);
        client
    }

    pub(crate) fn credentials_file(&self) -> PathBuf {
        self._files.path().join("cred.json")
    }

    pub(crate) fn set_password(&mut self, host: &str, user: &str, password: &str) {
        let path = self.credentials_file();
        let text =
            format!(r#"{{"auths":{{"{host}":{{"username":"{user}","password":"{password}"}}}}}}"#);
        std::fs::write(&path, text).unwrap();
        self.config.credentials = CredentialSource::File(path);
    }

    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self._files.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn start(&self) -> Result<Arc<Registry>> {
        let audit = Arc::new(Audit::default());
        Registry::start_with(&self.config, &self.metrics, &audit, &self.timing)
    }

    /// The blob at `server`, of unknown size.
    pub(crate) fn blob(&self, server: &Server) -> Blob {
        self.blob_of_size(server, None)
    }

    pub(crate) fn blob_of_size(&self, server: &Server, size: Option<u64>) -> Blob {
        let registry = self.start().unwrap();
        registry
            .blob(&server.url(REPOSITORY), DIGEST, size)
            .unwrap()
    }
}

pub(crate) fn soon(seconds: u64) -> Instant {
    Instant::now() + Duration::from_secs(seconds)
}

pub(crate) fn fetch(blob: &Blob, start: u64, end: u64) -> Result<Vec<u8>> {
    fetch_within(blob, start, end, 30)
}

pub(crate) fn fetch_within(blob: &Blob, start: u64, end: u64, seconds: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    blob.fetch(start..end, Urgency::Guest, soon(seconds), &mut |piece| {
        bytes.extend_from_slice(piece);
        Ok(())
    })?;
    Ok(bytes)
}

/// Fetches a range and compares it.
pub(crate) fn check(blob: &Blob, start: u64, end: u64) {
    let place = |at| usize::try_from(at).unwrap();
    let (from, to) = (place(start), place(end));
    match fetch(blob, start, end) {
        Ok(bytes) => assert!(bytes == data()[from..to], "other bytes"),
        Err(error) => panic!("{error}"),
    }
}

pub(crate) fn remote(error: &Error) -> Remote {
    match error.kind() {
        ErrorKind::Remote(kind) => kind,
        other => panic!("{other:?}: {error}"),
    }
}

pub(crate) fn count(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

/// A registry that gives the data to anybody.
pub(crate) fn open_registry() -> Server {
    let data = data();
    Server::start(move |request| Reply::of(&data, request))
}

/// Answers the first requests as `first` says, the others with the data.
pub(crate) fn failing_first(
    failures: usize,
    first: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
) -> Server {
    let data = data();
    Server::start(move |request| {
        let reply = Reply::of(&data, request);
        match request.number < failures {
            true => first(request, reply),
            false => reply,
        }
    })
}
