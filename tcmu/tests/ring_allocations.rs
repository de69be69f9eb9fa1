//! Commands that are taken and answered allocate nothing once the ring has been full.
#![cfg(test)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

#[path = "ring/kernel.rs"]
#[expect(dead_code, reason = "made for many tests, of which this is one")]
mod kernel;

use kernel::{Kernel, Wish};
use tcmu::ring::{Command, Completer, DataRange, Status, Taken, Taker};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Takes and answers what is in the ring; returns how many allocations that took.
fn serve(taker: &mut Taker, completer: &Completer, command: &mut Command) -> usize {
    let before = ALLOCATIONS.with(Cell::get);
    let mut ids = [0; 64];
    let mut count = 0;
    while taker.take(command).unwrap() == Taken::Command {
        ids[count] = command.id;
        count += 1;
    }
    for id in ids[..count].iter().rev() {
        assert!(completer.complete(*id, Status::CheckCondition([1; 96])));
    }
    assert!(count > 0);
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn commands_after_a_full_ring_allocate_nothing() {
    for flags in [0, 1] {
        let mut kernel = Kernel::new(4096, flags);
        let (mut taker, completer) = kernel.open();
        let mut command = Command::default();
        let data = vec![
            DataRange {
                offset: kernel.data_start(),
                len: 4096
            };
            8
        ];
        let wish = Wish {
            cdb: vec![0x28; 10],
            data,
            bidi: Vec::new(),
        };
        for round in 0..20 {
            while kernel.put(wish.clone()).is_some() {}
            let allocations = serve(&mut taker, &completer, &mut command);
            assert!(allocations == 0 || round < 2, "{allocations} in {round}");
            assert!(!kernel.read_answers().is_empty());
        }
    }
}
