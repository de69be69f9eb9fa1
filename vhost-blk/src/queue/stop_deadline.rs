//! How long the rings of one session may take to stop, all together.
//!
//! VMM messages -> shared queue -> **stop deadline**
//!
//! A VMM stops its rings one after the other and may not run the guest meanwhile, so what one ring
//! has waited the next one does not wait again.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shared by the queues of one session.
#[derive(Debug, Default)]
pub struct StopDeadline(Mutex<Option<Instant>>);

impl StopDeadline {
    /// Until when a stop that begins now may wait: for `timeout`, counted from the first stop
    /// since a ring was started last.
    pub fn get(&self, timeout: Duration) -> Instant {
        let mut deadline = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *deadline.get_or_insert_with(|| Instant::now() + timeout)
    }

    /// A ring is started.
    pub fn reset(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stops_share_a_deadline_until_a_ring_is_started() {
        let minute = Duration::from_secs(60);
        let stops = StopDeadline::default();
        let first = stops.get(minute);
        assert_eq!(stops.get(2 * minute), first);
        stops.reset();
        assert!(stops.get(2 * minute) > first);
    }
}
