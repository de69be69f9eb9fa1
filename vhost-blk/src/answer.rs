//! Takes one chain, does what it asks, and leaves data and status in guest memory.
//!
//! ring -> descriptor chain -> request -> **answer** -> image
//!
//! Invariants
//! - the status byte is written in one place, after the data.
//! - data that lies in one run of host memory is decoded in place; any other goes through a
//!   private buffer of at most [`BOUNCE_BYTES_MAX`].
//! - a read that is not done now may leave part of its data, never a status: it is repeated as a
//!   whole elsewhere.
//! - no allocation once the buffers have grown, except for a read that is not done now.

use layers::{Dest, Progress, Wait};
use vm_memory::{Address, Bytes, GuestAddress, GuestMemoryBackend};

use crate::descriptor_chain::Chain;
use crate::disk::Disk;
use crate::guest_memory::{GuestMemory, Segment, destination};
use crate::request::{Operation, Request, Status};
use crate::ring::Ring;

/// Largest piece that is decoded aside and copied; longer reads take several.
pub const BOUNCE_BYTES_MAX: usize = 1 << 20;

/// A read that must wait for bytes: everything needed to answer it later.
#[derive(Debug)]
pub struct PendingRead {
    /// Byte offset on the disk.
    pub offset: u64,
    /// Bytes.
    pub len: usize,
    data: Vec<Segment>,
    status: GuestAddress,
}

/// How a chain was dealt with.
#[derive(Debug)]
pub enum Answer {
    /// Everything is in guest memory; bytes written.
    Done(u32),
    /// The bytes are not in memory. Part of the data may be written, the status is not.
    Pending(PendingRead),
}

/// The reused buffers of one worker.
#[derive(Debug, Default)]
pub struct Answerer {
    chain: Chain,
    bounce: Vec<u8>,
}

impl Answerer {
    /// Answers the chain at `head`. Does not block.
    pub fn answer(
        &mut self,
        disk: &Disk,
        ring: &Ring<'_>,
        memory: &GuestMemory,
        head: u16,
    ) -> Answer {
        if let Err(fault) = self.chain.walk(ring, memory, head) {
            disk.report(format_args!("dropped a request: {fault}"));
            return Answer::Done(0);
        }
        let Some(request) = Request::parse(&mut self.chain, memory, disk.bytes()) else {
            disk.report(format_args!("dropped a request: no room for a status"));
            return Answer::Done(0);
        };
        let outcome = match request.operation {
            Operation::Read { offset, len } => match self.read(disk, memory, offset, len) {
                Ok(Progress::Done) => Ok(len),
                Ok(Progress::Pending) => {
                    return Answer::Pending(PendingRead {
                        offset,
                        len,
                        data: self.chain.writable().to_vec(),
                        status: request.status,
                    });
                }
                Err(status) => Err(status),
            },
            Operation::Flush => Ok(0),
            Operation::GetId => self.write_id(disk, memory),
            Operation::Refuse(status) => Err(status),
        };
        Answer::Done(finish(memory, request.status, outcome))
    }

    fn read(
        &mut self,
        disk: &Disk,
        memory: &GuestMemory,
        offset: u64,
        len: usize,
    ) -> Result<Progress, Status> {
        match self.chain.writable() {
            [] => Ok(Progress::Done),
            [segment] => {
                let slice = memory.get_slice(segment.address, len).ok();
                match slice.as_ref().and_then(destination) {
                    Some(dest) => read_now(disk, offset, dest),
                    // It may still be spread over neighbouring memory regions.
                    None => self.read_aside(disk, memory, offset, len),
                }
            }
            _ => self.read_aside(disk, memory, offset, len),
        }
    }

