//! Threads that may block, for requests that cannot be answered at once.
//!
//! worker -> **pool** -> image, then pool -> mailbox -> worker
//!
//! A pool thread works on private memory and never touches a guest's: what it reads the worker
//! copies there, and what it writes the worker has copied from there. Threads are started when
//! there is work for them.
//!
//! Invariants
//! - of `threads_max` threads a third writes or flushes and the others read: reads go on when the
//!   host holds writers up, and writers when an origin holds reads up.
//! - a share of the threads that read is sure to every disk: when others' reads hold them all, a
//!   disk gets as many further ones.
//! - reads that run, or whose bytes nobody has taken yet, hold at most [`READ_BYTES_MAX`] together,
//!   or are one single request, beyond a share that is sure to every disk; writes from the copy of
//!   their data on hold [`WRITE_BYTES_MAX`]. Room is given in the order it was asked for, to reads
//!   and to writes apart: neither waits for room that the other holds.
//! - nothing of a session that has ended is started, but for a flush.
//! - a flush answers only requests that came before it began; those that come while a disk is
//!   flushed share the next flush.

mod job;
mod reads;
mod room;

pub use job::{Job, Outcome, Work, WritePlan};

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use layers::{Error, ErrorKind};

use crate::disk::Disk;
use job::Step;
use reads::Reads;
use room::{Direction, Room};

/// Most bytes of reads that run, or are done and not collected.
pub const READ_BYTES_MAX: usize = 32 << 20;

/// Most bytes of writes whose data is copied and not written.
pub const WRITE_BYTES_MAX: usize = 32 << 20;

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

#[derive(Debug)]
struct State {
    /// Tasks are kept with the number in which they came: those that need room first ...
    reads: Reads,
    reservations: Room,
    /// ... and those that have what they need.
    changes: VecDeque<(u64, Task)>,
    tasks_seen: u64,
    flushes: Vec<FlushWaiters>,
    threads: usize,
    threads_idle: usize,
    writers: usize,
    writers_max: usize,
}

impl State {
    fn new(threads_max: usize) -> Self {
        let writers_max = threads_max.div_ceil(3);
        Self {
            reads: Reads::new((threads_max - writers_max).max(1), READ_BYTES_MAX),
            reservations: Room::new(WRITE_BYTES_MAX),
            changes: VecDeque::new(),
            tasks_seen: 0,
            flushes: Vec::new(),
            threads: 0,
            threads_idle: 0,
            writers: 0,
            writers_max,
        }
    }

    fn push(&mut self, task: Task) {
        let number = self.tasks_seen;
        self.tasks_seen += 1;
        match task {
            Task::Job(job) => match job.work.room_wanted() {
                Some((Direction::Read, bytes)) => self.reads.push(number, bytes, job),
                Some((Direction::Write, bytes)) => self.reservations.push(number, bytes, job),
                None => self.changes.push_back((number, Task::Job(job))),
            },
            flush @ Task::Flush(_) => self.changes.push_back((number, flush)),
        }
    }

    fn waiting(&self) -> usize {
        self.reads.waiting() + self.reservations.waiting() + self.changes.len()
    }

    /// Threads that all that may run at once needs.
    fn threads_max(&self) -> usize {
        self.writers_max + self.reads.running_max()
    }

    /// The oldest task that may start, and the room it was given.
    fn pop(&mut self) -> Option<(Task, Option<(Direction, usize)>)> {
        let change = self.changes.front().map(|(number, _)| *number);
        let change = change.filter(|_| self.writers < self.writers_max);
        let startable = [
            (self.reads.startable(), Some(Direction::Read)),
            (self.reservations.startable(), Some(Direction::Write)),
            (change, None),
        ];
        let startable = startable
            .into_iter()
            .filter_map(|(number, kind)| Some((number?, kind)));
        let (_, oldest) = startable.min_by_key(|(number, _)| *number)?;
        if let Some(direction) = oldest {
            let (job, bytes) = match direction {
                Direction::Read => self.reads.pop()?,
                Direction::Write => self.reservations.pop()?,
            };
            return Some((Task::Job(job), Some((direction, bytes))));
        }
        let (_, task) = self.changes.pop_front()?;
        self.writers += 1;
        Some((task, None))
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

    fn permit(self: &Arc<Self>, read: Option<Weak<Disk>>, bytes: usize) -> Permit {
        Permit {
            shared: Arc::clone(self),
            read,
            bytes,
        }
    }
}

/// Leave to hold the bytes of one request; given back on drop.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Shared>,
    /// What is read. `None` for a write.
    read: Option<Weak<Disk>>,
    bytes: usize,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        match &self.read {
            Some(disk) => state.reads.give_back(disk, self.bytes),
            None => state.reservations.give_back(self.bytes),
        }
        drop(state);
        self.shared.startable.notify_one();
    }
}

/// The pool of one process.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

