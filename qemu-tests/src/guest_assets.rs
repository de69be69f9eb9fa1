//! What a test guest consists of: kernel, initramfs, Debian tree, raw disk.
//!
//! `scripts/make-guest` makes them once and says what they are, `scripts/make-host` those of a container
//! host; their own locks let several test processes ask at the same time.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use anyhow::{Context, Result, anyhow, ensure};

use crate::programs::repository;

/// Paths of the finished parts.
#[derive(Debug)]
pub struct GuestAssets {
    /// Debian's kernel.
    pub kernel: PathBuf,
    /// busybox, drivers, the guest's side of [`crate::serial`], the manifests of the tree.
    pub initramfs: PathBuf,
    /// The Debian tree as a raw ext4 disk.
    pub root_disk: PathBuf,
}

impl GuestAssets {
    /// Finds them, or makes them (about half a minute, needs root and Debian's archive).
    ///
    /// # Errors
    /// What `scripts/make-guest` says, the same for every caller.
    pub fn get() -> Result<&'static Self> {
        static ASSETS: OnceLock<Result<GuestAssets, String>> = OnceLock::new();
        ASSETS
            .get_or_init(|| Self::make("make-guest").map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow!("{error}"))
    }

    /// As [`GuestAssets::get`], those of a container host: the same kernel, more modules and programs.
    ///
    /// # Errors
    /// What `scripts/make-host` says, the same for every caller.
    pub fn of_container_host() -> Result<&'static Self> {
        static ASSETS: OnceLock<Result<GuestAssets, String>> = OnceLock::new();
        ASSETS
            .get_or_init(|| Self::make("make-host").map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow!("{error}"))
    }

    fn make(name: &str) -> Result<Self> {
        let script = repository().join("scripts").join(name);
        let output = Command::new(&script)
            .stderr(Stdio::inherit())
            .output()
            .with_context(|| format!("run {}", script.display()))?;
        ensure!(
            output.status.success(),
            "scripts/{name} failed: {}",
            output.status
        );
        let dir = PathBuf::from(String::from_utf8(output.stdout)?.trim_end());
        Ok(Self {
            kernel: dir.join("vmlinuz"),
            initramfs: dir.join("initramfs.cpio.gz"),
            root_disk: dir.join("rootfs.ext4"),
        })
    }
}
