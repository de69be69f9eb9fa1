//! Removes a device: unit, target, backstore, in this order.
//!
//! obd detach -> **detach** -> host
//!
//! What a crash has removed already is passed over. Source: format reference 8.1.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::device::{self, Device};
use super::host::{self, Host, failed};
use super::usage;
use super::waiting::until;
use crate::{Error, ErrorKind, Result};

/// Time for the daemon to close the image: it flushes it.
const CLOSE_TIME: Duration = Duration::from_secs(60);

/// How to detach.
#[derive(Debug, Clone, Copy, Default)]
pub struct DetachOptions {
    /// Also when it is in use, or cannot be flushed.
    pub force: bool,
}

/// Detaches one device. Blocks until it is flushed and the daemon has closed the image.
///
/// # Errors
/// `Busy` when it is in use. Any other names the step; calling again goes on from there.
pub fn detach(host: &Host, device: &Device, options: DetachOptions) -> Result<()> {
    if let Some(block) = &device.block
        && !options.force
    {
        let reasons = usage::reasons(host, &block.name);
        if !reasons.is_empty() {
            let detail = format!("{}: end that first, or --force", reasons.join(", "));
            let error = Error::new(ErrorKind::Busy, "detach", detail);
            return Err(error.in_file(format!("/dev/{}", block.name)));
        }
        if !block.is_read_only {
            let node = host.path("/dev").join(&block.name);
            flush(&node)
                .map_err(|error| failed("flush (--force leaves that out)", &node, error))?;
        }
    }
    for directory in &device.loopbacks {
        remove_loopback(host, directory, device)?;
    }
    host.remove_dir("remove device", &device.core)?;
    // Who made it may have asked the kernel not to wait for the daemon; the image is free when the daemon says so.
    let outcome = host.outcome(&device.hba, &device.name);
    let is_closed = || (!outcome.exists() || host.daemon().is_none()).then_some(());
    until(Instant::now() + CLOSE_TIME, is_closed).ok_or_else(|| {
        let detail = "the device is gone, but the daemon still holds the image";
        Error::new(ErrorKind::Busy, "detach", detail).in_file(outcome.display().to_string())
    })
}

fn flush(node: &Path) -> std::io::Result<()> {
    File::options().write(true).open(node)?.sync_all()
}

fn remove_loopback(host: &Host, directory: &Path, device: &Device) -> Result<()> {
    let core = device
        .core
        .canonicalize()
        .unwrap_or_else(|_| device.core.clone());
    let mut units: Vec<PathBuf> = Vec::new();
    for (link, target) in device::links(directory) {
        if target == core {
            host.unlink("unlink logical unit", &link)?;
            units.extend(link.parent().map(Path::to_owned));
        }
    }
    for unit in &units {
        host.remove_dir("remove logical unit", unit)?;
    }
    let group = directory.join("tpgt_1");
    if host::names(&group.join("lun"))
        .iter()
        .any(|name| name.starts_with("lun_"))
    {
        // Other devices' units hang on this target.
        return Ok(());
    }
    host.remove_dir("remove target port group", &group)?;
    host.remove_dir("remove loopback target", directory)
}
