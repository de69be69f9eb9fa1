//! UNMAP and WRITE SAME.

use tcmu::scsi::{Action, ByteRange, Disk, Place, decode, limits, unmap_ranges};

use crate::disks::{BLOCKS, assert_bad_field, blocks, read_only, refusal, writable};

/// A parameter list whose lengths are right.
fn list(ranges: &[(u64, u32)]) -> Vec<u8> {
    let descriptors = u16::try_from(ranges.len() * 16).unwrap();
    let mut list = (descriptors + 6).to_be_bytes().to_vec();
    list.extend(descriptors.to_be_bytes());
    list.extend([0; 4]);
    for (lba, count) in ranges {
        list.extend(lba.to_be_bytes());
        list.extend(count.to_be_bytes());
        list.extend([0; 4]);
    }
    list
}

fn ranges(list: &[u8]) -> Result<Vec<ByteRange>, String> {
    unmap_ranges(list, &writable()).map_err(|sense| sense.to_string())
}

#[test]
fn unmap_has_a_parameter_list() {
    let cdb = [0x42, 0, 0, 0, 0, 0, 0, 1, 0x18, 0];
    assert_eq!(
        decode(&cdb, &writable()),
        Ok(Action::Unmap { list_len: 0x118 })
    );
    assert_eq!(
        decode(&[0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0], &writable()),
        Ok(Action::Done)
    );
}

#[test]
fn anchored_blocks_are_refused() {
    assert_bad_field(
        &[0x42, 1, 0, 0, 0, 0, 0, 0, 24, 0],
        &writable(),
        "05/24/00",
        1,
    );
    let mut cdb = write_same_16(0, 8);
    cdb[1] = 0x18;
    assert_bad_field(&cdb, &writable(), "05/24/00", 1);
}

#[test]
fn a_read_only_disk_is_not_unmapped() {
    let sense = refusal(&[0x42, 0, 0, 0, 0, 0, 0, 0, 24, 0], &read_only());
    assert_eq!(sense.to_string(), "07/27/00");
    let sense = unmap_ranges(&list(&[(0, 8)]), &read_only()).unwrap_err();
    assert_eq!(sense.to_string(), "07/27/00");
}

#[test]
fn ranges_come_in_order_and_may_overlap() {
    let list = list(&[(64, 16), (0, 8), (72, 100)]);
    let expected = vec![blocks(64, 16), blocks(0, 8), blocks(72, 100)];
    assert_eq!(ranges(&list), Ok(expected));
}

#[test]
fn ranges_of_no_blocks_are_left_out() {
    assert_eq!(
        ranges(&list(&[(64, 0), (0, 8), (BLOCKS, 0)])),
        Ok(vec![blocks(0, 8)])
    );
}

#[test]
fn no_descriptors_are_nothing_to_do() {
    assert_eq!(ranges(&list(&[])), Ok(vec![]));
    assert_eq!(ranges(&[0; 8]), Ok(vec![]));
}

#[test]
fn a_list_shorter_than_its_header_has_the_wrong_length() {
    for len in 0..8 {
        assert_eq!(ranges(&vec![0; len]), Err("05/1a/00".to_owned()));
    }
}

#[test]
fn descriptors_that_are_not_wholly_there_are_ignored() {
    let whole = list(&[(0, 8), (64, 8)]);
    for len in 24..40 {
        assert_eq!(ranges(&whole[..len]), Ok(vec![blocks(0, 8)]), "{len}");
    }
    let mut stated = whole.clone();
    for len in 16..32 {
        stated[3] = len;
        assert_eq!(ranges(&stated), Ok(vec![blocks(0, 8)]), "{len}");
    }
    let mut beyond = whole;
    beyond[2..4].copy_from_slice(&[0xff, 0xff]);
    assert_eq!(ranges(&beyond), Ok(vec![blocks(0, 8), blocks(64, 8)]));
}

#[test]
fn a_range_beyond_the_end_spoils_the_list() {
    let sense = unmap_ranges(&list(&[(0, 8), (BLOCKS - 1, 2)]), &writable()).unwrap_err();
    assert_eq!(sense.to_string(), "05/21/00");
    assert_eq!(sense.information, Some(BLOCKS));
    assert_eq!(ranges(&list(&[(u64::MAX, 2)])), Err("05/21/00".to_owned()));
    assert_eq!(
        ranges(&list(&[(BLOCKS - 1, 1)])),
        Ok(vec![blocks(BLOCKS - 1, 1)])
    );
}

