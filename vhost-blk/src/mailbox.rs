//! How pool threads and the VMM's thread reach one worker.
//!
//! pool -> **mailbox** -> worker
//!
//! Invariants
//! - a deferred request is counted as outstanding from the moment it is handed to the pool until
//!   the worker has dealt with its completion.
//! - when the mailbox is gone (its session ended), completions for it are dropped.
//! - no write of a session is begun once [`Mailbox::close`] was called, and none is under way when
//!   [`Mailbox::wait_for_writes`] has returned: the next session may repeat it and go on from there.

use std::io;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};

use crate::pool::{Outcome, Permit};
use crate::queue::RequestId;

/// A deferred request is over, or may go on.
#[derive(Debug)]
pub struct Completion {
    /// Position of the queue among those of its worker.
    pub queue: usize,
    /// The request in that queue.
    pub request: RequestId,
    /// What came of it. Requests that shared a flush share its failure.
    pub result: Result<Outcome, Arc<layers::Error>>,
    /// It changed the disk, or was to.
    pub is_write: bool,
    /// The pool's leave to hold the bytes of the request until they are dealt with.
    pub permit: Option<Permit>,
}

#[derive(Debug, Default)]
struct State {
    completions: Vec<Completion>,
    outstanding: usize,
    /// Writes that pool threads are at.
    writes: usize,
    closing: bool,
}

/// One worker's mailbox.
#[derive(Debug)]
pub struct Mailbox {
    state: Mutex<State>,
    /// `outstanding` or `writes` is 0.
    idle: Condvar,
    /// `state.completions` is not empty; saves the worker a lock.
    has_completions: AtomicBool,
    draining: AtomicBool,
    closing: AtomicBool,
    wake: EventNotifier,
    woken: EventConsumer,
    /// Odd while the worker is in a pass over its rings.
    passes: AtomicU64,
}

impl Mailbox {
    /// An empty mailbox.
    ///
    /// # Errors
    /// From the operating system when there are no more file descriptors.
    pub fn new() -> io::Result<Self> {
        let (woken, wake) =
            new_event_consumer_and_notifier(EventFlag::NONBLOCK | EventFlag::CLOEXEC)?;
        Ok(Self {
            state: Mutex::default(),
            idle: Condvar::new(),
            has_completions: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            wake,
            woken,
            passes: AtomicU64::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Readable when the worker should look at its mailbox and rings.
    #[must_use]
    pub fn wake_fd(&self) -> RawFd {
        self.woken.as_raw_fd()
    }

    /// Makes [`Mailbox::wake_fd`] readable.
    pub fn wake(&self) {
        // A full counter is readable too.
        drop(self.wake.notify());
    }

    /// Makes [`Mailbox::wake_fd`] not readable.
    pub fn consume_wake(&self) {
        drop(self.woken.consume());
    }

    /// As [`Mailbox::consume_wake`]; was it readable?
    #[cfg(test)]
    pub(crate) fn take_wake(&self) -> bool {
        self.woken.consume().is_ok()
    }

    /// Counts a request handed to the pool.
    pub fn expect_completion(&self) {
        self.lock().outstanding += 1;
    }

    /// Hands a completion to the worker and wakes it.
    pub fn post(&self, completion: Completion) {
        self.lock().completions.push(completion);
        self.has_completions.store(true, Ordering::Release);
        self.wake();
    }

    /// Moves the completions that have come to the end of `into`.
    pub fn collect(&self, into: &mut Vec<Completion>) {
        if self.has_completions.load(Ordering::Acquire) {
            let mut state = self.lock();
            self.has_completions.store(false, Ordering::Release);
            into.append(&mut state.completions);
        }
    }

    /// The worker has dealt with `count` completions.
    pub fn settle(&self, count: usize) {
        let mut state = self.lock();
        state.outstanding = state.outstanding.saturating_sub(count);
        if state.outstanding == 0 {
            self.idle.notify_all();
        }
    }

    /// Blocks until no request is outstanding or `deadline` has passed.
    pub fn wait_idle(&self, deadline: Instant) {
        let mut state = self.lock();
        while state.outstanding > 0 {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            (state, _) = self
                .idle
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Blocks until a completion has come.
    #[cfg(test)]
    pub(crate) fn wait_posted(&self) {
        let deadline = Instant::now() + std::time::Duration::from_secs(60);
        while !self.has_completions.load(Ordering::Acquire) {
            assert!(Instant::now() < deadline, "no completion in time");
            std::thread::yield_now();
        }
    }

    /// Tells the worker to take no more requests. A pass that has begun is over when this returns.
    pub fn start_drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
        self.wait_for_pass();
    }

    /// Should the worker take no more requests?
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Tells the worker to leave for good.
    pub fn close(&self) {
        self.lock().closing = true;
        self.closing.store(true, Ordering::Release);
        self.wake();
    }

    /// A pool thread is about to write for this session. False when it is too late: then it must
    /// not, else [`Mailbox::end_write`] must follow.
    #[must_use]
    pub fn begin_write(&self) -> bool {
        let mut state = self.lock();
        if !state.closing {
            state.writes += 1;
        }
        !state.closing
    }

    /// See [`Mailbox::begin_write`].
    pub fn end_write(&self) {
        let mut state = self.lock();
        state.writes -= 1;
        if state.writes == 0 {
            self.idle.notify_all();
        }
    }

    /// Blocks until no pool thread writes for this session, or for `timeout`; false when one still
    /// does. Call [`Mailbox::close`] first.
    #[must_use]
    pub fn wait_for_writes(&self, timeout: Duration) -> bool {
        let (state, _) = self
            .idle
            .wait_timeout_while(self.lock(), timeout, |state| state.writes > 0)
            .unwrap_or_else(PoisonError::into_inner);
        state.writes == 0
    }

    /// Should the worker leave for good?
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// The worker is about to take a snapshot of guest memory and use it.
    pub fn begin_pass(&self) {
        self.passes.fetch_add(1, Ordering::SeqCst);
        fence(Ordering::SeqCst);
    }

    /// The worker has let go of guest memory.
    pub fn end_pass(&self) {
        self.passes.fetch_add(1, Ordering::Release);
    }

    /// Waits until the worker has let go of every snapshot of guest memory that is older than this
    /// call. Blocks for a batch of reads at most.
    pub fn wait_for_pass(&self) {
        fence(Ordering::SeqCst);
        let pass = self.passes.load(Ordering::Acquire);
        while pass % 2 == 1 && self.passes.load(Ordering::Acquire) == pass {
            std::thread::yield_now();
        }
    }
}
