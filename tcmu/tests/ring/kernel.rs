//! The kernel's side of the ring: writes entries, reads answers.
//!
//! Source: drivers/target/target_core_user.c (queue_cmd_ring, tcmu_handle_completions).

use std::collections::BTreeMap;
use std::sync::Arc;

use tcmu::ring::{Command, Completer, DataRange, Region, SENSE_BYTES, Status, Taker};

pub(crate) const RING_START: usize = 128;
pub(crate) const DATA_BYTES: usize = 64 << 10;

pub(crate) const CMDR_OFF: usize = 4;
pub(crate) const CMDR_SIZE: usize = 8;
pub(crate) const CMD_HEAD: usize = 12;
pub(crate) const CMD_TAIL: usize = 64;

pub(crate) const ANY_ORDER: u16 = 1;

/// `sizeof(struct tcmu_cmd_entry)`
pub(crate) const ENTRY_BYTES: usize = 112;
const IOV: usize = 48;

/// What an initiator wants done.
#[derive(Debug, Clone, Default)]
pub(crate) struct Wish {
    pub(crate) cdb: Vec<u8>,
    pub(crate) data: Vec<DataRange>,
    pub(crate) bidi: Vec<DataRange>,
}

/// What it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) id: u16,
    pub(crate) flags: u8,
    pub(crate) status: u8,
    pub(crate) sense: [u8; SENSE_BYTES],
}

#[derive(Debug)]
pub(crate) struct Kernel {
    pub(crate) region: Arc<Region>,
    ring: u32,
    head: u32,
    cleaned: u32,
    /// Commands without an answer.
    pub(crate) waiting: BTreeMap<u16, Wish>,
    pub(crate) is_broken: bool,
}

impl Kernel {
    pub(crate) fn new(ring: usize, flags: u16) -> Self {
        let region = Arc::new(Region::of_memory((RING_START + ring + DATA_BYTES) / 8));
        region.store(0, 2 | u32::from(flags) << 16);
        region.store(CMDR_OFF, number(RING_START));
        region.store(CMDR_SIZE, number(ring));
        Self {
            region,
            ring: number(ring),
            head: 0,
            cleaned: 0,
            waiting: BTreeMap::new(),
            is_broken: false,
        }
    }

    pub(crate) fn open(&self) -> (Taker, Completer) {
        tcmu::ring::open(Arc::clone(&self.region)).unwrap()
    }

    /// Begins with all positions here, as after many commands.
    pub(crate) fn start_at(mut self, position: u32) -> Self {
        (self.head, self.cleaned) = (position, position);
        self.region.store(CMD_HEAD, position);
        self.region.store(CMD_TAIL, position);
        self
    }

    pub(crate) fn data_start(&self) -> usize {
        RING_START + self.ring as usize
    }

    pub(crate) fn poke(&self, offset: usize, bytes: &[u8]) {
        let len = bytes.len();
        let range = DataRange { offset, len };
        self.region.copy_in(range, bytes).unwrap();
    }

    fn peek(&self, offset: usize, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let range = DataRange { offset, len };
        self.region.copy_out(range, &mut bytes).unwrap();
        bytes
    }

    /// Where the next entry goes, if it is not too long for the rest of the ring.
    pub(crate) fn place(&self) -> usize {
        RING_START + self.head as usize
    }

    /// Puts a command into the ring under the lowest free name; `None` when there is no room.
    pub(crate) fn put(&mut self, wish: Wish) -> Option<u16> {
        let id = (0..).find(|id| !self.waiting.contains_key(id)).unwrap();
        self.put_as(id, &wish).then(|| {
            self.waiting.insert(id, wish);
            id
        })
    }

    /// Puts a command into the ring under that name.
    pub(crate) fn put_as(&mut self, id: u16, wish: &Wish) -> bool {
        let vectors = wish.data.len() + wish.bidi.len();
        let base = (IOV + 16 * vectors).max(ENTRY_BYTES);
        let len = base + wish.cdb.len().next_multiple_of(8);
        let Some(place) = self.reserve(len) else {
            return false;
        };
        let mut entry = vec![0; len];
        entry[..4].copy_from_slice(&(number(len) | 1).to_le_bytes());
        entry[4..6].copy_from_slice(&id.to_le_bytes());
        entry[8..12].copy_from_slice(&number(wish.data.len()).to_le_bytes());
        entry[12..16].copy_from_slice(&number(wish.bidi.len()).to_le_bytes());
        entry[24..32].copy_from_slice(&((place + base) as u64).to_le_bytes());
        for (index, range) in wish.data.iter().chain(&wish.bidi).enumerate() {
            let at = IOV + 16 * index;
            entry[at..at + 8].copy_from_slice(&(range.offset as u64).to_le_bytes());
            entry[at + 8..at + 16].copy_from_slice(&(range.len as u64).to_le_bytes());
        }
        entry[base..base + wish.cdb.len()].copy_from_slice(&wish.cdb);
        self.poke(place, &entry);
        self.advance(len);
        true
    }

