//! INQUIRY: the standard page and vital product data, byte for byte.

use tcmu::scsi::{Action, Disk, decode, limits};

use crate::disks::{TRANSFER_BLOCKS_MAX, assert_bad_field, read_only, reply, writable};

/// A page of vital product data.
fn vpd(code: u8, disk: &Disk) -> Vec<u8> {
    reply(&[0x12, 1, code, 0xff, 0xff, 0], disk)
}

fn with_serial(serial: &str) -> Disk {
    Disk {
        serial: serial.to_owned(),
        ..writable()
    }
}

fn with_description(description: &str) -> Disk {
    Disk {
        description: description.to_owned(),
        ..writable()
    }
}

#[test]
fn the_standard_page_names_the_unit_as_the_replaced_daemon_does() {
    let mut expected = vec![0x00, 0x00, 0x05, 0x02, 0x1f, 0x00, 0x00, 0x02];
    expected.extend(b"LIO-ORG TCMU device     0002");
    assert_eq!(reply(&[0x12, 0, 0, 0, 0xff, 0], &writable()), expected);
    assert_eq!(reply(&[0x12, 0, 0, 0, 0xff, 0], &read_only()), expected);
}

#[test]
fn pages_are_cut_to_the_allocation_length() {
    let whole = reply(&[0x12, 0, 0, 0, 0xff, 0], &writable());
    assert_eq!(reply(&[0x12, 0, 0, 0, 5, 0], &writable()), whole[..5]);
    assert_eq!(reply(&[0x12, 0, 0, 0, 0, 0], &writable()), Vec::<u8>::new());
    let whole = vpd(0xb0, &writable());
    assert_eq!(reply(&[0x12, 1, 0xb0, 0, 4, 0], &writable()), whole[..4]);
}

#[test]
fn unknown_pages_are_refused_at_the_page_code() {
    assert_bad_field(&[0x12, 0, 0x80, 0, 0xff, 0], &writable(), "05/24/00", 2);
    let known = vpd(0x00, &writable())[4..].to_vec();
    for code in (0..=0xff).filter(|code| !known.contains(code)) {
        assert_bad_field(&[0x12, 1, code, 0, 0xff, 0], &writable(), "05/24/00", 2);
    }
}

#[test]
fn command_support_data_is_refused() {
    assert_bad_field(&[0x12, 2, 0, 0, 0xff, 0], &writable(), "05/24/00", 1);
}

#[test]
fn page_00_lists_the_pages_there_are() {
    let page = vpd(0x00, &writable());
    assert_eq!(page, [0, 0x00, 0, 6, 0x00, 0x80, 0x83, 0xb0, 0xb1, 0xb2]);
    for &code in &page[4..] {
        assert_eq!(vpd(code, &writable())[1], code);
    }
}

#[test]
fn page_80_is_the_serial() {
    let page = vpd(0x80, &with_serial("ab-1"));
    assert_eq!(page, [0, 0x80, 0, 4, b'a', b'b', b'-', b'1']);
}

#[test]
fn page_80_of_no_serial_is_blank() {
    assert_eq!(vpd(0x80, &with_serial("")), *b"\x00\x80\x00\x04    ");
}

#[test]
fn a_serial_is_printable_and_of_bounded_length() {
    assert_eq!(vpd(0x80, &with_serial("a\n\u{e9}b"))[4..], *b"a___b");
    assert_eq!(vpd(0x80, &with_serial(&"7".repeat(70_000))).len(), 4 + 255);
}

#[test]
fn page_83_has_vendor_and_serial_then_world_wide_name_then_description() {
    let mut expected = vec![0, 0x83, 0, 77];
    expected.extend([2, 1, 0, 20]);
    expected.extend(b"LIO-ORG 9a3b-layer-7");
    expected.extend([1, 3, 0, 16]);
    // 9a3b, "a" and "e" of "layer", 7.
    expected.extend([0x60, 0x01, 0x40, 0x59, 0xa3, 0xba, 0xe7]);
    expected.extend([0; 9]);
    expected.extend([2, 0, 0, 29]);
    expected.extend(b"overlaybd//images/a.json;dev7");
    assert_eq!(vpd(0x83, &writable()), expected);
}

#[test]
fn the_world_wide_name_is_the_first_25_digits_of_the_serial() {
    let disk = with_serial("01234567-89ab-cdef-FEDC-BA9876543210");
    let page = vpd(0x83, &disk);
    let at = 8 + 8 + disk.serial.len();
    assert_eq!(page[at..at + 4], [1, 3, 0, 16]);
    let name = [
        0x60, 0x01, 0x40, 0x50, 0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc, 0xde, 0xff, 0xed, 0xcb, 0xa9,
        0x87,
    ];
    assert_eq!(page[at + 4..at + 20], name);
}

