//! What a ring must be like to be opened.

use std::sync::Arc;

use tcmu::ring::{Command, Region, Taken, open};

use crate::kernel::{
    CMD_TAIL, CMDR_OFF, CMDR_SIZE, DATA_BYTES, Kernel, RING_START, assert_taken, number, wish,
};

const RING: usize = 4096;

fn is_refused(offset: usize, number: u32) -> bool {
    let kernel = Kernel::new(RING, 0);
    assert!(open(Arc::clone(&kernel.region)).is_ok());
    kernel.region.store(offset, number);
    open(Arc::clone(&kernel.region)).is_err()
}

#[test]
fn another_version_is_refused() {
    for version in [0, 1, 3, 0x0102, 0xffff, 1 << 16] {
        assert!(is_refused(0, version), "{version:#x}");
    }
    assert!(!is_refused(0, 0xffff_0002), "any flags");
}

#[test]
fn a_ring_outside_of_the_mapping_or_over_the_mailbox_is_refused() {
    let all = number(RING_START + RING + DATA_BYTES);
    for start in [0, 64, 120, 132, all, all - 8, u32::MAX, u32::MAX - 7] {
        assert!(is_refused(CMDR_OFF, start), "start {start}");
    }
    for len in [0, 4, 4097, all, all - 120, u32::MAX, u32::MAX - 7] {
        assert!(is_refused(CMDR_SIZE, len), "len {len}");
    }
    assert!(!is_refused(CMDR_SIZE, all - 128), "without a data area");
}

#[test]
fn a_tail_outside_of_the_ring_is_refused() {
    for tail in [4, 4095, 4096, 4104, u32::MAX, u32::MAX - 7] {
        assert!(is_refused(CMD_TAIL, tail), "{tail}");
    }
    assert!(!is_refused(CMD_TAIL, 4088));
}

#[test]
fn a_mapping_without_room_for_a_mailbox_is_refused() {
    for words in 0..17 {
        let region = Region::of_memory(words);
        region.store(0, 2);
        region.store(CMDR_OFF, 128);
        region.store(CMDR_SIZE, 8);
        assert!(open(Arc::new(region)).is_err(), "{words}");
    }
}

#[test]
fn commands_that_were_not_answered_are_taken_by_who_opens_the_ring_next() {
    let mut kernel = Kernel::new(RING, 1);
    let (mut taker, completer) = kernel.open();
    let mut command = Command::default();
    for operation in 1..4 {
        kernel.put(wish(operation)).unwrap();
    }
    taker.take(&mut command).unwrap();
    completer.complete(command.id, tcmu::ring::Status::Good);
    taker.take(&mut command).unwrap();
    drop((taker, completer));
    assert_eq!(kernel.read_answers().len(), 1);

    let (mut taker, _completer) = kernel.open();
    for operation in 2..4 {
        assert_eq!(taker.take(&mut command).unwrap(), Taken::Command);
        assert_taken(&command, u16::from(operation) - 1, &wish(operation));
    }
    assert_eq!(taker.take(&mut command).unwrap(), Taken::Nothing);
}
