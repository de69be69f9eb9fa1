//! Fetches that are under way, and who waits for them.
//!
//! cached blob -> **flight** <- fill
//!
//! A flight is one run of blocks that one fetcher brings. Readers that want a part of it wait for that
//! part only, and copy it from the flight's buffer, so they are served even when nothing can be kept.
//!
//! Invariants
//! - the flights of a blob that are in its table do not overlap.
//! - a flight leaves the table after its blocks were made present, so a block that is missing and in no
//!   flight is fetched by nobody in this process.
//!
//! Source: docs/cache.md.

use std::ops::Range;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::record::Layout;
use crate::dest::Dest;
use crate::error::{Error, Result};
use crate::io::RangeLock;
use crate::metrics::Journal;
use crate::range_source::{RangeSource, Urgency};

/// Who asked for a fetch, and from where it comes.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) source: Arc<dyn RangeSource>,
    pub(super) journal: Arc<Journal>,
    pub(super) urgency: Urgency,
    pub(super) deadline: Instant,
}

/// May what arrives be kept?
#[derive(Debug)]
pub(super) enum Keeping {
    /// Not asked yet, or the lock is waited for.
    Unlocked,
    /// Yes: the blocks are locked against other processes.
    Locked {
        /// Let go with the variant.
        _lock: RangeLock,
    },
    /// No: somebody distrusts these bytes, or the lock was not to be had.
    Refused,
}

/// One run of blocks on its way.
#[derive(Debug)]
pub(super) struct Flight {
    /// Block numbers.
    pub(super) blocks: Range<u64>,
    /// The bytes of these blocks in the blob.
    pub(super) bytes: Range<u64>,
    /// The next read of this block shall look at it, and so trigger more read-ahead.
    pub(super) marker: Option<u64>,
    pub(super) order: Order,
    /// Held while bytes are written to the media.
    pub(super) keeping: Mutex<Keeping>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    urgency: Urgency,
    deadline: Instant,
    began: bool,
    /// The first bytes of the flight.
    buffer: Vec<u8>,
    end: Option<Result<()>>,
}

/// How waiting for a flight ended.
#[derive(Debug)]
pub(super) enum Waited {
    /// The bytes are in the buffer.
    Here,
    /// The fetch has failed.
    Failed(Error),
    /// The deadline has come.
    TooLate,
}

