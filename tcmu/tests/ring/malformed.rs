//! What the kernel would never write.

use tcmu::ring::{Command, Completer, DataRange, Status, Taken, Taker};

use crate::kernel::{
    ANY_ORDER, CMD_HEAD, CMD_TAIL, DATA_BYTES, ENTRY_BYTES, Kernel, RING_START, Wish, number, wish,
};

const RING: usize = 4096;
const CMD_ID: usize = 4;
const IOV_CNT: usize = 8;
const IOV_BIDI_CNT: usize = 12;
const CDB_OFF: usize = 24;
const IOV: usize = 48;

/// One good command with one vector.
fn one() -> (Kernel, Taker, Completer) {
    let mut kernel = Kernel::new(RING, ANY_ORDER);
    let (taker, completer) = kernel.open();
    let data = DataRange {
        offset: kernel.data_start(),
        len: 4096,
    };
    let wish = Wish {
        data: vec![data],
        ..wish(1)
    };
    kernel.put(wish).unwrap();
    (kernel, taker, completer)
}

/// The ring is given up, for good, and nothing is answered.
fn assert_broken(kernel: &Kernel, taker: &mut Taker, what: &str) {
    let mut command = Command::default();
    for _ in 0..2 {
        let taken = taker.take(&mut command);
        assert!(taken.is_err(), "{what}: {taken:?}");
    }
    assert_eq!(kernel.region.load(CMD_TAIL), 0, "{what}");
}

#[test]
fn a_head_outside_of_the_ring_or_inside_of_an_entry_is_an_error() {
    for head in [4096, 4104, u32::MAX, u32::MAX - 7, 4, 124, 127, 121, 112, 8] {
        let (kernel, mut taker, _completer) = one();
        kernel.region.store(CMD_HEAD, head);
        assert_broken(&kernel, &mut taker, &format!("head {head}"));
    }
}

#[test]
fn an_entry_of_no_length_or_longer_than_what_is_written_is_an_error() {
    for op in 0..3 {
        for len in [0, 128, 136, 4096, 4104, 1 << 31, !7] {
            let (kernel, mut taker, _completer) = one();
            kernel.region.store(RING_START, len | op);
            assert_broken(&kernel, &mut taker, &format!("op {op}, len {len}"));
        }
    }
}

#[test]
fn an_entry_over_the_rings_end_is_an_error() {
    let mut kernel = Kernel::new(RING, ANY_ORDER).start_at(4096 - 128);
    let (mut taker, _completer) = kernel.open();
    kernel.put(wish(1)).unwrap();
    kernel.put(wish(2)).unwrap();
    let place = RING_START + RING - 128;
    kernel.region.store(place, 136 | 1);
    assert!(taker.take(&mut Command::default()).is_err());
}

#[test]
fn a_command_without_room_for_its_answer_is_an_error() {
    for len in (0..number(ENTRY_BYTES)).step_by(8) {
        let (kernel, mut taker, _completer) = one();
        kernel.region.store(RING_START, len | 1);
        assert_broken(&kernel, &mut taker, &format!("len {len}"));
    }
}

#[test]
fn an_unknown_operation_is_an_error() {
    for op in 3..8 {
        let (kernel, mut taker, _completer) = one();
        kernel.region.store(RING_START, 120 | op);
        assert_broken(&kernel, &mut taker, &format!("op {op}"));
    }
}

#[test]
fn a_name_that_comes_twice_is_an_error() {
    let (mut kernel, mut taker, completer) = one();
    assert!(kernel.put_as(0, &wish(2)));
    let mut command = Command::default();
    assert_eq!(taker.take(&mut command).unwrap(), Taken::Command);
    assert!(taker.take(&mut command).is_err());
    assert!(completer.complete(0, Status::Good));
    assert_eq!(kernel.read_answers().len(), 1);
}

