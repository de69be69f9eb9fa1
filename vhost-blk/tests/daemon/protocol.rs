//! What the daemon says to a VMM: features, configuration, rings starting and stopping.

use vhost::VhostBackend;
use vhost::vhost_user::message::VhostUserProtocolFeatures;
use vhost::vhost_user::{Frontend, VhostUserFrontend};

use crate::frontend::{FEATURES, Vmm};
use crate::process::{Daemon, native_image};

/// A sector of the native image that is not a hole: the ext4 superblock.
const SECTOR: u64 = 2;

fn serve() -> (tempfile::TempDir, Daemon, std::path::PathBuf, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let (config, image) = native_image(dir.path());
    let socket = dir.path().join("disk.sock");
    let daemon = Daemon::serve(&config, &socket);
    let mut expected = vec![0; 4096];
    image.read_exact_at(SECTOR * 512, &mut expected).unwrap();
    assert!(expected.iter().any(|byte| *byte != 0));
    (dir, daemon, socket, expected)
}

#[test]
fn exactly_the_implemented_features_are_offered() {
    let (_dir, _daemon, socket, _) = serve();
    let mut frontend = Frontend::connect(&socket, 64).unwrap();
    let bits = [
        2,  // SEG_MAX
        5,  // RO
        6,  // BLK_SIZE
        9,  // FLUSH
        10, // TOPOLOGY
        12, // MQ
        28, // INDIRECT_DESC
        29, // EVENT_IDX
        30, // PROTOCOL_FEATURES
        32, // VERSION_1
    ];
    let expected = bits.iter().fold(0_u64, |features, bit| features | 1 << bit);
    assert_eq!(frontend.get_features().unwrap(), expected);
    frontend.set_features(FEATURES).unwrap();
    let protocol = frontend.get_protocol_features().unwrap();
    assert_eq!(
        protocol,
        VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::CONFIGURE_MEM_SLOTS
    );
    frontend.set_protocol_features(protocol).unwrap();
    assert_eq!(frontend.get_queue_num().unwrap(), 64);
    assert!(frontend.get_max_mem_slots().unwrap() >= 32);
}

#[test]
fn the_configuration_can_be_read_at_both_offsets_and_any_size() {
    let (_dir, _daemon, socket, _) = serve();
    let mut vmm = Vmm::connect(&socket);
    vmm.negotiate();
    let whole = vmm.config(0, 96);
    assert_eq!(whole[..8], (1_u64 << 21).to_le_bytes(), "1 GiB in sectors");
    for size in 1..=96 {
        for offset in [0, 0x100] {
            assert_eq!(vmm.config(offset, size), whole[..size as usize]);
        }
    }
}

#[test]
fn a_read_through_a_hand_made_ring_gives_the_image() {
    let (_dir, _daemon, socket, expected) = serve();
    let mut vmm = Vmm::connect(&socket);
    vmm.negotiate();
    vmm.share_memory();
    vmm.start_ring(0);
    for _ in 0..40 {
        assert_eq!(vmm.read(SECTOR, 4096), expected);
    }
    assert_eq!(vmm.frontend.get_vring_base(0).unwrap(), 40);
}

#[test]
fn a_vmm_may_acknowledge_everything_before_it_becomes_the_owner_and_negotiate_again() {
    let (_dir, _daemon, socket, expected) = serve();
    let mut vmm = Vmm::connect(&socket);
    let features = vmm.frontend.get_features().unwrap();
    vmm.frontend.set_features(features).unwrap();
    let protocol = vmm.frontend.get_protocol_features().unwrap();
    vmm.frontend.set_protocol_features(protocol).unwrap();
    assert_eq!(vmm.config(0x100, 60), vmm.config(0, 60));
    vmm.negotiate();
    vmm.share_memory();
    vmm.start_ring(0);
    assert_eq!(vmm.read(SECTOR, 4096), expected);
}

#[test]
fn a_ring_that_was_stopped_goes_on_where_it_was() {
    let (_dir, _daemon, socket, expected) = serve();
    let mut vmm = Vmm::connect(&socket);
    vmm.negotiate();
    vmm.share_memory();
    vmm.start_ring(65_530);
    for _ in 0..10 {
        vmm.read(SECTOR, 4096);
    }
    vmm.frontend.set_vring_enable(0, false).unwrap();
    let base = vmm.frontend.get_vring_base(0).unwrap();
    assert_eq!(base, 4, "the position wraps around");
    vmm.start_ring(4);
    assert_eq!(vmm.read(SECTOR, 4096), expected);
}

#[test]
fn stopping_a_busy_ring_neither_loses_nor_repeats_a_request() {
    let (_dir, _daemon, socket, expected) = serve();
    let mut vmm = Vmm::connect(&socket);
    vmm.negotiate();
    vmm.share_memory();
    vmm.start_ring(0);
    for _ in 0..200 {
        for _ in 0..7 {
            vmm.add_read(SECTOR, 4096);
        }
        vmm.kick();
        let base = vmm.frontend.get_vring_base(0).unwrap();
        assert_eq!(base, u32::from(vmm.used_idx()));
        vmm.resume_ring(vmm.used_idx());
        // Without a kick: what is in the ring when it starts must be seen.
        assert_eq!(vmm.wait_until_used(), 0);
    }
    assert_eq!(vmm.read(SECTOR, 4096), expected);
}

#[test]
fn a_request_made_while_its_ring_was_disabled_is_answered_when_it_is_enabled() {
    let (_dir, _daemon, socket, expected) = serve();
    let mut vmm = Vmm::connect(&socket);
    vmm.negotiate();
    vmm.share_memory();
    vmm.start_ring(0);
    assert_eq!(vmm.read(SECTOR, 4096), expected);
    vmm.frontend.set_vring_enable(0, false).unwrap();
    vmm.add_read(SECTOR, 4096);
    vmm.kick();
    vmm.frontend.set_vring_enable(0, true).unwrap();
    assert_eq!(vmm.wait_until_used(), 0);
}

#[test]
fn memory_that_was_taken_away_and_given_back_is_used_again() {
    let (_dir, _daemon, socket, expected) = serve();
    let mut vmm = Vmm::connect(&socket);
    vmm.negotiate();
    let region = vmm.region();
    vmm.frontend.add_mem_region(&region).unwrap();
    vmm.start_ring(0);
    assert_eq!(vmm.read(SECTOR, 4096), expected);
    let base = vmm.frontend.get_vring_base(0).unwrap();
    vmm.frontend.remove_mem_region(&region).unwrap();
    vmm.frontend.add_mem_region(&region).unwrap();
    vmm.start_ring(u16::try_from(base).unwrap());
    assert_eq!(vmm.read(SECTOR, 4096), expected);
}

#[test]
fn a_ring_whose_driver_lies_is_ignored_and_the_daemon_goes_on() {
    let (_dir, daemon, socket, expected) = serve();
    let mut vmm = Vmm::connect(&socket);
    vmm.negotiate();
    vmm.share_memory();
    vmm.start_ring(0);
    vmm.set_avail_idx(1000);
    vmm.kick();
    daemon.wait_for_log("disk.sock: queue 0: ring broken");
    assert_eq!(vmm.used_idx(), 0);
    vmm.frontend.get_vring_base(0).unwrap();
    vmm.start_ring(0);
    assert_eq!(vmm.read(SECTOR, 4096), expected);
}
