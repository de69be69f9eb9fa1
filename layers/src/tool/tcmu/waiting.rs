//! Waiting for what the kernel makes in its own time, with a deadline.
//!
//! attach, detach, host -> **waiting**

use std::thread;
use std::time::{Duration, Instant};

/// How often sysfs is looked at: it tells nobody of its changes.
const EVERY: Duration = Duration::from_millis(10);

/// Asks until there is an answer, or the deadline has passed.
pub(super) fn until<T>(deadline: Instant, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    loop {
        if let Some(answer) = ask() {
            return Some(answer);
        }
        if !pause(EVERY, deadline) {
            return None;
        }
    }
}

/// Lets `time` pass, or what is left until the deadline; false when that has passed.
pub(super) fn pause(time: Duration, deadline: Instant) -> bool {
    let began = Instant::now();
    let time = time.min(deadline.saturating_duration_since(began));
    if time.is_zero() {
        return false;
    }
    loop {
        let left = time.saturating_sub(began.elapsed());
        if left.is_zero() {
            return true;
        }
        // May end early.
        thread::park_timeout(left);
    }
}
