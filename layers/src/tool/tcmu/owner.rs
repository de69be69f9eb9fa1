//! Which process serves a device: the one that has its uio device open.
//!
//! ls, doctor, unstick -> **owner** -> procfs

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use super::host::{self, Host};

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
    /// Not all processes may be looked at: ask as root.
    Unknown,
}

/// The owners of all uio devices.
#[derive(Debug)]
pub(super) struct Owners {
    by_uio: HashMap<u32, Process>,
    is_complete: bool,
}

impl Owners {
    /// Looks at the open files of all processes.
    pub(super) fn look(host: &Host) -> Self {
        let mut by_uio = HashMap::new();
        let mut is_complete = true;
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

    pub(super) fn of(&self, uio: Option<u32>) -> Owner {
        match uio.and_then(|uio| self.by_uio.get(&uio)) {
            Some(process) => Owner::Process(process.clone()),
            None if self.is_complete || uio.is_none() => Owner::Nobody,
            None => Owner::Unknown,
        }
    }
}

fn number(target: &Path) -> Option<u32> {
    target.to_str()?.strip_prefix("/dev/uio")?.parse().ok()
}
