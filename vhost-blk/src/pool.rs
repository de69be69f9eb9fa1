//! Threads that may block, for requests that cannot be answered at once.
//!
//! worker -> **pool** -> image, then pool -> mailbox -> worker
//!
//! A pool thread works on private memory and never touches a guest's: what it reads the worker
//! copies there, and what it writes the worker has copied from there. Threads are started when
//! there is work for them.
//!
//! Invariants
//! - at most `threads_max` threads, at most half of which write or flush: reads go on when the host
//!   holds writers up.
//! - requests that run, or whose bytes nobody has taken yet, hold at most [`BUFFERED_BYTES_MAX`]
//!   together, or are one single request. Room is given in the order it was asked for.
//! - nothing of a session that has ended is started, but for a flush.
//! - a flush answers only requests that came before it began; those that come while a disk is
//!   flushed share the next flush.

mod job;

pub use job::{Job, Outcome, Work, WritePlan};

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use layers::{Error, ErrorKind};

use crate::disk::Disk;
use job::Step;

/// Most bytes of requests that wait, run, or are done and not collected.
pub const BUFFERED_BYTES_MAX: usize = 64 << 20;

/// What one thread takes up.
#[derive(Debug)]
enum Task {
    Job(Job),
    /// Flush this disk for all that wait for it.
    Flush(Arc<Disk>),
}

/// Requests that wait for the next flush of a disk. It is listed while a task for it is to be done.
#[derive(Debug)]
struct FlushWaiters {
    disk: Arc<Disk>,
    jobs: Vec<Job>,
}

#[derive(Debug, Default)]
struct State {
    /// Tasks and when they came. These need room first ...
    need_room: VecDeque<(u64, Job)>,
    /// ... and these have what they need.
    writes: VecDeque<(u64, Task)>,
    tasks_seen: u64,
    flushes: Vec<FlushWaiters>,
    threads: usize,
    threads_idle: usize,
    writers: usize,
    writers_max: usize,
    buffered_bytes: usize,
}

impl State {
    fn push(&mut self, task: Task) {
        let number = self.tasks_seen;
        self.tasks_seen += 1;
        match task {
            Task::Job(job) if job.work.room_wanted().is_some() => {
                self.need_room.push_back((number, job));
            }
            task => self.writes.push_back((number, task)),
        }
    }

    fn waiting(&self) -> usize {
        self.need_room.len() + self.writes.len()
    }

    fn has_room(&self, bytes: usize) -> bool {
        self.buffered_bytes == 0 || self.buffered_bytes + bytes <= BUFFERED_BYTES_MAX
    }

    /// The oldest task that may start, and the room it was given.
    fn pop(&mut self) -> Option<(Task, usize)> {
        let startable = self
            .need_room
            .front()
            .map(|(number, job)| (*number, job.work.room_wanted().unwrap_or(0)))
            .filter(|(_, bytes)| self.has_room(*bytes));
        let oldest_write = self.writes.front().map(|(number, _)| *number);
        let oldest_write = oldest_write.filter(|_| self.writers < self.writers_max);
        match (startable, oldest_write) {
            (Some((number, bytes)), write) if write.is_none_or(|write| number < write) => {
                let (_, job) = self.need_room.pop_front()?;
                self.buffered_bytes += bytes;
                Some((Task::Job(job), bytes))
            }
            (_, Some(_)) => {
                let (_, task) = self.writes.pop_front()?;
                self.writers += 1;
                Some((task, 0))
            }
            _ => None,
        }
    }

    /// Has `job` wait for the next flush of its disk.
    fn wait_for_flush(&mut self, job: Job) {
        let is_same = |waiters: &&mut FlushWaiters| Arc::ptr_eq(&waiters.disk, &job.disk);
        if let Some(waiters) = self.flushes.iter_mut().find(is_same) {
            waiters.jobs.push(job);
            return;
        }
        let disk = Arc::clone(&job.disk);
        self.push(Task::Flush(Arc::clone(&disk)));
        self.flushes.push(FlushWaiters {
            disk,
            jobs: vec![job],
        });
    }

    /// Takes everybody who waits for a flush of `disk`, which begins now.
    fn begin_flush(&mut self, disk: &Arc<Disk>) -> Vec<Job> {
        let is_same = |waiters: &&mut FlushWaiters| Arc::ptr_eq(&waiters.disk, disk);
        let waiters = self.flushes.iter_mut().find(is_same);
        waiters
            .map(|waiters| std::mem::take(&mut waiters.jobs))
            .unwrap_or_default()
    }