    /// Says that commands were given up; false when there is no room.
    pub(crate) fn put_task_management(&mut self, ids: &[u16]) -> bool {
        let len = (32 + 2 * ids.len()).next_multiple_of(8);
        let Some(place) = self.reserve(len) else {
            return false;
        };
        let mut entry = vec![0; len];
        entry[..4].copy_from_slice(&(number(len) | 2).to_le_bytes());
        entry[12..16].copy_from_slice(&number(ids.len()).to_le_bytes());
        for (index, id) in ids.iter().enumerate() {
            entry[32 + 2 * index..34 + 2 * index].copy_from_slice(&id.to_le_bytes());
        }
        self.poke(place, &entry);
        self.advance(len);
        true
    }

    /// Room for an entry, behind padding if the ring's end is too near.
    fn reserve(&mut self, len: usize) -> Option<usize> {
        let to_end = (self.ring - self.head) as usize;
        let padding = if to_end < len { to_end } else { 0 };
        let used = (self.head + self.ring - self.cleaned) % self.ring;
        if (self.ring - used - 1) as usize <= len + padding {
            return None;
        }
        if padding > 0 {
            self.poke(self.place(), &(number(padding)).to_le_bytes());
            self.advance(padding);
        }
        Some(self.place())
    }

    pub(crate) fn advance(&mut self, len: usize) {
        self.head = (self.head + number(len)) % self.ring;
        self.region.store(CMD_HEAD, self.head);
    }

    /// Reads the answers there are.
    pub(crate) fn read_answers(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        let tail = self.region.load(CMD_TAIL);
        while self.cleaned != tail && !self.is_broken {
            assert_ne!(self.cleaned, self.head, "the tail is beyond the head");
            let place = RING_START + self.cleaned as usize;
            let len_op = self.region.load(place);
            assert!(len_op & !7 > 0, "an entry was overwritten");
            let answer = (len_op & 7 == 1).then(|| self.answer_at(place));
            self.cleaned = (self.cleaned + (len_op & !7)) % self.ring;
            if let Some(answer) = answer {
                self.is_broken |= self.waiting.remove(&answer.id).is_none();
                answers.push(answer);
            }
        }
        answers
    }

    fn answer_at(&self, place: usize) -> Answer {
        let bytes = self.peek(place, ENTRY_BYTES);
        Answer {
            id: u16::from_le_bytes([bytes[4], bytes[5]]),
            flags: bytes[7],
            status: bytes[8],
            sense: bytes[16..16 + SENSE_BYTES].try_into().unwrap(),
        }
    }

    /// As `action/reset_ring`.
    pub(crate) fn reset(&mut self) {
        (self.head, self.cleaned) = (0, 0);
        self.waiting.clear();
        self.region.store(CMD_TAIL, 0);
        self.region.store(CMD_HEAD, 0);
    }
}

/// A size, which is small here.
pub(crate) fn number(size: usize) -> u32 {
    size.try_into().unwrap()
}

/// A command without data: 112 bytes and its command block of up to 16.
pub(crate) fn wish(operation: u8) -> Wish {
    Wish {
        cdb: vec![operation, 1, 2, 3, 4, 5],
        ..Wish::default()
    }
}

pub(crate) fn assert_taken(command: &Command, id: u16, wish: &Wish) {
    assert_eq!(command.id, id);
    assert!(command.cdb_len >= wish.cdb.len().min(16));
    let shown = wish.cdb.len().min(16);
    assert_eq!(command.cdb[..shown], wish.cdb[..shown]);
    assert!(command.cdb[shown..].iter().all(|byte| *byte == 0));
    assert_eq!(command.data, wish.data);
    assert_eq!(command.bidi, wish.bidi);
}

/// Statuses of every kind.
pub(crate) fn status(number: u8) -> Status {
    match number % 3 {
        0 => Status::Good,
        1 => Status::Busy,
        _ => Status::CheckCondition([number; SENSE_BYTES]),
    }
}

pub(crate) fn assert_answer(answer: &Answer, id: u16, status: Status) {
    assert_eq!(answer.id, id);
    let code = match status {
        Status::Good => 0,
        Status::Busy => 8,
        Status::CheckCondition(sense) => {
            assert_eq!(answer.sense, sense);
            2
        }
    };
    assert_eq!((answer.flags, answer.status), (0, code));
}
