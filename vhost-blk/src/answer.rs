//! Takes one chain, does what it asks, and leaves data and status in guest memory.
//!
//! ring -> descriptor chain -> request -> **answer** -> image
//!
//! Invariants
//! - the status byte is written in one place, after the data, and for a write after the commit.
//! - data that is read into one run of host memory is decoded in place; any other, and all data
//!   that is written, goes through a private buffer of at most [`BOUNCE_BYTES_MAX`].
//! - a request that is not done now may leave part of its work, never a status: it is repeated as a
//!   whole elsewhere.
//! - a request counts when its status is written.
//! - no allocation once the buffers have grown, except for a request that is not done now.

use std::sync::Arc;
use std::time::Instant;

use layers::metrics::{self, Lane};
use layers::{Dest, Progress, Wait, WriteBatch};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use crate::cache_mode::CacheMode;
use crate::descriptor_chain::Chain;
use crate::disk::Disk;
use crate::guest_memory::{GuestMemory, Segment, destination};
use crate::request::{Extent, Operation, Request};
use crate::ring::Ring;
use crate::segment_cursor::{SegmentCursor, is_mapped};
use crate::status::Status;
use crate::zero_ranges::ZeroRange;

/// Largest piece that is copied at a time; longer requests take several.
pub const BOUNCE_BYTES_MAX: usize = 1 << 20;

/// Longest discard or write of zeroes, in bytes, that does not go to the pool at once: it may take
/// many index entries away.
const ZERO_BYTES_MAX: u64 = 1 << 20;

/// What a pool thread has to do for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Task {
    /// Read these bytes.
    Read(Extent),
    /// Write the bytes of the request's segments; flushed before they are acknowledged if
    /// `durable`.
    Write {
        /// Where to.
        extent: Extent,
        /// With a flush.
        durable: bool,
    },
    /// Make ranges read as zeros.
    Zero {
        /// Which ones.
        ranges: Vec<ZeroRange>,
        /// With a flush.
        durable: bool,
    },
    /// Make everything that was acknowledged safe from a power cut.
    Flush,
}

/// Where data and status of a request belong whose answer comes later.
#[derive(Debug)]
pub struct Pending {
    /// The data of a read, or of a write that is not copied yet.
    pub data: Vec<Segment>,
    status: GuestAddress,
    tally: Tally,
    /// When it was found that it may block.
    since: Option<Instant>,
}

/// What a request counts as.
#[derive(Debug, Clone, Copy)]
struct Tally {
    operation: metrics::Operation,
    /// Bytes of data, if it succeeds.
    bytes: u64,
}

impl Tally {
    #[inline]
    fn of(operation: Operation) -> Self {
        let (operation, bytes) = match operation {
            Operation::Read(extent) => (metrics::Operation::Read, extent.len),
            Operation::Write(extent) => (metrics::Operation::Write, extent.len),
            Operation::Zero => (metrics::Operation::Zero, 0),
            Operation::Flush => (metrics::Operation::Flush, 0),
            Operation::GetId | Operation::Refuse(_) => (metrics::Operation::Other, 0),
        };
        let bytes = bytes as u64;
        Self { operation, bytes }
    }
}

/// How a chain was dealt with.
#[derive(Debug)]
pub enum Answer {
    /// Everything is in guest memory; bytes written.
    Done(u32),
    /// A write that counts once [`Answerer::commit`] has succeeded.
    Staged(Pending),
    /// Something that may block. Part of the data may be in guest memory, the status is not.
    Deferred(Task, Pending),
}

/// How far a request got.
enum Step {
    /// Done; bytes written to guest memory.
    Done(usize),
    Staged,
    Deferred(Task),
}

/// The reused buffers of one worker, and its writes that are not committed yet.
#[derive(Debug)]
pub struct Answerer {
    cache: Arc<CacheMode>,
    chain: Chain,
    bounce: Vec<u8>,
    ranges: Vec<ZeroRange>,
    batch: WriteBatch,
    /// Something was staged since the last commit.
    has_staged: bool,
    lane: Lane,
}

impl Answerer {
    /// Nothing in its buffers yet; counts in `lane`.
    #[must_use]
    pub fn new(cache: Arc<CacheMode>, lane: Lane) -> Self {
        Self {
            cache,
            chain: Chain::default(),
            bounce: Vec::new(),
            ranges: Vec::new(),
            batch: WriteBatch::default(),
            has_staged: false,
            lane,
        }
    }

