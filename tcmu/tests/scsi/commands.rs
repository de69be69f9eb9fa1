//! Commands about the unit rather than its blocks, and what holds for all commands.

use tcmu::scsi::{Action, decode};

use crate::disks::{assert_bad_field, read_only, reply, writable};

/// Every operation code that is known, with the length of its command blocks.
const KNOWN: &[(u8, usize)] = &[
    (0x00, 6),
    (0x03, 6),
    (0x08, 6),
    (0x0a, 6),
    (0x12, 6),
    (0x15, 6),
    (0x1a, 6),
    (0x1b, 6),
    (0x1e, 6),
    (0x25, 10),
    (0x28, 10),
    (0x2a, 10),
    (0x2f, 10),
    (0x35, 10),
    (0x41, 10),
    (0x42, 10),
    (0x55, 10),
    (0x5a, 10),
    (0x88, 16),
    (0x8a, 16),
    (0x8f, 16),
    (0x91, 16),
    (0x93, 16),
    (0x9e, 16),
    (0xa0, 12),
    (0xa8, 12),
    (0xaa, 12),
];

#[test]
fn every_other_operation_code_is_unsupported() {
    for opcode in 0..=0xff {
        let is_known = KNOWN.iter().any(|&(known, _)| known == opcode);
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        let is_unsupported = decode(&cdb, &writable()) == Ok(Action::Unsupported);
        assert_eq!(is_unsupported, !is_known, "{opcode:02x}");
    }
}

#[test]
fn no_command_block_at_all_is_unsupported() {
    assert_eq!(decode(&[], &writable()), Ok(Action::Unsupported));
}

#[test]
fn a_command_block_that_is_too_short_is_refused() {
    for &(opcode, len) in KNOWN {
        let mut cdb = vec![0; len - 1];
        cdb[0] = opcode;
        assert_bad_field(&cdb, &writable(), "05/24/00", 0);
    }
}

#[test]
fn auto_contingent_allegiance_is_refused() {
    for &(opcode, len) in KNOWN {
        let mut cdb = [0; 16];
        cdb[0] = opcode;
        cdb[len - 1] = 0x04;
        let control = u16::try_from(len - 1).unwrap();
        assert_bad_field(&cdb, &writable(), "05/24/00", control);
    }
}

#[test]
fn the_unit_is_always_ready() {
    assert_eq!(decode(&[0; 6], &writable()), Ok(Action::Done));
    assert_eq!(decode(&[0; 6], &read_only()), Ok(Action::Done));
}

#[test]
fn there_is_no_sense_to_ask_for() {
    let sense = [0x70, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(reply(&[0x03, 0, 0, 0, 0xff, 0], &writable()), sense);
    assert_eq!(reply(&[0x03, 0, 0, 0, 4, 0], &writable()), sense[..4]);
    assert_bad_field(&[0x03, 1, 0, 0, 0xff, 0], &writable(), "05/24/00", 1);
}

#[test]
fn the_one_logical_unit_is_reported() {
    let report = |select, len| reply(&[0xa0, 0, select, 0, 0, 0, 0, 0, 0, len, 0, 0], &writable());
    assert_eq!(
        report(0, 16),
        [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(report(2, 255), report(0, 16));
    assert_eq!(report(1, 16), [0; 8], "well known logical units");
}

#[test]
fn a_report_of_logical_units_needs_room_and_a_known_selection() {
    let mut cdb = [0xa0, 0, 0, 0, 0, 0, 0, 0, 0, 15, 0, 0];
    assert_bad_field(&cdb, &writable(), "05/24/00", 6);
    cdb[9] = 16;
    cdb[2] = 3;
    assert_bad_field(&cdb, &writable(), "05/24/00", 2);
}

#[test]
fn a_unit_that_runs_may_be_started() {
    assert_eq!(
        decode(&[0x1b, 0, 0, 0, 1, 0], &writable()),
        Ok(Action::Done)
    );
    assert_eq!(
        decode(&[0x1b, 1, 0, 0, 1, 0], &writable()),
        Ok(Action::Done)
    );
}

#[test]
fn stop_eject_and_power_conditions_are_refused() {
    for flags in [0x00, 0x02, 0x03, 0x10, 0x11, 0x20, 0x30, 0x04] {
        assert_bad_field(&[0x1b, 0, 0, 0, flags, 0], &writable(), "05/24/00", 4);
    }
}

#[test]
fn a_fixed_medium_may_be_locked_in_and_let_out() {
    for prevent in [0, 1] {
        assert_eq!(
            decode(&[0x1e, 0, 0, 0, prevent, 0], &writable()),
            Ok(Action::Done)
        );
    }
}
