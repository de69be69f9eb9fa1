//! Block devices of the host: making, listing and removing them through configfs and sysfs.
//!
//! obd attach, detach, ls, doctor -> **tcmu** -> configfs, sysfs, procfs
//!
//! The kernel asks the daemon for every command of such a device. Rings and SCSI are the daemon's
//! matter; here are only the files an operator would echo into.
//!
//! Source: format reference 8.1; Linux `drivers/target/target_core_user.c`, `loopback/tcm_loop.c`.

mod attach;
mod detach;
mod device;
mod disk;
mod doctor;
mod host;
mod names;
mod owner;
#[cfg(test)]
mod test_host;
#[cfg(test)]
mod test_unstick;
mod tree;
mod unstick;
mod usage;
mod waiting;

pub use attach::{AttachOptions, Attached, attach};
pub use detach::{DetachOptions, detach};
pub use device::{BlockDevice, Device, devices, find, owned};
pub use doctor::{Check, examine};
pub use host::Host;
pub use owner::{Owner, Process};
pub use unstick::unstick;
