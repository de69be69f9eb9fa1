//! What the engine logs, at level info and above.

use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;

struct Lines {
    lines: Mutex<Vec<String>>,
    came: Condvar,
}

static LINES: Lines = Lines {
    lines: Mutex::new(Vec::new()),
    came: Condvar::new(),
};

impl log::Log for Lines {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = format!("{} {}", record.level(), record.args());
        // A test that failed while it looked is no reason for others to fail.
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push(line);
        self.came.notify_all();
    }

    fn flush(&self) {}
}

/// Keeps lines from now on, those of other tests included.
pub(crate) fn keep() {
    // An error means that another test has done so.
    log::set_logger(&LINES).ok();
    log::set_max_level(log::LevelFilter::Info);
}

/// Everything so far.
pub(crate) fn all() -> Vec<String> {
    LINES.lines.lock().unwrap().clone()
}

/// The first line that is `wanted`.
pub(crate) fn wait_for(wanted: impl Fn(&String) -> bool, time: Duration) -> String {
    let lines = LINES.lines.lock().unwrap();
    let none = |lines: &mut Vec<String>| !lines.iter().any(&wanted);
    let (lines, _) = LINES.came.wait_timeout_while(lines, time, none).unwrap();
    let found = lines.iter().find(|line| wanted(line));
    found.expect("a line in time").clone()
}
