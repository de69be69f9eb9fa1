//! Real virtual machines against the daemons.
//!
//! A test is a [`lab::Lab`]: it makes images, starts daemons, boots VMs from their sockets, runs
//! shell commands in the guests and compares. The way of one read in it:
//!
//! ```text
//! guest shell -> virtio-blk driver -> qemu -> socket of overlaybd-vhost-blk -> image -> layers
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`lab`] | one test: its directory, its deadline, its verdict over all logs |
//! | [`guest_assets`] | kernel, initramfs, Debian tree and raw disk, made once by `scripts/make-guest` |
//! | [`programs`] | the programs under test, built by cargo |
//! | [`image`] | image configs over layers, imported from raw disks, new writable ones |
//! | [`origin`] | images in a registry, and hosts with a cache |
//! | [`daemon`] | one `overlaybd-vhost-blk`: start, kill, start again, stop |
//! | [`vm`] | one qemu: disks, boot, reset, kill |
//! | [`host_vm`] | a qemu that is a container host: programs under test and SCSI targets inside it |
//! | [`scsi_targets`] | SCSI targets in a container host, made by hand; the daemons that answer for them |
//! | [`serial`] | shell commands in the guest, over a serial line |
//! | [`qmp`] | qemu's control socket |
//! | [`load`] | one disk used by `blkio` instead of a guest: whole-disk compare, rate and latency |
//! | [`small_file_system`] | a file system of the host that is soon full |
//! | [`process`] | a child that never outlives the test |
//! | [`deadline`] | the bound of every wait |

pub mod daemon;
pub mod deadline;
pub mod guest_assets;
pub mod host_vm;
pub mod image;
pub mod lab;
pub mod load;
pub mod origin;
pub mod process;
pub mod programs;
pub mod qmp;
pub mod scsi_targets;
pub mod serial;
pub mod small_file_system;
pub mod vm;