#[test]
fn units_without_serial_share_no_name() {
    let page = vpd(0x83, &with_serial(""));
    assert_eq!(page[..8], [0, 0x83, 0, 33, 2, 0, 0, 29]);
    let no_digit = vpd(0x83, &with_serial("xyz"));
    assert_eq!(no_digit[4..8], [2, 1, 0, 11]);
    assert_eq!(
        no_digit[19..23],
        [2, 0, 0, 29],
        "no world wide name of zeros"
    );
}

#[test]
fn a_description_is_cut_between_characters_and_says_its_code_set() {
    let long = format!("a{}", "\u{e9}".repeat(200));
    let page = vpd(0x83, &with_description(&long));
    let designator = &page[page.len() - 259..];
    assert_eq!(designator[..4], [3, 0, 0, 255], "UTF-8");
    assert_eq!(&designator[4..], &long.as_bytes()[..255]);
    let page = vpd(0x83, &with_description(&long[1..]));
    let designator = &page[page.len() - 258..];
    assert_eq!(designator[..4], [3, 0, 0, 254]);
}

#[test]
fn page_b0_of_a_writable_disk() {
    let mut expected = [0; 64];
    expected[..4].copy_from_slice(&[0, 0xb0, 0, 60]);
    expected[4] = 1; // WSNZ
    expected[7] = 8; // optimal transfer length granularity
    expected[8..12].copy_from_slice(&[0, 0, 0x20, 0]); // maximum transfer length
    expected[20..24].copy_from_slice(&[0, 0x20, 0, 0]); // maximum unmap LBA count
    expected[24..28].copy_from_slice(&[0, 0, 1, 0]); // maximum unmap block descriptor count
    expected[31] = 8; // optimal unmap granularity
    expected[32] = 0x80; // UGAVALID
    expected[36..44].copy_from_slice(&[0, 0, 0, 0, 0, 2, 0, 0]); // maximum write same length
    assert_eq!(vpd(0xb0, &writable()), expected);
}

#[test]
fn page_b0_of_a_read_only_disk_has_only_limits_of_transfers() {
    let mut expected = [0; 64];
    expected[..8].copy_from_slice(&[0, 0xb0, 0, 60, 1, 0, 0, 8]);
    expected[8..12].copy_from_slice(&[0, 0, 0x20, 0]);
    assert_eq!(vpd(0xb0, &read_only()), expected);
}

#[test]
fn page_b1_is_of_a_medium_that_does_not_turn() {
    let mut expected = [0; 64];
    expected[..6].copy_from_slice(&[0, 0xb1, 0, 60, 0, 1]);
    assert_eq!(vpd(0xb1, &writable()), expected);
}

#[test]
fn page_b2_is_of_a_thin_disk_if_it_can_be_written() {
    assert_eq!(vpd(0xb2, &writable()), [0, 0xb2, 0, 4, 0, 0xe4, 2, 0]);
    assert_eq!(vpd(0xb2, &read_only()), [0, 0xb2, 0, 4, 0, 0, 0, 0]);
}

/// The field of page B0 at `at`.
fn limit(at: usize) -> u32 {
    let page = vpd(0xb0, &writable());
    u32::from_be_bytes(page[at..at + 4].try_into().unwrap())
}

#[test]
fn advertised_limits_are_those_that_are_kept() {
    assert_eq!(limit(8), TRANSFER_BLOCKS_MAX);
    assert_eq!(limit(20), limits::UNMAP_BLOCKS_MAX);
    assert_eq!(limit(24), limits::UNMAP_DESCRIPTORS_MAX);
    assert_eq!(limit(40), limits::WRITE_SAME_BLOCKS_MAX);
    for (opcode, most) in [
        (0x88, limit(8)),
        (0x8a, limit(8)),
        (0x8f, limit(8)),
        (0x93, limit(40)),
    ] {
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        cdb[10..14].copy_from_slice(&most.to_be_bytes());
        assert!(
            !matches!(decode(&cdb, &writable()), Err(_) | Ok(Action::Unsupported)),
            "{opcode:02x}"
        );
        cdb[10..14].copy_from_slice(&(most + 1).to_be_bytes());
        assert_bad_field(&cdb, &writable(), "05/24/00", 10);
    }
}
