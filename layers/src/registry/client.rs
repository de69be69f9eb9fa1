//! What all requests of a registry client share.
//!
//! transfer, origin, repository -> **client** -> transport, credentials, admission, metrics

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use reqwest::Response;
use reqwest::header::HeaderValue;
use url::Url;

use super::accelerator::Accelerator;
use super::admission::Admission;
use super::credentials::Store;
use super::failure::Attempt;
use super::timing::Timing;
use super::tls;
use super::transport::Transport;
use crate::config::ServiceConfig;
use crate::error::Result;
use crate::metrics::Metrics;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) transport: Transport,
    pub(super) accelerator: Option<Accelerator>,
    pub(super) credentials: Store,
    pub(super) admission: Admission,
    pub(super) timing: Timing,
    pub(super) metrics: Arc<Metrics>,
}

impl Client {
    /// # Errors
    /// Those of certificates and addresses that cannot be used.
    pub(super) fn new(
        config: &ServiceConfig,
        timing: &Timing,
        metrics: &Arc<Metrics>,
    ) -> Result<Self> {
        let client = tls::registry_client(config, timing)?;
        Ok(Self {
            transport: Transport::new(client, timing.silence),
            accelerator: Accelerator::new(config, timing)?,
            credentials: Store::new(&config.credentials, &config.user_agent)?,
            admission: Admission::default(),
            timing: timing.clone(),
            metrics: Arc::clone(metrics),
        })
    }

    /// Asks for a range of a blob at `url`.
    pub(super) async fn get_range(
        &self,
        place: &str,
        url: &Url,
        range: &Range<u64>,
        authorization: Option<&HeaderValue>,
    ) -> Attempt<Response> {
        let requests = &self.metrics.registry_requests;
        requests.fetch_add(1, Ordering::Relaxed);
        let transport = &self.transport;
        transport.get(place, url, Some(range), authorization).await
    }

    pub(super) fn count_token(&self) {
        self.metrics.registry_tokens.fetch_add(1, Ordering::Relaxed);
    }
}
