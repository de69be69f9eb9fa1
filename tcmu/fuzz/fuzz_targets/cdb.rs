//! Any command block and any parameter list, to disks of several sizes.
//!
//! Byte 0: bits 0 to 2 choose the disk, bit 3 makes it read-only. Byte 1: bytes of the command
//! block. Then the command block, and the rest is the parameter list.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tcmu::scsi::{Action, ByteRange, Disk, Sense, decode, limits, mode_select, unmap_ranges};

/// Blocks of the disks and most blocks of a transfer.
const DISKS: [(u64, u32); 8] = [
    (0, 0),
    (1, 1),
    (100, 256),
    (0x20_0000, 0x2000),
    ((1 << 32) - 1, 0x8000),
    ((1 << 32) + 1, u32::MAX),
    (layers::limits::SECTOR_INVALID, 0x800),
    (u64::MAX, u32::MAX),
];

fn disk(options: u8) -> Option<Disk> {
    let &(blocks, transfer_blocks_max) = DISKS.get(usize::from(options & 7))?;
    Some(Disk {
        blocks,
        is_writable: options & 8 == 0,
        serial: "6001405-fuzz".to_owned(),
        description: "overlaybd//fuzz.json".to_owned(),
        transfer_blocks_max,
    })
}

fn check_range(range: ByteRange, disk: &Disk, blocks_max: u32) {
    assert!(range.len > 0, "an empty range");
    assert_eq!(range.offset % limits::BLOCK_BYTES, 0);
    assert_eq!(range.len % limits::BLOCK_BYTES, 0);
    assert!(range.len / limits::BLOCK_BYTES <= u64::from(blocks_max));
    let first = range.offset / limits::BLOCK_BYTES;
    let count = range.len / limits::BLOCK_BYTES;
    assert!(first <= disk.blocks && count <= disk.blocks - first);
    assert!(range.offset.checked_add(range.len).is_some());
}

fn check_sense(sense: &Sense) {
    let bytes = sense.to_bytes();
    assert_eq!(bytes.first().map(|code| code & 0x7f), Some(0x70));
}

fn check_list_len(list_len: usize) {
    assert!((1..=usize::from(u16::MAX)).contains(&list_len));
}

fn check_action(action: &Action, disk: &Disk) {
    let transfer_max = disk.transfer_blocks_max.max(1);
    let changes = match *action {
        Action::Read(range) | Action::Verify(range) => {
            check_range(range, disk, transfer_max);
            false
        }
        Action::Write { range, .. } => {
            check_range(range, disk, transfer_max);
            true
        }
        Action::WriteSame { range, .. } => {
            check_range(range, disk, limits::WRITE_SAME_BLOCKS_MAX);
            true
        }
        Action::Unmap { list_len } => {
            check_list_len(list_len);
            true
        }
        Action::ModeSelect { list_len, .. } => {
            check_list_len(list_len);
            false
        }
        Action::Reply(ref reply) => {
            assert!(reply.bytes.len() <= usize::from(u16::MAX));
            false
        }
        Action::Flush => true,
        Action::Done | Action::Unsupported => false,
    };
    assert!(disk.is_writable || !changes, "a change of a read-only disk");
}

fn check_lists(list: &[u8], disk: &Disk) {
    match unmap_ranges(list, disk) {
        Ok(ranges) => {
            assert!(disk.is_writable);
            assert!(ranges.len() <= list.len() / 16);
            let bytes: u64 = ranges.iter().map(|range| range.len).sum();
            assert!(bytes <= u64::from(limits::UNMAP_BLOCKS_MAX) * limits::BLOCK_BYTES);
            for range in ranges {
                check_range(range, disk, limits::UNMAP_BLOCKS_MAX);
            }
        }
        Err(sense) => check_sense(&sense),
    }
    for ten in [false, true] {
        if let Err(sense) = mode_select(list, ten, disk) {
            check_sense(&sense);
        }
    }
}

fuzz_target!(|data: &[u8]| {
    let [options, cdb_len, rest @ ..] = data else {
        return;
    };
    let Some(disk) = disk(*options) else {
        return;
    };
    let (cdb, list) = rest.split_at(rest.len().min(usize::from(*cdb_len)));
    match decode(cdb, &disk) {
        Ok(action) => check_action(&action, &disk),
        Err(sense) => check_sense(&sense),
    }
    check_lists(list, &disk);
});
