//! The threads that fetch, for all blobs of a process.
//!
//! cached blob -> **fetcher** -> fill
//!
//! Guests come first: background work waits while guests' does, and runs one at a time while guests'
//! runs. What has waited for a second is begun when its blob runs none.
//!
//! A fetch may wait for an origin that is dead, for days. So some fetches of every blob run whatever
//! those of others hold.
//!
//! Source: docs/cache.md.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::range_source::Urgency;

const GUEST_THREADS: usize = 64;
const BACKGROUND_THREADS: usize = 8;
/// Guests' fetches of one blob that run even while others hold all threads.
const GUEST_SURE: usize = 4;
/// An idle thread ends after this time.
const IDLE: Duration = Duration::from_secs(10);
/// Background work that has waited so long is begun although others' runs.
const PUT_OFF_MAX: Duration = Duration::from_secs(1);

type Task = Box<dyn FnOnce() + Send>;

/// Tells blobs apart, as long as there is work for them.
pub(super) type Key = usize;

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

/// The work for one blob. It is listed while there is any.
#[derive(Default)]
struct Lane {
    key: Key,
    /// With the numbers in which they came.
    guest: VecDeque<(u64, Task)>,
    background: VecDeque<(u64, Instant, Task)>,
    guests_running: usize,
    background_running: usize,
}

#[derive(Default)]
struct Queues {
    lanes: Vec<Lane>,
    tasks_seen: u64,
    waiting: usize,
    guests_running: usize,
    background_running: usize,
    threads: usize,
    is_closed: bool,
}

/// A task that was begun.
struct Begun {
    key: Key,
    urgency: Urgency,
    task: Task,
}

impl std::fmt::Debug for Queues {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Queues")
            .field("lanes", &self.lanes.len())
            .field("waiting", &self.waiting)
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

