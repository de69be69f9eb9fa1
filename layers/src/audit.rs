//! The audit log: one line for each piece of remote I/O.
//!
//! registry, cache, download -> **audit** -> file
//!
//! ```text
//! 2026/11/22 10:19:21.284214|AUDIT|th=00007F424392B740|download[pathname=...][offset=0][size=12800][latency=43552]
//! ```
//!
//! Invariant: it never fails or ends what it tells about; a file that cannot be written is reported
//! once.
//!
//! Source: format reference 9.3.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::Zoned;

use crate::log_file::RotatingFile;

/// As in the C++ daemon: three files of 10 MiB.
const FILE_BYTES_MAX: u64 = 10 << 20;
const FILES: u32 = 3;

/// Longest path in a line; URLs and digests are shorter.
const PATH_CHARS_MAX: usize = 4096;

/// Where audit lines go; nowhere by default.
#[derive(Debug, Default)]
pub struct Audit {
    file: Option<Mutex<RotatingFile>>,
    has_failed: AtomicBool,
}

impl Audit {
    /// Lines go to `path`, which the first one opens or makes.
    #[must_use]
    pub fn new(path: Option<&Path>) -> Self {
        let file = |path| Mutex::new(RotatingFile::new(path, FILE_BYTES_MAX, FILES));
        Self {
            file: path.map(file),
            has_failed: AtomicBool::new(false),
        }
    }

    /// One event: `download`, `bk_download`, `file:pread`, `file:read`, `file:write`. `size` is the number of
    /// bytes done, or -1 for a failure. `path` holds no secrets. Blocks for the file, if there is one.
    pub fn record(
        &self,
        event: &'static str,
        path: &str,
        offset: u64,
        size: i64,
        latency: Duration,
    ) {
        let Some(file) = &self.file else {
            return;
        };
        let line = line(&Zoned::now(), event, path, offset, size, latency);
        let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.append(line.as_bytes())
            && !self.has_failed.swap(true, Ordering::Relaxed)
        {
            log::error!("audit lines are lost, this is said once: {error}");
        }
    }
}

fn line(now: &Zoned, event: &str, path: &str, offset: u64, size: i64, latency: Duration) -> String {
    let (year, month, day) = (now.year(), now.month(), now.day());
    let (hour, minute, second) = (now.hour(), now.minute(), now.second());
    let micros = now.subsec_nanosecond() / 1000;
    let mut line = format!(
        "{year:04}/{month:02}/{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06}\
         |AUDIT|th={:016X}|{event}[pathname=",
        thread()
    );
    // A line stays a line, whatever a config or a registry called a blob.
    let shown = path.chars().take(PATH_CHARS_MAX);
    line.extend(shown.map(|char| if char.is_control() { '?' } else { char }));
    let micros = latency.as_micros();
    line += &format!("][offset={offset}][size={size}][latency={micros}]\n");
    line
}

/// The kernel's number of the calling thread, as `top -H` shows it; 0 where there is no /proc.
fn thread() -> u64 {
    thread_local!(static NUMBER: u64 = ask_thread().unwrap_or(0));
    NUMBER.with(|number| *number)
}

fn ask_thread() -> Option<u64> {
    let link = std::fs::read_link("/proc/thread-self").ok()?;
    link.file_name()?.to_str()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_that_of_the_cpp_daemon() {
        let now: Zoned = "2026-11-22T10:19:21.284214999+01:00[+01:00]"
            .parse()
            .unwrap();
        let latency = Duration::from_micros(43552);
        let line = line(&now, "download", "/http://host/v2/a/b", 0, 12800, latency);
        let (before, after) = line.split_once("th=").unwrap();
        assert_eq!(before, "2026/11/22 10:19:21.284214|AUDIT|");
        let (thread, after) = after.split_at(16);
        assert!(
            thread
                .bytes()
                .all(|digit| digit.is_ascii_hexdigit() && !digit.is_ascii_lowercase())
        );
        assert_eq!(
            after,
            "|download[pathname=/http://host/v2/a/b][offset=0][size=12800][latency=43552]\n"
        );
    }

    #[test]
    fn threads_are_told_apart() {
        let here = thread();
        assert_ne!(here, 0);
        assert_eq!(here, thread());
        assert_ne!(here, std::thread::spawn(thread).join().unwrap());
    }

    #[test]
    fn nothing_is_opened_before_the_first_line_and_failures_have_size_minus_1() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.log");
        let audit = Audit::new(Some(&path));
        assert!(!path.exists());
        audit.record("bk_download", "a\nb", 4096, -1, Duration::from_secs(1));
        let text = std::fs::read_to_string(&path).unwrap();
        let wanted = "|bk_download[pathname=a?b][offset=4096][size=-1][latency=1000000]\n";
        assert!(text.ends_with(wanted), "{text}");
        assert_eq!(text.lines().count(), 1);
    }

    #[test]
    fn without_a_path_and_with_one_that_cannot_be_opened_nothing_happens() {
        Audit::default().record("download", "x", 0, 0, Duration::ZERO);
        let audit = Audit::new(Some(Path::new("/nonexistent/audit.log")));
        audit.record("download", "x", 0, 0, Duration::ZERO);
        assert!(audit.has_failed.load(Ordering::Relaxed));
        audit.record("download", "x", 0, 0, Duration::ZERO);
    }
}
