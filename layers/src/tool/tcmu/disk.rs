//! The SCSI disk behind a block device: whether the kernel gives it commands at all.
//!
//! detach, doctor, unstick -> **disk** -> sysfs
//!
//! Commands of an offline disk fail at once; those of a device that is blocked in TCMU are answered BUSY, and the
//! SCSI layer asks again for weeks.
//!
//! Source: Linux `scsi_sysfs.c` (`state`), `sd.c` (`cache_type`).

use std::io;
use std::path::PathBuf;

use super::host::{self, Host};

/// Does the kernel refuse all commands of `block`?
pub(super) fn is_offline(host: &Host, block: &str) -> bool {
    host::read(&state(host, block)).as_deref() == Some("offline")
}

/// Fails what `block` has not begun, and all that comes.
///
/// # Errors
/// Of the write.
pub(super) fn set_offline(host: &Host, block: &str) -> io::Result<()> {
    host.try_write(&state(host, block), "offline\n")
}

/// Undoes [`set_offline`]. Has the kernel look at the disk anew: blocks until somebody serves it.
///
/// # Errors
/// Of the write.
pub(super) fn set_running(host: &Host, block: &str) -> io::Result<()> {
    host.try_write(&state(host, block), "running\n")
}

/// Has the kernel remove the offline `block` without a flush, which it would send in spite of that. For a disk
/// that is removed next: any other would lose writes.
///
/// # Errors
/// Of the writes.
pub(super) fn forget_write_cache(host: &Host, block: &str) -> io::Result<()> {
    let disks = directory(host, block).join("scsi_disk");
    for name in host::names(&disks) {
        let path = disks.join(name).join("cache_type");
        host.try_write(&path, "temporary write through")?;
    }
    Ok(())
}

/// Unlike others of the kernel's files it wants whole lines.
fn state(host: &Host, block: &str) -> PathBuf {
    directory(host, block).join("state")
}

fn directory(host: &Host, block: &str) -> PathBuf {
    host.path("/sys/block").join(block).join("device")
}
