//! What one disk's guest does.
//!
//! front end -> **disk** -> page, `obd why`
//!
//! Each thread that answers requests counts in a [`Lane`] of its own, with plain loads and stores;
//! whoever reads the counters adds the lanes up.
//!
//! Invariants
//! - a lane has one writer at a time: it cannot be cloned, nor shared between threads.
//! - counters never go back, whichever lanes come and go.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::histogram::Histogram;
use super::journal::Journal;

/// What a guest asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Bytes of the disk.
    Read,
    /// To change bytes of the disk.
    Write,
    /// To discard, or to write zeros.
    Zero,
    /// To make writes safe from a power cut.
    Flush,
    /// Anything else, senseless requests included.
    Other,
}

impl Operation {
    /// All of them, in the order of [`Totals::requests`].
    pub const ALL: [Self; 5] = [
        Self::Read,
        Self::Write,
        Self::Zero,
        Self::Flush,
        Self::Other,
    ];

    /// As a label says it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Zero => "zero",
            Self::Flush => "flush",
            Self::Other => "other",
        }
    }
}

/// One disk. It is listed as long as somebody holds it.
#[derive(Debug)]
pub struct DiskMetrics {
    name: String,
    journal: Arc<Journal>,
    began: Instant,
    lanes: Mutex<Vec<Arc<Counters>>>,
    /// Times of requests that could not be answered at once, of those that were answered.
    pub waits: Histogram,
}

/// Written by one thread. On cache lines of its own, in pairs, as processors prefetch them.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Counters {
    requests: [AtomicU64; Operation::ALL.len()],
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    errors: AtomicU64,
    deferred: AtomicU64,
    settled: AtomicU64,
    /// When `deferred` last left `settled`, in nanoseconds of the disk's life.
    busy_since: AtomicU64,
}

/// All lanes of a disk together.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Totals {
    /// Requests that were answered, failed ones included, in the order of [`Operation::ALL`].
    pub requests: [u64; Operation::ALL.len()],
    /// Bytes that guests have read.
    pub read_bytes: u64,
    /// Bytes that guests have written.
    pub written_bytes: u64,
    /// Requests that failed.
    pub errors: u64,
    /// Requests that wait now for a disk, the network, or a thread.
    pub in_flight: u64,
    /// For how long there has been one of those without a break: no request waits longer.
    pub busy: Duration,
}

impl DiskMetrics {
    /// A disk that is called `name` and listed nowhere.
    #[must_use]
    pub fn new(name: String, journal: Arc<Journal>) -> Self {
        Self {
            name,
            journal,
            began: Instant::now(),
            lanes: Mutex::default(),
            waits: Histogram::default(),
        }
    }

    /// What it is called: the path of its socket, or of its config.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its reads waited for.
    #[must_use]
    pub fn journal(&self) -> &Arc<Journal> {
        &self.journal
    }