    /// Where the requests of this worker count.
    #[must_use]
    pub fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Answers the chain at `head`. Does not block, but for what [`WritePace`] says.
    ///
    /// [`WritePace`]: layers::WritePace
    pub fn answer(
        &mut self,
        disk: &Disk,
        ring: &Ring<'_>,
        memory: &GuestMemory,
        head: u16,
    ) -> Answer {
        if let Err(fault) = self.chain.walk(ring, memory, head) {
            disk.report(format_args!("dropped a request: {fault}"));
            return self.dropped();
        }
        let Some(request) = Request::parse(&mut self.chain, memory, disk, &mut self.ranges) else {
            disk.report(format_args!("dropped a request: no room for a status"));
            return self.dropped();
        };
        let tally = Tally::of(request.operation);
        self.lane.began(tally.operation);
        let step = match request.operation {
            Operation::Read(extent) => self.read(disk, memory, extent),
            Operation::Write(extent) => self.write(disk, memory, extent),
            Operation::Zero => self.zero(disk),
            Operation::Flush if disk.is_writable() => Ok(Step::Deferred(Task::Flush)),
            // Nothing is ever unwritten on a read-only disk.
            Operation::Flush => Ok(Step::Done(0)),
            Operation::GetId => self.write_id(disk, memory),
            Operation::Refuse(status) => Err(status),
        };
        let status = request.status;
        let pending = |data: &[Segment], since| Pending {
            data: data.to_vec(),
            status,
            tally,
            since,
        };
        let now = |outcome| Answer::Done(self.finish(memory, (status, tally), outcome));
        match step {
            Ok(Step::Done(written)) => now(Ok(written)),
            Err(error) => now(Err(error)),
            Ok(Step::Staged) => Answer::Staged(pending(&[], None)),
            Ok(Step::Deferred(task)) => {
                let data = match task {
                    Task::Read(_) => self.chain.writable(),
                    Task::Write { .. } => self.chain.readable(),
                    Task::Zero { .. } | Task::Flush => &[],
                };
                let pending = pending(data, Some(Instant::now()));
                Answer::Deferred(task, pending)
            }
        }
    }

    /// A chain that cannot be answered.
    fn dropped(&self) -> Answer {
        self.lane.failed(metrics::Operation::Other);
        Answer::Done(0)
    }

    fn read(&mut self, disk: &Disk, memory: &GuestMemory, extent: Extent) -> Result<Step, Status> {
        let progress = match self.chain.writable() {
            [] => Progress::Done,
            [segment] => {
                let slice = memory.get_slice(segment.address, extent.len).ok();
                match slice.as_ref().and_then(destination) {
                    Some(dest) => read_now(disk, extent.offset, dest)?,
                    // It may still be spread over neighbouring memory regions.
                    None => self.read_aside(disk, memory, extent)?,
                }
            }
            _ => self.read_aside(disk, memory, extent)?,
        };
        Ok(match progress {
            Progress::Done => Step::Done(extent.len),
            Progress::Pending => Step::Deferred(Task::Read(extent)),
        })
    }

    /// Reads into the private buffer, piece by piece, and copies to the segments.
    fn read_aside(
        &mut self,
        disk: &Disk,
        memory: &GuestMemory,
        extent: Extent,
    ) -> Result<Progress, Status> {
        let segments = self.chain.writable();
        check_mapped(disk, memory, segments)?;
        let mut cursor = SegmentCursor::new(segments);
        for (offset, len) in pieces(extent) {
            let piece = bounce(&mut self.bounce, len)?;
            match read_now(disk, offset, Dest::from(&mut *piece))? {
                Progress::Pending => return Ok(Progress::Pending),
                Progress::Done => cursor.write(memory, piece)?,
            }
        }
        Ok(Progress::Done)
    }

    /// Copies from the segments into the private buffer, piece by piece, and stages.
    fn write(&mut self, disk: &Disk, memory: &GuestMemory, extent: Extent) -> Result<Step, Status> {
        let segments = self.chain.readable();
        // Else half of it might be written.
        check_mapped(disk, memory, segments)?;
        if extent.len == 0 {
            return Ok(Step::Done(0));
        }
        let durable = self.cache.is_writethrough();
        let later = Step::Deferred(Task::Write { extent, durable });
        if durable || !disk.pace().is_quick() {
            return Ok(later);
        }
        let mut cursor = SegmentCursor::new(segments);
        for (offset, len) in pieces(extent) {
            let piece = bounce(&mut self.bounce, len)?;
            cursor.read(memory, piece)?;
            self.has_staged = true;
            let staged = disk.stage_write(&mut self.batch, offset, piece, Wait::Never);
            if staged.map_err(|error| refuse_write(disk, &error))? == Progress::Pending {
                return Ok(later);
            }
        }
        Ok(Step::Staged)
    }

