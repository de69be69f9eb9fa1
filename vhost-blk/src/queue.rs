//! One virtqueue: its positions, and its requests in flight.
//!
//! VMM messages -> **queue** <- worker
//!
//! Requests run and finish in any order; their used entries are published in the order in which
//! the driver made them available. So whatever happens to this process, the requests that the
//! driver still waits for are exactly those between the used and the available index, and a VMM
//! that reconnects can replay them without losing or doubling one.
//!
//! Invariants
//! - `next_used` counts the used entries written; `next_used + in_flight.len()` entries were
//!   taken since the start.
//! - a broken ring is never touched again until it is started anew.
//! - a ring is not let go of while the pool changes the disk for it.

mod shared;
mod stop_deadline;

pub use shared::SharedQueue;
pub use stop_deadline::StopDeadline;

use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io::Write;
use std::sync::Arc;

use crate::answer::Pending;
use crate::disk::Disk;
use crate::guest_memory::GuestMemory;
use crate::ring::{Ring, RingFault, RingLayout};

/// One request that was taken and not yet published.
#[derive(Debug)]
struct InFlight {
    head: u16,
    state: InFlightState,
}

#[derive(Debug)]
enum InFlightState {
    /// Its writes are not committed, or a pool thread is at it.
    Waiting(Pending),
    /// Its answer is in guest memory: bytes written.
    Finished(u32),
}

/// Names a request in flight. Never used twice in one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId(pub(crate) u64);

/// State of one virtqueue; see [`SharedQueue`].
#[derive(Debug)]
pub struct Queue {
    disk: Arc<Disk>,
    number: u16,
    layout: RingLayout,
    event_idx: bool,
    started: bool,
    enabled: bool,
    stopping: bool,
    broken: bool,
    next_avail: u16,
    next_used: u16,
    /// Used index when the driver was last told, or last did not want to be.
    called_at: Option<u16>,
    /// Used entries were written since then.
    unpublished: bool,
    kicks_requested: bool,
    in_flight: VecDeque<InFlight>,
    /// Id of the front of `in_flight`.
    first_id: u64,
    /// Requests that change the disk and that the pool has, abandoned ones included.
    pool_writes: usize,
    call: Option<File>,
}

impl Queue {
    fn new(disk: Arc<Disk>, number: u16) -> Self {
        Self {
            disk,
            number,
            layout: RingLayout::default(),
            event_idx: false,
            started: false,
            enabled: false,
            stopping: false,
            broken: false,
            next_avail: 0,
            next_used: 0,
            called_at: None,
            unpublished: false,
            kicks_requested: false,
            in_flight: VecDeque::new(),
            first_id: 0,
            pool_writes: 0,
            call: None,
        }
    }

    fn report(&self, what: fmt::Arguments<'_>) {
        self.disk
            .report(format_args!("queue {}: {what}", self.number));
    }

    fn takes_requests(&self) -> bool {
        self.started && self.enabled && !self.stopping && !self.broken
    }