    /// How long it has been served.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// A place to count in for one thread.
    #[must_use]
    pub fn lane(self: &Arc<Self>) -> Lane {
        let mut lanes = self.lanes();
        let free = lanes
            .iter_mut()
            .find_map(|lane| Arc::get_mut(lane).is_some().then(|| Arc::clone(lane)));
        let counters = free.unwrap_or_else(|| {
            let new = Arc::<Counters>::default();
            lanes.push(Arc::clone(&new));
            new
        });
        drop(lanes);
        Lane {
            counters,
            disk: Arc::clone(self),
            has_read: Cell::new(false),
            has_data: Cell::new(false),
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Vec<Arc<Counters>>> {
        self.lanes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was counted so far.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let now = self.age();
        let mut totals = Totals::default();
        for lane in &*self.lanes() {
            let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
            for (sum, counter) in totals.requests.iter_mut().zip(&lane.requests) {
                *sum += load(counter);
            }
            totals.read_bytes += load(&lane.read_bytes);
            totals.written_bytes += load(&lane.written_bytes);
            totals.errors += load(&lane.errors);
            let settled = load(&lane.settled);
            let in_flight = load(&lane.deferred).saturating_sub(settled);
            totals.in_flight += in_flight;
            if in_flight > 0 {
                let since = Duration::from_nanos(load(&lane.busy_since));
                totals.busy = totals.busy.max(now.saturating_sub(since));
            }
        }
        totals
    }
}

/// The counters of one thread. Counting costs about a nanosecond.
#[derive(Debug)]
pub struct Lane {
    counters: Arc<Counters>,
    disk: Arc<DiskMetrics>,
    /// This lane has told the journal of a read that began, and of one that was answered.
    has_read: Cell<bool>,
    has_data: Cell<bool>,
}

impl Lane {
    /// A request was taken.
    #[inline]
    pub fn began(&self, operation: Operation) {
        if operation == Operation::Read && !self.has_read.replace(true) {
            self.disk.journal.read_began();
        }
    }

    /// A request was answered; `bytes` of data were read or written.
    #[inline]
    pub fn answered(&self, operation: Operation, bytes: u64) {
        let lane = &*self.counters;
        self.count(operation);
        match operation {
            Operation::Read => {
                add(&lane.read_bytes, bytes);
                if !self.has_data.replace(true) {
                    self.disk.journal.read_answered();
                }
            }
            Operation::Write => add(&lane.written_bytes, bytes),
            Operation::Zero | Operation::Flush | Operation::Other => {}
        }
    }

    /// A request was answered with an error.
    pub fn failed(&self, operation: Operation) {
        self.count(operation);
        add(&self.counters.errors, 1);
    }

    #[inline]
    fn count(&self, operation: Operation) {
        // Operations are numbered in the order of `ALL`.
        if let Some(counter) = self.counters.requests.get(operation as usize) {
            add(counter, 1);
        }
    }

    /// Something was handed to a thread that may wait.
    pub fn deferred(&self) {
        let lane = &*self.counters;
        if lane.deferred.load(Ordering::Relaxed) == lane.settled.load(Ordering::Relaxed) {
            let nanos = u64::try_from(self.disk.age().as_nanos()).unwrap_or(u64::MAX);
            lane.busy_since.store(nanos, Ordering::Relaxed);
        }
        add(&lane.deferred, 1);
    }

    /// It has come back.
    pub fn settled(&self) {
        add(&self.counters.settled, 1);
    }

    /// A request that had to wait was answered after this time.
    pub fn waited(&self, time: Duration) {
        self.disk.waits.record(time);
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // What is still under way comes back to nobody.
        let deferred = self.counters.deferred.load(Ordering::Relaxed);
        self.counters.settled.store(deferred, Ordering::Relaxed);
    }
}

/// Of one writer: no other thread adds in between.
#[inline]
fn add(counter: &AtomicU64, number: u64) {
    let before = counter.load(Ordering::Relaxed);
    counter.store(before.wrapping_add(number), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> Arc<DiskMetrics> {
        Arc::new(DiskMetrics::new("d".to_owned(), Arc::default()))
    }

    #[test]
    fn lanes_that_come_and_go_lose_nothing_and_are_used_again() {
        let disk = disk();
        for round in 1..=5 {
            let start = std::sync::Barrier::new(4);
            std::thread::scope(|scope| {
                for _ in 0..4 {
                    scope.spawn(|| {
                        let lane = disk.lane();
                        start.wait();
                        for _ in 0..20_000 {
                            lane.answered(Operation::Read, 512);
                            lane.answered(Operation::Write, 3);
                            lane.failed(Operation::Flush);
                        }
                    });
                }
            });
            let (totals, each) = (disk.totals(), 80_000 * round);
            assert_eq!(totals.requests, [each, each, 0, each, 0]);
            assert_eq!(totals.read_bytes, each * 512);
            assert_eq!(totals.written_bytes, each * 3);
            assert_eq!(totals.errors, each);
        }
        assert_eq!(disk.lanes().len(), 4);
    }

    #[test]
    fn what_a_lane_left_under_way_is_not_in_flight_any_more() {
        let disk = disk();
        let lane = disk.lane();
        lane.deferred();
        lane.deferred();
        lane.settled();
        assert_eq!(disk.totals().in_flight, 1);
        let other = disk.lane();
        other.deferred();
        drop(lane);
        assert_eq!(disk.totals().in_flight, 1);
        other.settled();
        assert_eq!(disk.totals().in_flight, 0);
        assert_eq!(disk.totals().busy, Duration::ZERO);
    }

    #[test]
    fn every_operation_counts_in_its_own_place() {
        let disk = disk();
        let lane = disk.lane();
        for (number, operation) in Operation::ALL.into_iter().enumerate() {
            lane.answered(operation, 1);
            assert_eq!(disk.totals().requests[number], 1, "{operation:?}");
        }
    }
}
