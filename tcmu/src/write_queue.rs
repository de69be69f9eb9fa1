//! Writes to a disk that is slow now: gathered by one worker, so that a ring goes on and many writes still
//! make one commit.
//!
//! dispatch -> **write queue** -> gather; execute
//!
//! Invariants
//! - there is at most one worker on a queue, and one as long as something is in it, once the ring thread is
//!   through with what came together.
//! - it waits for the host's disk, never for the network: a write that would is handed on.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use layers::metrics::{Lane, Operation};
use layers::{Progress, Wait};

use crate::data::Data;
use crate::device::Shared;
use crate::execute::Job;
use crate::gather::Gather;
use crate::ring::{Command, DataRange, Status};
use crate::scsi::{Action, ByteRange};
use crate::sense;

/// See the module's description.
#[derive(Debug, Default)]
pub(crate) struct WriteQueue(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    waiting: VecDeque<Waiting>,
    has_worker: bool,
}

#[derive(Debug)]
struct Waiting {
    id: u16,
    data: Vec<DataRange>,
    range: ByteRange,
    since: Instant,
}

impl WriteQueue {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<Waiting> {
        self.lock().waiting.pop_front()
    }

    /// False, and nobody works on it any more, when it is empty.
    fn has_more(&self) -> bool {
        let mut state = self.lock();
        state.has_worker = !state.waiting.is_empty();
        state.has_worker
    }
}

impl Shared {
    /// Leaves the write to the device's write worker, whom [`Shared::do_queued_writes`] starts. Does not block.
    pub(crate) fn queue_write(&self, command: &Command, range: ByteRange) {
        self.write_queue.lock().waiting.push_back(Waiting {
            id: command.id,
            data: command.data.clone(),
            range,
            since: Instant::now(),
        });
    }

    /// Has somebody do what was queued. Called once for all writes that came together, so that they
    /// are committed together. Does not block.
    pub(crate) fn do_queued_writes(self: &Arc<Self>) {
        let mut state = self.write_queue.lock();
        let has_worker = state.has_worker || state.waiting.is_empty();
        state.has_worker |= !state.waiting.is_empty();
        drop(state);
        if !has_worker {
            let shared = Arc::clone(self);
            self.writers.submit(Box::new(move || drain(&shared)));
        }
    }
}

fn drain(shared: &Arc<Shared>) {
    let Some(disk) = shared.disk() else {
        refuse_all(shared);
        return;
    };
    let lane = disk.metrics().lane();
    let mut gather = Gather::default();
    let mut begun = VecDeque::new();
    loop {
        while let Some(write) = shared.write_queue.next() {
            let data = Data::new(&shared.region, &write.data);
            lane.deferred();
            match gather.stage(disk, write.id, data, write.range, Wait::Never) {
                Ok(Progress::Done) => begun.push_back(write.since),
                Ok(Progress::Pending) => {
                    lane.settled();
                    hand_on(shared, write);
                }
                Err(status) => {
                    lane.settled();
                    lane.failed(Operation::Write);
                    shared.completer.complete(write.id, status);
                }
            }
            if gather.is_full() {
                break;
            }
        }
        gather.commit(disk, |id, bytes, status| {
            count(&lane, bytes, status, begun.pop_front());
            shared.completer.complete(id, status);
        });
        shared.tell_kernel();
        if !shared.write_queue.has_more() {
            return;
        }
    }
}

fn hand_on(shared: &Arc<Shared>, write: Waiting) {
    let action = Action::Write {
        range: write.range,
        fua: false,
    };
    Job::of_data(shared, write.id, write.data, action).submit();
}

fn count(lane: &Lane, bytes: u64, status: Status, since: Option<Instant>) {
    lane.settled();
    if let Some(since) = since {
        lane.waited(since.elapsed());
    }
    match status {
        Status::Good => lane.answered(Operation::Write, bytes),
        _ => lane.failed(Operation::Write),
    }
}

fn refuse_all(shared: &Shared) {
    while shared.write_queue.has_more() {
        while let Some(write) = shared.write_queue.next() {
            shared.completer.complete(write.id, sense::not_ready());
        }
    }
    shared.tell_kernel();
}
