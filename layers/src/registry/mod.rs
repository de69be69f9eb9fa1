//! Blobs of OCI registries, read by range over HTTP.
//!
//! image -> lsmt -> zfile -> tar -> cache -> **registry**
//!
//! Source: format reference 6.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::audit::Audit;
use crate::config::ServiceConfig;
use crate::error::{Error, ErrorKind, Result};
use crate::metrics::Metrics;
use crate::range_source::{RangeSource, Sink, Urgency};

/// The HTTP client of a process.
#[derive(Debug)]
pub struct Registry {}

impl Registry {
    /// Starts the driver thread. Reads the certificates that `config` names; asks nobody anything.
    ///
    /// # Errors
    /// `Config`, `NotFound` or `Io` for certificates and addresses that cannot be used.
    pub fn start(
        _config: &ServiceConfig,
        _metrics: &Arc<Metrics>,
        _audit: &Arc<Audit>,
    ) -> Result<Arc<Self>> {
        Err(Error::new(
            ErrorKind::Unsupported,
            "start registry client",
            "not built yet",
        ))
    }

    /// The blob `digest` below `repo_blob_url`. `size` in bytes when it is known. Asks nobody
    /// anything.
    ///
    /// # Errors
    /// `Config` for a URL or digest that is none.
    pub fn blob(
        self: &Arc<Self>,
        _repo_blob_url: &str,
        digest: &str,
        _size: Option<u64>,
    ) -> Result<Blob> {
        Ok(Blob {
            digest: digest.to_owned(),
        })
    }
}

/// One blob in a registry.
#[derive(Debug)]
pub struct Blob {
    digest: String,
}

impl RangeSource for Blob {
    fn name(&self) -> &str {
        &self.digest
    }

    fn size(&self, _deadline: Instant) -> Result<u64> {
        Err(Error::new(
            ErrorKind::Unsupported,
            "ask for blob size",
            "not built yet",
        ))
    }

    fn fetch(
        &self,
        _range: Range<u64>,
        _urgency: Urgency,
        _deadline: Instant,
        _sink: &mut Sink<'_>,
    ) -> Result<()> {
        Err(Error::new(
            ErrorKind::Unsupported,
            "fetch blob",
            "not built yet",
        ))
    }
}
