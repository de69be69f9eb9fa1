//! MODE SENSE and MODE SELECT.

use tcmu::scsi::{Action, Disk, Place, decode, mode_select};

use crate::disks::{assert_bad_field, read_only, refusal, reply, writable};

const ERROR_RECOVERY: [u8; 12] = [0x01, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const CACHING: [u8; 20] = [
    0x08, 18, 0x04, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];
const CONTROL: [u8; 12] = [0x0a, 10, 0x02, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
const EXCEPTIONS: [u8; 12] = [0x1c, 10, 0x08, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// MODE SENSE(6) with byte 2 as given.
fn sense_6(control_and_page: u8, disk: &Disk) -> Vec<u8> {
    reply(&[0x1a, 0, control_and_page, 0, 0xff, 0], disk)
}

fn sense_10(control_and_page: u8, disk: &Disk) -> Vec<u8> {
    reply(
        &[0x5a, 0, control_and_page, 0, 0, 0, 0, 0xff, 0xff, 0],
        disk,
    )
}

#[test]
fn each_page_comes_behind_a_header_without_block_descriptors() {
    let pages: [&[u8]; 4] = [&ERROR_RECOVERY, &CACHING, &CONTROL, &EXCEPTIONS];
    for page in pages {
        let len = u8::try_from(page.len()).unwrap();
        let expected = [&[len + 3, 0, 0x10, 0][..], page].concat();
        assert_eq!(sense_6(page[0], &writable()), expected);
        let expected = [&[0, len + 6, 0, 0x10, 0, 0, 0, 0][..], page].concat();
        assert_eq!(sense_10(page[0], &writable()), expected);
    }
}

#[test]
fn all_pages_come_in_ascending_order() {
    let pages = [&ERROR_RECOVERY[..], &CACHING, &CONTROL, &EXCEPTIONS].concat();
    assert_eq!(sense_6(0x3f, &writable())[..4], [59, 0, 0x10, 0]);
    assert_eq!(sense_6(0x3f, &writable())[4..], pages);
    assert_eq!(sense_10(0x3f, &writable())[8..], pages);
}

#[test]
fn a_read_only_disk_is_write_protected_and_has_no_write_cache() {
    let data = sense_6(0x08, &read_only());
    assert_eq!(data[..7], [23, 0, 0x90, 0, 0x08, 18, 0x00]);
    assert_eq!(sense_10(0x08, &read_only())[3], 0x90);
}

#[test]
fn defaults_are_what_is_current() {
    assert_eq!(
        sense_6(0x80 | 0x3f, &writable()),
        sense_6(0x3f, &writable())
    );
}

#[test]
fn nothing_is_changeable() {
    let data = sense_6(0x40 | 0x3f, &writable());
    assert_eq!(data.len(), 60);
    assert_eq!(data[4..6], [0x01, 10]);
    assert_eq!(data[16..18], [0x08, 18]);
    let parameters = [&data[6..16], &data[18..36], &data[38..48], &data[50..60]];
    assert!(
        parameters
            .iter()
            .all(|page| page.iter().all(|&byte| byte == 0))
    );
}

#[test]
fn nothing_is_saved() {
    let sense = refusal(&[0x1a, 0, 0xc0 | 0x3f, 0, 0xff, 0], &writable());
    assert_eq!(sense.to_string(), "05/39/00");
}

#[test]
fn the_length_told_is_that_of_the_data_before_it_is_cut() {
    let data = reply(&[0x1a, 0, 0x3f, 0, 4, 0], &writable());
    assert_eq!(data, [59, 0, 0x10, 0]);
    let data = reply(&[0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 8, 0], &writable());
    assert_eq!(data, [0, 62, 0, 0x10, 0, 0, 0, 0]);
}

#[test]
fn disabling_block_descriptors_changes_nothing() {
    let data = reply(&[0x1a, 0x08, 0x08, 0, 0xff, 0], &writable());
    assert_eq!(data, sense_6(0x08, &writable()));
}

#[test]
fn all_subpages_are_the_page_and_others_are_not_there() {
    let data = reply(&[0x1a, 0, 0x0a, 0xff, 0xff, 0], &writable());
    assert_eq!(data, sense_6(0x0a, &writable()));
    assert_bad_field(&[0x1a, 0, 0x0a, 1, 0xff, 0], &writable(), "05/24/00", 3);
    assert_bad_field(&[0x1a, 0, 0x3f, 1, 0xff, 0], &writable(), "05/24/00", 3);
}

#[test]
fn unknown_pages_are_refused() {
    for page in [0x00, 0x02, 0x1a, 0x3e] {
        assert_bad_field(&[0x1a, 0, page, 0, 0xff, 0], &writable(), "05/24/00", 2);
    }
}

/// What MODE SELECT says of `pages` behind a header of zeros.
fn select(pages: &[u8]) -> Result<(), String> {
    let answer = |ten, header: &[u8]| {
        let list = [header, pages].concat();
        mode_select(&list, ten, &writable()).map_err(|sense| sense.to_string())
    };
    let six = answer(false, &[0; 4]);
    assert_eq!(six, answer(true, &[0; 8]));
    six
}

#[test]
fn a_selection_is_a_parameter_list_in_the_format_of_the_standard() {
    assert_eq!(
        decode(&[0x15, 0x10, 0, 0, 24, 0], &writable()),
        Ok(Action::ModeSelect {
            ten: false,
            list_len: 24
        })
    );
    assert_eq!(
        decode(&[0x55, 0x10, 0, 0, 0, 0, 0, 1, 2, 0], &writable()),
        Ok(Action::ModeSelect {
            ten: true,
            list_len: 0x102
        })
    );
    assert_eq!(
        decode(&[0x15, 0x10, 0, 0, 0, 0], &writable()),
        Ok(Action::Done)
    );
    assert_bad_field(&[0x15, 0x00, 0, 0, 24, 0], &writable(), "05/24/00", 1);
    assert_bad_field(&[0x15, 0x11, 0, 0, 24, 0], &writable(), "05/24/00", 1);
}

#[test]
fn a_selection_of_what_is_there_is_taken() {
    assert_eq!(select(&[]), Ok(()));
    assert_eq!(select(&CACHING), Ok(()));
    assert_eq!(
        select(&[&CONTROL[..], &CACHING, &ERROR_RECOVERY].concat()),
        Ok(())
    );
}

#[test]
fn a_selection_of_what_mode_sense_gave_is_taken() {
    for disk in [writable(), read_only()] {
        assert_eq!(mode_select(&sense_6(0x3f, &disk), false, &disk), Ok(()));
        assert_eq!(mode_select(&sense_10(0x3f, &disk), true, &disk), Ok(()));
    }
}

#[test]
fn a_change_of_any_byte_is_refused_where_it_is() {
    for at in 1..CACHING.len() {
        let mut page = CACHING;
        page[at] ^= 0x04;
        let list = [&[0; 8][..], &CONTROL, &page].concat();
        let sense = mode_select(&list, true, &writable()).unwrap_err();
        assert_eq!(sense.to_string(), "05/26/00");
        let field = sense.field.unwrap();
        assert_eq!(field.place, Place::ParameterList);
        assert_eq!(usize::from(field.byte), 8 + CONTROL.len() + at);
    }
}

#[test]
fn unknown_pages_and_subpages_cannot_be_selected() {
    assert_eq!(select(&[0x02, 0]), Err("05/26/00".to_owned()));
    let mut subpage = CONTROL;
    subpage[0] |= 0x40;
    assert_eq!(select(&subpage), Err("05/26/00".to_owned()));
    assert_eq!(
        select(&[&CACHING[..], &[0x00]].concat()),
        Err("05/26/00".to_owned())
    );
}

#[test]
fn a_list_that_ends_early_has_the_wrong_length() {
    for len in 1..CACHING.len() {
        assert_eq!(select(&CACHING[..len]), Err("05/1a/00".to_owned()), "{len}");
    }
    for (ten, header_bytes) in [(false, 4), (true, 8)] {
        for len in 0..header_bytes {
            let sense = mode_select(&vec![0; len], ten, &writable()).unwrap_err();
            assert_eq!(sense.to_string(), "05/1a/00");
        }
    }
}

#[test]
fn the_medium_and_its_blocks_cannot_be_selected() {
    let refused = |list: &[u8], ten, at| {
        let sense = mode_select(list, ten, &writable()).unwrap_err();
        assert_eq!(sense.to_string(), "05/26/00");
        assert_eq!(sense.field.unwrap().byte, at);
    };
    refused(&[0, 1, 0, 0], false, 1);
    refused(&[0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 2, 0], false, 3);
    refused(&[0, 0, 1, 0, 0, 0, 0, 0], true, 2);
    refused(&[0, 0, 0, 0, 0, 0, 1, 0], true, 6);
}
