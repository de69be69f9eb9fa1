//! What the images of one process share: settings, registry client, cache, counters.
//!
//! image -> **service** -> cache, registry
//!
//! Invariant: nothing is started, and no directory touched, before an image needs a remote layer.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use crate::audit::Audit;
use crate::cache::Cache;
use crate::config::{DownloadConfig, ServiceConfig};
use crate::error::Result;
use crate::metrics::Metrics;
use crate::registry::Registry;

/// One process's share of everything remote. Cloning shares it.
#[derive(Debug, Clone, Default)]
pub struct Service {
    inner: Arc<Inner>,
    /// Instead of what the settings say.
    download: Option<Arc<DownloadConfig>>,
}

#[derive(Debug, Default)]
struct Inner {
    config: ServiceConfig,
    metrics: Arc<Metrics>,
    audit: Arc<Audit>,
    remote: Mutex<Option<Remote>>,
}

/// The way to remote layers.
#[derive(Debug, Clone)]
pub struct Remote {
    /// Where blobs come from.
    pub registry: Arc<Registry>,
    /// Where they are kept.
    pub cache: Arc<Cache>,
}

impl Service {
    /// A service with these settings. Starts nothing.
    #[must_use]
    pub fn new(config: ServiceConfig) -> Self {
        let inner = Inner {
            audit: Arc::new(Audit::new(config.audit_path.as_deref())),
            config,
            ..Inner::default()
        };
        Self {
            inner: Arc::new(inner),
            download: None,
        }
    }

    /// The same service, for images that are opened with this setting of `download`.
    #[must_use]
    pub fn with_download(&self, download: DownloadConfig) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            download: Some(Arc::new(download)),
        }
    }

    /// How layers are downloaded in the background, unless an image says otherwise.
    #[must_use]
    pub fn download(&self) -> &DownloadConfig {
        self.download
            .as_deref()
            .unwrap_or(&self.inner.config.download)
    }

    /// With the settings in `path`, or those of the host.
    ///
    /// # Errors
    /// As [`ServiceConfig::load_or_default`].
    pub fn load_or_default(path: Option<&Path>) -> Result<Self> {
        ServiceConfig::load_or_default(path).map(Self::new)
    }

    /// The settings.
    #[must_use]
    pub fn config(&self) -> &ServiceConfig {
        &self.inner.config
    }

    /// The counters.
    #[must_use]
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.inner.metrics
    }

    /// The audit log.
    #[must_use]
    pub fn audit(&self) -> &Arc<Audit> {
        &self.inner.audit
    }

    /// Registry client and cache; starts them the first time. Blocks.
    ///
    /// # Errors
    /// As [`Registry::start`] and [`Cache::open`].
    pub fn remote(&self) -> Result<Remote> {
        let Inner {
            config,
            metrics,
            audit,
            remote,
        } = &*self.inner;
        let mut remote = remote.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(remote) = &*remote {
            return Ok(remote.clone());
        }
        let started = Remote {
            registry: Registry::start(config, metrics, audit)?,
            cache: Cache::open(&config.cache, metrics, audit)?,
        };
        Ok(remote.insert(started).clone())
    }
}
