//! Takes commands from the ring.
//!
//! dispatch -> **taker** -> entry, tail, region

use std::sync::Arc;

use super::entry::{self, Command, HEADER_BYTES, Header, Kind};
use super::region::{DataRange, Region};
use super::tail::Tail;
use super::{ALIGN, CMD_HEAD, CMD_TAIL, Layout, broken};
use crate::error::Error;

/// What was in the ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// A command, to be answered.
    Command,
    /// The same, but it names memory that is not its own. Only its name may be used.
    Malformed,
    /// News of commands that somebody wants ended.
    TaskManagement,
    /// Nothing more.
    Nothing,
}

/// The one who takes. There is one for each ring.
#[derive(Debug)]
pub struct Taker {
    region: Arc<Region>,
    layout: Layout,
    cursor: u32,
    tail: Arc<Tail>,
    entry: Vec<u8>,
}

impl Taker {
    pub(super) fn new(region: Arc<Region>, layout: Layout, cursor: u32, tail: Arc<Tail>) -> Self {
        Self {
            region,
            layout,
            cursor,
            tail,
            entry: Vec::new(),
        }
    }

    /// Takes the next entry that says something, into `command` when it is one. Does not block.
    ///
    /// # Errors
    /// `Ring` when the ring makes no sense; it must not be used any more.
    pub fn take(&mut self, command: &mut Command) -> Result<Taken, Error> {
        loop {
            let Some(header) = self.header()? else {
                return Ok(Taken::Nothing);
            };
            match header.kind {
                Kind::Pad => self.pass(header.len),
                Kind::TaskManagement => {
                    self.pass(header.len);
                    return Ok(Taken::TaskManagement);
                }
                Kind::Command => return self.take_command(header.len, command),
            }
        }
    }

    /// Of the next entry, if there is one: checked to be inside of what the kernel has written.
    fn header(&self) -> Result<Option<Header>, Error> {
        let head = self.region.load(CMD_HEAD);
        if head == self.cursor {
            return Ok(None);
        }
        let ring = self.layout.len;
        let written = match head.checked_sub(self.cursor) {
            Some(written) => written,
            // Up to the ring's end; the rest begins at its start.
            None => ring - self.cursor,
        };
        let len_op = self.region.load(self.layout.place(self.cursor));
        let header = Header::parse(len_op).filter(|header| header.len <= written);
        match header {
            Some(_) if self.is_ahead(head) => Ok(header),
            _ => {
                let detail = format!(
                    "an entry {len_op:#x} at {} of {ring}, with the head at {head}, makes no sense",
                    self.cursor
                );
                Err(broken("take command", detail))
            }
        }
    }

    /// Is `head` a place that the kernel may have come to? It is not, or the tail is not where the last
    /// answer left it, after somebody has reset the ring: what it has then are commands of long ago.
    fn is_ahead(&self, head: u32) -> bool {
        // Locked, because an answer moves the tail here and in the mailbox.
        let state = self.tail.lock();
        let tail = state.position;
        let is_place = head < self.layout.len && head.is_multiple_of(ALIGN);
        let taken = self.layout.distance(tail, self.cursor);
        is_place && self.layout.distance(tail, head) > taken && self.region.load(CMD_TAIL) == tail
    }

    fn pass(&mut self, len: u32) {
        self.tail.lock().pass(len);
        self.cursor = self.layout.after(self.cursor, len);
    }

    fn take_command(&mut self, len: u32, command: &mut Command) -> Result<Taken, Error> {
        let place = self.layout.place(self.cursor);
        let bytes = usize::try_from(len).unwrap_or(0);
        self.entry.resize(bytes, 0);
        let range = DataRange {
            offset: place,
            len: bytes,
        };
        let copied = self.region.copy_out(range, &mut self.entry);
        let id = entry::id(&self.entry);
        if copied.is_none() || !self.tail.lock().take(id, len) {
            let detail = format!("command {id} came again before it was answered");
            return Err(broken("take command", detail));
        }
        self.cursor = self.layout.after(self.cursor, len);
        match command.parse(&self.entry, place, &self.layout.data) {
            Some(()) => Ok(Taken::Command),
            None => Ok(Taken::Malformed),
        }
    }
}

const _: () = assert!(HEADER_BYTES == ALIGN);
