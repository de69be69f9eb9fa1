//! The audit log: one line for each piece of remote I/O.
//!
//! registry, cache, download -> **audit** -> file
//!
//! Source: format reference 9.3.

use std::time::Duration;

/// Where audit lines go; nowhere by default.
#[derive(Debug, Default)]
pub struct Audit {}

impl Audit {
    /// One event: `download`, `bk_download`, `file:pread`, `file:read`, `file:write`. `size` is the number of
    /// bytes done, or -1 for a failure. `path` holds no secrets.
    pub fn record(
        &self,
        _event: &'static str,
        _path: &str,
        _offset: u64,
        _size: i64,
        _latency: Duration,
    ) {
    }
}
