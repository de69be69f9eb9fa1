//! What the operating system says of this process.
//!
//! /proc -> **process** -> page
//!
//! The names are those that Prometheus client libraries use.

use std::fs;
use std::time::{Duration, SystemTime};

use super::text::{Kind, Text};

/// Clock ticks a second in `/proc`, on every architecture that Linux has had for long.
const TICKS: u64 = 100;

/// Writes what can be found out. Blocks for `/proc`.
pub(super) fn write(text: &mut Text, began: SystemTime) {
    let since = began.duration_since(SystemTime::UNIX_EPOCH);
    text.single(
        Kind::Gauge,
        "process_start_time_seconds",
        "When the process began, in seconds since 1970.",
        since.unwrap_or_default().as_secs_f64(),
    );
    if let Some(bytes) = resident_bytes() {
        text.single(
            Kind::Gauge,
            "process_resident_memory_bytes",
            "Memory of the process that is not swapped out.",
            bytes,
        );
    }
    if let Some(time) = cpu_time() {
        text.single(
            Kind::Counter,
            "process_cpu_seconds_total",
            "CPU time of the process, user and system.",
            time.as_secs_f64(),
        );
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        text.single(
            Kind::Gauge,
            "process_open_fds",
            "Open files of the process.",
            files.count(),
        );
    }
}

fn resident_bytes() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

fn cpu_time() -> Option<Duration> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program may hold anything, but nothing after it a parenthesis.
    let (_, fields) = stat.rsplit_once(") ")?;
    let ticks = fields.split(' ').skip(11).take(2);
    let ticks = ticks
        .map(str::parse::<u64>)
        .sum::<std::result::Result<u64, _>>()
        .ok()?;
    Some(Duration::from_millis(ticks.checked_mul(1000)? / TICKS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proc_is_understood() {
        assert!(resident_bytes().unwrap() > 100_000);
        let before = cpu_time().unwrap();
        let mut number = 1_u64;
        while cpu_time().unwrap() < before + Duration::from_millis(20) {
            number = std::hint::black_box(number.wrapping_mul(3));
        }
    }
}
