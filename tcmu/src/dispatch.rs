//! The thread of one device that takes its commands: does at once what does not wait, hands the rest on.
//!
//! ring -> **dispatch** -> execute; workers
//!
//! Writes are gathered: those that came together are committed together, and answered then.
//!
//! Invariants
//! - this thread never waits for the network, nor for a disk longer than [`layers::WritePace`] lets it.
//! - nothing is staged, and the kernel was told of every answer, when it goes to sleep.
//!
//! Source: include/uapi/linux/target_core_user.h.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use layers::metrics::{Lane, Operation};
use layers::{Progress, Wait, WriteBatch};
use rustix::event::{PollFd, PollFlags};

use crate::data::Data;
use crate::device::Shared;
use crate::disk::Disk;
use crate::execute::{self, Job};
use crate::ring::{Command, Status, Taken, Taker};
use crate::scsi::{self, Action, ByteRange, Sense};
use crate::sense;

/// Commands that are answered before the kernel is told of it.
const TELL_EVERY: usize = 16;

/// Bytes of writes that are gathered before they are committed.
const STAGED_BYTES_MAX: u64 = 1 << 20;

/// See the module's description.
#[derive(Debug)]
pub(crate) struct RingThread {
    taker: Taker,
    stop: Arc<OwnedFd>,
    command: Command,
    answerer: Answerer,
}

/// Answers one command after the other.
#[derive(Debug)]
struct Answerer {
    shared: Arc<Shared>,
    batch: WriteBatch,
    /// Something may be staged.
    is_dirty: bool,
    /// Writes whose data is staged: their commands, and bytes.
    staged: Vec<(u16, u64)>,
    staged_bytes: u64,
    buffer: Vec<u8>,
    lane: Option<Lane>,
    /// Commands that were answered and the kernel was not told of.
    untold: usize,
}

enum Wake {
    Commands,
    Stop,
    /// The kernel's device is no more.
    Gone,
}

impl RingThread {
    pub(crate) fn new(shared: Arc<Shared>, taker: Taker, stop: Arc<OwnedFd>) -> Self {
        Self {
            taker,
            stop,
            command: Command::default(),
            answerer: Answerer {
                shared,
                batch: WriteBatch::default(),
                is_dirty: false,
                staged: Vec::new(),
                staged_bytes: 0,
                buffer: Vec::new(),
                lane: None,
                untold: 0,
            },
        }
    }

    /// Serves the device until it is stopped, or gone.
    pub(crate) fn run(mut self) {
        loop {
            if let Err(error) = self.drain() {
                let device = &self.answerer.shared.uio.name.device;
                log::error!(
                    "{device}: {error}; it answers no more until the daemon is restarted, which \
                     resets its ring"
                );
                return;
            }
            match self.sleep() {
                Wake::Commands => {}
                Wake::Stop => return,
                Wake::Gone => {
                    let device = &self.answerer.shared.uio.name.device;
                    log::info!("{device}: the kernel has removed it");
                    return;
                }
            }
        }
    }

