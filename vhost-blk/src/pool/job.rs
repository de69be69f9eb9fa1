//! What a pool thread does.
//!
//! worker -> pool -> **job** -> image, then mailbox -> worker

use std::sync::{Arc, Weak};

use layers::{Dest, Error, Result, Wait, WriteBatch};

use super::Permit;
use super::room::Direction;
use crate::disk::Disk;
use crate::mailbox::{Completion, Mailbox};
use crate::queue::RequestId;
use crate::request::Extent;
use crate::zero_ranges::ZeroRange;

/// Largest piece of a write; between two of them the image may serve others.
const PIECE_BYTES: usize = 1 << 20;

/// What is to be done.
#[derive(Debug)]
pub enum Work {
    /// Read.
    Read(Extent),
    /// Nothing, once there is room for the data of this write.
    Reserve(WritePlan),
    /// Write, and if `durable` flush.
    Write {
        /// Byte offset on the disk.
        offset: u64,
        /// Whole sectors.
        data: Vec<u8>,
        /// With a flush.
        durable: bool,
    },
    /// Make ranges read as zeros, and if `durable` flush.
    Zero {
        /// Which ones.
        ranges: Vec<ZeroRange>,
        /// With a flush.
        durable: bool,
    },
    /// Flush.
    Flush,
}

/// A write whose data is still in guest memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WritePlan {
    /// Where to.
    pub extent: Extent,
    /// With a flush.
    pub durable: bool,
}

impl Work {
    /// Bytes that the pool has to find room for before this may start.
    pub(super) fn room_wanted(&self) -> Option<(Direction, usize)> {
        match self {
            Self::Read(extent) => Some((Direction::Read, extent.len)),
            Self::Reserve(WritePlan { extent, .. }) => Some((Direction::Write, extent.len)),
            Self::Write { .. } | Self::Zero { .. } | Self::Flush => None,
        }
    }
}

/// What came of it.
#[derive(Debug)]
pub enum Outcome {
    /// The bytes that were read.
    Bytes(Vec<u8>),
    /// There is room: the data may be copied and submitted as [`Work::Write`].
    Room(WritePlan, Permit),
    /// Done.
    Done,
}

/// Work for one request.
#[derive(Debug)]
pub struct Job {
    /// What is to be done.
    pub work: Work,
    /// To what.
    pub disk: Arc<Disk>,
    /// Whom to tell.
    pub mailbox: Weak<Mailbox>,
    /// Position of the queue among those of the worker.
    pub queue: usize,
    /// The request in that queue.
    pub request: RequestId,
    /// Leave to hold its data. A write comes with one, a read gets one when it starts.
    pub permit: Option<Permit>,
}

impl Job {
    /// Does all of it but a flush. `None` when the session has ended; else the outcome, or that a
    /// flush must follow.
    pub(super) fn run(&mut self) -> Option<Result<Step>> {
        let disk = &self.disk;
        match &mut self.work {
            Work::Read(_) if self.mailbox.strong_count() == 0 => None,
            Work::Read(extent) => {
                let bytes = read(disk, *extent);
                Some(bytes.map(|bytes| Step::Over(Outcome::Bytes(bytes))))
            }
            Work::Reserve(plan) => {
                let permit = self.permit.take()?;
                Some(Ok(Step::Over(Outcome::Room(*plan, permit))))
            }
            Work::Write {
                offset,
                data,
                durable,
            } => {
                let written = change_in(&self.mailbox, || write(disk, *offset, data))?;
                *data = Vec::new();
                self.permit = None;
                Some(written.map(|()| Step::after_change(*durable)))
            }
            Work::Zero { ranges, durable } => {
                let zeroed = change_in(&self.mailbox, || zero(disk, ranges))?;
                Some(zeroed.map(|()| Step::after_change(*durable)))
            }
            Work::Flush => Some(Ok(Step::Flush)),
        }
    }

    /// Tells the worker, if it is still there.
    pub(super) fn post(self, result: std::result::Result<Outcome, Arc<Error>>) {
        if let Some(mailbox) = self.mailbox.upgrade() {
            mailbox.post(Completion {
                queue: self.queue,
                request: self.request,
                result,
                is_write: matches!(self.work, Work::Write { .. } | Work::Zero { .. }),
                permit: self.permit,
            });
        }
    }
}

/// How far a job got.
pub(super) enum Step {
    Over(Outcome),
    /// It is over after a flush that starts from now on.
    Flush,
}

impl Step {
    fn after_change(durable: bool) -> Self {
        if durable {
            Self::Flush
        } else {
            Self::Over(Outcome::Done)
        }
    }
}

/// Changes the disk unless the session has ended, which then waits for the end of the change.
fn change_in(mailbox: &Weak<Mailbox>, change: impl FnOnce() -> Result<()>) -> Option<Result<()>> {
    let mailbox = mailbox.upgrade().filter(|mailbox| mailbox.begin_write())?;
    let result = change();
    mailbox.end_write();
    Some(result)
}

fn read(disk: &Disk, extent: Extent) -> Result<Vec<u8>> {
    let mut bytes = vec![0; extent.len];
    let read = disk.read_at(extent.offset, Dest::from(&mut bytes[..]), Wait::UntilDone)?;
    // Bytes that were not read must not reach a guest.
    read.expect_done("read image").map(|()| bytes)
}

fn write(disk: &Disk, offset: u64, data: &[u8]) -> Result<()> {
    let mut batch = WriteBatch::default();
    let offsets = (offset..).step_by(PIECE_BYTES);
    for (offset, piece) in offsets.zip(data.chunks(PIECE_BYTES)) {
        let staged = disk.stage_write(&mut batch, offset, piece, Wait::UntilDone)?;
        staged.expect_done("write image")?;
    }
    disk.commit(&mut batch)
}

fn zero(disk: &Disk, ranges: &[ZeroRange]) -> Result<()> {
    let mut batch = WriteBatch::default();
    let staged = disk.stage_zeroes(&mut batch, ranges, Wait::UntilDone)?;
    staged.expect_done("write zeroes")?;
    disk.commit(&mut batch)
}