    /// The ring, when requests may be taken from it.
    pub fn ring<'m>(&mut self, memory: &'m GuestMemory) -> Option<Ring<'m>> {
        if self.takes_requests() {
            self.map(memory)
        } else {
            None
        }
    }

    /// The ring, when requests in flight may be published on it.
    pub fn ring_to_publish<'m>(&mut self, memory: &'m GuestMemory) -> Option<Ring<'m>> {
        if self.started && !self.broken {
            self.map(memory)
        } else {
            None
        }
    }

    fn map<'m>(&mut self, memory: &'m GuestMemory) -> Option<Ring<'m>> {
        match Ring::map(memory, &self.layout) {
            Ok(ring) => Some(ring),
            Err(fault) => {
                self.mark_broken(fault);
                None
            }
        }
    }

    /// Stops using the ring for good: its driver broke the rules.
    pub fn mark_broken(&mut self, fault: RingFault) {
        if !self.broken {
            self.report(format_args!(
                "ring broken, ignored until it is set up again: {fault}"
            ));
        }
        self.broken = true;
    }

    /// Is this ring broken?
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Is there a request whose answer will still be published?
    #[must_use]
    pub fn has_in_flight(&self) -> bool {
        self.started && !self.broken && !self.in_flight.is_empty()
    }

    /// Something that changes the disk goes to the pool. It must be waited for whatever becomes of
    /// the ring: it would undo what a replay of the same request has done.
    pub fn begin_pool_write(&mut self) {
        self.pool_writes += 1;
    }

    /// The pool is done with it.
    pub fn end_pool_write(&mut self) {
        self.pool_writes -= 1;
    }

    /// Can [`SharedQueue::stop`] return at once?
    #[must_use]
    pub fn may_let_go(&self) -> bool {
        !self.has_in_flight() && self.pool_writes == 0
    }

    /// Entries the driver has made available and nobody has taken.
    ///
    /// # Errors
    /// [`RingFault::AvailIdxJump`] when that is more than the ring holds.
    pub fn available(&self, ring: &Ring<'_>) -> Result<u16, RingFault> {
        let entries = ring.avail_idx()?.wrapping_sub(self.next_avail);
        // Those in flight still own their entries.
        let taken = u16::try_from(self.in_flight.len()).unwrap_or(u16::MAX);
        if entries > ring.size().saturating_sub(taken) {
            return Err(RingFault::AvailIdxJump {
                entries,
                size: ring.size(),
            });
        }
        Ok(entries)
    }

    /// Takes the next available entry; call only when [`Queue::available`] said there is one.
    ///
    /// # Errors
    /// [`RingFault::HeadOutOfRange`].
    pub fn take(&mut self, ring: &Ring<'_>) -> Result<u16, RingFault> {
        let head = ring.avail_head(self.next_avail)?;
        self.next_avail = self.next_avail.wrapping_add(1);
        Ok(head)
    }

    /// The answer to the request just taken is in guest memory.
    ///
    /// # Errors
    /// [`RingFault::Unmapped`].
    pub fn finish(&mut self, ring: &Ring<'_>, head: u16, written: u32) -> Result<(), RingFault> {
        if self.in_flight.is_empty() {
            return self.put_used(ring, head, written);
        }
        self.in_flight.push_back(InFlight {
            head,
            state: InFlightState::Finished(written),
        });
        Ok(())
    }

    /// The answer to the request just taken comes later.
    pub fn defer(&mut self, head: u16, pending: Pending) -> RequestId {
        let id = self.first_id + self.in_flight.len() as u64;
        self.in_flight.push_back(InFlight {
            head,
            state: InFlightState::Waiting(pending),
        });
        RequestId(id)
    }

    /// What a deferred request waits for; `None` when it was abandoned.
    #[must_use]
    pub fn waiting(&self, id: RequestId) -> Option<&Pending> {
        match &self.in_flight.get(self.position(id)?)?.state {
            InFlightState::Waiting(pending) => Some(pending),
            InFlightState::Finished(_) => None,
        }
    }

    fn position(&self, id: RequestId) -> Option<usize> {
        usize::try_from(id.0.checked_sub(self.first_id)?).ok()
    }

    /// The answer to a deferred request is in guest memory.
    ///
    /// # Errors
    /// [`RingFault::Unmapped`].
    pub fn finish_deferred(
        &mut self,
        ring: &Ring<'_>,
        id: RequestId,
        written: u32,
    ) -> Result<(), RingFault> {
        let position = self.position(id);
        if let Some(request) = position.and_then(|position| self.in_flight.get_mut(position)) {
            request.state = InFlightState::Finished(written);
        }
        while let Some(InFlight {
            head,
            state: InFlightState::Finished(written),
        }) = self.in_flight.front()
        {
            let (head, written) = (*head, *written);
            self.in_flight.pop_front();
            self.first_id += 1;
            self.put_used(ring, head, written)?;
        }
        Ok(())
    }

    fn put_used(&mut self, ring: &Ring<'_>, head: u16, written: u32) -> Result<(), RingFault> {
        ring.put_used(self.next_used, head, written)?;
        self.next_used = self.next_used.wrapping_add(1);
        self.unpublished = true;
        Ok(())
    }

    /// Shows the used entries written since the last call to the driver and tells it so, unless
    /// it does not want to be told.
    ///
    /// # Errors
    /// [`RingFault::Unmapped`].
    pub fn publish(&mut self, ring: &Ring<'_>) -> Result<(), RingFault> {
        if !self.unpublished {
            return Ok(());
        }
        ring.store_used_idx(self.next_used)?;
        self.unpublished = false;
        let called_at = self.called_at.replace(self.next_used);
        if ring.wants_call(self.event_idx, called_at, self.next_used)? {
            self.call();
        }
        Ok(())
    }

    /// A daemon that died between its last used entry and the call that tells of it leaves the
    /// driver waiting: whoever goes on with the ring calls once.
    fn call_after_start(&self) {
        if self.started && self.next_used != 0 {
            self.call();
        }
    }

    #[expect(clippy::host_endian_bytes, reason = "an eventfd counts in host order")]
    fn call(&self) {
        if let Some(mut call) = self.call.as_ref() {
            // A full counter means that the driver was told already; a file that is no eventfd
            // is the VMM's own loss.
            drop(call.write(&1_u64.to_ne_bytes()));
        }
    }

    /// Asks the driver not to kick while somebody looks at the ring anyway.
    ///
    /// # Errors
    /// [`RingFault::Unmapped`].
    pub fn suppress_kicks(&mut self, ring: &Ring<'_>) -> Result<(), RingFault> {
        if self.kicks_requested {
            self.kicks_requested = false;
            ring.suppress_kicks(self.event_idx)?;
        }
        Ok(())
    }

    /// Asks the driver to kick for its next request; true when that is there already.
    ///
    /// # Errors
    /// [`RingFault::Unmapped`].
    pub fn request_kick(&mut self, ring: &Ring<'_>) -> Result<bool, RingFault> {
        if self.kicks_requested {
            return Ok(ring.avail_idx()? != self.next_avail);
        }
        self.kicks_requested = true;
        ring.request_kick(self.event_idx, self.next_avail)
    }
}
