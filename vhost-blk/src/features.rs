//! What is offered to a VMM.
//!
//! Some VMMs (Dragonball) acknowledge every bit that is offered, so a bit stands here only when
//! everything it promises is done.
//!
//! Source: VirtIO 1.2 sections 5.2.3 and 6; the vhost-user specification, "Protocol features".

use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_CONFIG_WCE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

/// Features of every disk.
const ALWAYS: &[u32] = &[
    VIRTIO_F_VERSION_1,
    VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_BLK_SIZE,
    VIRTIO_BLK_F_TOPOLOGY,
    VIRTIO_BLK_F_FLUSH,
    VIRTIO_BLK_F_MQ,
    VIRTIO_RING_F_EVENT_IDX,
    VIRTIO_RING_F_INDIRECT_DESC,
];
const READ_ONLY: &[u32] = &[VIRTIO_BLK_F_RO];
const WRITABLE: &[u32] = &[
    VIRTIO_BLK_F_CONFIG_WCE,
    VIRTIO_BLK_F_DISCARD,
    VIRTIO_BLK_F_WRITE_ZEROES,
];

/// The virtio feature bits of a disk.
#[must_use]
pub fn virtio_features(is_writable: bool) -> u64 {
    let more = if is_writable { WRITABLE } else { READ_ONLY };
    ALWAYS.iter().chain(more).fold(
        VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits(),
        |features, bit| features | 1 << bit,
    )
}

/// The vhost-user protocol feature bits.
#[must_use]
pub fn protocol_features() -> VhostUserProtocolFeatures {
    VhostUserProtocolFeatures::CONFIG
        | VhostUserProtocolFeatures::MQ
        | VhostUserProtocolFeatures::REPLY_ACK
        | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
}
