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
use layers::{Progress, Wait};
use rustix::event::{PollFd, PollFlags};

use crate::data::Data;
use crate::device::Shared;
use crate::disk::Disk;
use crate::execute::{self, Job};
use crate::gather::Gather;
use crate::ring::{Command, Status, Taken, Taker};
use crate::scsi::{self, Action, ByteRange, Sense};
use crate::sense;

/// Commands that are answered before the kernel is told of it.
const TELL_EVERY: usize = 16;

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
    gather: Gather,
    lane: Option<Lane>,
    /// Commands that were answered and the kernel was not told of.
    untold: usize,
    /// Writes wait for the write worker to be started.
    has_queued: bool,
}

enum Wake {
    Commands,
    End(End),
}

/// Why a device is not served any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It was stopped.
    Stopped,
    /// The kernel has removed it.
    Gone,
    /// Its ring makes no sense.
    Broken,
}

impl RingThread {
    pub(crate) fn new(shared: Arc<Shared>, taker: Taker, stop: Arc<OwnedFd>) -> Self {
        Self {
            taker,
            stop,
            command: Command::default(),
            answerer: Answerer {
                shared,
                gather: Gather::default(),
                lane: None,
                untold: 0,
                has_queued: false,
            },
        }
    }

    /// Serves the device until there is a reason not to.
    pub(crate) fn run(mut self) -> End {
        loop {
            if let Err(error) = self.drain() {
                let device = &self.answerer.shared.uio.name.device;
                log::error!("{device}: {error}; its ring is reset and it is taken up again");
                return End::Broken;
            }
            if let Wake::End(end) = self.sleep() {
                return end;
            }
        }
    }

    /// Takes and begins all commands there are.
    fn drain(&mut self) -> Result<(), crate::error::Error> {
        let mut taken = 0_usize;
        let drained = loop {
            // A ring that is never empty must not keep what is staged.
            taken += 1;
            if taken.is_multiple_of(TELL_EVERY) {
                self.answerer.commit();
            }
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
            return Wake::End(End::Gone);
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
                    return Wake::End(End::Gone);
                }
            }
        }
        let [commands, stop] = fds.map(|fd| fd.revents());
        if !stop.is_empty() {
            return Wake::End(End::Stopped);
        }
        match commands.contains(PollFlags::IN) && region.acknowledge().is_ok() {
            true => Wake::Commands,
            false => Wake::End(End::Gone),
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
            Action::Unsupported => self.answer(command.id, Sense::invalid_opcode().into()),
            Action::ModeSelect { ten, list_len } => {
                let status = execute::mode_select(&self.shared, disk, command, ten, list_len);
                self.answer(command.id, status);
            }
            Action::Read(range) => self.read(disk, command, range),
            Action::Write { range, fua: false } => match disk.pace().is_quick() {
                true => self.write(disk, command, range),
                false => {
                    self.shared.queue_write(command, range);
                    self.has_queued = true;
                }
            },
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
        let id = command.id;
        match self.gather.stage(disk, id, data, range, Wait::Never) {
            Ok(Progress::Done) if self.gather.is_full() => self.commit(),
            Ok(Progress::Done) => {}
            Ok(Progress::Pending) => {
                let fua = false;
                self.defer(command, Action::Write { range, fua });
            }
            Err(status) => {
                self.lane(disk).failed(Operation::Write);
                self.answer(id, status);
            }
        }
    }

    /// Has what was gathered done: commits what is staged, and answers it; starts what is queued.
    fn commit(&mut self) {
        if std::mem::take(&mut self.has_queued) {
            self.shared.do_queued_writes();
        }
        let shared = Arc::clone(&self.shared);
        let Some(disk) = shared.disk() else { return };
        let mut gather = std::mem::take(&mut self.gather);
        gather.commit(disk, |id, bytes, status| {
            match status {
                Status::Good => self.lane(disk).answered(Operation::Write, bytes),
                _ => self.lane(disk).failed(Operation::Write),
            }
            self.answer(id, status);
        });
        self.gather = gather;
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
