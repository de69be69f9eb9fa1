//! The command ring of one device: commands in, answers out, in memory shared with the kernel.
//!
//! dispatch -> **ring** (taker, completer) -> entry, region
//!
//! The kernel writes entries at `cmd_head`; answers go over the entries from `cmd_tail` on, in whatever
//! order the kernel takes them.
//!
//! Invariants
//! - an entry is copied before it is looked at, and its length is kept here: what the kernel's memory
//!   says later does not count.
//! - every command is answered at most once, in an entry that a command was taken from.
//! - nothing is allocated once the tables are as large as the ring is deep.
//!
//! Source: include/uapi/linux/target_core_user.h, drivers/target/target_core_user.c.

mod completer;
mod entry;
mod region;
mod tail;
mod taker;

pub use completer::{Completer, Status};
pub use entry::{CDB_BYTES, Command, SENSE_BYTES};
pub use region::{DataRange, Region};
pub use taker::{Taken, Taker};

use std::ops::Range;
use std::sync::Arc;

use crate::error::Error;
use tail::Tail;

/// `struct tcmu_mailbox`.
const VERSION_AND_FLAGS: usize = 0;
const CMDR_OFF: usize = 4;
const CMDR_SIZE: usize = 8;
const CMD_HEAD: usize = 12;
const CMD_TAIL: usize = 64;
const MAILBOX_BYTES: usize = 128;

const VERSION: u32 = 2;
/// TCMU_MAILBOX_FLAG_CAP_OOOC: answers may come in any order.
const ANY_ORDER: u32 = 1 << 16;

/// Entries begin at multiples of this.
const ALIGN: u32 = 8;

/// Where things are in a region.
#[derive(Debug, Clone)]
struct Layout {
    /// Of the command ring.
    start: usize,
    /// Bytes of the command ring.
    len: u32,
    /// The data area.
    data: Range<usize>,
}

impl Layout {
    fn read(region: &Region) -> Result<Self, Error> {
        let version = region.load(VERSION_AND_FLAGS) & 0xffff;
        if version != VERSION {
            let detail = format!("the mailbox has version {version}, known is {VERSION}");
            return Err(broken("open command ring", detail));
        }
        let (start, len) = (region.load(CMDR_OFF), region.load(CMDR_SIZE));
        let makes_no_sense = || {
            let bytes = region.len();
            let detail =
                format!("a ring of {len} bytes at {start} makes no sense in a mapping of {bytes}");
            broken("open command ring", detail)
        };
        let begin = usize::try_from(start).map_err(|_| makes_no_sense())?;
        let size = usize::try_from(len).map_err(|_| makes_no_sense())?;
        let end = begin.checked_add(size).ok_or_else(makes_no_sense)?;
        let is_aligned = start.is_multiple_of(ALIGN) && len.is_multiple_of(ALIGN);
        if !is_aligned || begin < MAILBOX_BYTES || len == 0 || end > region.len() {
            return Err(makes_no_sense());
        }
        Ok(Self {
            start: begin,
            len,
            data: end..region.len(),
        })
    }

    /// The place of the ring's byte `position` in the region.
    fn place(&self, position: u32) -> usize {
        self.start + usize::try_from(position).unwrap_or(0)
    }

    /// Bytes from position `from` on to position `to`, over the ring's end if need be.
    fn distance(&self, from: u32, to: u32) -> u32 {
        to.checked_sub(from)
            .unwrap_or_else(|| (self.len - from).saturating_add(to))
    }

    /// `position` and `len` more.
    fn after(&self, position: u32, len: u32) -> u32 {
        // Both are at most the ring's length, whose double a position may not have.
        let next = u64::from(position) + u64::from(len);
        u32::try_from(next % u64::from(self.len)).unwrap_or(0)
    }
}

/// Opens the ring in `region`. Commands that were in it before are taken anew.
///
/// # Errors
/// `Ring` when it makes no sense.
pub fn open(region: Arc<Region>) -> Result<(Taker, Completer), Error> {
    let layout = Layout::read(&region)?;
    let position = region.load(CMD_TAIL);
    if position >= layout.len || !position.is_multiple_of(ALIGN) {
        let detail = format!("its tail is at {position}, outside of it");
        return Err(broken("open command ring", detail));
    }
    let any_order = region.load(VERSION_AND_FLAGS) & ANY_ORDER != 0;
    let tail = Arc::new(Tail::new(position, any_order));
    let taker = Taker::new(
        Arc::clone(&region),
        layout.clone(),
        position,
        Arc::clone(&tail),
    );
    Ok((taker, Completer::new(region, layout, tail)))
}

fn broken(op: &'static str, detail: String) -> Error {
    Error::Ring { op, detail }
}
