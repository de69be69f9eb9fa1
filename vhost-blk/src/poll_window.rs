//! How long a worker looks at its rings before it sleeps.
//!
//! Waking a sleeping thread costs a request tens of microseconds, so a worker that expects the
//! next request soon had better wait for it awake; one that does not must not burn a CPU.
//!
//! Invariants
//! - the window is 0 or between [`WINDOW_MIN`] and [`WINDOW_MAX`].
//! - a disk without requests is not polled: each failure halves the window, and only waking up
//!   soon after going to sleep opens it again.

use std::time::Duration;

/// Longest time to poll for the next request.
pub const WINDOW_MAX: Duration = Duration::from_micros(50);

/// A shorter window is not worth it and becomes 0.
pub const WINDOW_MIN: Duration = Duration::from_micros(6);

/// Who sleeps shorter than this, the time to wake up included, had better polled.
pub const SLEEP_SHORT: Duration = Duration::from_micros(200);

/// The polling time of one worker.
#[derive(Debug, Default)]
pub struct PollWindow {
    window: Duration,
}

impl PollWindow {
    /// How long to poll before sleeping.
    #[must_use]
    pub fn window(&self) -> Duration {
        self.window
    }

    /// A request came while polling.
    pub fn succeeded(&mut self) {
        self.window = WINDOW_MAX;
    }

    /// No request came while polling.
    pub fn failed(&mut self) {
        self.window /= 2;
        if self.window < WINDOW_MIN {
            self.window = Duration::ZERO;
        }
    }

    /// A request ended a sleep of this length.
    pub fn slept(&mut self, sleep: Duration) {
        if sleep < SLEEP_SHORT {
            self.window = (self.window * 2).clamp(WINDOW_MAX / 4, WINDOW_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_without_requests_is_not_polled_for_long() {
        let mut poll = PollWindow::default();
        poll.succeeded();
        let mut polled = Duration::ZERO;
        while !poll.window().is_zero() {
            polled += poll.window();
            poll.failed();
        }
        assert!(polled <= WINDOW_MAX * 2, "{polled:?}");
    }

    #[test]
    fn short_sleeps_open_the_window_and_long_ones_do_not() {
        let mut poll = PollWindow::default();
        poll.slept(SLEEP_SHORT);
        assert_eq!(poll.window(), Duration::ZERO);
        for _ in 0..9 {
            poll.slept(SLEEP_SHORT / 2);
        }
        assert_eq!(poll.window(), WINDOW_MAX);
    }
}
