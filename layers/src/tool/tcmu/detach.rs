//! Removes a device: unit, target, backstore, in this order.
//!
//! obd detach -> **detach** -> host, disk, usage
//!
//! What a crash has removed already is passed over. Source: format reference 8.1.

use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::device::{self, BlockDevice, Device};
use super::disk;
use super::host::{self, Host, failed};
use super::usage;
use super::waiting::until;
use crate::tcmu_names::FAILED;
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
    let mut claims = Vec::new();
    if !options.force {
        for block in device.blocks(host) {
            claims.extend(claim(host, &block)?);
        }
    }
    for directory in &device.loopbacks {
        if let Some(block) = device::block_of(host, directory)
            && disk::is_offline(host, &block.name)
        {
            disk::forget_write_cache(host, &block.name)
                .map_err(|error| failed("leave out the flush", directory, error))?;
        }
        remove_loopback(host, directory, device)?;
    }
    drop(claims);
    host.remove_dir("remove device", &device.core)?;
    wait_until_closed(host, device)
}

/// Makes sure that nobody uses the block device, in no mount namespace, and that nobody will while the file is
/// open; and that all is written. `None`: it is offline, and nothing can be written any more.
fn claim(host: &Host, block: &BlockDevice) -> Result<Option<File>> {
    let node = host.path("/dev").join(&block.name);
    let refuse = |reason: &str| {
        let detail = format!("{reason}: end that first, or --force");
        let error = Error::new(ErrorKind::Busy, "detach", detail);
        Err(error.in_file(format!("/dev/{}", block.name)))
    };
    let reasons = usage::reasons(host, &block.name);
    if !reasons.is_empty() {
        return refuse(&reasons.join(", "));
    }
    let mut exclusive = File::options();
    exclusive.read(true).custom_flags(libc::O_EXCL);
    let file = match exclusive.open(&node) {
        Ok(file) => file,
        Err(error) => {
            return match error.raw_os_error() {
                Some(libc::EBUSY) => refuse(
                    "in use: mounted (as btrfs, or in another mount namespace such as a container's), \
                     part of another device, or under mkfs or fsck",
                ),
                Some(libc::ENXIO) if disk::is_offline(host, &block.name) => Ok(None),
                _ => Err(failed(
                    "look whether it is in use (--force leaves that out)",
                    &node,
                    error,
                )),
            };
        }
    };
    if !block.is_read_only {
        file.sync_all()
            .map_err(|error| failed("flush (--force leaves that out)", &node, error))?;
    }
    Ok(Some(file))
}

/// Who made it may have asked the kernel not to wait for the daemon; the image is free when the daemon says so, or
/// has said that it never had it.
fn wait_until_closed(host: &Host, device: &Device) -> Result<()> {
    let outcome = host.outcome(&device.hba, &device.name);
    let is_closed = || match host::read(&outcome) {
        Some(told) if told.starts_with(FAILED) => {
            Some(host::forget("forget the outcome", &outcome))
        }
        Some(_) if host.daemon().is_some() => None,
        _ => Some(Ok(())),
    };
    let closed = until(Instant::now() + CLOSE_TIME, is_closed);
    closed.unwrap_or_else(|| {
        let detail = "the device is gone, but the daemon still holds the image";
        let error = Error::new(ErrorKind::Busy, "detach", detail);
        Err(error.in_file(outcome.display().to_string()))
    })
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
