//! One test: its directory, its deadline, its verdict.
//!
//! Everything that runs in a lab logs into `*.log` files of the lab's directory. After the body
//! the verdict reads them all: a line that reports trouble fails the test unless the test has
//! declared it. When the test fails for any reason the logs are printed.

use std::cell::RefCell;
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

use crate::deadline::Deadline;
use crate::process::{UNPRIVILEGED_ID, is_root};

/// Longest time of one test, in seconds.
const LAB_SECONDS: u64 = 300;

/// Longest end of one log that is printed when a test fails.
const PRINTED_LINES_MAX: usize = 120;

/// What a log line must not contain: of the daemon, then of the guest's kernel.
const TROUBLE: &[&str] = &[
    "WARN",
    "ERROR",
    "panicked",
    "I/O error",
    "EXT4-fs error",
    "EXT4-fs warning",
    "orruption",
    "BTRFS error",
    "BTRFS critical",
    "Kernel panic",
    "BUG:",
    "Oops",
    "blocked for more than",
    "guest init:",
];

/// A running test.
#[derive(Debug)]
pub struct Lab {
    dir: TempDir,
    deadline: Deadline,
    expected_lines: RefCell<Vec<&'static str>>,
    /// Why the test failed; `None` once it has passed.
    failure: RefCell<Option<String>>,
}

impl Lab {
    /// Runs `body` in a new lab and gives the verdict.
    ///
    /// # Errors
    /// What `body` returned; trouble in a log.
    pub fn run(body: impl FnOnce(&Self) -> Result<()>) -> Result<()> {
        let lab = Self::new()?;
        let verdict = body(&lab).and_then(|()| lab.ensure_quiet_logs());
        *lab.failure.borrow_mut() = match &verdict {
            Ok(()) => None,
            Err(error) => Some(format!("{error:#}")),
        };
        verdict
    }

    /// As [`Lab::run`], for a body that gives something.
    ///
    /// # Errors
    /// As [`Lab::run`].
    pub fn run_for<T>(body: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let mut given = None;
        Self::run(|lab| {
            given = Some(body(lab)?);
            Ok(())
        })?;
        given.context("a body that ended well has given something")
    }

    fn new() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("obd-lab.").tempdir()?;
        // Daemons run as nobody: they read the lab and make sockets in one directory of it.
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755))?;
        let sockets = dir.path().join("sockets");
        fs::create_dir(&sockets)?;
        if is_root() {
            chown(&sockets, Some(UNPRIVILEGED_ID), Some(UNPRIVILEGED_ID))?;
        }
        Ok(Self {
            dir,
            deadline: Deadline::after(LAB_SECONDS),
            expected_lines: RefCell::default(),
            failure: RefCell::new(Some("it panicked".to_owned())),
        })
    }

    /// A directory that daemons can read; it goes away with the lab.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A socket path where daemons may listen.
    #[must_use]
    pub fn socket(&self, name: &str) -> PathBuf {
        self.dir().join("sockets").join(format!("{name}.sock"))
    }

    /// A log file that takes part in the verdict.
    #[must_use]
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.dir().join(format!("{name}.log"))
    }

    /// `seconds` from now, within the lab's own deadline.
    #[must_use]
    pub fn deadline(&self, seconds: u64) -> Deadline {
        Deadline::within(seconds, self.deadline)
    }

    /// Declares that log lines with `text` are part of what the test provokes.
    pub fn expect_in_logs(&self, text: &'static str) {
        self.expected_lines.borrow_mut().push(text);
    }

    fn ensure_quiet_logs(&self) -> Result<()> {
        let expected = self.expected_lines.borrow();
        for (name, text) in self.logs()? {
            let trouble = text.lines().find(|line| {
                TROUBLE.iter().any(|word| line.contains(word))
                    && !expected.iter().any(|text| line.contains(text))
            });
            ensure!(
                trouble.is_none(),
                "unexpected in {name}: {}",
                trouble.unwrap_or_default()
            );
        }
        Ok(())
    }

    fn logs(&self) -> Result<Vec<(String, String)>> {
        let mut logs = Vec::new();
        for entry in fs::read_dir(self.dir())? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "log") {
                let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
                let name = path
                    .file_stem()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned();
                logs.push((name, String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
        logs.sort();
        Ok(logs)
    }
}

impl Drop for Lab {
    #[expect(
        clippy::print_stderr,
        reason = "the test runner shows it for failed tests"
    )]
    fn drop(&mut self) {
        let failure = self.failure.borrow();
        let Some(failure) = failure.as_deref() else {
            return;
        };
        // Before the logs: whoever keeps only a part of the output keeps this one.
        eprintln!("---- failed: {failure}");
        for (name, text) in self.logs().unwrap_or_default() {
            let skipped = text.lines().count().saturating_sub(PRINTED_LINES_MAX);
            eprintln!("---- {name} (after {skipped} lines)");
            text.lines()
                .skip(skipped)
                .for_each(|line| eprintln!("{line}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict_on(line: &'static str, prepare: impl FnOnce(&Lab)) -> Result<()> {
        Lab::run(|lab| {
            prepare(lab);
            Ok(fs::write(lab.log_file("x"), format!("fine\n{line}\n"))?)
        })
    }

    #[test]
    fn a_quiet_log_passes() {
        verdict_on("[INFO] ending", |_| {}).unwrap();
    }

    #[test]
    fn a_warning_of_the_daemon_fails_the_test() {
        let error = verdict_on("[WARN  x] odd", |_| {}).unwrap_err();
        assert!(
            error.to_string().contains("unexpected in x: [WARN  x] odd"),
            "{error}"
        );
    }

    #[test]
    fn a_declared_warning_passes() {
        verdict_on("[WARN  x] odd", |lab| lab.expect_in_logs("odd")).unwrap();
    }

    #[test]
    fn an_io_error_in_the_kernel_log_fails_the_test() {
        let line = "I/O error, dev vda, sector 8 op 0x0:(READ)";
        verdict_on(line, |_| {}).unwrap_err();
    }
}