    /// Has `task` of the blob `key` done soon. Where no thread can be had, does it here.
    pub(super) fn submit(&self, key: Key, urgency: Urgency, task: Task) {
        let mut queues = self.shared.lock();
        queues.push(key, urgency, Instant::now(), task);
        if queues.threads < queues.threads_wanted() {
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
                    if let Some(begun) = next {
                        self.shared.run(begun);
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
    fn push(&mut self, key: Key, urgency: Urgency, now: Instant, task: Task) {
        let number = self.tasks_seen;
        self.tasks_seen += 1;
        self.waiting += 1;
        let place = self.lanes.iter().position(|lane| lane.key == key);
        let place = place.unwrap_or_else(|| {
            let lane = Lane {
                key,
                ..Lane::default()
            };
            self.lanes.push(lane);
            self.lanes.len() - 1
        });
        if let Some(lane) = self.lanes.get_mut(place) {
            match urgency {
                Urgency::Guest => lane.guest.push_back((number, task)),
                Urgency::Background => lane.background.push_back((number, now, task)),
            }
        }
    }

    /// Enough for all that may run at once, no more than there is work for.
    fn threads_wanted(&self) -> usize {
        let sure = self.lanes.len() * (GUEST_SURE + 1);
        let busy = self.guests_running + self.background_running;
        (busy + self.waiting).min(GUEST_THREADS + BACKGROUND_THREADS + sure)
    }

    /// The lane of the oldest guest's task that may be begun.
    fn guest_lane(&self) -> Option<usize> {
        let has_threads = self.guests_running < GUEST_THREADS;
        let fronts = self.lanes.iter().enumerate().filter_map(|(place, lane)| {
            let (number, _) = lane.guest.front()?;
            let may = has_threads || lane.guests_running < GUEST_SURE;
            may.then_some((*number, place))
        });
        fronts.min().map(|(_, place)| place)
    }

    /// The lane of the oldest background task that may be begun, and whether it was put off long enough.
    fn background_lane(&self, now: Instant) -> Option<(usize, bool)> {
        let limit = match self.guests_running {
            0 => BACKGROUND_THREADS,
            _ => 1,
        };
        let has_threads = self.background_running < limit;
        let fronts = self.lanes.iter().enumerate().filter_map(|(place, lane)| {
            let (number, came, _) = lane.background.front()?;
            let is_due = now.saturating_duration_since(*came) >= PUT_OFF_MAX;
            let may = has_threads || is_due && lane.background_running == 0;
            may.then_some((*number, place, is_due))
        });
        let first = fronts.min();
        first.map(|(_, place, is_due)| (place, is_due))
    }

    /// What is to be done next, if anything may be.
    fn take(&mut self, now: Instant) -> Option<Begun> {
        let guest = self.guest_lane();
        let background = self.background_lane(now);
        let (place, urgency) = match (guest, background) {
            (None, None) => return None,
            (None, Some((place, _))) => (place, Urgency::Background),
            (Some(_), Some((place, true))) if self.background_running == 0 => {
                (place, Urgency::Background)
            }
            (Some(place), _) => (place, Urgency::Guest),
        };
        let lane = self.lanes.get_mut(place)?;
        let task = match urgency {
            Urgency::Guest => lane.guest.pop_front()?.1,
            Urgency::Background => lane.background.pop_front()?.2,
        };
        let key = lane.key;
        *lane.running(urgency) += 1;
        *self.running(urgency) += 1;
        self.waiting -= 1;
        Some(Begun { key, urgency, task })
    }

    fn running(&mut self, urgency: Urgency) -> &mut usize {
        match urgency {
            Urgency::Guest => &mut self.guests_running,
            Urgency::Background => &mut self.background_running,
        }
    }

    /// A task is done.
    fn end(&mut self, key: Key, urgency: Urgency) {
        *self.running(urgency) -= 1;
        if let Some(place) = self.lanes.iter().position(|lane| lane.key == key)
            && let Some(lane) = self.lanes.get_mut(place)
        {
            *lane.running(urgency) -= 1;
            if lane.is_unused() {
                self.lanes.swap_remove(place);
            }
        }
    }
}

impl Lane {
    fn running(&mut self, urgency: Urgency) -> &mut usize {
        match urgency {
            Urgency::Guest => &mut self.guests_running,
            Urgency::Background => &mut self.background_running,
        }
    }

    fn is_unused(&self) -> bool {
        let running = self.guests_running + self.background_running;
        running == 0 && self.guest.is_empty() && self.background.is_empty()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, begun: Begun) {
        (begun.task)();
        let mut queues = self.lock();
        queues.end(begun.key, begun.urgency);
        let waits = queues.waiting > 0;
        drop(queues);
        if waits {
            self.work.notify_one();
        }
    }

    fn work(&self) {
        let mut queues = self.lock();
        loop {
            if let Some(begun) = queues.take(Instant::now()) {
                drop(queues);
                self.run(begun);
                queues = self.lock();
                continue;
            }
            if queues.is_closed && queues.waiting == 0 {
                break;
            }
            let time = match queues.waiting {
                0 => IDLE,
                _ => PUT_OFF_MAX,
            };
            let waited = self.work.wait_timeout(queues, time);
            let (again, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
            queues = again;
            if timeout.timed_out() && queues.waiting == 0 {
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

    const LONG: Duration = Duration::from_secs(30);

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
            let task = Box::new(move || done.send(number).unwrap());
            fetcher.submit(number % 7, urgency, task);
        }
        let mut all: Vec<_> = (0..500)
            .map(|_| results.recv_timeout(LONG).unwrap())
            .collect();
        all.sort_unstable();
        assert!(all.into_iter().eq(0..500));
        assert!(fetcher.shared.lock().lanes.len() <= 7);
    }

    #[test]
    fn blobs_whose_origin_is_dead_do_not_hold_up_another() {
        let fetcher = Fetcher::new();
        let (give, tokens) = mpsc::channel::<()>();
        let tokens = Arc::new(Mutex::new(tokens));
        for number in 0..4 * GUEST_THREADS {
            for urgency in [Urgency::Guest, Urgency::Background] {
                let tokens = Arc::clone(&tokens);
                let stuck = move || {
                    tokens.lock().unwrap().recv().ok();
                };
                fetcher.submit(number % 3, urgency, Box::new(stuck));
            }
        }
        let (done, results) = mpsc::channel();
        for urgency in [Urgency::Guest, Urgency::Background] {
            let done = done.clone();
            fetcher.submit(3, urgency, Box::new(move || done.send(urgency).unwrap()));
            assert_eq!(results.recv_timeout(LONG), Ok(urgency));
        }
        drop(give);
    }

    #[test]
    fn a_lone_blob_has_all_threads_and_no_more() {
        let mut queues = Queues::default();
        let now = Instant::now();
        for _ in 0..2 * GUEST_THREADS {
            queues.push(1, Urgency::Guest, now, Box::new(|| ()));
        }
        let begun = std::iter::from_fn(|| queues.take(now)).count();
        assert_eq!(begun, GUEST_THREADS);
        for _ in 0..2 * GUEST_SURE {
            queues.push(2, Urgency::Guest, now, Box::new(|| ()));
        }
        let begun = std::iter::from_fn(|| queues.take(now)).count();
        assert_eq!(begun, GUEST_SURE);
        queues.end(1, Urgency::Guest);
        assert!(queues.take(now).is_none(), "shares count");
    }

    #[test]
    fn guests_come_first_but_background_work_is_not_starved() {
        let mut queues = Queues::default();
        let began = Instant::now();
        for urgency in [Urgency::Background, Urgency::Guest] {
            for _ in 0..2 {
                queues.push(0, urgency, began, Box::new(|| ()));
            }
        }
        let urgency = |taken: Option<Begun>| taken.map(|begun| begun.urgency);
        assert_eq!(urgency(queues.take(began)), Some(Urgency::Guest));
        let later = began + PUT_OFF_MAX;
        assert_eq!(urgency(queues.take(later)), Some(Urgency::Background));
        assert_eq!(urgency(queues.take(later)), Some(Urgency::Guest));
        assert_eq!(urgency(queues.take(later)), None, "one beside guests");
        queues.push(1, Urgency::Background, began, Box::new(|| ()));
        assert_eq!(urgency(queues.take(began)), None, "not put off for long");
        assert_eq!(urgency(queues.take(later)), Some(Urgency::Background));
        queues.end(0, Urgency::Guest);
        queues.end(0, Urgency::Guest);
        assert_eq!(urgency(queues.take(later)), Some(Urgency::Background));
    }
}
