//! Which process serves a device: the one that has its uio device open.
//!
//! Processes of other PID namespaces are not seen. When the daemon is not, nobody is said to be without owner.
//!
//! ls, doctor, unstick -> **owner** -> procfs

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::host::{self, Host};
use crate::tcmu_names::DAEMON_LOCK;

/// A process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its name, as `/proc/PID/comm` has it.
    pub command: String,
}

/// Who serves a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owner {
    /// This process.
    Process(Process),
    /// Nobody: its commands wait until a daemon starts.
    Nobody,
    /// Not all processes can be looked at: ask as root, where the daemon runs.
    Unknown,
}

/// The owners of all uio devices.
#[derive(Debug)]
pub(super) struct Owners {
    by_uio: HashMap<u32, Process>,
    is_complete: bool,
}

impl Owners {
    /// Looks at the open files of all processes. `daemon` is the number of the one that has the daemon's lock.
    pub(super) fn look(host: &Host, daemon: Option<&str>) -> Self {
        let mut by_uio = HashMap::new();
        let mut is_complete = daemon.is_none_or(|pid| has_lock_open(host, pid));
        for entry in host::names(&host.path("/proc")) {
            let Ok(pid) = entry.parse() else { continue };
            let process = host.path("/proc").join(&entry);
            match fs::read_dir(process.join("fd")) {
                Ok(files) => {
                    for file in files.flatten() {
                        if let Some(uio) =
                            fs::read_link(file.path()).ok().and_then(|to| number(&to))
                        {
                            let command = host::read(&process.join("comm")).unwrap_or_default();
                            by_uio.insert(uio, Process { pid, command });
                        }
                    }
                }
                // One that has ended in the meantime has nothing open.
                Err(error) => is_complete &= error.kind() == std::io::ErrorKind::NotFound,
            }
        }
        Self {
            by_uio,
            is_complete,
        }
    }

    /// Has every process been looked at that may serve a device?
    pub(super) fn is_complete(&self) -> bool {
        self.is_complete
    }

    pub(super) fn of(&self, uio: Option<u32>) -> Owner {
        match uio.and_then(|uio| self.by_uio.get(&uio)) {
            Some(process) => Owner::Process(process.clone()),
            None if self.is_complete || uio.is_none() => Owner::Nobody,
            None => Owner::Unknown,
        }
    }
}

/// Is the process of this number the one that holds the daemon's lock, and not another's of the same number in
/// another PID namespace?
fn has_lock_open(host: &Host, pid: &str) -> bool {
    let identity = |path: &Path| fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
    let Some(lock) = identity(&host.path(DAEMON_LOCK)) else {
        return false;
    };
    let files = host.path("/proc").join(pid).join("fd");
    host::names(&files)
        .iter()
        .any(|file| identity(&files.join(file)) == Some(lock))
}

fn number(target: &Path) -> Option<u32> {
    target.to_str()?.strip_prefix("/dev/uio")?.parse().ok()
}
