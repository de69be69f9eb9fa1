//! Somebody resets the ring while it is being served.

use tcmu::ring::{Command, Status, Taken};

use crate::kernel::{CMD_TAIL, Kernel, wish};

#[test]
fn nothing_is_answered_in_a_ring_that_was_reset() {
    for flags in [0, 1] {
        let mut kernel = Kernel::new(4096, flags);
        let (mut taker, completer) = kernel.open();
        let mut command = Command::default();
        for operation in 0..3 {
            kernel.put(wish(operation)).unwrap();
            assert_eq!(taker.take(&mut command).unwrap(), Taken::Command);
        }
        assert!(completer.complete(0, Status::Good));
        kernel.reset();
        assert!(!completer.complete(1, Status::Good));
        assert_eq!(kernel.region.load(CMD_TAIL), 0);
        assert!(kernel.read_answers().is_empty());
    }
}

#[test]
fn commands_of_long_ago_are_not_taken_again_after_a_reset() {
    let mut kernel = Kernel::new(1200, 1);
    let (mut taker, completer) = kernel.open();
    let mut command = Command::default();
    // Once round, so that there is an old command at every place.
    for operation in 0..13 {
        let id = kernel.put(wish(operation)).unwrap();
        taker.take(&mut command).unwrap();
        assert!(completer.complete(id, Status::Good));
        kernel.read_answers();
    }
    kernel.reset();
    assert!(taker.take(&mut command).is_err(), "before a new one");
    for operation in 0..5 {
        kernel.put(wish(operation)).unwrap();
        let taken = taker.take(&mut command);
        assert!(!matches!(taken, Ok(Taken::Command)), "after {operation}");
    }
}

#[test]
fn nor_where_the_tail_was_at_the_start_anyway() {
    let mut kernel = Kernel::new(1200, 1);
    let (mut taker, completer) = kernel.open();
    let mut command = Command::default();
    for operation in 0..10 {
        // Names that the last command does not have, or it would be refused for that.
        let id = u16::from(operation) + 1;
        assert!(kernel.put_as(id, &wish(operation)));
        kernel.waiting.insert(id, wish(operation));
        taker.take(&mut command).unwrap();
        assert!(completer.complete(id, Status::Good));
        kernel.read_answers();
    }
    assert_eq!(kernel.region.load(CMD_TAIL), 0);
    kernel.put(wish(10)).unwrap();
    taker.take(&mut command).unwrap();
    kernel.reset();
    assert!(taker.take(&mut command).is_err());
}
