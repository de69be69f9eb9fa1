//! The remote side of one disk: how its lowers are opened, and what goes on behind it afterwards.
//!
//! image -> **remote** -> prefetch, download, cache, registry
//!
//! Source: format reference 4.3 (reasons), 4.4.

use std::sync::Arc;
use std::time::Duration;

use super::lower::OpenedLower;
use crate::cache::{BlobUse, Patience, PersistentSource, Place};
use crate::config::{CacheKind, ImageConfig, LowerConfig};
use crate::download::{Download, RemoteLayer, Switch};
use crate::error::{Error, ErrorKind, Remote, Result};
use crate::lsmt::{Layer, Stack};
use crate::metrics::{Journal, TimedSource};
use crate::prefetch::Prefetch;
use crate::range_source::RangeSource;
use crate::read_at::ReadAt;
use crate::service::Service;

/// An image that cannot be opened in this time is not opened, as in the C++ daemon.
const OPEN_PATIENCE: Duration = Duration::from_secs(30);

/// What an image is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// To be somebody's disk: its reads may be recorded, and known ones replayed.
    Serve,
    /// To be looked at or copied by a tool, whose reads say nothing about the next boot.
    Inspect,
}

/// A disk whose lowers are being opened.
#[derive(Debug)]
pub(super) struct Opening<'a> {
    pub(super) config: &'a ImageConfig,
    pub(super) prefetch: Prefetch,
    purpose: Purpose,
    service: &'a Service,
    journal: Arc<Journal>,
    patience: Arc<Patience>,
}

/// What goes on behind an open disk; ends with it.
#[derive(Debug)]
pub(super) struct Background {
    patience: Arc<Patience>,
    journal: Arc<Journal>,
    _prefetch: Prefetch,
    _download: Option<Download>,
}

impl<'a> Opening<'a> {
    pub(super) fn new(
        config: &'a ImageConfig,
        service: &'a Service,
        purpose: Purpose,
    ) -> Result<Self> {
        Ok(Self {
            config,
            purpose,
            prefetch: match purpose {
                Purpose::Serve => Prefetch::prepare(config, service)?,
                Purpose::Inspect => Prefetch::none(service),
            },
            service,
            journal: Arc::new(Journal::new(service.metrics())),
            patience: Arc::new(Patience::new(OPEN_PATIENCE)),
        })
    }

    /// The blob of a lower that is not on this host. Blocks.
    pub(super) fn open_remote(&self, lower: &LowerConfig) -> Result<RemoteLayer> {
        let remote = self.service.remote()?;
        let known_size = (lower.size > 0).then_some(lower.size);
        let url = &self.config.repo_blob_url;
        let blob = remote.registry.blob(url, &lower.digest, known_size)?;
        let source: Arc<dyn RangeSource> = Arc::new(PersistentSource::new(
            TimedSource::new(blob, self.service.metrics()),
            Arc::clone(&self.patience),
        ));
        let beside = self.service.config().cache.kind == Some(CacheKind::Download);
        let cache_is_beside = beside && !lower.dir.as_os_str().is_empty();
        let wanted = BlobUse {
            digest: lower.digest.clone(),
            place: match cache_is_beside {
                true => Place::Layer(lower.dir.clone()),
                false => Place::Shared,
            },
            patience: Arc::clone(&self.patience),
            journal: Arc::clone(&self.journal),
        };
        let cached = Arc::new(remote.cache.blob(Arc::clone(&source), wanted)?);
        Ok(RemoteLayer {
            dir: lower.dir.clone(),
            cache_is_beside,
            digest: lower.digest.clone(),
            size: cached.size(),
            source,
            switch: Arc::new(Switch::new(
                Arc::clone(&cached),
                self.service.metrics(),
                self.service.audit(),
            )),
            cached,
        })
    }

    /// Takes the opened lowers apart into layers and what belongs to those that are remote.
    pub(super) fn split(lowers: Vec<OpenedLower>) -> (Vec<Layer>, Vec<(usize, RemoteLayer)>) {
        let mut remotes = Vec::new();
        let layers = lowers.into_iter().enumerate().map(|(number, lower)| {
            remotes.extend(lower.remote.map(|remote| (number, remote)));
            lower.layer
        });
        (layers.collect(), remotes)
    }

    /// The disk is open: starts what goes on behind it. `None` for one that is all on this host.
    pub(super) fn begin(
        mut self,
        remotes: Vec<(usize, RemoteLayer)>,
        stack: Option<&Arc<Stack>>,
    ) -> Background {
        self.journal
            .opened(remotes.iter().map(|(_, layer)| layer.size));
        let service = self.service.config();
        if self.purpose == Purpose::Serve {
            let retry = self.config.read_retry_seconds.map(Duration::from_secs);
            self.patience.run(retry.unwrap_or(service.read_retry));
        }
        let cached: Vec<_> = remotes
            .iter()
            .map(|(number, layer)| (*number, Arc::clone(&layer.cached)))
            .collect();
        if let Some(stack) = stack {
            self.prefetch.begin(&cached, stack, &self.journal);
        }
        let settings = self.config.download.as_ref();
        let settings = settings.unwrap_or(self.service.download());
        let wanted: Vec<_> = remotes
            .into_iter()
            .map(|(_, layer)| layer)
            .filter(|layer| !layer.dir.as_os_str().is_empty())
            .collect();
        let is_served = self.purpose == Purpose::Serve;
        let download =
            is_served && settings.enable && !self.prefetch.is_recording() && !wanted.is_empty();
        Background {
            patience: self.patience,
            _download: download.then(|| {
                let (metrics, audit) = (self.service.metrics(), self.service.audit());
                let floor = service.cache.free_floor_mib.saturating_mul(1 << 20);
                Download::start(settings, floor, wanted, metrics, audit)
            }),
            _prefetch: self.prefetch,
            journal: self.journal,
        }
    }
}

impl Background {
    pub(super) fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.patience.close();
    }
}

/// Why a remote file could not be opened, in the words of the C++ daemon.
pub(super) fn reason(error: &Error) -> &'static str {
    match error.kind() {
        ErrorKind::Remote(Remote::Unauthorized | Remote::Forbidden) => "Authentication failed",
        ErrorKind::Remote(Remote::Connection | Remote::Dns | Remote::Tls) => "Connection failed",
        ErrorKind::Remote(Remote::TimedOut) => "Get meta timedout",
        ErrorKind::Remote(Remote::NotFound) => "No such file or directory",
        ErrorKind::Remote(Remote::Throttled) => "Too many requests",
        ErrorKind::Remote(_) => "Unexpected response",
        _ => "Input/output error",
    }
}
