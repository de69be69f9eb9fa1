//! Blobs of OCI registries, read by range over HTTP.
//!
//! image -> lsmt -> zfile -> tar -> cache -> **registry**
//!
//! A fetch passes through these modules:
//!
//! ```text
//! Blob (caller's thread) -> driver -> transfer        attempts, resumption, deadline
//!                                        | admission  background makes room for guests
//!                                     origin          accelerator, redirect target or registry
//!                                        | repository token or password: challenge, token, credentials
//!                                        | route      the redirect target, as long as it holds
//!                                     transport       one GET
//!                                        | answer     is it the range? content_range, status
//! ```
//!
//! Invariant: no secret (password, token, signed query) is in an error, a log line or a Debug output.
//!
//! Source: format reference 6.

mod accelerator;
mod admission;
mod answer;
mod blob_state;
mod blob_url;
pub mod challenge;
mod client;
mod content_range;
mod credential_server;
mod credentials;
mod driver;
mod failure;
mod origin;
mod redact;
mod repository;
mod retry;
mod route;
mod status;
mod timing;
mod tls;
mod token;
mod transfer;
mod transport;

pub use content_range::ContentRange;
pub use credentials::{Auths, Credentials};
pub use timing::Timing;

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use tokio::sync::{Semaphore, mpsc};

use crate::audit::Audit;
use crate::config::ServiceConfig;
use crate::error::{Error, ErrorKind, Remote, Result};
use crate::metrics::Metrics;
use crate::range_source::{RangeSource, Sink, Urgency};
use blob_state::BlobState;
use blob_url::RepositoryUrl;
use client::Client;
use driver::Driver;
use repository::Repository;
use transfer::{Message, Transfer, Want};

/// Pieces that wait for a slow sink; each has up to some 400 KiB.
const PIECES_MAX: usize = 4;

/// The HTTP client of a process. Blobs share it; its thread ends with the last of them.
#[derive(Debug)]
pub struct Registry {
    // Before the client: what runs on the thread uses it.
    driver: Driver,
    client: Arc<Client>,
    audit: Arc<Audit>,
    known: Mutex<Known>,
}

/// What is in use, so that blobs of one repository share tokens, and those of a host its connections.
#[derive(Debug, Default)]
struct Known {
    repositories: HashMap<String, Weak<Repository>>,
    hosts: HashMap<String, Weak<Semaphore>>,
}

impl Registry {
    /// Starts the driver thread. Reads the certificates that `config` names; asks nobody anything.
    ///
    /// # Errors
    /// `Config`, `NotFound` or `Io` for certificates and addresses that cannot be used.
    pub fn start(
        config: &ServiceConfig,
        metrics: &Arc<Metrics>,
        audit: &Arc<Audit>,
    ) -> Result<Arc<Self>> {
        Self::start_with(config, metrics, audit, &Timing::default())
    }

