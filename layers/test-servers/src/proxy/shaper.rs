//! A slow, distant link: bandwidth shared by all connections, and a delay for each question.
//!
//! A model, not a network: every request waits one round trip, a new connection one more; there is
//! no slow start and no loss.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::listener::{Connection, locked};

/// Bytes that one connection sends before another one has its turn.
pub(super) const TURN_BYTES: usize = 8 * 1024;

/// What the link is like. The default is the loopback as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Shape {
    /// For all connections together; `None` = no limit.
    pub bits_per_second: Option<u32>,
    /// Time from a question to the first byte of its answer.
    pub round_trip: Duration,
}

/// The link.
#[derive(Debug, Default)]
pub(super) struct Shaper {
    shape: Mutex<Shape>,
    /// When the link has sent everything that was given to it.
    free_at: Mutex<Option<Instant>>,
}

impl Shaper {
    pub(super) fn set(&self, shape: Shape) {
        *locked(&self.shape) = shape;
    }

    /// Waits a round trip.
    pub(super) fn round_trip(&self, connection: &Connection) {
        let time = locked(&self.shape).round_trip;
        if !time.is_zero() {
            connection.pause(time);
        }
    }

    /// Waits until `bytes` more have passed.
    pub(super) fn pass(&self, bytes: usize, connection: &Connection) {
        let Some(rate) = locked(&self.shape).bits_per_second else {
            return;
        };
        let nanos =
            u64::try_from(bytes).unwrap_or(u64::MAX) * 8_000_000_000 / u64::from(rate.max(1));
        let end = {
            let mut free_at = locked(&self.free_at);
            let now = Instant::now();
            let start = free_at.unwrap_or(now).max(now);
            *free_at.insert(start + Duration::from_nanos(nanos))
        };
        connection.pause_until(end);
    }
}
