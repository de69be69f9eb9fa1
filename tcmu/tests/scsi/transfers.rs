//! READ, WRITE, VERIFY and SYNCHRONIZE CACHE.

use tcmu::scsi::{Action, Disk, decode};

use crate::disks::{BLOCKS, assert_bad_field, blocks, read_only, refusal, reply, writable};

const READS: [u8; 4] = [0x08, 0x28, 0xa8, 0x88];
const WRITES: [u8; 4] = [0x0a, 0x2a, 0xaa, 0x8a];
const VERIFIES: [u8; 2] = [0x2f, 0x8f];
const SYNCHRONIZE_CACHES: [u8; 2] = [0x35, 0x91];

/// A command block of any length with an address and a number of blocks.
fn transfer(opcode: u8, lba: u64, count: u32) -> Vec<u8> {
    let lba = lba.to_be_bytes();
    let count = count.to_be_bytes();
    match opcode >> 5 {
        0 => vec![opcode, lba[5], lba[6], lba[7], count[3], 0],
        1 => [&[opcode, 0][..], &lba[4..], &[0], &count[2..], &[0]].concat(),
        5 => [&[opcode, 0][..], &lba[4..], &count, &[0, 0]].concat(),
        _ => [&[opcode, 0][..], &lba, &count, &[0, 0]].concat(),
    }
}

/// The byte in which the field of the number of blocks starts.
fn count_at(opcode: u8) -> u16 {
    match opcode >> 5 {
        0 => 4,
        1 => 7,
        5 => 6,
        _ => 10,
    }
}

fn with_flags(mut cdb: Vec<u8>, flags: u8) -> Vec<u8> {
    cdb[1] |= flags;
    cdb
}

fn all() -> impl Iterator<Item = u8> {
    [&READS[..], &WRITES, &VERIFIES, &SYNCHRONIZE_CACHES]
        .concat()
        .into_iter()
}

#[test]
fn every_form_reads_the_blocks_it_names() {
    for opcode in READS {
        let cdb = transfer(opcode, 0x01_0203, 0x12);
        let expected = Action::Read(blocks(0x01_0203, 0x12));
        assert_eq!(
            decode(&cdb, &writable()),
            Ok(expected.clone()),
            "{cdb:02x?}"
        );
        assert_eq!(decode(&cdb, &read_only()), Ok(expected), "{cdb:02x?}");
    }
}

#[test]
fn every_form_writes_the_blocks_it_names() {
    for opcode in WRITES {
        let cdb = transfer(opcode, 0x01_0203, 0x12);
        let range = blocks(0x01_0203, 0x12);
        let expected = Action::Write { range, fua: false };
        assert_eq!(decode(&cdb, &writable()), Ok(expected), "{cdb:02x?}");
    }
}

#[test]
fn both_forms_verify_the_blocks_they_name() {
    for opcode in VERIFIES {
        let cdb = transfer(opcode, 0x01_0203, 0x12);
        let expected = Action::Verify(blocks(0x01_0203, 0x12));
        assert_eq!(decode(&cdb, &read_only()), Ok(expected), "{cdb:02x?}");
    }
}

#[test]
fn the_longest_form_reaches_the_whole_of_a_huge_disk() {
    let disk = Disk {
        blocks: 1 << 40,
        ..writable()
    };
    let cdb = transfer(0x88, (1 << 40) - 8, 8);
    let expected = Action::Read(blocks((1 << 40) - 8, 8));
    assert_eq!(decode(&cdb, &disk), Ok(expected));
}

#[test]
fn longer_forms_have_32_bits_of_blocks() {
    let disk = Disk {
        blocks: 1 << 40,
        transfer_blocks_max: u32::MAX,
        ..writable()
    };
    for opcode in [0xa8, 0x88] {
        let cdb = transfer(opcode, 9, 0x0102_0304);
        let expected = Action::Read(blocks(9, 0x0102_0304));
        assert_eq!(decode(&cdb, &disk), Ok(expected), "{cdb:02x?}");
    }
}

#[test]
fn a_block_whose_bytes_have_no_address_is_out_of_range() {
    let disk = Disk {
        blocks: u64::MAX,
        ..writable()
    };
    let last = (1 << 55) - 2;
    let expected = Action::Read(blocks(last, 1));
    assert_eq!(decode(&transfer(0x88, last, 1), &disk), Ok(expected));
    for (lba, count) in [(last, 2), (last + 1, 1), (1 << 60, 1)] {
        let sense = refusal(&transfer(0x88, lba, count), &disk);
        assert_eq!(sense.to_string(), "05/21/00");
    }
}

#[test]
fn a_limit_of_no_blocks_is_one_block() {
    let disk = Disk {
        transfer_blocks_max: 0,
        ..writable()
    };
    let expected = Action::Read(blocks(9, 1));
    assert_eq!(decode(&transfer(0x28, 9, 1), &disk), Ok(expected));
    let page = reply(&[0x12, 1, 0xb0, 0, 64, 0], &disk);
    assert_eq!(page[8..12], [0, 0, 0, 1]);
}

#[test]
fn the_shortest_form_has_an_address_of_21_bits_and_no_flags() {
    // What were the bits of a logical unit number are not of the address.
    let cdb = [0x08, 0xff, 0xff, 0xf0, 1, 0];
    let expected = Action::Read(blocks(0x1f_fff0, 1));
    assert_eq!(decode(&cdb, &writable()), Ok(expected));
    let expected = Action::Write {
        range: blocks(0x1f_fff0, 1),
        fua: false,
    };
    assert_eq!(
        decode(&[0x0a, 0xff, 0xff, 0xf0, 1, 0], &writable()),
        Ok(expected)
    );
}

