//! Tells threads of a disk that it is closed.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

/// Open until closed, then closed for good.
#[derive(Debug, Default)]
pub(super) struct Closing {
    closed: Mutex<bool>,
    changed: Condvar,
}

impl Closing {
    /// Wakes everybody who waits.
    pub(super) fn close(&self) {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it is closed, `time` at most. Is it?
    pub(super) fn wait(&self, time: Duration) -> bool {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        let (closed, _) = self
            .changed
            .wait_timeout_while(closed, time, |closed| !*closed)
            .unwrap_or_else(PoisonError::into_inner);
        *closed
    }
}
