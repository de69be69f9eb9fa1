//! READ CAPACITY.

use tcmu::scsi::{Action, Disk, decode};

use crate::disks::{assert_bad_field, read_only, refusal, reply, writable};

const CAPACITY_10: [u8; 10] = [0x25, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// With an allocation length of 32.
const CAPACITY_16: [u8; 16] = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];

fn of_size(blocks: u64) -> Disk {
    Disk {
        blocks,
        ..writable()
    }
}

#[test]
fn ten_bytes_tell_the_last_block_and_the_block_size() {
    assert_eq!(
        reply(&CAPACITY_10, &writable()),
        [0x00, 0x1f, 0xff, 0xff, 0, 0, 2, 0]
    );
}

#[test]
fn ten_bytes_tell_all_ones_for_what_they_cannot_address() {
    let last = |blocks| reply(&CAPACITY_10, &of_size(blocks))[..4].to_vec();
    assert_eq!(last(0xffff_ffff), [0xff, 0xff, 0xff, 0xfe]);
    assert_eq!(last(1 << 32), [0xff; 4]);
    assert_eq!(last((1 << 32) + 1), [0xff; 4]);
    assert_eq!(last(1 << 40), [0xff; 4]);
}

#[test]
fn sixteen_bytes_tell_of_provisioning_and_physical_blocks() {
    let mut expected = [0; 32];
    expected[..8].copy_from_slice(&[0, 0, 0, 0, 0x00, 0x1f, 0xff, 0xff]);
    expected[8..12].copy_from_slice(&[0, 0, 2, 0]);
    expected[13] = 3;
    expected[14] = 0xc0;
    assert_eq!(reply(&CAPACITY_16, &writable()), expected);
    expected[14] = 0;
    assert_eq!(reply(&CAPACITY_16, &read_only()), expected);
}

#[test]
fn sixteen_bytes_tell_the_last_block_of_a_huge_disk() {
    let data = reply(&CAPACITY_16, &of_size(1 << 40));
    assert_eq!(data[..8], ((1_u64 << 40) - 1).to_be_bytes());
}

#[test]
fn sixteen_bytes_are_cut_to_the_allocation_length() {
    let mut cdb = CAPACITY_16;
    cdb[13] = 12;
    assert_eq!(reply(&cdb, &writable()).len(), 12);
    cdb[13] = 0;
    assert_eq!(reply(&cdb, &writable()), Vec::<u8>::new());
    cdb[10..14].copy_from_slice(&[0xff; 4]);
    assert_eq!(reply(&cdb, &writable()).len(), 32);
}

#[test]
fn an_address_needs_the_partial_medium_indicator() {
    let mut cdb = CAPACITY_10;
    cdb[5] = 1;
    assert_bad_field(&cdb, &writable(), "05/24/00", 2);
    cdb[8] = 1;
    assert!(matches!(decode(&cdb, &writable()), Ok(Action::Reply(_))));

    let mut cdb = CAPACITY_16;
    cdb[9] = 1;
    assert_bad_field(&cdb, &writable(), "05/24/00", 2);
    cdb[14] = 1;
    assert!(matches!(decode(&cdb, &writable()), Ok(Action::Reply(_))));
}

#[test]
fn a_disk_without_blocks_has_no_medium() {
    assert_eq!(refusal(&CAPACITY_10, &of_size(0)).to_string(), "02/3a/00");
    assert_eq!(refusal(&CAPACITY_16, &of_size(0)).to_string(), "02/3a/00");
}

#[test]
fn other_service_actions_are_refused() {
    let mut cdb = CAPACITY_16;
    for action in (0..0x20).filter(|&action| action != 0x10) {
        cdb[1] = action;
        assert_bad_field(&cdb, &writable(), "05/24/00", 1);
    }
}
