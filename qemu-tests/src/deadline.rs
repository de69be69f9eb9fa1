//! The bound of every wait.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// A moment after which waiting is a failure.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// `seconds` from now, but no later than `limit`.
    #[must_use]
    pub fn within(seconds: u64, limit: Self) -> Self {
        Self(limit.0.min(Self::after(seconds).0))
    }

    /// `seconds` from now.
    #[must_use]
    pub fn after(seconds: u64) -> Self {
        Self(Instant::now() + Duration::from_secs(seconds))
    }

    /// Time left; never zero, as socket time-outs want it.
    ///
    /// # Errors
    /// When the moment has passed; `what` says what was waited for.
    pub fn remaining(self, what: &str) -> Result<Duration> {
        let left = self.0.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("deadline passed while waiting for {what}");
        }
        Ok(left)
    }
}
