//! Serves the rings of one thread.
//!
//! kick or completion -> **worker** -> ring -> request -> image
//!
//! A worker is woken by a kick or by its mailbox. It makes passes over its rings: takes what is
//! available, answers what can be answered now, hands the rest to the pool, commits the writes that
//! were staged, all at once, and publishes. When nothing is left it polls for a moment, asks for
//! kicks, looks once more, and sleeps.
//!
//! Invariants
//! - one pass takes at most [`BATCH_MAX`] requests from a ring; a run lasts [`RUN_MAX`] and one
//!   pass at most, so that a busy ring starves neither another one nor the VMM's messages.
//! - it sleeps only after asking every active ring for a kick and finding it empty, or when it
//!   takes no more requests.
//! - a write that was staged is committed before its ring's lock is let go of.
//! - nothing here returns an error: what a guest does wrong concerns its own ring alone.

mod deferred;

use std::sync::Arc;
use std::time::{Duration, Instant};

use vm_memory::GuestAddressSpace;

use crate::answer::{Answer, Answerer};
use crate::cache_mode::CacheMode;
use crate::disk::Disk;
use crate::guest_memory::{GuestMemory, SharedGuestMemory};
use crate::mailbox::{Completion, Mailbox};
use crate::poll_window::PollWindow;
use crate::pool::Pool;
use crate::queue::{Queue, RequestId, SharedQueue};
use crate::ring::{Ring, RingFault};

/// Most requests answered before they are published. More would leave a driver on another CPU
/// idle for too long, fewer would tell it too often.
pub const BATCH_MAX: u16 = 16;

/// Longest run without a look at the other events of the thread.
pub const RUN_MAX: Duration = Duration::from_millis(2);

/// One worker thread's state.
#[derive(Debug)]
pub struct Worker {
    disk: Arc<Disk>,
    pool: Arc<Pool>,
    mailbox: Arc<Mailbox>,
    answerer: Answerer,
    poll: PollWindow,
    slept_at: Option<Instant>,
    completions: Vec<Completion>,
    /// Requests of the ring at hand whose writes are staged.
    staged: Vec<RequestId>,
}

impl Worker {
    /// A worker that has nothing to do yet, for a driver that wants `cache`.
    #[must_use]
    pub fn new(
        disk: Arc<Disk>,
        pool: Arc<Pool>,
        mailbox: Arc<Mailbox>,
        cache: Arc<CacheMode>,
    ) -> Self {
        Self {
            answerer: Answerer::new(cache, disk.metrics().lane()),
            disk,
            pool,
            mailbox,
            poll: PollWindow::default(),
            slept_at: None,
            completions: Vec::new(),
            staged: Vec::with_capacity(usize::from(BATCH_MAX)),
        }
    }

    /// Serves `queues` until there is nothing to do. Never blocks for longer than [`RUN_MAX`] and
    /// one pass; when it leaves with work to do, the mailbox is readable.
    pub fn run<Q: AsRef<SharedQueue>>(&mut self, queues: &[Q], memory: &SharedGuestMemory) {
        let woken_at = Instant::now();
        if let Some(slept_at) = self.slept_at.take() {
            self.poll.slept(woken_at - slept_at);
        }
        let mut idle_since = woken_at;
        let mut idle_passes = 0_u32;
        loop {
            let served = self.pass(queues, memory);
            let now = Instant::now();
            if served > 0 {
                if idle_passes > 0 {
                    self.poll.succeeded();
                }
                idle_since = now;
                idle_passes = 0;
            } else if now - idle_since < self.poll.window() {
                idle_passes = idle_passes.saturating_add(1);
                std::hint::spin_loop();
            } else if self.mailbox.is_draining() || self.may_sleep(queues, memory) {
                self.poll.failed();
                self.slept_at = Some(now);
                return;
            } else {
                // A request came in the last moment.
                idle_since = now;
            }
            if now - woken_at >= RUN_MAX || self.mailbox.is_closing() {
                // The thread comes back at once, after its other events.
                self.mailbox.wake();
                return;
            }
        }
    }

