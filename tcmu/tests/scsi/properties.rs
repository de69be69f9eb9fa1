//! What holds for any command block and any parameter list.

use proptest::prelude::*;
use tcmu::scsi::{Action, ByteRange, Disk, decode, limits, unmap_ranges};

/// Operation codes whose fields matter, more often than others.
fn cdb() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(
        &[
            0x08_u8, 0x0a, 0x12, 0x15, 0x1a, 0x1b, 0x25, 0x28, 0x2a, 0x2f, 0x35, 0x41, 0x42, 0x55,
            0x5a, 0x88, 0x8a, 0x8f, 0x91, 0x93, 0x9e, 0xa0, 0xa8, 0xaa,
        ][..],
    );
    // Zeros are common in command blocks, and lead further than any bytes.
    let byte = prop_oneof![3 => Just(0_u8), 1 => any::<u8>()];
    let rest = prop::collection::vec(byte, 0..32);
    let first = prop_oneof![4 => known, 1 => any::<u8>()];
    (first, rest).prop_map(|(opcode, rest)| [vec![opcode], rest].concat())
}

fn disk() -> impl Strategy<Value = Disk> {
    let blocks = prop_oneof![Just(0), Just(u64::MAX), 1..4096_u64, 1..1_u64 << 50];
    let transfer_blocks_max = prop_oneof![Just(0), Just(u32::MAX), 1..0x4000_u32];
    let text = "\\PC{0,300}";
    (blocks, any::<bool>(), text, text, transfer_blocks_max).prop_map(
        |(blocks, is_writable, serial, description, transfer_blocks_max)| Disk {
            blocks,
            is_writable,
            serial,
            description,
            transfer_blocks_max,
        },
    )
}

/// Whole blocks inside the disk, at least one and at most `blocks_max`.
fn is_sound(range: ByteRange, disk: &Disk, blocks_max: u32) -> bool {
    let end = range.offset.checked_add(range.len);
    range.offset.is_multiple_of(512)
        && range.len.is_multiple_of(512)
        && range.len > 0
        && range.len / 512 <= u64::from(blocks_max)
        && end.is_some_and(|end| end / 512 <= disk.blocks)
}

proptest! {
    #[test]
    fn actions_keep_to_the_disk_and_to_its_limits(cdb in cdb(), disk in disk()) {
        let transfer_max = disk.transfer_blocks_max.max(1);
        match decode(&cdb, &disk) {
            Ok(Action::Read(range) | Action::Verify(range)) => {
                prop_assert!(is_sound(range, &disk, transfer_max));
            }
            Ok(Action::Write { range, .. }) => {
                prop_assert!(disk.is_writable);
                prop_assert!(is_sound(range, &disk, transfer_max));
            }
            Ok(Action::WriteSame { range, .. }) => {
                prop_assert!(disk.is_writable);
                prop_assert!(is_sound(range, &disk, limits::WRITE_SAME_BLOCKS_MAX));
            }
            Ok(Action::Unmap { list_len }) => {
                prop_assert!(disk.is_writable);
                prop_assert!(list_len > 0 && list_len <= 0xffff);
            }
            Ok(Action::ModeSelect { list_len, .. }) => {
                prop_assert!(list_len > 0 && list_len <= 0xffff);
            }
            Ok(Action::Reply(reply)) => prop_assert!(reply.bytes.len() <= 0xffff),
            Ok(Action::Flush) => prop_assert!(disk.is_writable),
            Ok(Action::Done | Action::Unsupported) => {}
            Err(sense) => prop_assert_eq!(sense.to_bytes()[0] & 0x7f, 0x70),
        }
    }

    #[test]
    fn bytes_behind_a_command_block_change_nothing(cdb in cdb(), disk in disk(), more in any::<[u8; 4]>()) {
        prop_assume!(cdb.len() >= 16);
        let longer = [&cdb[..], &more].concat();
        prop_assert_eq!(decode(&longer, &disk), decode(&cdb, &disk));
    }

    #[test]
    fn unmapped_ranges_keep_to_the_disk_and_to_its_limits(
        lbas in prop::collection::vec((0..5000_u64, 0..200_u32), 0..20),
        blocks in 0..6000_u64,
        stated in any::<u16>(),
        cut in 0..400_usize,
    ) {
        let disk = Disk {
            blocks,
            is_writable: true,
            serial: String::new(),
            description: String::new(),
            transfer_blocks_max: 1,
        };
        let mut list = [&[0, 0][..], &stated.to_be_bytes(), &[0; 4]].concat();
        for (lba, count) in &lbas {
            list.extend(lba.to_be_bytes());
            list.extend(count.to_be_bytes());
            list.extend([0; 4]);
        }
        list.truncate(cut);
        if let Ok(ranges) = unmap_ranges(&list, &disk) {
            prop_assert!(ranges.len() <= lbas.len());
            for range in ranges {
                prop_assert!(is_sound(range, &disk, limits::UNMAP_BLOCKS_MAX));
            }
        }
    }

}
