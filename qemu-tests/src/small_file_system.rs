//! A file system of the host that is soon full.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, ensure};

use crate::lab::Lab;

/// A tmpfs; unmounted when dropped.
#[derive(Debug)]
pub struct SmallFileSystem {
    dir: PathBuf,
}

impl Lab {
    /// A file system of so many MiB. Needs root.
    ///
    /// # Errors
    /// When it cannot be mounted.
    pub fn small_file_system(&self, name: &str, mib: u32) -> Result<SmallFileSystem> {
        let dir = self.dir().join(name);
        fs::create_dir(&dir)?;
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={mib}m,mode=755"))
            .arg("obd-test")
            .arg(&dir)
            .status()?;
        ensure!(status.success(), "mount a tmpfs: {status}");
        Ok(SmallFileSystem { dir })
    }
}

impl SmallFileSystem {
    /// Where it is mounted.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for SmallFileSystem {
    fn drop(&mut self) {
        // Lazily: a daemon that is about to be killed may still have files open.
        let unmounted = Command::new("umount").arg("-l").arg(&self.dir).status();
        // Nothing is lost when it stays: the directory of the lab then stays, too.
        drop(unmounted);
    }
}
