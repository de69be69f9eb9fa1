//! Threads that may block, for reads whose bytes are not in memory.
//!
//! worker -> **pool** -> image, then pool -> mailbox -> worker
//!
//! A pool thread reads into private memory and never touches a guest's. Threads are started when
//! there is work for them.
//!
//! Invariants
//! - at most `threads_max` threads.
//! - reads that run or whose bytes nobody has taken yet hold at most [`BUFFERED_BYTES_MAX`]
//!   together, or are one single read.
//! - a read of a session that has ended is not started.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

use layers::{Dest, Progress, Wait};

use crate::disk::Disk;
use crate::mailbox::{Completion, Mailbox};
use crate::queue::RequestId;

/// Most bytes of finished and running reads.
pub const BUFFERED_BYTES_MAX: usize = 64 << 20;

/// A read to do.
#[derive(Debug)]
pub struct Job {
    /// What to read from.
    pub disk: Arc<Disk>,
    /// Byte offset on the disk.
    pub offset: u64,
    /// Bytes.
    pub len: usize,
    /// Whom to tell.
    pub mailbox: Weak<Mailbox>,
    /// Position of the queue among those of the worker.
    pub queue: usize,
    /// The request in that queue.
    pub request: RequestId,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Job>,
    threads: usize,
    threads_idle: usize,
    buffered_bytes: usize,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// There may be a job that may start.
    startable: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Leave to hold the bytes of one read; given back on drop.
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
        Self {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                startable: Condvar::new(),
            }),
            threads_max,
        }
    }

    /// Queues a read. Its completion goes to the mailbox, also when it fails. Does not block.
    pub fn submit(&self, job: Job) {
        let mut state = self.shared.lock();
        state.jobs.push_back(job);
        if state.threads_idle < state.jobs.len() && state.threads < self.threads_max {
            let shared = Arc::clone(&self.shared);
            let spawned = std::thread::Builder::new()
                .name("blocking-read".to_owned())
                .spawn(move || work(&shared));
            match spawned {
                Ok(_detached) => state.threads += 1,
                Err(error) => log::warn!("no further thread for blocking reads: {error}"),
            }
        }
        if state.threads == 0 {
            let jobs = std::mem::take(&mut state.jobs);
            drop(state);
            jobs.into_iter().for_each(|job| self.fail(job));
            return;
        }
        drop(state);
        self.shared.startable.notify_one();
    }

    fn fail(&self, job: Job) {
        let error = layers::Error::new(
            layers::ErrorKind::Io,
            "read",
            "no thread that may wait for the bytes",
        );
        let permit = Permit {
            shared: Arc::clone(&self.shared),
            bytes: 0,
        };
        post(job, Err(error), permit);
    }
}

fn work(shared: &Arc<Shared>) {
    loop {
        let (job, permit) = next_job(shared);
        if job.mailbox.strong_count() == 0 {
            continue;
        }
        let result = read(&job);
        post(job, result, permit);
    }
}

fn read(job: &Job) -> layers::Result<Vec<u8>> {
    let mut bytes = vec![0; job.len];
    let dest = Dest::from(&mut bytes[..]);
    match job.disk.read_at(job.offset, dest, Wait::UntilDone)? {
        Progress::Done => Ok(bytes),
        // Only a broken source does that; bytes it did not read must not reach a guest.
        Progress::Pending => Err(layers::Error::new(
            layers::ErrorKind::Io,
            "read",
            "pending after waiting until done",
        )),
    }
}

fn next_job(shared: &Arc<Shared>) -> (Job, Permit) {
    let mut state = shared.lock();
    loop {
        let room = BUFFERED_BYTES_MAX.saturating_sub(state.buffered_bytes);
        let is_first = state.buffered_bytes == 0;
        let fits = |job: &Job| is_first || job.len <= room;
        if state.jobs.front().is_some_and(fits)
            && let Some(job) = state.jobs.pop_front()
        {
            state.buffered_bytes += job.len;
            let permit = Permit {
                shared: Arc::clone(shared),
                bytes: job.len,
            };
            return (job, permit);
        }
        state.threads_idle += 1;
        state = shared
            .startable
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner);
        state.threads_idle -= 1;
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the job is over")]
fn post(job: Job, result: layers::Result<Vec<u8>>, permit: Permit) {
    if let Some(mailbox) = job.mailbox.upgrade() {
        mailbox.post(Completion {
            queue: job.queue,
            request: job.request,
            result,
            permit,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::{Receiver, channel};

    use super::*;
    use crate::test_guest::disk_of;

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
            disk: Arc::clone(disk),
            offset: 0,
            len,
            mailbox: Arc::downgrade(mailbox),
            queue: 0,
            request: RequestId(0),
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
}
