//! Where the host's files are, and the errors of using them.
//!
//! attach, detach, device, doctor, unstick -> **host** -> tree
//!
//! All paths are below one root, so that tests have a host of their own.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::tree::{RealTree, Tree};
use super::waiting::pause;
use crate::tcmu_names::{DAEMON_LOCK, OUTCOMES, outcome_name};
use crate::{Error, Result};

/// Time for those to end who ask for the daemon.
const LOCK_WAIT: Duration = Duration::from_secs(5);
const LOCK_AGAIN: Duration = Duration::from_millis(1);

/// A host: its `/sys`, `/proc`, `/dev` and `/run`.
#[derive(Debug, Clone)]
pub struct Host {
    root: PathBuf,
    tree: Arc<dyn Tree>,
}

impl Default for Host {
    fn default() -> Self {
        Self::new(PathBuf::from("/"), Arc::new(RealTree))
    }
}

impl Host {
    /// A host whose files are below `root`, and changed through `tree`.
    pub(super) fn new(root: PathBuf, tree: Arc<dyn Tree>) -> Self {
        Self { root, tree }
    }

    /// The place of an absolute path of the host.
    #[must_use]
    pub fn path(&self, absolute: &str) -> PathBuf {
        self.root.join(absolute.trim_start_matches('/'))
    }

    pub(super) fn target(&self) -> PathBuf {
        self.path("/sys/kernel/config/target")
    }

    pub(super) fn core(&self) -> PathBuf {
        self.target().join("core")
    }

    pub(super) fn loopback(&self) -> PathBuf {
        self.target().join("loopback")
    }

    /// The number of the daemon's process, when one serves. Opens and locks for an instant.
    #[must_use]
    pub fn daemon(&self) -> Option<String> {
        let path = self.path(DAEMON_LOCK);
        let file = File::open(&path).ok()?;
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => {
                Some(read(&path).unwrap_or_else(|| "unknown".to_owned()))
            }
            Ok(()) | Err(TryLockError::Error(_)) => None,
        }
    }

    /// Keeps daemons from starting until what it returns is dropped; one that starts waits for a second. `None`
    /// when one serves. Blocks while others ask for the daemon.
    pub(super) fn hold_off_daemon(&self) -> Result<Option<File>> {
        let path = self.path(DAEMON_LOCK);
        let fail = |error| failed("take the daemon's lock", &path, error);
        let mut options = File::options();
        let file = options.write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(fail)?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::Error(error)) => return Err(fail(error)),
                Err(TryLockError::WouldBlock) if self.daemon().is_some() => return Ok(None),
                // Somebody asks.
                Err(TryLockError::WouldBlock) if pause(LOCK_AGAIN, deadline) => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(fail(io::ErrorKind::TimedOut.into()));
                }
            }
        }
    }

    pub(super) fn make_dir(&self, path: &Path) -> io::Result<()> {
        self.tree.make_dir(path)
    }

    /// Makes a directory unless it is there.
    pub(super) fn keep_dir(&self, step: &'static str, path: &Path) -> Result<()> {
        match self.tree.make_dir(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                Err(failed(step, path, error))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn write(&self, step: &'static str, path: &Path, value: &str) -> Result<()> {
        self.tree
            .write(path, value)
            .map_err(|error| failed(step, path, error))
    }

    pub(super) fn try_write(&self, path: &Path, value: &str) -> io::Result<()> {
        self.tree.write(path, value)
    }

    /// Where the daemon tells how it got on with a device.
    pub(super) fn outcome(&self, hba: &str, device: &str) -> PathBuf {
        self.path(OUTCOMES).join(outcome_name(hba, device))
    }

    pub(super) fn link(&self, step: &'static str, target: &Path, path: &Path) -> Result<()> {
        self.tree
            .link(target, path)
            .map_err(|error| failed(step, path, error))
    }

    /// Removes a link; one that is gone is none to remove.
    pub(super) fn unlink(&self, step: &'static str, path: &Path) -> Result<()> {
        gone(step, path, self.tree.unlink(path))
    }

    /// Removes a directory; one that is gone is none to remove.
    pub(super) fn remove_dir(&self, step: &'static str, path: &Path) -> Result<()> {
        gone(step, path, self.tree.remove_dir(path))
    }
}

fn gone(step: &'static str, path: &Path, done: io::Result<()>) -> Result<()> {
    match done {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(step, path, error)),
        _ => Ok(()),
    }
}

pub(super) fn failed(step: &'static str, path: &Path, error: io::Error) -> Error {
    Error::io(step, error).in_file(path.display().to_string())
}

/// The trimmed text of a small file, when it can be read.
pub(super) fn read(path: &Path) -> Option<String> {
    let bytes = fs::read(path).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim().to_owned())
}

/// The sorted names in a directory; none when it cannot be read.
pub(super) fn names(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort();
    names
}

/// Removes an ordinary file, if it is there.
pub(super) fn forget(step: &'static str, path: &Path) -> Result<()> {
    gone(step, path, fs::remove_file(path))
}
