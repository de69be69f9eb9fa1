//! Commands that may wait, done by a worker; and the steps of a command that the ring thread shares.
//!
//! dispatch, workers -> **execute** -> image
//!
//! Invariant: every job answers its command, exactly once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use layers::metrics::Operation;
use layers::{ErrorKind, Wait};

use crate::data::Data;
use crate::device::Shared;
use crate::disk::Disk;
use crate::gather::Gather;
use crate::ring::{Command, DataRange, Status};
use crate::scsi::limits::BLOCK_LEN;
use crate::scsi::{self, Action, ByteRange, Sense};
use crate::sense;

/// The longest piece that is verified, or written over and over, at once.
const COPY_BYTES: usize = 256 << 10;

/// The longest run of zeros that holds the disk's gate open.
const ZERO_BYTES: u64 = 64 << 20;

/// A read that failed is tried again after this time, which doubles ...
const RETRY_FIRST: Duration = Duration::from_millis(20);
/// ... up to this.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// Every so many failures of a read are told.
const RETRIES_TOLD: u32 = 10;

/// The longest parameter list that is looked at.
const LIST_BYTES_MAX: usize = 8 << 10;

/// One command that a worker does.
#[derive(Debug)]
pub(crate) struct Job {
    shared: Arc<Shared>,
    id: u16,
    data: Vec<DataRange>,
    action: Action,
    began: Instant,
}

impl Job {
    pub(crate) fn new(shared: &Arc<Shared>, command: &Command, action: Action) -> Self {
        Self::of_data(shared, command.id, command.data.clone(), action)
    }

