//! What a control socket tells of its disk.
//!
//! metrics -> **disk story** -> server, `obd why`
//!
//! It is JSON; readers ignore what they do not know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::metrics::{DiskMetrics, Operation, Story};

/// How a running disk gets on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DiskStory {
    /// Path of its socket.
    pub disk: String,
    /// The process that serves it.
    pub pid: u32,
    /// Requests of the guest that were answered, failed ones included, by operation.
    pub requests: BTreeMap<String, u64>,
    /// Bytes that the guest has read.
    pub read_bytes: u64,
    /// Bytes that the guest has written.
    pub written_bytes: u64,
    /// Requests of the guest that failed.
    pub errors: u64,
    /// Requests that wait now for a disk, the network or a thread.
    pub in_flight: u64,
    /// For how long there have been some without a break: no request waits longer.
    pub busy_seconds: f64,
    /// Requests that were answered after such a wait.
    pub deferred: u64,
    /// How long all of those waited together.
    pub deferred_seconds: f64,
    /// What its reads waited for in layers that are not on this host.
    pub start: Story,
}

impl DiskStory {
    /// As it is now, in this process.
    #[must_use]
    pub fn new(disk: &DiskMetrics) -> Self {
        let totals = disk.totals();
        let requests = Operation::ALL.iter().zip(totals.requests);
        let waits = disk.waits.snapshot();
        Self {
            disk: disk.name().to_owned(),
            pid: std::process::id(),
            requests: requests
                .map(|(operation, count)| (operation.name().to_owned(), count))
                .collect(),
            read_bytes: totals.read_bytes,
            written_bytes: totals.written_bytes,
            errors: totals.errors,
            in_flight: totals.in_flight,
            busy_seconds: totals.busy.as_secs_f64(),
            deferred: waits.count(),
            deferred_seconds: waits.sum_seconds,
            start: disk.journal().story(),
        }
    }

    /// One line of JSON.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Every field has a form in JSON.
        let text = serde_json::to_string(self).unwrap_or_default();
        text + "\n"
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::metrics::{Cause, Journal};

    #[test]
    fn a_story_survives_its_json() {
        let journal = Arc::<Journal>::default();
        journal.opened([1000]);
        journal.waited("sha256:a", 0..9, Duration::from_millis(3), Cause::Corrupt);
        let disk = DiskMetrics::new("a\"b\n".to_owned(), journal);
        let story = DiskStory::new(&disk);
        let json = story.to_json();
        assert_eq!(json.lines().count(), 1);
        let read: DiskStory = serde_json::from_str(&json).unwrap();
        assert_eq!(read, story);
    }
}
