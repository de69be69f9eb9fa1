//! overlaybd images as block devices of the host, over the kernel's TCMU.
//!
//! A command passes through the modules from top to bottom, and its answer back up:
//!
//! ```text
//! args -> serve                         one process for the host; signals, systemd
//!   adopt (netlink_gate)                devices that an earlier daemon has left
//!   netlink                             what the kernel wants made and removed
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

pub mod adopt;
pub mod args;
pub mod backstore;
pub mod control;
pub mod data;
pub mod device;
pub mod devices;
pub mod disk;
mod dispatch;
pub mod error;
mod execute;
mod gather;
pub mod netlink;
pub mod netlink_gate;
pub mod outcome;
pub mod ring;
pub mod scsi;
mod sense;
pub mod serve;
pub mod uio;
pub mod workers;
mod write_queue;
