//! Commands as they come out of the ring.

use tcmu::ring::{Command, DataRange, Status, Taken};

use crate::kernel::{DATA_BYTES, Kernel, Wish, assert_taken, wish};

#[test]
fn an_empty_ring_has_nothing() {
    let kernel = Kernel::new(4096, 1);
    let (mut taker, _completer) = kernel.open();
    let mut command = Command::default();
    assert_eq!(taker.take(&mut command).unwrap(), Taken::Nothing);
    assert_eq!(taker.take(&mut command).unwrap(), Taken::Nothing);
}

#[test]
fn a_command_has_its_block_and_its_data_in_both_directions() {
    let mut kernel = Kernel::new(4096, 1);
    let (mut taker, _completer) = kernel.open();
    let start = kernel.data_start();
    let range = |offset, len| DataRange {
        offset: start + offset,
        len,
    };
    let wishes = [
        Wish {
            cdb: (1..=16).collect(),
            data: vec![range(0, 4096), range(8192, 512), range(DATA_BYTES - 1, 1)],
            bidi: vec![range(4096, 512), range(0, 0)],
        },
        Wish {
            cdb: (1..=32).collect(),
            data: vec![range(0, DATA_BYTES)],
            bidi: Vec::new(),
        },
        Wish {
            cdb: vec![1],
            data: vec![range(0, 512); 9],
            bidi: Vec::new(),
        },
        wish(0x1a),
    ];
    let mut command = Command::default();
    for wish in wishes {
        let id = kernel.put(wish.clone()).unwrap();
        assert_eq!(taker.take(&mut command).unwrap(), Taken::Command);
        assert_taken(&command, id, &wish);
    }
}

#[test]
fn news_of_commands_given_up_are_told_and_take_no_answer() {
    let mut kernel = Kernel::new(4096, 1);
    let (mut taker, completer) = kernel.open();
    let mut command = Command::default();
    assert!(kernel.put_task_management(&[7, 8, 9]));
    let id = kernel.put(wish(1)).unwrap();
    assert!(kernel.put_task_management(&[id]));
    assert_eq!(taker.take(&mut command).unwrap(), Taken::TaskManagement);
    assert_eq!(taker.take(&mut command).unwrap(), Taken::Command);
    assert_eq!(taker.take(&mut command).unwrap(), Taken::TaskManagement);
    assert_eq!(taker.take(&mut command).unwrap(), Taken::Nothing);
    assert!(completer.complete(id, Status::Good));
    assert_eq!(kernel.read_answers().len(), 1);
    assert!(!kernel.is_broken);
}

#[test]
fn an_entry_that_ends_exactly_at_the_rings_end_is_followed_by_the_first() {
    // Commands of 120 bytes; 4 of them are the ring.
    let mut kernel = Kernel::new(480, 1);
    let (mut taker, completer) = kernel.open();
    let mut command = Command::default();
    for round in 0..40 {
        let wish = wish(round);
        let id = kernel.put(wish.clone()).unwrap();
        assert_eq!(kernel.place(), 128 + usize::from(round + 1) % 4 * 120);
        assert_eq!(taker.take(&mut command).unwrap(), Taken::Command);
        assert_taken(&command, id, &wish);
        assert!(completer.complete(id, Status::Good));
        assert_eq!(kernel.read_answers().len(), 1);
    }
}

#[test]
fn the_rest_of_the_ring_may_be_padding_of_any_length() {
    for position in (8..480).step_by(8) {
        let mut kernel = Kernel::new(480, 1).start_at(position);
        let (mut taker, completer) = kernel.open();
        let mut command = Command::default();
        for round in 0..9 {
            let wish = wish(round);
            let id = kernel.put(wish.clone()).unwrap();
            assert_eq!(taker.take(&mut command).unwrap(), Taken::Command);
            assert_taken(&command, id, &wish);
            assert!(completer.complete(id, Status::Good));
            assert_eq!(kernel.read_answers().len(), 1, "from {position}");
        }
    }
}