    /// Takes and begins all commands there are.
    fn drain(&mut self) -> Result<(), crate::error::Error> {
        let drained = loop {
            match self.taker.take(&mut self.command) {
                Ok(Taken::Command) => self.answerer.begin(&self.command),
                Ok(Taken::Malformed) => self.answerer.refuse(self.command.id),
                // The commands it names run to their end, which is what it waits for.
                Ok(Taken::TaskManagement) => {}
                Ok(Taken::Nothing) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        self.answerer.commit();
        self.answerer.tell();
        drained
    }

    /// Waits for commands. Whatever came before the wait ends it at once.
    fn sleep(&self) -> Wake {
        let region = &self.answerer.shared.region;
        let Some(device) = region.device() else {
            return Wake::Gone;
        };
        let mut fds = [
            PollFd::from_borrowed_fd(device, PollFlags::IN),
            PollFd::new(&*self.stop, PollFlags::IN),
        ];
        loop {
            match rustix::event::poll(&mut fds, None) {
                Ok(_) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => {
                    log::error!("wait for commands: {error}");
                    return Wake::Gone;
                }
            }
        }
        let [commands, stop] = fds.map(|fd| fd.revents());
        if !stop.is_empty() {
            return Wake::Stop;
        }
        match commands.contains(PollFlags::IN) && region.acknowledge().is_ok() {
            true => Wake::Commands,
            false => Wake::Gone,
        }
    }
}

impl Answerer {
    /// Answers the command, or hands it to somebody who will.
    fn begin(&mut self, command: &Command) {
        let shared = Arc::clone(&self.shared);
        let Some(disk) = shared.disk() else {
            self.answer(command.id, sense::not_ready());
            return;
        };
        let cdb = command.cdb.get(..command.cdb_len).unwrap_or(&command.cdb);
        match scsi::decode(cdb, disk.facts()) {
            Ok(action) => self.act(disk, command, action),
            Err(sense) => {
                self.lane(disk).failed(Operation::Other);
                self.answer(command.id, sense.into());
            }
        }
    }

    /// The command names memory that is not its own.
    fn refuse(&mut self, id: u16) {
        log::error!(
            "{}: refused a malformed command",
            self.shared.uio.name.device
        );
        self.answer(id, sense::malformed());
    }

    fn act(&mut self, disk: &Disk, command: &Command, action: Action) {
        match action {
            Action::Reply(reply) => {
                Data::new(&self.shared.region, &command.data).copy_in(&reply.bytes);
                self.answer(command.id, Status::Good);
            }
            Action::Done => self.answer(command.id, Status::Good),
            // UNKNOWN_OP would have the kernel say the same, and warn in its log.
            Action::Unsupported => self.answer(command.id, Sense::invalid_opcode().into()),
            Action::ModeSelect { ten, list_len } => {
                let status = execute::mode_select(&self.shared, disk, command, ten, list_len);
                self.answer(command.id, status);
            }
            Action::Read(range) => self.read(disk, command, range),
            Action::Write { range, fua: false } if disk.pace().is_quick() => {
                self.write(disk, command, range);
            }
            action => self.defer(command, action),
        }
    }

    fn read(&mut self, disk: &Disk, command: &Command, range: ByteRange) {
        self.lane(disk).began(Operation::Read);
        let data = Data::new(&self.shared.region, &command.data);
        match data.fill_from(disk.image(), range, Wait::Never) {
            Ok(Progress::Done) => {
                self.lane(disk).answered(Operation::Read, range.len);
                self.answer(command.id, Status::Good);
            }
            // What failed is tried again, by somebody who may wait.
            Ok(Progress::Pending) | Err(_) => self.defer(command, Action::Read(range)),
        }
    }

    fn write(&mut self, disk: &Disk, command: &Command, range: ByteRange) {
        let data = Data::new(&self.shared.region, &command.data);
        let batch = &mut self.batch;
        self.is_dirty = true;
        match execute::stage(disk, batch, data, range, &mut self.buffer, Wait::Never) {
            Ok(Progress::Done) => {
                self.staged.push((command.id, range.len));
                self.staged_bytes += range.len;
                if self.staged_bytes >= STAGED_BYTES_MAX || self.staged.len() >= TELL_EVERY {
                    self.commit();
                }
            }
            Ok(Progress::Pending) => {
                let fua = false;
                self.defer(command, Action::Write { range, fua });
            }
            Err(status) => {
                self.lane(disk).failed(Operation::Write);
                self.answer(command.id, status);
            }
        }
    }

    /// Commits what is staged, and answers it. Also what is staged of a write that failed, or that a
    /// worker begins anew: while any of it is, the layers cannot change.
    fn commit(&mut self) {
        if !std::mem::take(&mut self.is_dirty) {
            return;
        }
        let shared = Arc::clone(&self.shared);
        let Some(disk) = shared.disk() else { return };
        let committed = disk.pace().time(|| disk.image().commit(&mut self.batch));
        let failed = committed.err().map(|error| sense::of_write(disk, &error));
        self.staged_bytes = 0;
        let mut staged = std::mem::take(&mut self.staged);
        for (id, bytes) in staged.drain(..) {
            match failed {
                None => self.lane(disk).answered(Operation::Write, bytes),
                Some(_) => self.lane(disk).failed(Operation::Write),
            }
            self.answer(id, failed.unwrap_or(Status::Good));
        }
        self.staged = staged;
    }

    /// Has a worker do it.
    fn defer(&self, command: &Command, action: Action) {
        Job::new(&self.shared, command, action).submit();
    }

    fn answer(&mut self, id: u16, status: Status) {
        self.shared.completer.complete(id, status);
        self.untold += 1;
        if self.untold >= TELL_EVERY {
            self.tell();
        }
    }

    /// Tells the kernel that there are answers.
    fn tell(&mut self) {
        if std::mem::take(&mut self.untold) > 0 {
            self.shared.tell_kernel();
        }
    }

    fn lane(&mut self, disk: &Disk) -> &Lane {
        self.lane.get_or_insert_with(|| disk.metrics().lane())
    }
}
