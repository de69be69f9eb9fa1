//! Block devices of the host: making, listing and removing them through configfs and sysfs.
//!
//! obd attach, detach, ls, doctor -> **tcmu** -> configfs, sysfs, procfs
//!
//! The kernel asks the daemon for every command of such a device. Rings and SCSI are the daemon's
//! matter; here are only the files an operator would echo into.
//!
//! Source: format reference 8.1; Linux `drivers/target/target_core_user.c`, `loopback/tcm_loop.c`.

/// The daemon holds the lock (flock, exclusive) of this file while it serves; the file holds its
/// process number in decimal. Who only asks takes a shared lock for an instant, so a daemon that
/// finds the lock taken tries again for a second before it gives up.
pub const DAEMON_LOCK: &str = "/run/overlaybd-tcmu.lock";