    fn zero(&mut self, disk: &Disk) -> Result<Step, Status> {
        if self.ranges.is_empty() {
            return Ok(Step::Done(0));
        }
        let durable = self.cache.is_writethrough();
        let total: u64 = self.ranges.iter().map(|range| range.len).sum();
        if total <= ZERO_BYTES_MAX && !durable && disk.pace().is_quick() {
            self.has_staged = true;
            let staged = disk.stage_zeroes(&mut self.batch, &self.ranges, Wait::Never);
            if staged.map_err(|error| refuse_write(disk, &error))? == Progress::Done {
                return Ok(Step::Staged);
            }
        }
        let ranges = self.ranges.clone();
        Ok(Step::Deferred(Task::Zero { ranges, durable }))
    }

    /// Makes all writes that were staged since the last call count; none of them does if this
    /// fails.
    ///
    /// # Errors
    /// The status for all of them.
    pub fn commit(&mut self, disk: &Disk) -> Result<(), Status> {
        if !std::mem::take(&mut self.has_staged) {
            return Ok(());
        }
        let committed = disk.commit(&mut self.batch);
        committed.map_err(|error| refuse_write(disk, &error))
    }

    fn write_id(&self, disk: &Disk, memory: &GuestMemory) -> Result<Step, Status> {
        let serial = disk.serial();
        let room = usize::try_from(self.chain.writable_len()).unwrap_or(usize::MAX);
        let id = serial.get(..room).unwrap_or(serial);
        SegmentCursor::new(self.chain.writable()).write(memory, id)?;
        Ok(Step::Done(id.len()))
    }

    /// Answers a write that was staged or done elsewhere, or anything that failed; returns the
    /// bytes written.
    pub fn answer_status(
        &self,
        memory: &GuestMemory,
        pending: &Pending,
        status: Result<(), Status>,
    ) -> u32 {
        self.finish_pending(memory, pending, status.map(|()| 0))
    }

    /// Answers a request that failed elsewhere, and returns the bytes written.
    pub fn answer_failed(
        &self,
        disk: &Disk,
        memory: &GuestMemory,
        pending: &Pending,
        error: &layers::Error,
    ) -> u32 {
        self.answer_status(memory, pending, Err(refuse(disk, "request", error)))
    }

    /// Answers a read that had to wait, and returns the bytes written.
    pub fn answer_read(&self, memory: &GuestMemory, pending: &Pending, bytes: &[u8]) -> u32 {
        let copied = SegmentCursor::new(&pending.data).write(memory, bytes);
        self.finish_pending(memory, pending, copied.map(|()| bytes.len()))
    }

    fn finish_pending(
        &self,
        memory: &GuestMemory,
        pending: &Pending,
        outcome: Result<usize, Status>,
    ) -> u32 {
        if let Some(since) = pending.since {
            self.lane.waited(since.elapsed());
        }
        self.finish(memory, (pending.status, pending.tally), outcome)
    }

    /// Writes the status byte and counts the request; returns the bytes written to the chain.
    fn finish(
        &self,
        memory: &GuestMemory,
        (address, tally): (GuestAddress, Tally),
        outcome: Result<usize, Status>,
    ) -> u32 {
        let (status, data_written) = match outcome {
            Ok(data_written) => {
                self.lane.answered(tally.operation, tally.bytes);
                (Status::Ok, data_written)
            }
            Err(status) => {
                self.lane.failed(tally.operation);
                (status, 0)
            }
        };
        // A status address outside guest memory is the driver's own loss.
        match memory.write_obj(status.to_byte(), address) {
            Ok(()) => u32::try_from(data_written + 1).unwrap_or(u32::MAX),
            Err(_) => 0,
        }
    }
}

/// Offset and length of the pieces in which an extent goes through the private buffer.
fn pieces(extent: Extent) -> impl Iterator<Item = (u64, usize)> {
    (0..extent.len).step_by(BOUNCE_BYTES_MAX).map(move |done| {
        let len = (extent.len - done).min(BOUNCE_BYTES_MAX);
        (extent.offset + done as u64, len)
    })
}

fn bounce(buffer: &mut Vec<u8>, len: usize) -> Result<&mut [u8], Status> {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    buffer.get_mut(..len).ok_or(Status::IoError)
}

fn check_mapped(disk: &Disk, memory: &GuestMemory, segments: &[Segment]) -> Result<(), Status> {
    if is_mapped(memory, segments) {
        return Ok(());
    }
    disk.report(format_args!(
        "refused a request with data outside guest memory"
    ));
    Err(Status::IoError)
}

fn read_now(disk: &Disk, offset: u64, dest: Dest<'_>) -> Result<Progress, Status> {
    disk.read_at(offset, dest, Wait::Never)
        .map_err(|error| refuse(disk, "read", &error))
}

fn refuse_write(disk: &Disk, error: &layers::Error) -> Status {
    refuse(disk, "write", error)
}

fn refuse(disk: &Disk, what: &str, error: &layers::Error) -> Status {
    disk.report(format_args!("{what} failed: {error}"));
    Status::IoError
}
