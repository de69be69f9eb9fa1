//! Virtual machines with overlaybd disks. One process, so that VMs run as many at a time as the
//! test runner has threads.

mod crashes;
mod daemon_restart;
mod data_disks;
mod disks;
mod expected;
mod fio;
mod no_space;
mod published;
mod remote;
mod root_disk;
mod vm_restart;
mod writable_root;
