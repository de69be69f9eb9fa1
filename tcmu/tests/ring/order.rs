//! Which answers the kernel finds when.

use tcmu::ring::{Command, Completer, SENSE_BYTES, Status};

use crate::kernel::{ANY_ORDER, CMD_TAIL, Kernel, assert_answer, wish};

/// Three commands, taken.
fn three(flags: u16) -> (Kernel, Completer) {
    let mut kernel = Kernel::new(4096, flags);
    let (mut taker, completer) = kernel.open();
    for operation in 0..3 {
        kernel.put(wish(operation)).unwrap();
        taker.take(&mut Command::default()).unwrap();
    }
    (kernel, completer)
}

fn ids(kernel: &mut Kernel) -> Vec<u16> {
    let answers = kernel.read_answers();
    assert!(!kernel.is_broken);
    answers.iter().map(|answer| answer.id).collect()
}

#[test]
fn answers_are_found_at_once_in_any_order_where_the_kernel_lets_them() {
    let (mut kernel, completer) = three(ANY_ORDER);
    for id in [1, 2, 0] {
        assert!(completer.complete(id, Status::Good));
        assert_eq!(ids(&mut kernel), [id]);
    }
}

#[test]
fn answers_wait_for_those_of_earlier_commands_where_the_kernel_wants_order() {
    let (mut kernel, completer) = three(0);
    let sense = Status::CheckCondition([0x70; SENSE_BYTES]);
    assert!(completer.complete(1, sense));
    assert!(kernel.read_answers().is_empty());
    assert!(completer.complete(0, Status::Busy));
    let answers = kernel.read_answers();
    assert_eq!(answers.len(), 2);
    assert_answer(&answers[0], 0, Status::Busy);
    assert_answer(&answers[1], 1, sense);
    assert!(completer.complete(2, Status::Good));
    assert_eq!(ids(&mut kernel), [2]);
}

#[test]
fn an_unknown_command_is_not_answered() {
    for flags in [0, ANY_ORDER] {
        let (mut kernel, completer) = three(flags);
        for id in [3, 4, 63, 64, u16::MAX] {
            assert!(!completer.complete(id, Status::Good));
        }
        assert_eq!(kernel.region.load(CMD_TAIL), 0);
        assert!(completer.complete(1, Status::Good));
        assert!(!completer.complete(1, Status::Good), "once");
        assert!(completer.complete(0, Status::Good));
        assert!(!completer.complete(0, Status::Good), "once");
        assert_eq!(ids(&mut kernel).len(), 2);
    }
}

#[test]
fn a_command_that_was_not_taken_is_not_answered() {
    let mut kernel = Kernel::new(4096, ANY_ORDER);
    let (mut taker, completer) = kernel.open();
    let id = kernel.put(wish(0)).unwrap();
    assert!(!completer.complete(id, Status::Good));
    assert_eq!(kernel.region.load(CMD_TAIL), 0);
    taker.take(&mut Command::default()).unwrap();
    assert!(completer.complete(id, Status::Good));
}

#[test]
fn a_name_may_come_again_after_its_answer() {
    for flags in [0, ANY_ORDER] {
        let mut kernel = Kernel::new(480, flags);
        let (mut taker, completer) = kernel.open();
        for round in 0..100 {
            assert_eq!(kernel.put(wish(round)), Some(0));
            taker.take(&mut Command::default()).unwrap();
            assert!(completer.complete(0, Status::Good));
            assert_eq!(ids(&mut kernel), [0]);
        }
    }
}

#[test]
fn an_answer_leaves_the_entrys_length_as_it_was() {
    for flags in [0, ANY_ORDER] {
        let (kernel, completer) = three(flags);
        let before = kernel.region.load(128);
        assert!(completer.complete(0, Status::CheckCondition([0xff; SENSE_BYTES])));
        assert_eq!(kernel.region.load(128), before);
        assert_eq!(kernel.region.load(128 + 120), before, "the next one's");
    }
}