    /// As [`Registry::start`], with other times than the standard ones.
    ///
    /// # Errors
    /// As [`Registry::start`].
    pub fn start_with(
        config: &ServiceConfig,
        metrics: &Arc<Metrics>,
        audit: &Arc<Audit>,
        timing: &Timing,
    ) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            client: Arc::new(Client::new(config, timing, metrics)?),
            driver: Driver::start()?,
            audit: Arc::clone(audit),
            known: Mutex::default(),
        }))
    }

    /// The blob `digest` below `repo_blob_url`. `size` in bytes when it is known. Asks nobody
    /// anything.
    ///
    /// # Errors
    /// `Config` for a URL or digest that is none.
    pub fn blob(
        self: &Arc<Self>,
        repo_blob_url: &str,
        digest: &str,
        size: Option<u64>,
    ) -> Result<Blob> {
        let repository = RepositoryUrl::parse(repo_blob_url)?;
        let url = repository.blob(digest)?;
        let repository = self.repository(repository, url.as_str());
        Ok(Blob {
            digest: digest.to_owned(),
            audit_path: format!("/{url}"),
            state: Arc::new(BlobState::new(url, repository, size)),
            registry: Arc::clone(self),
        })
    }

    fn repository(&self, url: RepositoryUrl, sample: &str) -> Arc<Repository> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let Known {
            repositories,
            hosts,
        } = &mut *known;
        if let Some(found) = repositories.get(url.as_str()).and_then(Weak::upgrade) {
            return found;
        }
        repositories.retain(|_, found| found.strong_count() > 0);
        hosts.retain(|_, found| found.strong_count() > 0);
        let host = url.place();
        let connections = hosts.get(&host).and_then(Weak::upgrade).unwrap_or_else(|| {
            let new = Arc::new(Semaphore::new(admission::PER_HOST_MAX));
            hosts.insert(host, Arc::downgrade(&new));
            new
        });
        let name = url.as_str().to_owned();
        let new = Arc::new(Repository::new(url, sample.to_owned(), connections));
        repositories.insert(name, Arc::downgrade(&new));
        new
    }
}

/// One blob in a registry. Its calls block, so they are not for threads of an async runtime.
#[derive(Debug)]
pub struct Blob {
    digest: String,
    audit_path: String,
    state: Arc<BlobState>,
    registry: Arc<Registry>,
}

impl Blob {
    fn transfer(
        &self,
        want: Want,
        range: Range<u64>,
        urgency: Urgency,
        deadline: Instant,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        let (caller, mut messages) = mpsc::channel(PIECES_MAX);
        let transfer = Transfer {
            client: Arc::clone(&self.registry.client),
            blob: Arc::clone(&self.state),
            want,
            range,
            urgency,
            deadline,
            caller,
        };
        self.registry.driver.spawn(transfer.run());
        loop {
            match messages.blocking_recv() {
                Some(Message::Piece(piece)) => sink(&piece)?,
                Some(Message::End(end)) => return end,
                None => return Err(self.driver_failed()),
            }
        }
    }

    fn driver_failed(&self) -> Error {
        let detail = "the registry client's thread has failed; restart the daemon";
        Error::new(ErrorKind::Io, "fetch blob", detail).in_file(self.state.url.as_str())
    }
}

impl RangeSource for Blob {
    fn name(&self) -> &str {
        &self.digest
    }

    fn size(&self, deadline: Instant) -> Result<u64> {
        if let Some(size) = self.state.size() {
            return Ok(size);
        }
        self.transfer(Want::Size, 0..1, Urgency::Guest, deadline, &mut |_| Ok(()))?;
        self.state.size().ok_or_else(|| {
            let kind = ErrorKind::Remote(Remote::BadAnswer);
            Error::new(kind, "ask for blob size", "no size").in_file(self.state.url.as_str())
        })
    }

    fn fetch(
        &self,
        range: Range<u64>,
        urgency: Urgency,
        deadline: Instant,
        sink: &mut Sink<'_>,
    ) -> Result<()> {
        if range.start > range.end || self.state.size().is_some_and(|size| range.end > size) {
            let size = self.state.size().unwrap_or(u64::MAX);
            let detail = format!("range ends at byte {}, the blob has {size}", range.end);
            let error = Error::new(ErrorKind::OutOfRange, "fetch blob", detail);
            return Err(error.in_file(self.state.url.as_str()).at(range.start));
        }
        if range.is_empty() {
            return Ok(());
        }
        let began = Instant::now();
        let (start, len) = (range.start, range.end - range.start);
        let outcome = self.transfer(Want::Bytes, range, urgency, deadline, sink);
        let size = match &outcome {
            Ok(()) => i64::try_from(len).unwrap_or(i64::MAX),
            Err(_) => -1,
        };
        let audit = &self.registry.audit;
        audit.record("download", &self.audit_path, start, size, began.elapsed());
        outcome
    }
}
