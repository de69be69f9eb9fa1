//! Who may touch a queue when.
//!
//! VMM messages -> **shared queue** <- worker
//!
//! Invariants
//! - the ring in guest memory is touched only under the lock, and only between
//!   [`SharedQueue::start`] and the end of [`SharedQueue::stop`].
//! - a change that the VMM asks for waits for one batch of requests at most.

use std::fs::File;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::{Queue, StopDeadline};
use crate::disk::Disk;
use crate::ring::RingLayout;

/// A [`Queue`] shared by the worker that serves it and the thread that obeys the VMM.
#[derive(Debug)]
pub struct SharedQueue {
    queue: Mutex<Queue>,
    stops: Arc<StopDeadline>,
    /// Threads that wait in [`SharedQueue::control`]. A busy worker takes the lock again so soon
    /// after letting go that nobody else would ever get it; it steps back while this is not 0.
    controls_waiting: AtomicU32,
    /// [`Queue::takes_requests`], readable without the lock.
    active: AtomicBool,
    /// A stopping queue has nothing in flight any more.
    drained: Condvar,
}

impl SharedQueue {
    /// A queue that is not set up yet; messages name it by `disk` and `number`. `stops` is shared
    /// by all queues of a session.
    #[must_use]
    pub fn new(disk: Arc<Disk>, number: u16, stops: Arc<StopDeadline>) -> Self {
        Self {
            queue: Mutex::new(Queue::new(disk, number)),
            stops,
            controls_waiting: AtomicU32::new(0),
            active: AtomicBool::new(false),
            drained: Condvar::new(),
        }
    }

    /// May there be requests to take? A hint; [`Queue::ring`] decides.
    #[must_use]
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::Acquire)
    }

    /// The queue, for the worker.
    pub fn lock(&self) -> MutexGuard<'_, Queue> {
        while self.controls_waiting.load(Ordering::Acquire) != 0 {
            std::thread::yield_now();
        }
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes [`SharedQueue::stop`] when it may have nothing to wait for any more. The worker calls
    /// this after it has published deferred requests or failed to.
    pub fn note_progress(&self, queue: &Queue) {
        if queue.stopping && queue.pool_writes == 0 {
            self.drained.notify_all();
        }
    }

    /// Runs `change` between two batches of the worker.
    fn control<T>(&self, change: impl FnOnce(&mut Queue) -> T) -> T {
        self.controls_waiting.fetch_add(1, Ordering::AcqRel);
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        self.controls_waiting.fetch_sub(1, Ordering::AcqRel);
        let result = change(&mut queue);
        self.active.store(queue.takes_requests(), Ordering::Release);
        result
    }

    /// Where the ring lies.
    pub fn set_layout(&self, layout: RingLayout) {
        self.control(|queue| queue.layout = layout);
    }

    /// Was `VIRTIO_F_EVENT_IDX` negotiated?
    pub fn set_event_idx(&self, event_idx: bool) {
        self.control(|queue| queue.event_idx = event_idx);
    }

    /// Position in the available ring to go on from.
    pub fn set_next_avail(&self, next_avail: u16) {
        self.control(|queue| queue.next_avail = next_avail);
    }

    /// Position in the available ring of the first request that has no used entry.
    pub fn next_avail(&self) -> u16 {
        self.control(|queue| queue.next_avail)
    }

    /// Position in the used ring to go on from.
    pub fn set_next_used(&self, next_used: u16) {
        self.control(|queue| queue.next_used = next_used);
    }

    /// The eventfd that tells the driver about used entries.
    pub fn set_call(&self, call: Option<File>) {
        self.control(|queue| {
            queue.call = call;
            queue.call_after_start();
        });
    }

    /// A disabled queue keeps its requests in flight but takes no new ones.
    pub fn set_enabled(&self, enabled: bool) {
        self.control(|queue| queue.enabled = enabled);
    }

    /// The ring is set up: requests may be taken once it is enabled too.
    pub fn start(&self) {
        self.stops.reset();
        self.control(|queue| {
            queue.started = true;
            queue.stopping = false;
            queue.broken = false;
            queue.called_at = None;
            queue.unpublished = false;
            queue.kicks_requested = false;
            queue.in_flight.reserve(usize::from(queue.layout.size));
            queue.call_after_start();
        });
    }

    /// Takes no more requests, waits for those in flight, and lets go of the ring. Requests that
    /// are still not done are abandoned: [`SharedQueue::next_avail`] steps back to the first of
    /// them, so that it is taken again after the next start. Blocks, for `timeout` at most, which
    /// queues that stop one after the other share: see [`StopDeadline::get`]. Longer only for
    /// writes that the pool has begun: they must not come after their own replay.
    pub fn stop(&self, timeout: Duration) {
        let deadline = self.stops.get(timeout);
        self.control(|queue| queue.stopping = true);
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reported = false;
        while !queue.may_let_go() {
            let left = deadline.saturating_duration_since(Instant::now());
            if !left.is_zero() {
                (queue, _) = self
                    .drained
                    .wait_timeout(queue, left)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            if queue.pool_writes == 0 {
                break;
            }
            if !reported {
                queue.report(format_args!(
                    "cannot stop: the host's disk has not finished {} writes",
                    queue.pool_writes
                ));
                reported = true;
            }
            queue = self
                .drained
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        let abandoned = queue.in_flight.len();
        if abandoned > 0 {
            queue.report(format_args!(
                "stopped with {abandoned} requests in flight, left for a replay"
            ));
        }
        queue.in_flight.clear();
        queue.first_id += abandoned as u64;
        let step = u16::try_from(abandoned).unwrap_or(u16::MAX);
        queue.next_avail = queue.next_avail.wrapping_sub(step);
        queue.started = false;
    }
}
