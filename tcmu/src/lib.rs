//! overlaybd images as block devices of the host, over the kernel's TCMU.
//!
//! A command passes through the modules from top to bottom, and its answer back up:
//!
//! ```text
//! args -> serve (lock)                  one process for the host; signals, systemd
//!   adopt (netlink_gate)                devices that an earlier daemon has left
//!   follow (netlink)                    what the kernel wants made and removed
//!     devices -> device                 table of devices; one device, its threads
//!       uio, backstore                  its names in sysfs and configfs
//!       ring -> dispatch                takes commands from the kernel's ring
//!         scsi                          what a command wants; what it is told
//!         gather (data)                 writes that are committed together
//!         execute, write_queue (workers) commands that wait for a disk or the network
//!           disk -> layers::Image
//!         sense                         how commands end that do not end well
//! ```
//!
//! `control` answers Prometheus and takes live snapshots; `outcome` tells `obd` how devices fare.

mod adopt;
pub mod args;
mod backstore;
mod control;
mod data;
pub mod device;
mod devices;
mod disk;
mod dispatch;
pub mod error;
mod execute;
mod follow;
mod gather;
mod lock;
pub mod netlink;
mod netlink_gate;
mod outcome;
pub mod ring;
pub mod scsi;
mod sense;
pub mod serve;
pub mod uio;
mod workers;
mod write_queue;