    /// One look at the mailbox and at every active ring; returns how much was done.
    fn pass<Q: AsRef<SharedQueue>>(&mut self, queues: &[Q], memory: &SharedGuestMemory) -> usize {
        self.mailbox.begin_pass();
        let memory = memory.memory();
        let mut served = self.answer_completions(queues, &memory);
        if self.mailbox.is_draining() {
            self.mailbox.end_pass();
            return served;
        }
        for (position, queue) in queues.iter().map(AsRef::as_ref).enumerate() {
            if queue.is_active() {
                served += usize::from(self.serve_queue(position, queue, &memory));
            }
        }
        self.mailbox.end_pass();
        served
    }

    /// Answers up to [`BATCH_MAX`] requests of one queue.
    fn serve_queue(&mut self, position: usize, shared: &SharedQueue, memory: &GuestMemory) -> u16 {
        let mut queue = shared.lock();
        let Some(ring) = queue.ring(memory) else {
            return 0;
        };
        match self.serve_ring(position, &mut queue, &ring, memory) {
            Ok(taken) => taken,
            Err(fault) => {
                // What was answered before the fault is answered.
                queue.publish(&ring).ok();
                queue.mark_broken(fault);
                0
            }
        }
    }

    fn serve_ring(
        &mut self,
        position: usize,
        queue: &mut Queue,
        ring: &Ring<'_>,
        memory: &GuestMemory,
    ) -> Result<u16, RingFault> {
        let taken = queue.available(ring)?.min(BATCH_MAX);
        if taken == 0 {
            return Ok(0);
        }
        queue.suppress_kicks(ring)?;
        let answered = self.answer_some(position, queue, ring, memory, taken);
        // Whatever the ring is like, nothing stays staged.
        let committed = self.commit_staged(queue, ring, memory);
        answered.and(committed)?;
        queue.publish(ring)?;
        Ok(taken)
    }

    fn answer_some(
        &mut self,
        position: usize,
        queue: &mut Queue,
        ring: &Ring<'_>,
        memory: &GuestMemory,
        count: u16,
    ) -> Result<(), RingFault> {
        for _ in 0..count {
            let head = queue.take(ring)?;
            match self.answerer.answer(&self.disk, ring, memory, head) {
                Answer::Done(written) => queue.finish(ring, head, written)?,
                Answer::Staged(pending) => self.staged.push(queue.defer(head, pending)),
                Answer::Deferred(task, pending) => {
                    let request = queue.defer(head, pending);
                    self.hand_over(position, queue, ring, memory, (request, task))?;
                }
            }
        }
        Ok(())
    }

    /// Commits the writes that were staged, and answers them.
    fn commit_staged(
        &mut self,
        queue: &mut Queue,
        ring: &Ring<'_>,
        memory: &GuestMemory,
    ) -> Result<(), RingFault> {
        let committed = self.answerer.commit(&self.disk);
        for request in self.staged.drain(..) {
            if let Some(pending) = queue.waiting(request) {
                let written = self.answerer.answer_status(memory, pending, committed);
                queue.finish_deferred(ring, request, written)?;
            }
        }
        Ok(())
    }

    /// Deals with what has come from the pool.
    fn answer_completions<Q: AsRef<SharedQueue>>(
        &mut self,
        queues: &[Q],
        memory: &GuestMemory,
    ) -> usize {
        let mut completions = std::mem::take(&mut self.completions);
        self.mailbox.collect(&mut completions);
        let count = completions.len();
        for completion in completions.drain(..) {
            if let Some(shared) = queues.get(completion.queue) {
                let shared = shared.as_ref();
                let mut queue = shared.lock();
                self.answer_completion(&mut queue, memory, completion);
                shared.note_progress(&queue);
            }
        }
        self.completions = completions;
        if count > 0 {
            self.mailbox.settle(count);
        }
        count
    }

    /// Asks every active ring for a kick; false when one of them has a request already.
    fn may_sleep<Q: AsRef<SharedQueue>>(&self, queues: &[Q], memory: &SharedGuestMemory) -> bool {
        self.mailbox.begin_pass();
        let memory = memory.memory();
        let mut idle = true;
        for shared in queues.iter().map(AsRef::as_ref) {
            if !shared.is_active() {
                continue;
            }
            let mut queue = shared.lock();
            if let Some(ring) = queue.ring(&memory) {
                match queue.request_kick(&ring) {
                    Ok(has_request) => idle &= !has_request,
                    Err(fault) => queue.mark_broken(fault),
                }
            }
        }
        self.mailbox.end_pass();
        idle
    }
}

#[cfg(test)]
mod tests;
