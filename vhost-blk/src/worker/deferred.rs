//! Requests that the pool does: on their way there, and back.
//!
//! worker -> **deferred** -> pool, then mailbox -> **deferred** -> queue
//!
//! Invariant: the data of a write is copied out of guest memory once the pool has room for it, and
//! by the worker alone.

use std::sync::Arc;

use super::Worker;
use crate::answer::{Pending, Task};
use crate::guest_memory::GuestMemory;
use crate::mailbox::Completion;
use crate::pool::{Job, Outcome, Permit, Work, WritePlan};
use crate::queue::{Queue, RequestId};
use crate::ring::{Ring, RingFault};
use crate::segment_cursor::SegmentCursor;
use crate::status::Status;

impl Worker {
    /// Hands a request to the pool that the queue at `position` has just deferred.
    pub(super) fn hand_over(
        &self,
        position: usize,
        queue: &mut Queue,
        ring: &Ring<'_>,
        memory: &GuestMemory,
        (request, task): (RequestId, Task),
    ) -> Result<(), RingFault> {
        let work = match task {
            Task::Read(extent) => Work::Read(extent),
            Task::Flush => Work::Flush,
            Task::Zero { ranges, durable } => {
                queue.begin_pool_write();
                Work::Zero { ranges, durable }
            }
            Task::Write { extent, durable } => {
                let plan = WritePlan { extent, durable };
                match self.pool.try_reserve(extent.len) {
                    None => Work::Reserve(plan),
                    Some(permit) => {
                        let place = (position, request);
                        return self.copy_and_submit(queue, ring, memory, place, (plan, permit));
                    }
                }
            }
        };
        self.submit(position, request, work, None);
        Ok(())
    }

    fn submit(&self, position: usize, request: RequestId, work: Work, permit: Option<Permit>) {
        self.mailbox.expect_completion();
        self.answerer.lane().deferred();
        self.pool.submit(Job {
            work,
            disk: Arc::clone(&self.disk),
            mailbox: Arc::downgrade(&self.mailbox),
            queue: position,
            request,
            permit,
        });
    }

    /// Submits a write for whose data the pool has made room.
    fn copy_and_submit(
        &self,
        queue: &mut Queue,
        ring: &Ring<'_>,
        memory: &GuestMemory,
        (position, request): (usize, RequestId),
        (plan, permit): (WritePlan, Permit),
    ) -> Result<(), RingFault> {
        let Some(pending) = queue.waiting(request) else {
            return Ok(());
        };
        match copy(memory, pending, plan) {
            Ok(work) => {
                queue.begin_pool_write();
                self.submit(position, request, work, Some(permit));
                Ok(())
            }
            Err(status) => {
                let written = self.answerer.answer_status(memory, pending, Err(status));
                queue.finish_deferred(ring, request, written)
            }
        }
    }

    /// Deals with what the pool says of a request of `queue`.
    pub(super) fn answer_completion(
        &self,
        queue: &mut Queue,
        memory: &GuestMemory,
        completion: Completion,
    ) {
        self.answerer.lane().settled();
        if completion.is_write {
            queue.end_pool_write();
        }
        if let Some(ring) = queue.ring_to_publish(memory)
            && let Err(fault) = self.answer_on_ring(queue, &ring, memory, completion)
        {
            queue.mark_broken(fault);
        }
    }

    fn answer_on_ring(
        &self,
        queue: &mut Queue,
        ring: &Ring<'_>,
        memory: &GuestMemory,
        completion: Completion,
    ) -> Result<(), RingFault> {
        let request = completion.request;
        // An abandoned request has lost its place, and its buffers may be somebody else's by now.
        let Some(pending) = queue.waiting(request) else {
            return Ok(());
        };
        let written = match completion.result {
            Ok(Outcome::Bytes(bytes)) => self.answerer.answer_read(memory, pending, &bytes),
            Ok(Outcome::Done) => self.answerer.answer_status(memory, pending, Ok(())),
            Ok(Outcome::Room(plan, permit)) => {
                let place = (completion.queue, request);
                self.copy_and_submit(queue, ring, memory, place, (plan, permit))?;
                return queue.publish(ring);
            }
            Err(error) => self
                .answerer
                .answer_failed(&self.disk, memory, pending, &error),
        };
        queue.finish_deferred(ring, request, written)?;
        queue.publish(ring)
    }
}

fn copy(memory: &GuestMemory, pending: &Pending, plan: WritePlan) -> Result<Work, Status> {
    let mut data = vec![0; plan.extent.len];
    SegmentCursor::new(&pending.data).read(memory, &mut data)?;
    Ok(Work::Write {
        offset: plan.extent.offset,
        data,
        durable: plan.durable,
    })
}
