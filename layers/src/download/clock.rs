//! Time, as a download sees it, and the end of it.
//!
//! download -> **clock**
//!
//! Invariant: whoever waits here goes on at once when the download is to end.

use std::fmt;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// What a download does with time; tests bring their own.
pub(super) trait Clock: Send + Sync + fmt::Debug {
    fn now(&self) -> Instant;

    /// Waits so long, but not beyond the end of the download.
    fn wait(&self, time: Duration);

    /// Is the download to end?
    fn is_stopped(&self) -> bool;
}

/// Real time, until it is stopped.
#[derive(Debug, Default)]
pub(super) struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    /// Ends every wait, now and later.
    pub(super) fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }
}

impl Clock for Stop {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn wait(&self, time: Duration) {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        // A wait that another thread's panic ended is over, too.
        drop(
            self.changed
                .wait_timeout_while(stopped, time, |stopped| !*stopped),
        );
    }

    fn is_stopped(&self) -> bool {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Time that passes only while somebody waits.
    #[derive(Debug)]
    pub(in crate::download) struct Virtual {
        began: Instant,
        passed: Mutex<Duration>,
        /// Stops when so much has passed.
        pub(in crate::download) end: Option<Duration>,
    }

    impl Default for Virtual {
        fn default() -> Self {
            Self {
                began: Instant::now(),
                passed: Mutex::default(),
                end: None,
            }
        }
    }

    impl Virtual {
        pub(in crate::download) fn passed(&self) -> Duration {
            *self.passed.lock().unwrap()
        }
    }

    impl Clock for Virtual {
        fn now(&self) -> Instant {
            self.began + self.passed()
        }

        fn wait(&self, time: Duration) {
            *self.passed.lock().unwrap() += time;
        }

        fn is_stopped(&self) -> bool {
            self.end.is_some_and(|end| self.passed() >= end)
        }
    }

    #[test]
    fn a_wait_ends_when_it_is_stopped() {
        let stop = std::sync::Arc::new(Stop::default());
        let waiter = std::sync::Arc::clone(&stop);
        let waits = std::thread::spawn(move || waiter.wait(Duration::from_secs(600)));
        assert!(!stop.is_stopped());
        stop.stop();
        waits.join().unwrap();
        assert!(stop.is_stopped());
    }
}