#[test]
fn as_many_descriptors_as_advertised_are_taken() {
    let most = usize::try_from(limits::UNMAP_DESCRIPTORS_MAX).unwrap();
    let taken = ranges(&list(&vec![(0, 8); most])).unwrap();
    assert_eq!(taken.len(), most);
    let one_more = list(&vec![(0, 8); most + 1]);
    let sense = unmap_ranges(&one_more, &writable()).unwrap_err();
    assert_eq!(sense.to_string(), "05/26/00");
    let field = sense.field.unwrap();
    assert_eq!((field.place, field.byte), (Place::ParameterList, 2));
}

#[test]
fn as_many_blocks_as_advertised_are_taken_in_all() {
    let disk = Disk {
        blocks: 1 << 30,
        ..writable()
    };
    let most = limits::UNMAP_BLOCKS_MAX;
    let taken = unmap_ranges(&list(&[(0, most - 8), (1 << 29, 8)]), &disk).unwrap();
    assert_eq!(taken, [blocks(0, u64::from(most) - 8), blocks(1 << 29, 8)]);
    let sense = unmap_ranges(&list(&[(0, most - 8), (1 << 29, 9)]), &disk).unwrap_err();
    assert_eq!(sense.to_string(), "05/26/00");
    let field = sense.field.unwrap();
    assert_eq!(
        (field.place, field.byte),
        (Place::ParameterList, 8 + 16 + 8)
    );
}

fn write_same_10(lba: u32, count: u16) -> Vec<u8> {
    [
        &[0x41, 0][..],
        &lba.to_be_bytes(),
        &[0],
        &count.to_be_bytes(),
        &[0],
    ]
    .concat()
}

fn write_same_16(lba: u64, count: u32) -> Vec<u8> {
    [
        &[0x93, 0][..],
        &lba.to_be_bytes(),
        &count.to_be_bytes(),
        &[0, 0],
    ]
    .concat()
}

#[test]
fn both_forms_write_the_same_with_and_without_leave_to_unmap() {
    for mut cdb in [
        write_same_10(0x01_0203, 0x104),
        write_same_16(0x01_0203, 0x104),
    ] {
        for flags in [0x00, 0x08] {
            cdb[1] = flags;
            let expected = Action::WriteSame {
                range: blocks(0x01_0203, 0x104),
                no_data_out: false,
            };
            assert_eq!(decode(&cdb, &writable()), Ok(expected), "{cdb:02x?}");
        }
    }
}

#[test]
fn only_the_longer_form_may_have_no_data() {
    let mut cdb = write_same_16(9, 8);
    cdb[1] = 0x09;
    let expected = Action::WriteSame {
        range: blocks(9, 8),
        no_data_out: true,
    };
    assert_eq!(decode(&cdb, &writable()), Ok(expected));
    let mut cdb = write_same_10(9, 8);
    cdb[1] = 0x01;
    assert_bad_field(&cdb, &writable(), "05/24/00", 1);
}

#[test]
fn no_blocks_are_not_the_whole_disk() {
    assert_bad_field(&write_same_10(0, 0), &writable(), "05/24/00", 7);
    assert_bad_field(&write_same_16(0, 0), &writable(), "05/24/00", 10);
}

#[test]
fn addresses_in_the_blocks_and_protection_are_refused() {
    for flags in [0x02, 0x04, 0x20, 0x80] {
        for mut cdb in [write_same_10(0, 8), write_same_16(0, 8)] {
            cdb[1] = flags;
            assert_bad_field(&cdb, &writable(), "05/24/00", 1);
        }
    }
}

#[test]
fn writing_the_same_keeps_to_the_disk_and_to_leave() {
    let beyond = u32::try_from(BLOCKS).unwrap() - 1;
    for cdb in [write_same_10(beyond, 2), write_same_16(BLOCKS - 1, 2)] {
        let sense = refusal(&cdb, &writable());
        assert_eq!(
            (sense.to_string().as_str(), sense.information),
            ("05/21/00", Some(BLOCKS))
        );
    }
    for cdb in [write_same_10(0, 8), write_same_16(0, 8)] {
        assert_eq!(refusal(&cdb, &read_only()).to_string(), "07/27/00");
    }
}
