//! The p2p accelerator: a server nearby through which data requests go while it works.
//!
//! origin -> **accelerator** -> transport
//!
//! Who may have the blob, and where it is, is still asked at the registry; the accelerator is
//! given the URL that came out of that. While it fails, everything goes to the origin.
//!
//! Source: format reference 6.6.

use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use reqwest::Response;
use reqwest::header::HeaderValue;
use url::Url;

use super::failure::{Attempt, Failure};
use super::redact;
use super::timing::Timing;
use super::tls;
use super::transport::Transport;
use crate::config::ServiceConfig;
use crate::error::{Error, ErrorKind, Remote, Result};

const PAUSES_MAX: u32 = 12;

/// See the module's description.
pub(super) struct Accelerator {
    address: String,
    pub(super) place: String,
    transport: Transport,
    pause: Duration,
    state: Mutex<State>,
}

/// The address may hold a password.
impl fmt::Debug for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Accelerator({})", self.place)
    }
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    paused_until: Option<Instant>,
}

impl Accelerator {
    /// `None` when there is none.
    ///
    /// # Errors
    /// `Config` for an address that is no URL.
    pub(super) fn new(config: &ServiceConfig, timing: &Timing) -> Result<Option<Self>> {
        if !config.p2p.enable {
            return Ok(None);
        }
        let address = config.p2p.address.trim_end_matches('/').to_owned();
        let url = Url::parse(&address).ok().filter(|url| {
            matches!(url.scheme(), "http" | "https") && url.has_host() && url.query().is_none()
        });
        let Some(url) = url else {
            let detail = "p2pConfig.address is not an http or https URL without a query";
            return Err(Error::new(
                ErrorKind::Config,
                "start registry client",
                detail,
            ));
        };
        let client = tls::accelerator_client(config, timing)?;
        Ok(Some(Self {
            address,
            place: format!("accelerator {}", redact::place(&url)),
            transport: Transport::new(client, timing.accelerator_silence),
            pause: timing.accelerator_pause,
            state: Mutex::default(),
        }))
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Has it not failed lately?
    pub(super) fn is_usable(&self) -> bool {
        let now = Instant::now();
        self.state().paused_until.is_none_or(|until| until <= now)
    }

    /// Asks it for a range of what is at `url`.
    pub(super) async fn get(
        &self,
        url: &Url,
        range: &Range<u64>,
        authorization: Option<&HeaderValue>,
    ) -> Attempt<Response> {
        let prefixed = Url::parse(&format!("{}/{url}", self.address));
        let prefixed = prefixed.map_err(|_| {
            let words = format!("{} cannot be given the URL", self.place);
            Failure::new(Remote::BadAnswer, words)
        })?;
        let transport = &self.transport;
        transport
            .get(&self.place, &prefixed, Some(range), authorization)
            .await
    }

    pub(super) fn worked(&self) {
        let mut state = self.state();
        if state.failures > 0 {
            log::info!("{} is used again", self.place);
        }
        *state = State::default();
    }

    pub(super) fn failed(&self, failure: &Failure) {
        let mut state = self.state();
        // Requests that were under way together fail together: that is one failure.
        if state
            .paused_until
            .is_some_and(|until| until > Instant::now())
        {
            return;
        }
        if state.failures == 0 {
            let words = &failure.words;
            log::warn!("registries are asked without the accelerator: {words}");
        }
        state.failures = state.failures.saturating_add(1).min(PAUSES_MAX);
        let pauses = (1 << (state.failures - 1).min(4)).min(PAUSES_MAX);
        state.paused_until = Some(Instant::now() + self.pause * pauses);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
