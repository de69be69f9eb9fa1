//! One entry of the ring, taken apart.
//!
//! taker -> **entry**
//!
//! Source: include/uapi/linux/target_core_user.h (struct tcmu_cmd_entry).

use std::ops::Range;

use super::region::DataRange;

/// Of `len_op`, what is the operation.
const OPERATION: u32 = 7;

/// `struct tcmu_cmd_entry_hdr`.
pub(super) const HEADER_BYTES: u32 = 8;

/// Every entry of a command has room for its answer.
pub(super) const COMMAND_BYTES_MIN: u32 = 112;

const CMD_ID: usize = 4;
const IOV_CNT: usize = 8;
const IOV_BIDI_CNT: usize = 12;
const CDB_OFF: usize = 24;
const IOV: usize = 48;
const IOVEC_BYTES: usize = 16;

/// The longest command block that is looked at.
pub const CDB_BYTES: usize = 16;

/// Sense data of an answer.
pub const SENSE_BYTES: usize = 96;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Fills the ring up to its end.
    Pad,
    /// A command.
    Command,
    /// Commands that somebody wants ended.
    TaskManagement,
}

/// The first word of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: Kind,
    /// In bytes.
    pub(super) len: u32,
}

impl Header {
    /// `None` when there is no such entry.
    pub(super) fn parse(len_op: u32) -> Option<Self> {
        let len = len_op & !OPERATION;
        let (kind, len_min) = match len_op & OPERATION {
            0 => (Kind::Pad, HEADER_BYTES),
            1 => (Kind::Command, COMMAND_BYTES_MIN),
            2 => (Kind::TaskManagement, HEADER_BYTES),
            _ => return None,
        };
        (len >= len_min).then_some(Self { kind, len })
    }
}

/// One command. Used again for the next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// The kernel's name of it.
    pub id: u16,
    /// Its command block, zeros behind its end.
    pub cdb: [u8; CDB_BYTES],
    /// Bytes of `cdb` that came with it; there may be more than the command block has.
    pub cdb_len: usize,
    /// Where its data is, in order.
    pub data: Vec<DataRange>,
    /// Where its data in the other direction is: no disk command has any.
    pub bidi: Vec<DataRange>,
}

/// The name of the command of an entry.
pub(super) fn id(entry: &[u8]) -> u16 {
    number(entry, CMD_ID).map_or(0, u16::from_le_bytes)
}

impl Command {
    /// Takes a copy of an entry apart, which begins at the region's byte `place`, whose data area is `area`.
    /// `None` when it names what is neither in the entry nor in the area.
    pub(super) fn parse(&mut self, entry: &[u8], place: usize, area: &Range<usize>) -> Option<()> {
        self.data.clear();
        self.bidi.clear();
        self.id = id(entry);
        let count = u32::from_le_bytes(number(entry, IOV_CNT)?);
        let bidi_count = u32::from_le_bytes(number(entry, IOV_BIDI_CNT)?);
        let (count, bidi_count) = (
            usize::try_from(count).ok()?,
            usize::try_from(bidi_count).ok()?,
        );
        let mut vectors = entry.get(IOV..)?.as_chunks::<IOVEC_BYTES>().0.iter();
        if count.checked_add(bidi_count)? > vectors.len() {
            return None;
        }
        for (ranges, count) in [(&mut self.data, count), (&mut self.bidi, bidi_count)] {
            for vector in vectors.by_ref().take(count) {
                ranges.push(range(vector, area)?);
            }
        }
        let cdb = u64::from_le_bytes(number(entry, CDB_OFF)?);
        let cdb = usize::try_from(cdb).ok()?.checked_sub(place)?;
        let cdb = entry.get(cdb..).filter(|cdb| !cdb.is_empty())?;
        self.cdb = [0; CDB_BYTES];
        self.cdb_len = cdb.len().min(CDB_BYTES);
        for (to, from) in self.cdb.iter_mut().zip(cdb) {
            *to = *from;
        }
        Some(())
    }
}

fn range(vector: &[u8], area: &Range<usize>) -> Option<DataRange> {
    let offset = usize::try_from(u64::from_le_bytes(number(vector, 0)?)).ok()?;
    let len = usize::try_from(u64::from_le_bytes(number(vector, 8)?)).ok()?;
    let is_inside = offset >= area.start && offset.checked_add(len)? <= area.end;
    is_inside.then_some(DataRange { offset, len })
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..)?.first_chunk().copied()
}
