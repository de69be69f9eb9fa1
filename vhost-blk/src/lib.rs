//! overlaybd images as disks of virtual machines over vhost-user-blk.
