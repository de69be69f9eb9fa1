//! How long a worker looks at its rings before it sleeps.
//!
//! worker -> **poll window**
//!
//! Waking a sleeping thread costs a request tens of microseconds, so a worker that expects the
//! next request soon had better wait for it awake; one that does not must not burn a CPU, and one
//! that shares its CPU with the driver keeps the very request away that it waits for.
//!
//! Invariants
//! - the window is 0 or between [`WINDOW_MIN`] and [`WINDOW_MAX`].
//! - a disk without requests is not polled: each failure halves the window, and only waking up
//!   soon after going to sleep opens it again.
//! - where polling always fails, it is tried ever more rarely.

use std::time::Duration;

/// Longest time to poll for the next request.
pub const WINDOW_MAX: Duration = Duration::from_micros(50);

/// A shorter window is not worth it and becomes 0.
pub const WINDOW_MIN: Duration = Duration::from_micros(6);

/// Who sleeps shorter than this, the time to wake up included, might better have polled.
pub const SLEEP_SHORT: Duration = Duration::from_micros(200);

/// Most short sleeps in a row before polling is tried again.
const SLEEPS_MAX: u32 = 64;

/// The polling time of one worker.
#[derive(Debug)]
pub struct PollWindow {
    window: Duration,
    /// Short sleeps to go before the window opens.
    sleeps_left: u32,
    /// What `sleeps_left` starts from when the window closes next.
    sleeps_wanted: u32,
}

impl Default for PollWindow {
    fn default() -> Self {
        Self {
            window: Duration::ZERO,
            sleeps_left: 1,
            sleeps_wanted: 2,
        }
    }
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
        self.sleeps_wanted = 2;
    }

    /// No request came while polling.
    pub fn failed(&mut self) {
        if self.window.is_zero() {
            return;
        }
        self.window /= 2;
        if self.window < WINDOW_MIN {
            self.window = Duration::ZERO;
            self.sleeps_left = self.sleeps_wanted;
            self.sleeps_wanted = (self.sleeps_wanted * 2).min(SLEEPS_MAX);
        }
    }

    /// A request ended a sleep of this length.
    pub fn slept(&mut self, sleep: Duration) {
        if sleep >= SLEEP_SHORT {
            return;
        }
        self.sleeps_left = self.sleeps_left.saturating_sub(1);
        if self.sleeps_left == 0 && self.window.is_zero() {
            self.window = WINDOW_MAX / 4;
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
    fn a_short_sleep_opens_the_window_and_a_long_one_does_not() {
        let mut poll = PollWindow::default();
        poll.slept(SLEEP_SHORT);
        assert_eq!(poll.window(), Duration::ZERO);
        poll.slept(SLEEP_SHORT / 2);
        assert!(poll.window() >= WINDOW_MIN);
        poll.succeeded();
        assert_eq!(poll.window(), WINDOW_MAX);
    }

    #[test]
    fn where_polling_always_fails_it_costs_next_to_nothing() {
        let mut poll = PollWindow::default();
        let mut polled = Duration::ZERO;
        for _ in 0..10_000 {
            polled += poll.window();
            poll.failed();
            poll.slept(SLEEP_SHORT / 2);
        }
        assert!(polled / 10_000 < Duration::from_micros(1), "{polled:?}");
    }
}
