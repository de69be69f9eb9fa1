//! How long the client waits for what.
//!
//! registry -> **timing** (constants of one client)

use std::time::Duration;

/// Times of one client. The standard ones suit everything but tests.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Longest wait for a connection, TLS included.
    pub connect: Duration,
    /// A connection that has brought no byte for so long is given up.
    pub silence: Duration,
    /// Most wait before the first repetition; doubles with each.
    pub backoff_first: Duration,
    /// Most wait before any repetition. Short even for background fetches: a guest may come to wait
    /// for what one of them brings.
    pub backoff_max: Duration,
    /// A fetch that still fails after so long is worth a warning.
    pub outage: Duration,
    /// As `silence`, for the accelerator, which is near.
    pub accelerator_silence: Duration,
    /// An accelerator that failed is left alone for so long; doubles up to twelve times as much.
    pub accelerator_pause: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            backoff_first: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            outage: Duration::from_secs(10),
            accelerator_silence: Duration::from_secs(5),
            accelerator_pause: Duration::from_secs(5),
        }
    }
}
