//! The command ring of one device.
//!
//! dispatch -> **ring** (region) -> the kernel
//!
//! Source: include/uapi/linux/target_core_user.h.

mod region;

pub use region::{DataRange, Region};

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use crate::error::Error;

const OP_MASK: u32 = 7;
const HEADER_BYTES: u32 = 8;
const ENTRY_BYTES_MIN: u32 = 112;
const IOV_OFFSET: usize = 48;

/// How a command ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// GOOD.
    Good,
    /// CHECK CONDITION, with sense data.
    CheckCondition([u8; 96]),
    /// BUSY: ask again.
    Busy,
    /// Nobody knows this operation code.
    UnknownOp,
}

/// One command.
#[derive(Debug, Default, Clone)]
pub struct Command {
    /// The kernel's name of it.
    pub id: u16,
    /// The command block.
    pub cdb: [u8; 16],
    /// How much of it there is.
    pub cdb_len: usize,
    /// Where its data is.
    pub data: Vec<DataRange>,
    /// Where its data in the other direction is.
    pub bidi: Vec<DataRange>,
}

/// What was in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// A command.
    Command,
    /// News of commands that were given up.
    TaskManagement,
    /// Nothing.
    Nothing,
}

#[derive(Debug, Clone, Copy)]
struct Layout {
    ring: usize,
    size: u32,
}

/// Takes commands.
#[derive(Debug)]
pub struct Taker {
    region: Arc<Region>,
    layout: Layout,
    cursor: u32,
    known: Arc<Mutex<Tail>>,
    entry: Vec<u8>,
}

#[derive(Debug)]
struct Tail {
    tail: u32,
    /// Up to here the taker has come.
    taken: u32,
    ids: BTreeSet<u16>,
}

/// Gives answers.
#[derive(Debug)]
pub struct Completer {
    region: Arc<Region>,
    layout: Layout,
    tail: Arc<Mutex<Tail>>,
}

/// Opens the ring in `region`.
///
/// # Errors
/// When it makes no sense.
pub fn open(region: Arc<Region>) -> Result<(Taker, Completer), Error> {
    let broken = || Error::io("open command ring", std::io::Error::other("makes no sense"));
    let version = region.load(0);
    let layout = Layout {
        ring: region.load(4) as usize,
        size: region.load(8),
    };
    let fits = layout
        .ring
        .checked_add(layout.size as usize)
        .is_some_and(|end| end <= region.len());
    if version & 0xffff != 2 || (version >> 16) & 1 == 0 || !fits || layout.size < 1024 {
        return Err(broken());
    }
    let tail = region.load(64);
    let shared = Arc::new(Mutex::new(Tail {
        tail,
        taken: tail,
        ids: BTreeSet::new(),
    }));
    let taker = Taker {
        region: Arc::clone(&region),
        layout,
        cursor: tail,
        known: Arc::clone(&shared),
        entry: Vec::new(),
    };
    Ok((
        taker,
        Completer {
            region,
            layout,
            tail: shared,
        },
    ))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|b| b.try_into().ok())
        .map_or(0, u64::from_le_bytes)
}

impl Taker {
    /// Takes the next command.
    ///
    /// # Errors
    /// When the ring makes no sense.
    pub fn take(&mut self, command: &mut Command) -> Result<Taken, Error> {
        let broken = || Error::io("take command", std::io::Error::other("the ring is broken"));
        loop {
            if self.cursor == self.region.load(12) {
                return Ok(Taken::Nothing);
            }
            let start = self.layout.ring + self.cursor as usize;
            let len_op = self.region.load(start);
            let len = len_op & !OP_MASK;
            if len < HEADER_BYTES || self.cursor + len > self.layout.size {
                return Err(broken());
            }
            let next = (self.cursor + len) % self.layout.size;
            match len_op & OP_MASK {
                1 => {}
                0 => {
                    self.advance(next, None);
                    continue;
                }
                _ => {
                    self.advance(next, None);
                    return Ok(Taken::TaskManagement);
                }
            }
            self.entry.resize(len as usize, 0);
            if len < ENTRY_BYTES_MIN
                || self
                    .region
                    .copy_out(
                        DataRange {
                            offset: start,
                            len: len as usize,
                        },
                        &mut self.entry,
                    )
                    .is_none()
            {
                return Err(broken());
            }
            let entry = &self.entry;
            command.id = (u32_at(entry, 4) & 0xffff) as u16;
            let count = u32_at(entry, 8) as usize;
            let cdb = usize::try_from(u64_at(entry, 24))
                .ok()
                .and_then(|at| at.checked_sub(start))
                .ok_or_else(broken)?;
            command.data.clear();
            for n in 0..count {
                let at = IOV_OFFSET + n * 16;
                let range = DataRange {
                    offset: u64_at(entry, at) as usize,
                    len: u64_at(entry, at + 8) as usize,
                };
                command.data.push(range);
            }
            let bytes = entry.get(cdb..).ok_or_else(broken)?;
            command.cdb_len = bytes.len().min(16);
            command.cdb = [0; 16];
            command
                .cdb
                .iter_mut()
                .zip(bytes)
                .for_each(|(to, from)| *to = *from);
            self.advance(next, Some(command.id));
            return Ok(Taken::Command);
        }
    }

    fn advance(&mut self, next: u32, id: Option<u16>) {
        self.cursor = next;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.taken = next;
        known.ids.extend(id);
    }
}

impl Completer {
    /// Answers a command.
    pub fn complete(&self, id: u16, status: Status) {
        let mut tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        if !tail.ids.remove(&id) {
            return;
        }
        while let Some(len) = self.skip(tail.tail, tail.taken) {
            tail.tail = (tail.tail + len) % self.layout.size;
        }
        let start = self.layout.ring + tail.tail as usize;
        let len = self.region.load(start) & !OP_MASK;
        let mut response = [0_u8; 108];
        let unknown = u8::from(status == Status::UnknownOp);
        response[0..2].copy_from_slice(&id.to_le_bytes());
        response[3] = unknown;
        if let Status::CheckCondition(sense) = status {
            response[4] = 2;
            response[12..108].copy_from_slice(&sense);
        }
        if status == Status::Busy {
            response[4] = 8;
        }
        self.region.copy_in(
            DataRange {
                offset: start + 4,
                len: 108,
            },
            &response,
        );
        tail.tail = (tail.tail + len) % self.layout.size;
        while let Some(len) = self.skip(tail.tail, tail.taken) {
            tail.tail = (tail.tail + len) % self.layout.size;
        }
        self.region.store(64, tail.tail);
    }

    fn skip(&self, at: u32, taken: u32) -> Option<u32> {
        let len_op = self.region.load(self.layout.ring + at as usize);
        (at != taken && len_op & OP_MASK != 1).then_some(len_op & !OP_MASK)
    }
}