    /// Reads into the private buffer, piece by piece, and copies to the segments.
    fn read_aside(
        &mut self,
        disk: &Disk,
        memory: &GuestMemory,
        offset: u64,
        len: usize,
    ) -> Result<Progress, Status> {
        if !is_mapped(memory, self.chain.writable()) {
            disk.report(format_args!("refused a read to outside guest memory"));
            return Err(Status::IoError);
        }
        let mut scatter = Scatter::new(self.chain.writable());
        let mut done = 0;
        while done < len {
            let piece_len = (len - done).min(BOUNCE_BYTES_MAX);
            if self.bounce.len() < piece_len {
                self.bounce.resize(piece_len, 0);
            }
            let Some(piece) = self.bounce.get_mut(..piece_len) else {
                return Err(Status::IoError);
            };
            match read_now(disk, offset + done as u64, Dest::from(&mut *piece))? {
                Progress::Pending => return Ok(Progress::Pending),
                Progress::Done => scatter.write(memory, piece)?,
            }
            done += piece_len;
        }
        Ok(Progress::Done)
    }

    fn write_id(&self, disk: &Disk, memory: &GuestMemory) -> Result<usize, Status> {
        let serial = disk.serial();
        let room = usize::try_from(self.chain.writable_len()).unwrap_or(usize::MAX);
        let id = serial.get(..room).unwrap_or(serial);
        Scatter::new(self.chain.writable()).write(memory, id)?;
        Ok(id.len())
    }
}

fn read_now(disk: &Disk, offset: u64, dest: Dest<'_>) -> Result<Progress, Status> {
    disk.read_at(offset, dest, Wait::Never)
        .map_err(|error| refuse(disk, &error))
}

fn refuse(disk: &Disk, error: &layers::Error) -> Status {
    disk.report(format_args!("read failed: {error}"));
    Status::from(error.kind())
}

/// Answers a read that had to wait, and returns the bytes written.
pub fn answer_pending(
    disk: &Disk,
    memory: &GuestMemory,
    read: &PendingRead,
    result: &layers::Result<Vec<u8>>,
) -> u32 {
    let outcome = match result {
        Ok(bytes) => Scatter::new(&read.data)
            .write(memory, bytes)
            .map(|()| bytes.len()),
        Err(error) => Err(refuse(disk, error)),
    };
    finish(memory, read.status, outcome)
}

/// Writes the status byte; returns the bytes written to the chain.
fn finish(memory: &GuestMemory, address: GuestAddress, outcome: Result<usize, Status>) -> u32 {
    let (status, data_written) = match outcome {
        Ok(data_written) => (Status::Ok, data_written),
        Err(status) => (status, 0),
    };
    // A status address outside guest memory is the driver's own loss.
    match memory.write_obj(status.to_byte(), address) {
        Ok(()) => u32::try_from(data_written + 1).unwrap_or(u32::MAX),
        Err(_) => 0,
    }
}

fn is_mapped(memory: &GuestMemory, segments: &[Segment]) -> bool {
    segments.iter().all(|segment| {
        usize::try_from(segment.len)
            .is_ok_and(|len| GuestMemoryBackend::check_range(memory, segment.address, len))
    })
}

/// Copies bytes to a list of segments, front to back.
#[derive(Debug)]
struct Scatter<'s> {
    segments: &'s [Segment],
    /// Bytes of the first segment that are filled.
    filled: usize,
}

impl<'s> Scatter<'s> {
    fn new(segments: &'s [Segment]) -> Self {
        Self {
            segments,
            filled: 0,
        }
    }

    /// Fails when the segments are shorter than `bytes` or lie outside guest memory.
    fn write(&mut self, memory: &GuestMemory, mut bytes: &[u8]) -> Result<(), Status> {
        while !bytes.is_empty() {
            let Some((segment, rest)) = self.segments.split_first() else {
                return Err(Status::IoError);
            };
            let len = usize::try_from(segment.len).unwrap_or(usize::MAX);
            let room = len.saturating_sub(self.filled);
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            let address = segment.address.unchecked_add(self.filled as u64);
            memory
                .write_slice(now, address)
                .map_err(|_| Status::IoError)?;
            self.filled += now.len();
            if self.filled == len {
                self.segments = rest;
                self.filled = 0;
            }
            bytes = later;
        }
        Ok(())
    }
}
