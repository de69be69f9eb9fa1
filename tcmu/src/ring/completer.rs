//! Publishes answers in the ring.
//!
//! dispatch, execute -> **completer** -> tail, region
//!
//! The kernel looks at the entry at `cmd_tail` for the name of the command that was answered, so an
//! answer goes there, whichever command the entry was. Entries without a command are passed over.

use std::sync::Arc;

use super::entry::SENSE_BYTES;
use super::region::{DataRange, Region};
use super::tail::{State, Tail};
use super::{CMD_TAIL, Layout};

/// From `cmd_id` on; in front of it is the entry's length, which stays.
const ANSWER: usize = 4;
/// `cmd_id`, flags, status, two paddings, `read_len`.
const ANSWER_BYTES: usize = 12;
const STATUS: usize = 4;

const GOOD: u8 = 0;
const CHECK_CONDITION: u8 = 2;
const BUSY: u8 = 8;

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// GOOD.
    Good,
    /// CHECK CONDITION, with sense data.
    CheckCondition([u8; SENSE_BYTES]),
    /// BUSY: to be asked again.
    Busy,
}

/// Those who answer, from any thread.
#[derive(Debug)]
pub struct Completer {
    region: Arc<Region>,
    layout: Layout,
    tail: Arc<Tail>,
}

impl Completer {
    pub(super) fn new(region: Arc<Region>, layout: Layout, tail: Arc<Tail>) -> Self {
        Self {
            region,
            layout,
            tail,
        }
    }

    /// Size of the data area, in bytes.
    #[must_use]
    pub fn data_bytes(&self) -> usize {
        self.layout.data.len()
    }

    /// Answers the command `id`; the kernel does not look before [`Region::notify`]. False when no such
    /// command waits, or none any more because somebody has reset the ring: the kernel would give up the
    /// device if it were told.
    pub fn complete(&self, id: u16, status: Status) -> bool {
        let mut state = self.tail.lock();
        if !state.answer(id, status) || self.region.load(CMD_TAIL) != state.position {
            return false;
        }
        if state.keeps_order() {
            while let Some((id, status)) = state.next_held() {
                self.publish(&mut state, id, &status);
            }
        } else {
            self.publish(&mut state, id, &status);
        }
        self.region.store(CMD_TAIL, state.position);
        true
    }

    fn publish(&self, state: &mut State, id: u16, status: &Status) {
        while let Some(slot) = state.slots.pop_front() {
            let place = self.layout.place(state.position);
            state.position = self.layout.after(state.position, slot.len);
            if slot.is_command {
                self.write(place, id, status);
                return;
            }
        }
    }

    fn write(&self, place: usize, id: u16, status: &Status) {
        let mut answer = [0; ANSWER_BYTES];
        let [low, high] = id.to_le_bytes();
        let scsi_status = match status {
            Status::Good => GOOD,
            Status::CheckCondition(_) => CHECK_CONDITION,
            Status::Busy => BUSY,
        };
        // Flags stay 0: an unknown operation code is told by sense, of which the kernel makes no fuss.
        for (at, byte) in [(0, low), (1, high), (STATUS, scsi_status)] {
            if let Some(place) = answer.get_mut(at) {
                *place = byte;
            }
        }
        let offset = place + ANSWER;
        self.put(offset, &answer);
        if let Status::CheckCondition(sense) = status {
            self.put(offset + ANSWER_BYTES, sense);
        }
    }

    fn put(&self, offset: usize, bytes: &[u8]) {
        let len = bytes.len();
        // The entry was inside of the ring when it was taken.
        let written = self.region.copy_in(DataRange { offset, len }, bytes);
        debug_assert!(written.is_some());
    }
}