    /// A flush is over. Those that have come meanwhile need another.
    fn end_flush(&mut self, disk: &Arc<Disk>) {
        self.flushes
            .retain(|waiters| !waiters.jobs.is_empty() || !Arc::ptr_eq(&waiters.disk, disk));
        if self
            .flushes
            .iter()
            .any(|waiters| Arc::ptr_eq(&waiters.disk, disk))
        {
            self.push(Task::Flush(Arc::clone(disk)));
        }
    }
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There may be a task that may start.
    startable: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn permit(self: &Arc<Self>, bytes: usize) -> Permit {
        Permit {
            shared: Arc::clone(self),
            bytes,
        }
    }
}

/// Leave to hold the bytes of one request; given back on drop.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Shared>,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.lock().buffered_bytes -= self.bytes;
        self.shared.startable.notify_one();
    }
}

/// The pool of one process.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
    threads_max: usize,
}

impl Pool {
    /// A pool that will start up to `threads_max` threads.
    #[must_use]
    pub fn new(threads_max: usize) -> Self {
        let state = State {
            writers_max: threads_max.div_ceil(2),
            ..State::default()
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(state),
                startable: Condvar::new(),
            }),
            threads_max,
        }
    }

    /// Leave to hold the data of a write, if there is room now and nobody waits for it;
    /// [`Work::Reserve`] gets it later. Does not block.
    #[must_use]
    pub fn try_reserve(&self, bytes: usize) -> Option<Permit> {
        let mut state = self.shared.lock();
        if !state.need_room.is_empty() || !state.has_room(bytes) {
            return None;
        }
        state.buffered_bytes += bytes;
        drop(state);
        Some(self.shared.permit(bytes))
    }

    /// Queues a job. Its completion goes to the mailbox, also when it fails. Does not block.
    pub fn submit(&self, job: Job) {
        let mut state = self.shared.lock();
        match job.work {
            Work::Flush => state.wait_for_flush(job),
            _ => state.push(Task::Job(job)),
        }
        if state.threads_idle < state.waiting() && state.threads < self.threads_max {
            let shared = Arc::clone(&self.shared);
            let spawned = std::thread::Builder::new()
                .name("blocking-io".to_owned())
                .spawn(move || work(&shared));
            match spawned {
                Ok(_detached) => state.threads += 1,
                Err(error) => log::warn!("no further thread for blocking requests: {error}"),
            }
        }
        if state.threads == 0 {
            let jobs = take_all(&mut state);
            drop(state);
            fail(jobs);
            return;
        }
        drop(state);
        self.shared.startable.notify_one();
    }
}

/// Everything there is to do, when nobody can do it.
fn take_all(state: &mut State) -> Vec<Job> {
    let flushes = std::mem::take(&mut state.flushes);
    let reads = std::mem::take(&mut state.need_room);
    let writes = std::mem::take(&mut state.writes);
    let writes = writes.into_iter().filter_map(|(_, task)| match task {
        Task::Job(job) => Some(job),
        Task::Flush(_) => None,
    });
    let reads = reads.into_iter().map(|(_, job)| job);
    let flushes = flushes.into_iter().flat_map(|waiters| waiters.jobs);
    reads.chain(writes).chain(flushes).collect()
}

fn fail(jobs: Vec<Job>) {
    let detail = "no thread that may wait for the disk";
    let error = Arc::new(Error::new(ErrorKind::Io, "start thread", detail));
    for job in jobs {
        job.post(Err(Arc::clone(&error)));
    }
}

fn work(shared: &Arc<Shared>) {
    loop {
        let (task, room) = next_task(shared);
        let permit = shared.permit(room);
        let writes = match task {
            Task::Flush(disk) => {
                run_flush(shared, &disk);
                true
            }
            Task::Job(job) => {
                let writes = job.work.room_wanted().is_none();
                run_job(shared, job, permit);
                writes
            }
        };
        if writes {
            shared.lock().writers -= 1;
            shared.startable.notify_one();
        }
    }
}

fn next_task(shared: &Shared) -> (Task, usize) {
    let mut state = shared.lock();
    loop {
        if let Some(task) = state.pop() {
            if state.waiting() > 0 && state.threads_idle > 0 {
                // Whatever made room for one task may have made room for more.
                shared.startable.notify_one();
            }
            return task;
        }
        state.threads_idle += 1;
        state = shared
            .startable
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
        state.threads_idle -= 1;
    }
}

fn run_job(shared: &Arc<Shared>, mut job: Job, permit: Permit) {
    // A write brings its own.
    job.permit.get_or_insert(permit);
    match job.run() {
        Some(Ok(Step::Over(outcome))) => job.post(Ok(outcome)),
        Some(Ok(Step::Flush)) => {
            shared.lock().wait_for_flush(job);
            shared.startable.notify_one();
        }
        Some(Err(error)) => job.post(Err(Arc::new(error))),
        None => {}
    }
}

