//! What was taken from the ring and is not answered.
//!
//! taker, completer -> **tail**
//!
//! Invariants
//! - `slots` are the entries from the ring's tail up to the taker's cursor, in order.
//! - it has as many commands as `waiting` has names and `held` has answers.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::completer::Status;

/// Words of a set of 16-bit names.
const WORDS: usize = (1 << 16) / 64;

/// An entry that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    /// In bytes.
    pub(super) len: u32,
    /// An answer belongs over it.
    pub(super) is_command: bool,
}

/// Shared by the taker, and all who answer.
#[derive(Debug)]
pub(super) struct Tail(Mutex<State>);

#[derive(Debug)]
pub(super) struct State {
    /// Where the next answer, or an entry that has none, is in the ring.
    pub(super) position: u32,
    pub(super) slots: VecDeque<Slot>,
    waiting: Names,
    /// For a kernel that wants answers in order: what was taken, with the answers that have come.
    held: Option<VecDeque<(u16, Option<Status>)>>,
}

/// The names of commands.
#[derive(Debug)]
struct Names(Box<[u64; WORDS]>);

impl Names {
    fn word(&mut self, name: u16) -> Option<(&mut u64, u64)> {
        let word = self.0.get_mut(usize::from(name / 64))?;
        Some((word, 1 << (name % 64)))
    }

    /// False when it is there already.
    fn insert(&mut self, name: u16) -> bool {
        self.word(name).is_some_and(|(word, bit)| {
            let is_new = *word & bit == 0;
            *word |= bit;
            is_new
        })
    }

    /// False when it is not there.
    fn remove(&mut self, name: u16) -> bool {
        self.word(name).is_some_and(|(word, bit)| {
            let was_there = *word & bit != 0;
            *word &= !bit;
            was_there
        })
    }
}

impl Tail {
    pub(super) fn new(position: u32, any_order: bool) -> Self {
        Self(Mutex::new(State {
            position,
            slots: VecDeque::new(),
            waiting: Names(Box::new([0; WORDS])),
            held: (!any_order).then(VecDeque::new),
        }))
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// An entry without a command was taken.
    pub(super) fn pass(&mut self, len: u32) {
        self.slots.push_back(Slot {
            len,
            is_command: false,
        });
    }

    /// A command was taken. False when one of that name waits already.
    pub(super) fn take(&mut self, id: u16, len: u32) -> bool {
        if !self.waiting.insert(id) {
            return false;
        }
        self.slots.push_back(Slot {
            len,
            is_command: true,
        });
        if let Some(held) = &mut self.held {
            held.push_back((id, None));
        }
        true
    }

    /// A command has its answer. False when it does not wait for one.
    pub(super) fn answer(&mut self, id: u16, status: Status) -> bool {
        if !self.waiting.remove(id) {
            return false;
        }
        if let Some(held) = &mut self.held
            && let Some(place) = held
                .iter_mut()
                .find(|place| place.0 == id && place.1.is_none())
        {
            place.1 = Some(status);
        }
        true
    }

    /// The next answer that may be published now, if answers have to keep an order.
    pub(super) fn next_held(&mut self) -> Option<(u16, Status)> {
        let held = self.held.as_mut()?;
        let (id, status) = *held.front()?;
        let status = status?;
        held.pop_front();
        Some((id, status))
    }

    pub(super) fn keeps_order(&self) -> bool {
        self.held.is_some()
    }
}
