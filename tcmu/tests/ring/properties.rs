//! Any commands, answered in any order, in rings of any size.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;
use tcmu::ring::{Command, Completer, DataRange, Status, Taken, Taker};

use crate::kernel::{ANY_ORDER, DATA_BYTES, Kernel, Wish, assert_answer, assert_taken, status};

#[derive(Debug, Clone)]
enum Step {
    Put(Wish),
    TaskManagement(u16),
    Take,
    /// One of those that were taken, with this status.
    Complete(prop::sample::Index, u8),
    ReadAnswers,
}

/// Offsets are from the start of the data area.
fn ranges(most: usize) -> impl Strategy<Value = Vec<DataRange>> {
    let range = (0..=DATA_BYTES, 0..=DATA_BYTES).prop_map(|(a, b)| DataRange {
        offset: a.min(b),
        len: a.abs_diff(b),
    });
    vec(range, 0..most)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wish = (vec(any::<u8>(), 1..33), ranges(12), ranges(3))
        .prop_map(|(cdb, data, bidi)| Wish { cdb, data, bidi });
    let step = prop_oneof![
        4 => wish.prop_map(Step::Put),
        1 => (0..20_u16).prop_map(Step::TaskManagement),
        4 => Just(Step::Take),
        4 => any::<(prop::sample::Index, u8)>().prop_map(|(which, code)| Step::Complete(which, code)),
        2 => Just(Step::ReadAnswers),
    ];
    vec(step, 1..200)
}

struct Run {
    kernel: Kernel,
    taker: Taker,
    completer: Completer,
    command: Command,
    is_any_order: bool,
    /// In the order in which they were put.
    put: Vec<(u16, Wish)>,
    taken: Vec<u16>,
    /// In the order in which they were taken.
    unread: Vec<u16>,
    /// In the order in which they were answered.
    answered: Vec<u16>,
    statuses: BTreeMap<u16, Status>,
}

impl Run {
    fn new(ring: usize, position: u32, is_any_order: bool) -> Self {
        let flags = if is_any_order { ANY_ORDER } else { 0 };
        let kernel = Kernel::new(ring, flags).start_at(position);
        let (taker, completer) = kernel.open();
        Self {
            kernel,
            taker,
            completer,
            command: Command::default(),
            is_any_order,
            put: Vec::new(),
            taken: Vec::new(),
            unread: Vec::new(),
            answered: Vec::new(),
            statuses: BTreeMap::new(),
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Put(mut wish) => {
                for range in wish.data.iter_mut().chain(&mut wish.bidi) {
                    range.offset += self.kernel.data_start();
                }
                if let Some(id) = self.kernel.put(wish.clone()) {
                    self.put.push((id, wish));
                }
            }
            Step::TaskManagement(count) => {
                let ids: Vec<_> = (0..count).collect();
                self.kernel.put_task_management(&ids);
            }
            Step::Take => {
                self.take();
            }
            Step::Complete(which, code) if !self.taken.is_empty() => {
                let id = self.taken.swap_remove(which.index(self.taken.len()));
                assert!(self.completer.complete(id, status(code)));
                assert!(!self.completer.complete(id, status(code)));
                self.answered.push(id);
                self.statuses.insert(id, status(code));
            }
            Step::Complete(..) => {}
            Step::ReadAnswers => self.read_answers(),
        }
    }

    fn take(&mut self) -> bool {
        match self.taker.take(&mut self.command).unwrap() {
            Taken::Command => {
                let (id, wish) = self.put.remove(0);
                assert_taken(&self.command, id, &wish);
                self.taken.push(id);
                self.unread.push(id);
                true
            }
            Taken::TaskManagement => true,
            Taken::Nothing => {
                assert!(self.put.is_empty());
                false
            }
            Taken::Malformed => panic!("malformed"),
        }
    }

    /// As many answers as there must be, in the order in which they must be.
    fn read_answers(&mut self) {
        let is_answered = |id: &&u16| self.statuses.contains_key(id);
        let expected: Vec<u16> = match self.is_any_order {
            true => std::mem::take(&mut self.answered),
            false => self
                .unread
                .iter()
                .take_while(is_answered)
                .copied()
                .collect(),
        };
        let answers = self.kernel.read_answers();
        assert!(!self.kernel.is_broken);
        assert_eq!(answers.len(), expected.len());
        for (answer, id) in answers.iter().zip(expected) {
            assert_answer(answer, id, self.statuses.remove(&id).unwrap());
            self.unread.retain(|unread| *unread != id);
        }
    }

    fn finish(mut self) {
        while self.take() {}
        while !self.taken.is_empty() {
            let id = self.taken[self.taken.len() / 2];
            self.taken.retain(|taken| *taken != id);
            assert!(self.completer.complete(id, Status::Good));
            self.answered.push(id);
            self.statuses.insert(id, Status::Good);
        }
        self.read_answers();
        assert!(self.kernel.waiting.is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn every_command_is_taken_and_answered_once_as_it_was_meant(
        ring in (60..400_usize).prop_map(|words| 8 * words),
        position in 0..60_u32,
        is_any_order: bool,
        steps in steps(),
    ) {
        let mut run = Run::new(ring, 8 * position, is_any_order);
        for step in steps {
            run.step(step);
        }
        run.finish();
    }
}