impl Flight {
    fn new(layout: Layout, blocks: Range<u64>, order: Order, marker: Option<u64>) -> Self {
        Self {
            bytes: layout.bytes(&blocks),
            blocks,
            marker,
            keeping: Mutex::new(Keeping::Unlocked),
            state: Mutex::new(State {
                urgency: order.urgency,
                deadline: order.deadline,
                began: false,
                buffer: Vec::new(),
                end: None,
            }),
            order,
            changed: Condvar::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The fetch begins: how urgent it is, and until when it may last. `None` if it began before.
    pub(super) fn begin(&self) -> Option<(Urgency, Instant)> {
        let mut state = self.state();
        if std::mem::replace(&mut state.began, true) {
            return None;
        }
        let len = usize::try_from(self.bytes.end - self.bytes.start).unwrap_or_default();
        state.buffer.reserve_exact(len);
        Some((state.urgency, state.deadline))
    }

    /// Somebody else waits for it, too. True when it has to be queued again, as more urgent.
    fn join(&self, order: &Order) -> bool {
        let mut state = self.state();
        state.deadline = state.deadline.max(order.deadline);
        let is_raised = order.urgency == Urgency::Guest && state.urgency == Urgency::Background;
        if is_raised {
            state.urgency = Urgency::Guest;
        }
        is_raised && !state.began
    }

    /// Until when the fetch may last.
    pub(super) fn deadline(&self) -> Instant {
        self.state().deadline
    }

    /// Bytes that have arrived.
    pub(super) fn arrived(&self) -> u64 {
        self.state().buffer.len() as u64
    }

    /// More bytes are here. False when they are more than the flight has.
    pub(super) fn append(&self, bytes: &[u8]) -> bool {
        let mut state = self.state();
        if (state.buffer.len() + bytes.len()) as u64 > self.bytes.end - self.bytes.start {
            return false;
        }
        state.buffer.extend_from_slice(bytes);
        self.changed.notify_all();
        true
    }

    /// Waits a moment, or until the flight's end.
    pub(super) fn pause(&self, time: std::time::Duration) {
        let state = self.state();
        drop(self.changed.wait_timeout(state, time));
    }

    fn end(&self, result: Result<()>) {
        self.state().end.get_or_insert(result);
        self.changed.notify_all();
    }

    /// Waits for the bytes before `end` (in the blob) and copies those from `start` on.
    pub(super) fn wait_and_copy(
        &self,
        wanted: &Range<u64>,
        mut dest: Dest<'_>,
        deadline: Instant,
    ) -> Waited {
        let position =
            |offset: u64| usize::try_from(offset - self.bytes.start).unwrap_or(usize::MAX);
        let (start, end) = (position(wanted.start), position(wanted.end));
        let mut state = self.state();
        loop {
            if let Some(bytes) = state.buffer.get(start..end) {
                dest.copy_from(bytes);
                return Waited::Here;
            }
            match &state.end {
                Some(Err(error)) => return Waited::Failed(error.duplicate()),
                Some(Ok(())) => return Waited::Failed(short(self)),
                None => {}
            }
            let Some(left) = deadline
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())
            else {
                return Waited::TooLate;
            };
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Waits until everything has arrived and was kept, if it could be.
    pub(super) fn wait_for_end(&self, deadline: Instant) -> Waited {
        let mut state = self.state();
        loop {
            match &state.end {
                Some(Err(error)) => return Waited::Failed(error.duplicate()),
                Some(Ok(())) => return Waited::Here,
                None => {}
            }
            let Some(left) = deadline
                .checked_duration_since(Instant::now())
                .filter(|left| !left.is_zero())
            else {
                return Waited::TooLate;
            };
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Keeps nothing more of it, and lets others fetch these blocks.
    fn refuse(&self) {
        let mut keeping = self.keeping.lock().unwrap_or_else(PoisonError::into_inner);
        *keeping = Keeping::Refused;
    }
}

fn short(flight: &Flight) -> Error {
    Error::new(
        crate::ErrorKind::Remote(crate::error::Remote::BadAnswer),
        "fetch blob",
        "the origin gave fewer bytes than it was asked for",
    )
    .in_file(flight.order.source.name())
    .at(flight.bytes.start)
}

/// What becomes of one part of a wanted range.
#[derive(Debug)]
pub(super) struct Part {
    /// Bytes of the blob.
    pub(super) range: Range<u64>,
    /// The flight that brings it; `None`: it is kept.
    pub(super) flight: Option<Arc<Flight>>,
}

/// How a range is to be got.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// In order, without gaps.
    pub(super) parts: Vec<Part>,
    /// Flights that a fetcher has to be found for.
    pub(super) queue: Vec<Arc<Flight>>,
    /// Flights that this plan has made.
    pub(super) own: Vec<Arc<Flight>>,
}

/// How far a missing run may be rounded out.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rounding {
    /// Blocks to whose multiples it is rounded.
    pub(super) align_blocks: u64,
    /// Longest flight.
    pub(super) blocks_max: u64,
}

/// The flights of one blob.
#[derive(Debug, Default)]
pub(super) struct Flights {
    table: Mutex<Vec<Arc<Flight>>>,
}

impl Flights {
    fn table(&self) -> MutexGuard<'_, Vec<Arc<Flight>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Divides `range` into what is present, what is on its way, and flights for the rest.
    pub(super) fn plan(
        &self,
        layout: Layout,
        range: &Range<u64>,
        is_present: &dyn Fn(u64) -> bool,
        rounding: Rounding,
        order: &Order,
        marker: Option<u64>,
    ) -> Plan {
        let mut plan = Plan::default();
        let mut table = self.table();
        let wanted = super::record::blocks_of(range);
        let mut block = wanted.start;
        while block < wanted.end {
            let flying = table.iter().find(|flight| flight.blocks.contains(&block));
            let (end, flight) = if let Some(flight) = flying.cloned() {
                if flight.join(order) {
                    plan.queue.push(Arc::clone(&flight));
                }
                (flight.blocks.end, Some(flight))
            } else if is_present(block) {
                (block + 1, None)
            } else {
                let free = |block: u64| {
                    !is_present(block) && !table.iter().any(|flight| flight.blocks.contains(&block))
                };
                let run = round_out(block, wanted.end, layout.blocks(), rounding, &free);
                let flight = Arc::new(Flight::new(layout, run, order.clone(), marker));
                table.push(Arc::clone(&flight));
                plan.queue.push(Arc::clone(&flight));
                plan.own.push(Arc::clone(&flight));
                (flight.blocks.end, Some(flight))
            };
            let bytes = layout.bytes(&(block..end));
            let part = bytes.start.max(range.start)..bytes.end.min(range.end);
            match plan.parts.last_mut() {
                Some(last) if last.flight.is_none() && flight.is_none() => {
                    last.range.end = part.end;
                }
                _ => plan.parts.push(Part {
                    range: part,
                    flight,
                }),
            }
            block = end;
        }
        plan
    }

    /// The flight is over.
    pub(super) fn land(&self, flight: &Arc<Flight>, result: Result<()>) {
        self.table().retain(|other| !Arc::ptr_eq(other, flight));
        flight.end(result);
    }

    /// What these flights bring is neither kept nor given to readers that come from now on.
    pub(super) fn refuse(&self, blocks: &Range<u64>) {
        // Under the table's lock: a new flight of these blocks must not lock them before this one has
        // let go of them.
        self.table().retain(|flight| {
            let is_hit = flight.blocks.start < blocks.end && blocks.start < flight.blocks.end;
            if is_hit {
                flight.refuse();
            }
            !is_hit
        });
    }
}

/// The run of free blocks around `block`, which is free: up to `wanted_end`, rounded out.
fn round_out(
    block: u64,
    wanted_end: u64,
    blocks: u64,
    rounding: Rounding,
    free: &dyn Fn(u64) -> bool,
) -> Range<u64> {
    let align = rounding.align_blocks.max(1);
    let floor = block - block % align;
    let start = (floor..block)
        .rev()
        .take_while(|block| free(*block))
        .last()
        .unwrap_or(block);
    let limit = start + rounding.blocks_max.max(align);
    let ceiling = wanted_end.next_multiple_of(align).min(blocks).min(limit);
    let end = (block + 1..ceiling)
        .take_while(|block| free(*block))
        .last()
        .unwrap_or(block)
        + 1;
    start..end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_rounded_out_over_free_blocks_only() {
        let rounding = Rounding {
            align_blocks: 8,
            blocks_max: 16,
        };
        let all = |_| true;
        assert_eq!(round_out(13, 14, 100, rounding, &all), 8..16);
        assert_eq!(round_out(13, 17, 100, rounding, &all), 8..24);
        assert_eq!(round_out(13, 90, 100, rounding, &all), 8..24);
        assert_eq!(round_out(98, 99, 100, rounding, &all), 96..100);
        let taken = |block| block != 10 && block != 14;
        assert_eq!(round_out(13, 20, 100, rounding, &taken), 11..14);
        let lone = Rounding {
            align_blocks: 1,
            blocks_max: 16,
        };
        assert_eq!(round_out(13, 15, 100, lone, &all), 13..15);
    }
}