#[test]
fn no_blocks_in_the_shortest_form_are_256() {
    let expected = Action::Read(blocks(9, 256));
    assert_eq!(decode(&transfer(0x08, 9, 0), &writable()), Ok(expected));
    let range = blocks(9, 256);
    let expected = Action::Write { range, fua: false };
    assert_eq!(decode(&transfer(0x0a, 9, 0), &writable()), Ok(expected));
}

#[test]
fn no_blocks_in_longer_forms_are_nothing_to_do() {
    for opcode in [0x28, 0xa8, 0x88, 0x2a, 0xaa, 0x8a, 0x2f, 0x8f] {
        let cdb = transfer(opcode, 9, 0);
        assert_eq!(decode(&cdb, &writable()), Ok(Action::Done), "{cdb:02x?}");
    }
}

#[test]
fn writes_with_force_unit_access_are_flushed() {
    for opcode in [0x2a, 0xaa, 0x8a] {
        let cdb = with_flags(transfer(opcode, 9, 1), 0x08);
        let range = blocks(9, 1);
        let expected = Action::Write { range, fua: true };
        assert_eq!(decode(&cdb, &writable()), Ok(expected), "{cdb:02x?}");
    }
}

#[test]
fn reads_may_have_force_unit_access_and_disable_page_out() {
    for opcode in [0x28, 0xa8, 0x88] {
        let cdb = with_flags(transfer(opcode, 9, 1), 0x18);
        assert_eq!(decode(&cdb, &writable()), Ok(Action::Read(blocks(9, 1))));
    }
}

#[test]
fn protection_information_is_refused() {
    for opcode in all().filter(|opcode| opcode >> 5 != 0) {
        if SYNCHRONIZE_CACHES.contains(&opcode) {
            continue;
        }
        for protect in 1..8 {
            let cdb = with_flags(transfer(opcode, 9, 1), protect << 5);
            assert_bad_field(&cdb, &writable(), "05/24/00", 1);
        }
    }
}

#[test]
fn verifying_against_data_is_refused() {
    for opcode in VERIFIES {
        for bytchk in [0x02, 0x04, 0x06] {
            let cdb = with_flags(transfer(opcode, 9, 1), bytchk);
            assert_bad_field(&cdb, &writable(), "05/24/00", 1);
        }
    }
}

#[test]
fn the_last_block_can_be_reached_and_the_next_cannot() {
    // The shortest form's addresses end with this disk.
    for opcode in all().filter(|opcode| opcode >> 5 != 0) {
        let last = transfer(opcode, BLOCKS - 1, 1);
        assert!(decode(&last, &writable()).is_ok(), "{last:02x?}");
        for (lba, count) in [(BLOCKS - 1, 2), (BLOCKS, 1), (0xffff_ffff, 1)] {
            let sense = refusal(&transfer(opcode, lba, count), &writable());
            assert_eq!(sense.to_string(), "05/21/00");
            assert_eq!(sense.information, Some(lba.max(BLOCKS)), "first invalid");
        }
    }
    let small = Disk {
        blocks: 100,
        ..writable()
    };
    for opcode in [0x08, 0x0a] {
        let sense = refusal(&transfer(opcode, 99, 2), &small);
        assert_eq!(
            (sense.to_string().as_str(), sense.information),
            ("05/21/00", Some(100))
        );
    }
}

#[test]
fn no_blocks_must_start_inside_the_disk_or_at_its_end() {
    let end = transfer(0x28, BLOCKS, 0);
    assert_eq!(decode(&end, &writable()), Ok(Action::Done));
    let beyond = transfer(0x28, BLOCKS + 1, 0);
    assert_eq!(refusal(&beyond, &writable()).to_string(), "05/21/00");
}

#[test]
fn an_address_that_overflows_is_out_of_range() {
    for opcode in [0x88, 0x8a, 0x8f, 0x91] {
        let sense = refusal(&transfer(opcode, u64::MAX, 2), &writable());
        assert_eq!(sense.to_string(), "05/21/00");
        assert_eq!(sense.information, Some(u64::MAX));
    }
}

#[test]
fn more_blocks_than_the_limit_are_refused_in_every_form() {
    let disk = Disk {
        transfer_blocks_max: 16,
        ..writable()
    };
    for opcode in [&READS[..], &WRITES, &VERIFIES].concat() {
        assert!(decode(&transfer(opcode, 9, 16), &disk).is_ok());
        let cdb = transfer(opcode, 9, 17);
        assert_bad_field(&cdb, &disk, "05/24/00", count_at(opcode));
    }
    // 0 is 256 here.
    assert_bad_field(&transfer(0x08, 9, 0), &disk, "05/24/00", 4);
}

#[test]
fn a_read_only_disk_takes_no_writes() {
    for opcode in WRITES {
        let sense = refusal(&transfer(opcode, 9, 1), &read_only());
        assert_eq!(sense.to_string(), "07/27/00");
    }
}

#[test]
fn the_cache_is_flushed_at_once_or_in_time() {
    for opcode in SYNCHRONIZE_CACHES {
        let cdb = transfer(opcode, 0, 0);
        assert_eq!(decode(&cdb, &writable()), Ok(Action::Flush));
        let immediate = with_flags(cdb, 0x02);
        assert_eq!(decode(&immediate, &writable()), Ok(Action::Flush));
    }
}

#[test]
fn the_cache_is_flushed_for_more_blocks_than_one_transfer_may_have() {
    let cdb = transfer(0x91, 0, 0x20_0000);
    assert_eq!(decode(&cdb, &writable()), Ok(Action::Flush));
}

#[test]
fn a_read_only_disk_has_nothing_to_flush() {
    for opcode in SYNCHRONIZE_CACHES {
        assert_eq!(
            decode(&transfer(opcode, 0, 0), &read_only()),
            Ok(Action::Done)
        );
    }
}