/// The command is answered; the next one is served.
fn assert_malformed(spoil: impl Fn(&Kernel), what: &str) {
    let (mut kernel, mut taker, completer) = one();
    kernel.poke(RING_START + CMD_ID, &[9, 0]);
    let wish_of_0 = kernel.waiting.remove(&0).unwrap();
    kernel.waiting.insert(9, wish_of_0);
    spoil(&kernel);
    kernel.put(wish(2)).unwrap();
    let mut command = Command::default();
    assert_eq!(
        taker.take(&mut command).unwrap(),
        Taken::Malformed,
        "{what}"
    );
    assert_eq!(command.id, 9);
    assert!(completer.complete(9, Status::Busy));
    assert_eq!(taker.take(&mut command).unwrap(), Taken::Command);
    assert_eq!(command.cdb[0], 2);
    assert_eq!(kernel.read_answers().len(), 1);
    assert!(!kernel.is_broken);
}

#[test]
fn data_outside_of_the_data_area_is_malformed() {
    let start = (RING_START + RING) as u64;
    let area = DATA_BYTES as u64;
    for (offset, len) in [
        (0, 1),
        (start - 1, 1),
        (start - 1, 0),
        (start, area + 1),
        (start + 1, area),
        (start + area, 1),
        (start + area + 1, 0),
        (start, u64::MAX),
        (u64::MAX, 1),
        (u64::MAX - 4095, 4096),
        (u64::from(u32::MAX) + 1 + start, 8),
    ] {
        let spoil = |kernel: &Kernel| {
            kernel.poke(RING_START + IOV, &offset.to_le_bytes());
            kernel.poke(RING_START + IOV + 8, &len.to_le_bytes());
        };
        assert_malformed(spoil, &format!("{len} bytes at {offset}"));
    }
}

#[test]
fn more_vectors_than_the_entry_has_room_for_are_malformed() {
    // 120 bytes: 4 vectors and a half. Those behind the first are empty and outside.
    for (count, bidi_count) in [
        (5, 0),
        (0, 5),
        (1, 4),
        (u32::MAX, 0),
        (u32::MAX, u32::MAX),
        (1, u32::MAX),
    ] {
        let spoil = |kernel: &Kernel| {
            kernel.region.store(RING_START + IOV_CNT, count);
            kernel.region.store(RING_START + IOV_BIDI_CNT, bidi_count);
            let inside = (RING_START + RING) as u64;
            for vector in 0..4 {
                kernel.poke(RING_START + IOV + 16 * vector, &inside.to_le_bytes());
                kernel.poke(RING_START + IOV + 16 * vector + 8, &[0; 8]);
            }
            let cdb = (RING_START + IOV) as u64;
            kernel.poke(RING_START + CDB_OFF, &cdb.to_le_bytes());
        };
        assert_malformed(spoil, &format!("{count} and {bidi_count}"));
    }
}

#[test]
fn a_command_block_outside_of_its_entry_is_malformed() {
    let entry = RING_START as u64;
    for offset in [
        0,
        entry - 1,
        entry + 120,
        entry + 128,
        entry + 4096,
        u64::MAX,
        1 << 32,
    ] {
        let spoil = |kernel: &Kernel| kernel.poke(RING_START + CDB_OFF, &offset.to_le_bytes());
        assert_malformed(spoil, &format!("{offset}"));
    }
}

#[test]
fn what_becomes_of_an_entry_after_it_was_taken_does_not_count() {
    let (mut kernel, mut taker, completer) = one();
    kernel.put(wish(2)).unwrap();
    let mut command = Command::default();
    taker.take(&mut command).unwrap();
    kernel.region.store(RING_START, 4000 | 2);
    let taken = taker.take(&mut command).unwrap();
    assert_eq!((taken, command.id), (Taken::Command, 1));
    assert!(completer.complete(1, Status::Good));
    assert_eq!(kernel.region.load(CMD_TAIL), 120);
    assert!(completer.complete(0, Status::Good));
    assert_eq!(kernel.region.load(CMD_TAIL), 240);
}
