//! The threads that fetch, for all blobs of a process.
//!
//! cached blob -> **fetcher** -> fill
//!
//! Guests come first: background work waits while guests' does, runs one at a time while guests' runs,
//! and is never put off for more than a second.
//!
//! Source: docs/cache.md.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::range_source::Urgency;

const GUEST_THREADS: usize = 64;
const BACKGROUND_THREADS: usize = 8;
/// An idle thread ends after this time.
const IDLE: Duration = Duration::from_secs(10);
/// Background work that has waited so long is begun in any case.
const PUT_OFF_MAX: Duration = Duration::from_secs(1);

type Task = Box<dyn FnOnce() + Send>;

/// See the module's description. Threads end after the last clone is gone.
#[derive(Debug)]
pub(super) struct Fetcher {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queues: Mutex<Queues>,
    work: Condvar,
}

#[derive(Default)]
struct Queues {
    guest: VecDeque<Task>,
    background: VecDeque<(Instant, Task)>,
    guests_running: usize,
    background_running: usize,
    threads: usize,
    is_closed: bool,
}

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queues")
            .field("guest", &self.guest.len())
            .field("background", &self.background.len())
            .field("threads", &self.threads)
            .finish_non_exhaustive()
    }
}

impl Fetcher {
    pub(super) fn new() -> Self {
        Self {
            shared: Arc::default(),
        }
    }

    /// Has `task` done soon. Where no thread can be had, does it here.
    pub(super) fn submit(&self, urgency: Urgency, task: Task) {
        let mut queues = self.shared.lock();
        match urgency {
            Urgency::Guest => queues.guest.push_back(task),
            Urgency::Background => queues.background.push_back((Instant::now(), task)),
        }
        let busy = queues.guests_running + queues.background_running;
        let waiting = queues.guest.len() + queues.background.len();
        let wanted = busy + waiting.min(GUEST_THREADS);
        if queues.threads < wanted.min(GUEST_THREADS + BACKGROUND_THREADS) {
            queues.threads += 1;
            let shared = Arc::clone(&self.shared);
            let name = "fetcher".to_owned();
            let spawned = std::thread::Builder::new()
                .name(name)
                .spawn(move || shared.work());
            if let Err(error) = spawned {
                queues.threads -= 1;
                if queues.threads == 0 {
                    log::warn!("start thread: {error}; the reader fetches by itself");
                    let next = queues.take(Instant::now() + PUT_OFF_MAX);
                    drop(queues);
                    if let Some((urgency, task)) = next {
                        self.shared.run(urgency, task);
                    }
                    return;
                }
            }
        }
        drop(queues);
        self.shared.work.notify_one();
    }
}

impl Drop for Fetcher {
    fn drop(&mut self) {
        self.shared.lock().is_closed = true;
        self.shared.work.notify_all();
    }
}

impl Queues {
    /// What is to be done next, if anything may be.
    fn take(&mut self, now: Instant) -> Option<(Urgency, Task)> {
        let put_off = |began: &Instant| now.saturating_duration_since(*began) >= PUT_OFF_MAX;
        let is_due = self
            .background
            .front()
            .is_some_and(|(began, _)| put_off(began));
        if (!is_due || self.background_running > 0)
            && self.guests_running < GUEST_THREADS
            && let Some(task) = self.guest.pop_front()
        {
            self.guests_running += 1;
            return Some((Urgency::Guest, task));
        }
        let limit = if self.guests_running > 0 {
            1
        } else {
            BACKGROUND_THREADS
        };
        if self.background_running >= limit {
            return None;
        }
        let (_, task) = self.background.pop_front()?;
        self.background_running += 1;
        Some((Urgency::Background, task))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, urgency: Urgency, task: Task) {
        task();
        let mut queues = self.lock();
        match urgency {
            Urgency::Guest => queues.guests_running -= 1,
            Urgency::Background => queues.background_running -= 1,
        }
        let waits = !queues.background.is_empty() || !queues.guest.is_empty();
        drop(queues);
        if waits {
            self.work.notify_one();
        }
    }

    fn work(&self) {
        let mut queues = self.lock();
        loop {
            if let Some((urgency, task)) = queues.take(Instant::now()) {
                drop(queues);
                self.run(urgency, task);
                queues = self.lock();
                continue;
            }
            if queues.is_closed && queues.guest.is_empty() && queues.background.is_empty() {
                break;
            }
            let time = if queues.background.is_empty() {
                IDLE
            } else {
                PUT_OFF_MAX
            };
            let waited = self.work.wait_timeout(queues, time);
            let (again, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            queues = again;
            let nothing = queues.guest.is_empty() && queues.background.is_empty();
            if timeout.timed_out() && nothing {
                break;
            }
        }
        queues.threads -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn everything_that_is_submitted_is_done() {
        let fetcher = Fetcher::new();
        let (done, results) = mpsc::channel();
        for number in 0..500 {
            let done = done.clone();
            let urgency = match number % 2 {
                0 => Urgency::Guest,
                _ => Urgency::Background,
            };
            fetcher.submit(urgency, Box::new(move || done.send(number).unwrap()));
        }
        let mut all: Vec<i32> = (0..500)
            .map(|_| results.recv_timeout(Duration::from_secs(30)).unwrap())
            .collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..500));
    }

    #[test]
    fn guests_come_first_but_background_work_is_not_starved() {
        let mut queues = Queues::default();
        let began = Instant::now();
        queues.background.push_back((began, Box::new(|| ())));
        queues.background.push_back((began, Box::new(|| ())));
        queues.guest.push_back(Box::new(|| ()));
        queues.guest.push_back(Box::new(|| ()));
        let urgency = |taken: Option<(Urgency, Task)>| taken.map(|(urgency, _)| urgency);
        assert_eq!(urgency(queues.take(began)), Some(Urgency::Guest));
        let later = began + PUT_OFF_MAX;
        assert_eq!(urgency(queues.take(later)), Some(Urgency::Background));
        assert_eq!(urgency(queues.take(later)), Some(Urgency::Guest));
        assert_eq!(urgency(queues.take(later)), None, "one beside guests");
        queues.guests_running = 0;
        assert_eq!(urgency(queues.take(later)), Some(Urgency::Background));
    }
}