fn run_flush(shared: &Shared, disk: &Arc<Disk>) {
    let jobs = shared.lock().begin_flush(disk);
    let flushed = disk.flush().map_err(Arc::new);
    for job in jobs {
        job.post(flushed.clone().map(|()| Outcome::Done));
    }
    shared.lock().end_flush(disk);
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, channel};

    use layers::Progress;

    use super::*;
    use crate::mailbox::Mailbox;
    use crate::queue::RequestId;
    use crate::request::Extent;
    use crate::test_guest::{Change, UpperKind, disk_of, writable_disk};

    /// A disk with data in its first sector, whose reads are counted and take a token each.
    fn counting_disk(reads: &Arc<AtomicUsize>, tokens: Receiver<()>) -> Arc<Disk> {
        let (reads, tokens) = (Arc::clone(reads), Mutex::new(tokens));
        let disk = disk_of(&[(0, &[7; 512])], move |_, _| {
            reads.fetch_add(1, Ordering::SeqCst);
            tokens.lock().unwrap().recv().unwrap();
            Ok(Progress::Done)
        });
        Arc::new(disk)
    }

    fn job(disk: &Arc<Disk>, mailbox: &Arc<Mailbox>, len: usize) -> Job {
        Job {
            work: Work::Read(Extent { offset: 0, len }),
            disk: Arc::clone(disk),
            mailbox: Arc::downgrade(mailbox),
            queue: 0,
            request: RequestId(0),
            permit: None,
        }
    }

    #[test]
    fn a_read_of_a_session_that_has_ended_is_not_started() {
        let (give, tokens) = channel();
        let reads = Arc::new(AtomicUsize::new(0));
        let disk = counting_disk(&reads, tokens);
        let pool = Pool::new(1);
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let ended = Arc::new(Mailbox::new().unwrap());
        pool.submit(job(&disk, &mailbox, 512));
        pool.submit(job(&disk, &ended, 512));
        pool.submit(job(&disk, &mailbox, 512));
        drop(ended);
        let mut completions = Vec::new();
        while completions.len() < 2 {
            give.send(()).unwrap();
            mailbox.wait_posted();
            mailbox.collect(&mut completions);
        }
        assert_eq!(reads.load(Ordering::SeqCst), 2);
    }

    #[test]
    fn bytes_that_nobody_takes_hold_further_reads_back() {
        let (give, tokens) = channel();
        let reads = Arc::new(AtomicUsize::new(0));
        let disk = counting_disk(&reads, tokens);
        let pool = Pool::new(4);
        let mailbox = Arc::new(Mailbox::new().unwrap());
        for _ in 0..3 {
            pool.submit(job(&disk, &mailbox, BUFFERED_BYTES_MAX / 2 + 512));
            give.send(()).unwrap();
        }
        let mut completions = Vec::new();
        for expected in 1..=3 {
            mailbox.wait_posted();
            mailbox.collect(&mut completions);
            assert_eq!(completions.len(), 1);
            assert_eq!(reads.load(Ordering::SeqCst), expected);
            completions.clear();
        }
    }

    #[test]
    fn reads_go_on_while_the_host_holds_writers_up() {
        let (give, tokens) = channel::<()>();
        let tokens = Mutex::new(tokens);
        let written = writable_disk(UpperKind::AppendOnly, move |change| {
            if change == Change::WriteData {
                tokens.lock().unwrap().recv().ok();
            }
            Ok(())
        });
        let written = Arc::new(written);
        let read = Arc::new(disk_of(&[(0, &[7; 512])], |_, _| Ok(Progress::Done)));
        let pool = Pool::new(2);
        let mailbox = Arc::new(Mailbox::new().unwrap());
        for _ in 0..2 {
            let write = Work::Write {
                offset: 0,
                data: vec![1; 512],
                durable: false,
            };
            pool.submit(Job {
                work: write,
                permit: pool.try_reserve(512),
                ..job(&written, &mailbox, 0)
            });
        }
        pool.submit(job(&read, &mailbox, 512));
        mailbox.wait_posted();
        let mut completions = Vec::new();
        mailbox.collect(&mut completions);
        let results: Vec<_> = completions.iter().map(|one| &one.result).collect();
        assert!(
            matches!(results[..], [Ok(Outcome::Bytes(_))]),
            "{results:?}"
        );
        drop(give);
        while completions.len() < 3 {
            mailbox.wait_posted();
            mailbox.collect(&mut completions);
        }
        assert!(completions.iter().all(|one| one.result.is_ok()));
    }
}