impl Pool {
    /// A pool that will start up to `threads_max` threads, at least one that reads and one that
    /// writes. More are started only to give a disk its share of reads while others' hold all.
    #[must_use]
    pub fn new(threads_max: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State::new(threads_max)),
                startable: Condvar::new(),
            }),
        }
    }

    /// Leave to hold the data of a write, if there is room now and nobody waits for it;
    /// [`Work::Reserve`] gets it later. Does not block.
    #[must_use]
    pub fn try_reserve(&self, bytes: usize) -> Option<Permit> {
        let taken = self.shared.lock().reservations.try_take(bytes);
        taken.then(|| self.shared.permit(None, bytes))
    }

    /// Requests that the next flushes will answer.
    #[cfg(test)]
    pub(crate) fn flush_waiters(&self) -> usize {
        let state = self.shared.lock();
        state.flushes.iter().map(|waiters| waiters.jobs.len()).sum()
    }

    /// Queues a job. Its completion goes to the mailbox, also when it fails. Does not block.
    pub fn submit(&self, job: Job) {
        let mut state = self.shared.lock();
        match job.work {
            Work::Flush => state.wait_for_flush(job),
            _ => state.push(Task::Job(job)),
        }
        if state.threads_idle < state.waiting() && state.threads < state.threads_max() {
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

/// Every job there is, when nobody can do it.
fn take_all(state: &mut State) -> Vec<Job> {
    let flushes = std::mem::take(&mut state.flushes);
    let changes = std::mem::take(&mut state.changes);
    let changes = changes.into_iter().filter_map(|(_, task)| match task {
        Task::Job(job) => Some(job),
        Task::Flush(_) => None,
    });
    let flushes = flushes.into_iter().flat_map(|waiters| waiters.jobs);
    let mut jobs: Vec<_> = changes.chain(flushes).collect();
    jobs.extend(state.reads.take_waiting());
    jobs.extend(state.reservations.take_waiting());
    jobs
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
        let mut disk_read = None;
        match task {
            Task::Flush(disk) => run_flush(shared, &disk),
            Task::Job(mut job) => {
                if let Some((direction, bytes)) = room {
                    disk_read = (direction == Direction::Read).then(|| Arc::downgrade(&job.disk));
                    // A write brings its own.
                    job.permit = Some(shared.permit(disk_read.clone(), bytes));
                }
                run_job(shared, job);
            }
        }
        match (room, disk_read) {
            (_, Some(disk)) => shared.lock().reads.end(&disk),
            (None, None) => shared.lock().writers -= 1,
            (Some(_), None) => continue,
        }
        shared.startable.notify_one();
    }
}

fn next_task(shared: &Shared) -> (Task, Option<(Direction, usize)>) {
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

fn run_job(shared: &Shared, mut job: Job) {
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
            pool.submit(job(&disk, &mailbox, READ_BYTES_MAX / 2 + 512));
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

    /// A disk whose writes of data take a token each, until there is no giver.
    fn stuck_disk(tokens: Receiver<()>) -> Arc<Disk> {
        let tokens = Mutex::new(tokens);
        let disk = writable_disk(UpperKind::AppendOnly, move |change| {
            if change == Change::WriteData {
                tokens.lock().unwrap().recv().ok();
            }
            Ok(())
        });
        Arc::new(disk)
    }

    fn write(len: usize) -> Work {
        Work::Write {
            offset: 0,
            data: vec![1; len],
            durable: false,
        }
    }

    fn wait_for(mailbox: &Mailbox, count: usize) -> Vec<Outcome> {
        let (mut completions, mut outcomes) = (Vec::new(), Vec::new());
        while outcomes.len() < count {
            mailbox.wait_posted();
            mailbox.collect(&mut completions);
            outcomes.extend(completions.drain(..).map(|one| one.result.unwrap()));
        }
        outcomes
    }

    /// Keeps a pool of `threads` threads busy with more reads of one disk than it has, each of `len`
    /// bytes, until the sender is gone.
    fn with_a_stuck_disk(threads: usize, len: usize, test: impl FnOnce(&Pool, &Arc<Disk>)) {
        let (give, tokens) = channel::<()>();
        let tokens = Mutex::new(tokens);
        let stuck = Arc::new(disk_of(&[(0, &[7; 512])], move |_, _| {
            tokens.lock().unwrap().recv().ok();
            Ok(Progress::Done)
        }));
        let pool = Pool::new(threads);
        let mailbox = Arc::new(Mailbox::new().unwrap());
        for _ in 0..3 * threads {
            pool.submit(job(&stuck, &mailbox, len));
        }
        test(&pool, &stuck);
        drop(give);
        wait_for(&mailbox, 3 * threads);
    }

    #[test]
    fn a_disk_whose_reads_are_stuck_does_not_hold_up_others() {
        for len in [512, READ_BYTES_MAX / 8] {
            with_a_stuck_disk(12, len, |pool, _| {
                let read = Arc::new(disk_of(&[(0, &[7; 512])], |_, _| Ok(Progress::Done)));
                let mailbox = Arc::new(Mailbox::new().unwrap());
                pool.submit(job(&read, &mailbox, 512));
                let outcomes = wait_for(&mailbox, 1);
                assert!(matches!(outcomes[..], [Outcome::Bytes(_)]), "{outcomes:?}");
            });
        }
    }

    #[test]
    fn many_disks_whose_reads_are_stuck_do_not_hold_up_another() {
        with_a_stuck_disk(3, 512, |pool, _| {
            let (give, tokens) = channel::<()>();
            let tokens = Arc::new(Mutex::new(tokens));
            let stuck = (0..8).map(|_| {
                let tokens = Arc::clone(&tokens);
                Arc::new(disk_of(&[(0, &[7; 512])], move |_, _| {
                    tokens.lock().unwrap().recv().ok();
                    Ok(Progress::Done)
                }))
            });
            let held = Arc::new(Mailbox::new().unwrap());
            for disk in stuck {
                (0..4).for_each(|_| pool.submit(job(&disk, &held, 512)));
            }
            let read = Arc::new(disk_of(&[(0, &[7; 512])], |_, _| Ok(Progress::Done)));
            let mailbox = Arc::new(Mailbox::new().unwrap());
            pool.submit(job(&read, &mailbox, 512));
            wait_for(&mailbox, 1);
            drop(give);
            wait_for(&held, 32);
        });
    }

    #[test]
    fn writes_and_flushes_go_on_while_reads_are_stuck() {
        with_a_stuck_disk(3, 512, |pool, stuck| {
            let mailbox = Arc::new(Mailbox::new().unwrap());
            pool.submit(Job {
                work: Work::Flush,
                ..job(stuck, &mailbox, 0)
            });
            wait_for(&mailbox, 1);
            let written = writable_disk(UpperKind::AppendOnly, |_| Ok(()));
            pool.submit(Job {
                work: write(512),
                permit: pool.try_reserve(512),
                ..job(&Arc::new(written), &mailbox, 0)
            });
            wait_for(&mailbox, 1);
        });
    }

    #[test]
    fn reads_go_on_while_the_host_holds_writers_up() {
        let (give, tokens) = channel();
        let written = stuck_disk(tokens);
        let read = Arc::new(disk_of(&[(0, &[7; 512])], |_, _| Ok(Progress::Done)));
        let pool = Pool::new(2);
        let mailbox = Arc::new(Mailbox::new().unwrap());
        for _ in 0..2 {
            pool.submit(Job {
                work: write(512),
                permit: pool.try_reserve(512),
                ..job(&written, &mailbox, 0)
            });
        }
        pool.submit(job(&read, &mailbox, 512));
        let outcomes = wait_for(&mailbox, 1);
        assert!(matches!(outcomes[..], [Outcome::Bytes(_)]), "{outcomes:?}");
        drop(give);
        wait_for(&mailbox, 2);
    }

    #[test]
    fn reads_go_on_while_writers_that_are_held_up_hold_all_room_for_writes() {
        const LEN: usize = 16 << 20;
        let (give, tokens) = channel();
        let written = stuck_disk(tokens);
        let read = Arc::new(disk_of(&[(0, &[7; 512])], |_, _| Ok(Progress::Done)));
        let pool = Pool::new(4);
        let mailbox = Arc::new(Mailbox::new().unwrap());
        let mut writes = 0;
        while let Some(permit) = pool.try_reserve(LEN) {
            pool.submit(Job {
                work: write(LEN),
                permit: Some(permit),
                ..job(&written, &mailbox, 0)
            });
            writes += 1;
        }
        assert_eq!(writes, WRITE_BYTES_MAX / LEN);
        let (offset, durable) = (0, false);
        let extent = Extent { offset, len: LEN };
        pool.submit(Job {
            work: Work::Reserve(WritePlan { extent, durable }),
            ..job(&written, &mailbox, 0)
        });
        pool.submit(job(&read, &mailbox, 512));
        let outcomes = wait_for(&mailbox, 1);
        assert!(matches!(outcomes[..], [Outcome::Bytes(_)]), "{outcomes:?}");
        drop(give);
        let outcomes = wait_for(&mailbox, writes + 1);
        let has_room = |outcome: &&Outcome| matches!(outcome, Outcome::Room(..));
        assert_eq!(outcomes.iter().filter(has_room).count(), 1);
    }

    #[test]
    fn writes_get_room_while_reads_hold_all_of_theirs() {
        let read = Arc::new(disk_of(&[(0, &[7; 512])], |_, _| Ok(Progress::Done)));
        let pool = Pool::new(1);
        let mailbox = Arc::new(Mailbox::new().unwrap());
        for _ in 0..2 {
            pool.submit(job(&read, &mailbox, READ_BYTES_MAX));
        }
        // The first one's bytes are not taken, so the second one waits.
        mailbox.wait_posted();
        assert!(pool.try_reserve(WRITE_BYTES_MAX).is_some());
    }
}