    pub(crate) fn of_data(
        shared: &Arc<Shared>,
        id: u16,
        data: Vec<DataRange>,
        action: Action,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            id,
            data,
            action,
            began: Instant::now(),
        }
    }

    /// Has it done by a thread of the device. Does not block.
    pub(crate) fn submit(self) {
        let shared = Arc::clone(&self.shared);
        let workers = match self.action {
            Action::Read(_) | Action::Verify(_) => &shared.readers,
            _ => &shared.writers,
        };
        workers.submit(Box::new(move || self.run()));
    }

    fn run(self) {
        let status = match self.shared.disk() {
            Some(disk) => self.execute(disk),
            None => sense::not_ready(),
        };
        self.shared.completer.complete(self.id, status);
        self.shared.tell_kernel();
    }

    fn execute(&self, disk: &Disk) -> Status {
        let lane = disk.metrics().lane();
        let operation = operation(&self.action);
        lane.deferred();
        let done = match &self.action {
            Action::Read(range) => self.read(disk, *range),
            Action::Verify(range) => self.verify(disk, *range),
            Action::Write { range, fua } => self.write(disk, *range, *fua),
            Action::WriteSame { range, no_data_out } => self.write_same(disk, *range, *no_data_out),
            Action::Unmap { list_len } => self.unmap(disk, *list_len),
            Action::Flush => flush(disk),
            Action::Reply(_) | Action::Done | Action::ModeSelect { .. } | Action::Unsupported => {
                Err(Sense::invalid_opcode().into())
            }
        };
        lane.settled();
        lane.waited(self.began.elapsed());
        match done {
            Ok(()) => {
                lane.answered(operation, bytes(&self.action));
                Status::Good
            }
            Err(status) => {
                lane.failed(operation);
                status
            }
        }
    }

    fn data(&self) -> Data<'_> {
        Data::new(&self.shared.region, &self.data)
    }

    fn read(&self, disk: &Disk, range: ByteRange) -> Result<(), Status> {
        let read = || {
            self.data()
                .fill_from(disk.image(), range, Wait::UntilDone)?
                .expect_done("read image")
        };
        self.insist(disk, read)
    }

    /// Reads, as often as it takes: an error reaches the file system, which may not get over it. What
    /// another attempt cannot change, or was waited for already, is not tried again.
    fn insist(
        &self,
        disk: &Disk,
        mut read: impl FnMut() -> layers::Result<()>,
    ) -> Result<(), Status> {
        let mut wait = RETRY_FIRST;
        let mut failures = 0;
        loop {
            let Err(error) = read() else { return Ok(()) };
            let left = disk.read_retry().saturating_sub(self.began.elapsed());
            if error.kind() != ErrorKind::Io || left.is_zero() {
                return Err(sense::of_read(disk, &error));
            }
            if !self.shared.pause(wait.min(left)) {
                // The next daemon is asked again.
                return Err(Status::Busy);
            }
            failures += 1;
            if failures % RETRIES_TOLD == 1 {
                disk.report(format_args!("{error}; tried again, for {left:.0?} at most"));
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    fn verify(&self, disk: &Disk, range: ByteRange) -> Result<(), Status> {
        let mut buf = vec![0; COPY_BYTES];
        let end = range.offset + range.len;
        let mut offset = range.offset;
        while offset < end {
            let len = piece(end - offset);
            let buf = buf.get_mut(..len).unwrap_or_default();
            self.insist(disk, || disk.image().read_exact_at(offset, buf))?;
            offset += len as u64;
        }
        Ok(())
    }

    fn write(&self, disk: &Disk, range: ByteRange, fua: bool) -> Result<(), Status> {
        let mut gather = Gather::default();
        let staged = gather.stage(disk, self.id, self.data(), range, Wait::UntilDone)?;
        let staged = staged.expect_done("write image");
        let mut written = staged.map_err(|error| sense::of_write(disk, &error));
        gather.commit(disk, |_, _, status| {
            if status != Status::Good {
                written = Err(status);
            }
        });
        written?;
        match fua {
            true => flush(disk),
            false => Ok(()),
        }
    }

    /// Writes one block over and over, or zeros.
    fn write_same(&self, disk: &Disk, range: ByteRange, no_data_out: bool) -> Result<(), Status> {
        let mut block = [0; BLOCK_LEN];
        if !no_data_out && self.data().copy_out(&mut block) < block.len() {
            return Err(sense::short_data(disk));
        }
        if block == [0; BLOCK_LEN] {
            return zero(disk, range);
        }
        let pattern = block.repeat(piece(range.len) / block.len());
        let end = range.offset + range.len;
        let mut offset = range.offset;
        while offset < end {
            let pattern = pattern.get(..piece(end - offset)).unwrap_or_default();
            let written = disk.image().write_at(offset, pattern);
            written.map_err(|error| sense::of_write(disk, &error))?;
            offset += pattern.len() as u64;
        }
        Ok(())
    }

    fn unmap(&self, disk: &Disk, list_len: usize) -> Result<(), Status> {
        let list = parameter_list(self.data(), disk, list_len)?;
        for range in scsi::unmap_ranges(&list, disk.facts())? {
            zero(disk, range)?;
        }
        Ok(())
    }
}

fn flush(disk: &Disk) -> Result<(), Status> {
    let flushed = disk.image().flush();
    flushed.map_err(|error| sense::of_write(disk, &error))
}

/// Zeros, which take no space; other writers have their turn in between.
fn zero(disk: &Disk, range: ByteRange) -> Result<(), Status> {
    let end = range.offset + range.len;
    let mut offset = range.offset;
    while offset < end {
        let len = (end - offset).min(ZERO_BYTES);
        let zeroed = disk.image().write_zeroes_at(offset, len);
        zeroed.map_err(|error| sense::of_write(disk, &error))?;
        offset += len;
    }
    Ok(())
}

/// MODE SELECT, which changes nothing.
pub(crate) fn mode_select(
    shared: &Shared,
    disk: &Disk,
    command: &Command,
    ten: bool,
    list_len: usize,
) -> Status {
    let data = Data::new(&shared.region, &command.data);
    let list = parameter_list(data, disk, list_len);
    let selected = list.and_then(|list| Ok(scsi::mode_select(&list, ten, disk.facts())?));
    selected.err().unwrap_or(Status::Good)
}

fn parameter_list(mut data: Data<'_>, disk: &Disk, len: usize) -> Result<Vec<u8>, Status> {
    let mut list = vec![0; len.min(LIST_BYTES_MAX)];
    match data.copy_out(&mut list) == len {
        true => Ok(list),
        false => Err(sense::short_data(disk)),
    }
}

fn piece(left: u64) -> usize {
    usize::try_from(left).map_or(COPY_BYTES, |left| left.min(COPY_BYTES))
}

fn operation(action: &Action) -> Operation {
    match action {
        Action::Read(_) => Operation::Read,
        Action::Write { .. } => Operation::Write,
        Action::WriteSame { .. } | Action::Unmap { .. } => Operation::Zero,
        Action::Flush => Operation::Flush,
        _ => Operation::Other,
    }
}

fn bytes(action: &Action) -> u64 {
    match action {
        Action::Read(range) | Action::Write { range, .. } => range.len,
        _ => 0,
    }
}
