//! overlaybd images as block devices of the host over the kernel's TCMU.

pub mod scsi;
