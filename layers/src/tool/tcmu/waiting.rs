//! Waiting for what the kernel makes in its own time, with a deadline.
//!
//! attach -> **waiting**

use std::sync::mpsc;
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

/// Lets `time` pass; false when the deadline has.
pub(super) fn pause(time: Duration, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return false;
    }
    let (sender, nothing) = mpsc::channel::<()>();
    let passed = nothing.recv_timeout(time.min(left));
    drop(sender);
    passed.is_err()
}
