//! Threads for what may wait: for a disk, the network, a lock.
//!
//! dispatch, serve -> **workers**
//!
//! Threads start when there is work and end when there was none for a while, so that a host with
//! hundreds of idle devices has few.
//!
//! Invariant: a task that was submitted is done, whatever happens to the set.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// An idle thread ends after this time.
const IDLE: Duration = Duration::from_secs(5);

/// Something to be done once.
pub(crate) type Task = Box<dyn FnOnce() + Send>;

/// A set of threads that does tasks in the order in which they come.
#[derive(Debug)]
pub(crate) struct Workers {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    name: &'static str,
    threads_max: usize,
    state: Mutex<State>,
    /// There is a task, or the set is closed.
    work: Condvar,
    /// A task was done, or a thread has ended.
    rest: Condvar,
}

#[derive(Default)]
struct State {
    tasks: VecDeque<Task>,
    threads: usize,
    idle: usize,
    is_closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("tasks", &self.tasks.len())
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl Workers {
    /// A set of up to `threads_max` threads called `name`; none yet.
    #[must_use]
    pub(crate) fn new(name: &'static str, threads_max: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                name,
                threads_max: threads_max.max(1),
                state: Mutex::default(),
                work: Condvar::new(),
                rest: Condvar::new(),
            }),
        }
    }

    /// Has `task` done. Where no thread can be had at all, does it here.
    pub(crate) fn submit(&self, task: Task) {
        let mut state = self.shared.lock();
        state.tasks.push_back(task);
        if state.tasks.len() > state.idle && state.threads < self.shared.threads_max {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name(self.shared.name.to_owned());
            match thread.spawn(move || shared.work()) {
                Ok(_detached) => state.threads += 1,
                Err(error) => log::warn!("{}: no further thread: {error}", self.shared.name),
            }
        }
        if state.threads > 0 {
            drop(state);
            self.shared.work.notify_one();
            return;
        }
        let tasks = std::mem::take(&mut state.tasks);
        drop(state);
        tasks.into_iter().for_each(|task| task());
    }

    /// Waits until nothing is to be done and nothing being done; false when that lasts beyond
    /// `deadline`.
    #[must_use]
    pub(crate) fn wait_until_idle(&self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let is_busy = |state: &mut State| !state.tasks.is_empty() || state.threads > state.idle;
        let waited = self
            .shared
            .rest
            .wait_timeout_while(self.shared.lock(), left, is_busy);
        let (_state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.work.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut state = self.lock();
        loop {
            if let Some(task) = state.tasks.pop_front() {
                drop(state);
                // A task that panics must not leave the set with a thread too few.
                if catch_unwind(AssertUnwindSafe(task)).is_err() {
                    log::error!("{}: a task has failed", self.name);
                }
                state = self.lock();
                continue;
            }
            if state.is_closed {
                break;
            }
            state.idle += 1;
            self.rest.notify_all();
            let waited = self.work.wait_timeout(state, IDLE);
            let (again, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            state = again;
            state.idle -= 1;
            if timeout.timed_out() && state.tasks.is_empty() {
                break;
            }
        }
        // Before the lock is let go of: whoever submits must not count on this thread.
        state.threads -= 1;
        self.rest.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    const LONG: Duration = Duration::from_secs(30);

    #[test]
    fn everything_that_is_submitted_is_done_also_when_the_set_goes_away() {
        let workers = Workers::new("test", 3);
        let (done, results) = mpsc::channel();
        for number in 0..300 {
            let done = done.clone();
            workers.submit(Box::new(move || done.send(number).unwrap()));
        }
        drop(workers);
        let mut all: Vec<_> = (0..300)
            .map(|_| results.recv_timeout(LONG).unwrap())
            .collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..300));
    }

    #[test]
    fn as_many_tasks_run_at_once_as_there_may_be_threads_and_no_more() {
        let workers = Workers::new("test", 4);
        let (give, tokens) = mpsc::channel::<()>();
        let tokens = Arc::new(Mutex::new(tokens));
        let (began, begins) = mpsc::channel();
        for _ in 0..6 {
            let (tokens, began) = (Arc::clone(&tokens), began.clone());
            workers.submit(Box::new(move || {
                began.send(()).unwrap();
                assert!(tokens.lock().unwrap().recv().is_err());
            }));
        }
        for _ in 0..4 {
            begins.recv_timeout(LONG).unwrap();
        }
        assert!(begins.try_recv().is_err());
        assert!(!workers.wait_until_idle(Instant::now()));
        drop(give);
        assert!(workers.wait_until_idle(Instant::now() + LONG));
        assert_eq!(begins.try_iter().count(), 2);
    }

    #[test]
    fn a_task_that_panics_costs_no_other() {
        let workers = Workers::new("test", 1);
        workers.submit(Box::new(|| panic!("part of the test")));
        assert!(workers.wait_until_idle(Instant::now() + LONG));
        let (done, results) = mpsc::channel();
        workers.submit(Box::new(move || done.send(()).unwrap()));
        results.recv_timeout(LONG).unwrap();
    }
}
